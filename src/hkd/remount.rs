//! What a node does about its storage after its VMs had to end: mounts it anew, or restarts the machine, before anything of
//! it is used again.

use std::{fs, path::PathBuf, time::Duration};

use thiserror::Error;

use crate::{
    keeper::Quarantine,
    model::config::{Config, keys},
    process::{ProcessError, Program},
};

/// For the storage to be mounted.
const LIMIT: Duration = Duration::from_secs(60);

/// Why the storage is still not to be used.
#[derive(Debug, Error)]
pub enum RemountError {
    /// Nobody said how to mount it, and the machine may not be restarted.
    #[error(
        "VMs of this node were ended because it could give no sign of life, and others may have started them; mount the storage anew and remove {}, or restart the machine, or say how to mount it in fence.remount", .0.display()
    )]
    Unknown(PathBuf),
    /// The command failed.
    #[error("the storage cannot be mounted anew, which must be before it is used again ({command})")]
    Command {
        /// The command of the configuration.
        command: String,
        /// What it said.
        #[source]
        source: ProcessError,
    },
    /// The mark cannot be read or removed.
    #[error("cannot use {}", .path.display())]
    Mark {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Ends the quarantine of the node's storage, if there is one. Says whether there was. To be tried again when it fails: as
/// long as something of a VM lives, nothing can be unmounted.
pub async fn settle(config: &Config, quarantine: &Quarantine) -> Result<bool, RemountError> {
    if !quarantine.is_imposed() {
        return Ok(false);
    }
    let command = config.get(&keys::FENCE_REMOUNT);
    if command.is_empty() {
        if config.get(&keys::FENCE_REBOOT) {
            tracing::error!(
                "VMs of this node had to end; restarting the machine, so that its storage can be used again"
            );
            // Without a further word: what an orderly restart would write is what must not be written.
            let _ = fs::write("/proc/sysrq-trigger", "b");
        }
        return Err(RemountError::Unknown(quarantine.path().to_owned()));
    }
    let remount = Program::new("sh").args(["-c", &command]).limit(LIMIT);
    remount.run().await.map_err(|source| RemountError::Command { command: command.clone(), source })?;
    quarantine.lift().map_err(|source| RemountError::Mark { path: quarantine.path().to_owned(), source })?;
    tracing::warn!(command, "VMs of this node had to end; its storage is mounted anew");
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(remount: &str) -> Config {
        let mut config = Config::default();
        config.set("fence.reboot", "0").unwrap();
        config.set("fence.remount", remount).unwrap();
        config
    }

    #[tokio::test]
    async fn storage_is_used_again_only_after_it_was_mounted_anew() {
        let run = tempfile::tempdir().unwrap();
        let quarantine = Quarantine::of_node(run.path()).unwrap();
        assert!(!settle(&config("false"), &quarantine).await.unwrap(), "there is no reason to mount anything");
        quarantine.impose().unwrap();
        let said = settle(&config(""), &quarantine).await.unwrap_err().to_string();
        assert!(said.contains(&quarantine.path().display().to_string()) && said.contains("fence.remount"), "{said}");
        assert!(settle(&config("false"), &quarantine).await.is_err());
        assert!(quarantine.is_imposed());
        let mounted = run.path().join("mounted");
        assert!(settle(&config(&format!("touch {}", mounted.display())), &quarantine).await.unwrap());
        assert!(mounted.exists() && !quarantine.is_imposed());
    }
}
