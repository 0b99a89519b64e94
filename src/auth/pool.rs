//! `VMPoolAppServerAuthenticator`: VMs that belong to nobody in particular and open files. Whoever asks for the list with
//! the name of a file is shown a free VM of the pool that knows such files; who connects to it has it until it stops.
//! Nothing here stops it or cleans it up.

use crate::{
    db::{Database, ListedVm},
    model::{UserId, VmId, config::keys},
};

use super::{Authenticator, Purpose, Refusal, Verdict, Visit};

/// The parameter of a list that names a file.
const FILE: &str = "file_name";
/// Tells the agent which file to open.
const OPEN: &str = "qvd.client.open_file";

/// Lends the VMs of the pool user.
pub struct Pool {
    database: Database,
}

impl Pool {
    /// Those of this database.
    pub fn new(database: Database) -> Self {
        Self { database }
    }
}

/// The user whose VMs the pool is.
fn owner(visit: &Visit) -> Result<UserId, Refusal> {
    let owner = i32::try_from(visit.config.get(&keys::POOL_OWNER)).unwrap_or_default();
    if owner == 0 {
        return Err(Refusal::Setting { key: keys::POOL_OWNER.name, problem: "is not set" });
    }
    Ok(UserId(owner))
}

/// What follows the last dot of a file's name, on whatever system it lies.
fn extension(path: &str) -> Option<&str> {
    let name = path.rsplit(['/', '\\']).next()?;
    let (_, extension) = name.rsplit_once('.')?;
    Some(extension).filter(|extension| !extension.is_empty())
}

impl Authenticator for Pool {
    fn list<'a>(&'a self, visit: &'a mut Visit, _: bool) -> Verdict<'a, Vec<ListedVm>> {
        Box::pin(async move {
            let file = visit.query.iter().rfind(|(name, _)| name == FILE).map(|(_, value)| value.clone());
            let file = file.filter(|file| !file.is_empty()).ok_or(Refusal::Silent)?;
            let owner = owner(visit)?;
            let Some(extension) = extension(&file) else { return Ok(Vec::new()) };
            let found = self.database.l7r_pool_find(owner, extension).await?;
            visit.user.learn(OPEN, file);
            Ok(found.into_iter().collect())
        })
    }

    fn allow<'a>(&'a self, visit: &'a mut Visit, vm: VmId, purpose: Purpose) -> Verdict<'a> {
        Box::pin(async move {
            let (owner, user) = (owner(visit)?, visit.user.user);
            let theirs = match purpose {
                Purpose::Connect => self.database.l7r_pool_take(vm, owner, user).await?,
                Purpose::Stop => self.database.l7r_pool_has(vm, owner, user).await?,
            };
            if theirs { Ok(()) } else { Err(Refusal::NotYours) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::extension;

    #[test]
    fn the_extension_is_what_follows_the_last_dot_of_the_name() {
        for (path, wanted) in [
            ("/home/alice/letter.odt", Some("odt")),
            (r"C:\My.Files\a b.tar.GZ", Some("GZ")),
            ("report.", None),
            ("/etc.d/passwd", None),
            (".profile", Some("profile")),
            ("", None),
        ] {
            assert_eq!(extension(path), wanted, "{path}");
        }
    }
}
