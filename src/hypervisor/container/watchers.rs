//! How many instances of inotify all containers of a node may have together. The kernel counts those of every container to
//! whoever made it, too, which is root for all, and lets an account have 128 unless told otherwise: each agent takes one,
//! and each desktop some.

use std::{fs, io};

use tracing::warn;

const SETTING: &str = "/proc/sys/fs/inotify/max_user_instances";
/// Enough for a thousand desktops.
const ENOUGH: u64 = 8_192;

/// Lets them have enough, and leaves it where they may have more. Containers run without, so a failure is only logged.
pub fn allow() {
    let raised = fs::read_to_string(SETTING).and_then(|now| {
        let now: u64 = now.trim().parse().map_err(io::Error::other)?;
        if now < ENOUGH { fs::write(SETTING, ENOUGH.to_string()) } else { Ok(()) }
    });
    if let Err(error) = raised {
        warn!(%error, "{SETTING} cannot be raised; programs of many desktops will not hear of changed files");
    }
}
