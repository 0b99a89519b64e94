//! Leads what a known user asks for through the authenticators that let the user in, so that they may have a say in
//! it: before VMs are listed, what is listed, who may have a VM, and before it is started. Whose VM it is, is not looked
//! at here: authenticators are asked about those of others alone.

use crate::{db::ListedVm, model::VmId};

use super::{
    Authenticated, Chain, Purpose, Refusal, Rejection, Verdict, Visit,
    chain::{Link, Reasons},
};

impl Chain {
    /// A known user with a request.
    pub fn visit(&self, user: Authenticated, query: Vec<(String, String)>) -> Visit {
        let config = self.settings.load().of(user.chain).clone();
        Visit { user, config, query }
    }

    /// To be called before VMs are listed or something is made that stands for the user. Whether an authenticator did
    /// something: what was read before may no longer hold.
    pub async fn before_list(&self, visit: &mut Visit) -> Result<bool, Rejection> {
        let mut acted = false;
        for (by, link) in self.links_of(visit)? {
            acted |= done(by, "before the list", link.before_list(visit)).await?.is_some();
        }
        Ok(acted)
    }

    /// The VMs that the user is shown instead of the user's own; `None`: those.
    pub async fn list(&self, visit: &mut Visit, applications: bool) -> Result<Option<Vec<ListedVm>>, Rejection> {
        for (by, link) in self.links_of(visit)? {
            if let Some(list) = done(by, "in the list", link.list(visit, applications)).await? {
                return Ok(Some(list));
            }
        }
        Ok(None)
    }

    /// Whether a user may have a VM that is another's. For `Connect` it may be the user's from now on, so the next step
    /// is to take it.
    pub async fn allow(&self, visit: &mut Visit, vm: VmId, purpose: Purpose) -> Result<bool, Rejection> {
        let mut reasons = Reasons::default();
        for (by, link) in self.links_of(visit)? {
            match link.allow(visit, vm, purpose).await {
                Ok(()) => return Ok(true),
                Err(refusal) => reasons.note(by, refusal)?,
            }
        }
        tracing::debug!(user = %visit.user.user, %vm, %reasons, "no authenticator allows it");
        Ok(false)
    }

    /// To be called when the user has the VM, before it is started or shown. Whether an authenticator did something: what
    /// was read before may no longer hold.
    pub async fn before_connect(&self, visit: &mut Visit, vm: VmId) -> Result<bool, Rejection> {
        let mut acted = false;
        for (by, link) in self.links_of(visit)? {
            acted |= done(by, "before the connection", link.before_connect(visit, vm)).await?.is_some();
        }
        Ok(acted)
    }

    fn links_of(&self, visit: &Visit) -> Result<Vec<Link>, Rejection> {
        self.links(&self.settings.load(), visit.user.chain)
    }
}

/// What an authenticator did; `None`: it has nothing to say.
async fn done<T>(by: &'static str, hook: &'static str, verdict: Verdict<'_, T>) -> Result<Option<T>, Rejection> {
    match verdict.await {
        Ok(done) => Ok(Some(done)),
        Err(Refusal::Silent) => Ok(None),
        Err(Refusal::Db(error)) if error.is_passing() => Err(error.into()),
        Err(source) => Err(Rejection::Hook { by, hook, source }),
    }
}
