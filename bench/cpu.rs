//! Processor time of processes and their descendants, to the nanosecond where the kernel keeps it.

use std::{
    collections::HashMap,
    fs::{read_dir, read_to_string},
    time::Duration,
};

use anyhow::Context;

/// Time used by a process, its descendants, and those of its children that have ended.
pub fn of_tree(root: i32) -> anyhow::Result<Duration> {
    of_trees(&[root])
}

/// The same of several.
pub fn of_trees(roots: &[i32]) -> anyhow::Result<Duration> {
    Ok(trees(roots)?.into_iter().map(of_process).sum())
}

/// The processes that a process has started, and those that they have.
pub fn descendants(root: i32) -> anyhow::Result<Vec<i32>> {
    Ok(trees(&[root])?.split_off(1))
}

/// Processes and their descendants.
fn trees(roots: &[i32]) -> anyhow::Result<Vec<i32>> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for pid in processes()? {
        if let Some(parent) = stat(pid).and_then(|fields| fields.get(1)?.parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut all = roots.to_vec();
    let mut next = 0;
    while let Some(pid) = all.get(next) {
        all.extend(children.remove(pid).unwrap_or_default());
        next += 1;
    }
    Ok(all)
}

/// Time used by all threads of a process, and by its children that have ended.
pub fn of_process(pid: i32) -> Duration {
    let threads = read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let living: u64 = threads
        .filter_map(|thread| {
            read_to_string(thread.path().join("schedstat")).ok()?.split(' ').next()?.parse::<u64>().ok()
        })
        .sum();
    let ticks: u64 = stat(pid)
        .map(|fields| fields.iter().skip(13).take(2).filter_map(|field| field.parse::<u64>().ok()).sum())
        .unwrap_or_default();
    // A tick is a hundredth of a second to every program, whatever the kernel's own.
    Duration::from_nanos(living) + Duration::from_millis(ticks * 10)
}

/// All processes of this machine.
pub fn processes() -> anyhow::Result<Vec<i32>> {
    let entries = read_dir("/proc").context("cannot read /proc")?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// The fields of `/proc/<pid>/stat` behind the name: state, parent, …
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}
