//! Limits of the process that hkd sets for itself and hands on to all that it starts (`hkd.process.limit.*`).

use nix::{
    errno::Errno,
    sys::resource::{RLIM_INFINITY, Resource, getrlimit, rlim_t, setrlimit},
};
use thiserror::Error;

use crate::model::config::{Config, Key, keys};

const LIMITS: [(Resource, &Key<String>, &Key<String>); 8] = [
    (Resource::RLIMIT_AS, &keys::LIMIT_AS, &keys::LIMIT_HARD_AS),
    (Resource::RLIMIT_CORE, &keys::LIMIT_CORE, &keys::LIMIT_HARD_CORE),
    (Resource::RLIMIT_DATA, &keys::LIMIT_DATA, &keys::LIMIT_HARD_DATA),
    (Resource::RLIMIT_FSIZE, &keys::LIMIT_FSIZE, &keys::LIMIT_HARD_FSIZE),
    (Resource::RLIMIT_MEMLOCK, &keys::LIMIT_MEMLOCK, &keys::LIMIT_HARD_MEMLOCK),
    (Resource::RLIMIT_NICE, &keys::LIMIT_NICE, &keys::LIMIT_HARD_NICE),
    (Resource::RLIMIT_NOFILE, &keys::LIMIT_NOFILE, &keys::LIMIT_HARD_NOFILE),
    (Resource::RLIMIT_STACK, &keys::LIMIT_STACK, &keys::LIMIT_HARD_STACK),
];

/// A limit that cannot be set.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LimitError {
    /// It is no limit.
    #[error("{key} = {value:?}: expected a number or unlimited")]
    Value {
        /// The key.
        key: &'static str,
        /// What it is set to.
        value: String,
    },
    /// It is higher than it may become.
    #[error("{key} is above {hard}; lower it or raise the other")]
    AboveHard {
        /// The key.
        key: &'static str,
        /// The key of what it may become.
        hard: &'static str,
    },
    /// The kernel refuses.
    #[error("{key} cannot be set; only root raises limits, and none beyond those of the kernel (fs.nr_open)")]
    Refused {
        /// The key.
        key: &'static str,
        /// Why.
        #[source]
        source: Errno,
    },
}

/// Sets the limits that are configured and leaves the others as they are.
pub fn set(config: &Config) -> Result<(), LimitError> {
    for (resource, soft_key, hard_key) in LIMITS {
        let (soft, hard) = (limit(soft_key, config)?, limit(hard_key, config)?);
        if soft.or(hard).is_none() {
            continue;
        }
        let refused =
            |source| LimitError::Refused { key: if soft.is_some() { soft_key } else { hard_key }.name, source };
        let now = getrlimit(resource).map_err(refused)?;
        let (soft, hard) =
            both(soft, hard, now).ok_or(LimitError::AboveHard { key: soft_key.name, hard: hard_key.name })?;
        setrlimit(resource, soft, hard).map_err(refused)?;
    }
    Ok(())
}

fn limit(key: &Key<String>, config: &Config) -> Result<Option<rlim_t>, LimitError> {
    match config.get(key).trim() {
        "" => Ok(None),
        "unlimited" => Ok(Some(RLIM_INFINITY)),
        number => number.parse().map(Some).map_err(|_| LimitError::Value { key: key.name, value: number.to_owned() }),
    }
}

/// The limits to set when some are wanted; `None` when the two that are wanted contradict each other.
fn both(soft: Option<rlim_t>, hard: Option<rlim_t>, now: (rlim_t, rlim_t)) -> Option<(rlim_t, rlim_t)> {
    let hard = hard.unwrap_or_else(|| now.1.max(soft.unwrap_or(0)));
    let soft = soft.unwrap_or_else(|| now.0.min(hard));
    (soft <= hard).then_some((soft, hard))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_limit_takes_the_other_along_and_two_must_agree() {
        assert_eq!(both(Some(512), None, (1024, 4096)), Some((512, 4096)));
        assert_eq!(both(Some(8192), None, (1024, 4096)), Some((8192, 8192)));
        assert_eq!(both(None, Some(256), (1024, 4096)), Some((256, 256)));
        assert_eq!(both(None, Some(RLIM_INFINITY), (1024, 4096)), Some((1024, RLIM_INFINITY)));
        assert_eq!(both(Some(2), Some(1), (0, 0)), None);
    }

    #[test]
    fn what_is_no_limit_is_named_with_its_key() {
        let mut config = Config::default();
        config.set("hkd.process.limit.nofile", "many").unwrap();
        let error = set(&config).unwrap_err().to_string();
        assert_eq!(error, "hkd.process.limit.nofile = \"many\": expected a number or unlimited");
    }
}
