//! Which process a number means. Numbers are given again; together with boot and beginning they are not.

use std::{fs, io};

/// The identity of this boot of the machine.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Whether the process that had this number and began then, in that boot, is certainly no more.
pub fn is_gone(boot: &str, pid: i32, began: i64) -> bool {
    boot_id().is_ok_and(|this| this != boot || began_at(pid) != Some(began))
}

/// When the process with this number began, in clock ticks since boot: field 22 of its `stat`, counted behind the name in
/// parentheses. `None` when there is none, or one that only waits to be noticed by its parent.
pub fn began_at(pid: i32) -> Option<i64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_is_gone_once_it_is_dead_though_nobody_noticed() {
        let boot = boot_id().unwrap();
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = child.id().cast_signed();
        let began = began_at(pid).unwrap();
        assert!(!is_gone(&boot, pid, began));
        assert!(is_gone(&boot, pid, began + 1), "another process of that number");
        assert!(is_gone("8c7b1f5e-0000-4000-8000-000000000000", pid, began), "another boot");
        child.kill().unwrap();
        while !is_gone(&boot, pid, began) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(is_gone(&boot, pid, began));
    }
}
