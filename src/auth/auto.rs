//! `auto`: whoever another authenticator lets in gets an account and a VM when they are missing.

use crate::{
    db::{AutoVm, Database},
    model::config::keys,
};

use super::{Attempt, Authenticator, Refusal, Verdict};

/// Makes what is missing.
pub struct Auto {
    database: Database,
}

impl Auto {
    /// Makes it in this database.
    pub fn new(database: Database) -> Self {
        Self { database }
    }
}

impl Authenticator for Auto {
    fn after_authenticate<'a>(&'a self, attempt: &'a mut Attempt) -> Verdict<'a> {
        Box::pin(async move {
            let number = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
            let osf = number(attempt.config.get(&keys::AUTO_OSF));
            if osf == 0 {
                return Err(Refusal::Setting { key: keys::AUTO_OSF.name, problem: "is not set" });
            }
            let vm = AutoVm {
                osf,
                tag: attempt.config.get(&keys::AUTO_TAG),
                names: number(attempt.config.get(&keys::AUTO_MAX_VMS)),
            };
            Ok(self.database.l7r_auto(&attempt.login, attempt.tenant, &vm).await?)
        })
    }
}
