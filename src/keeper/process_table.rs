//! What `/proc` says about processes: which boot they belong to, when they began, who their children are.

use std::{fs, io};

/// The identity of this boot of the machine.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// When a process began, in clock ticks since boot. An error when there is none.
pub fn start_time(pid: i32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may contain anything, so fields are counted from its end: `state` is number 3.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    fields
        .split_ascii_whitespace()
        .nth(22 - 3)
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat has no start time")))
}

/// The children of the main thread of a process, zombies among them; none when it is gone.
pub fn children(pid: i32) -> Vec<i32> {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .map(|list| list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_began_after_the_first_one() {
        let me = start_time(std::process::id() as i32).unwrap();
        assert!(me > start_time(1).unwrap());
        assert!(start_time(i32::MAX).is_err());
        assert_eq!(boot_id().unwrap().len(), 36);
    }
}
