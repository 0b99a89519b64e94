//! The little that keeps the keeper and the shims alive and prompt on a machine that is short of memory or time.
//! Everything here is wished for, not required: what the machine refuses is returned as text for the log.
#![allow(unsafe_code, reason = "sched_setscheduler has no safe wrapper")]

use nix::{
    errno::Errno,
    libc,
    sys::mman::{MlockAllFlags, mlockall},
};

/// Never the first victim of the out-of-memory killer.
const OOM_SCORE: &str = "-900";

/// Keeps the out-of-memory killer away from this process. Children inherit it; see `spawn`.
pub fn shield_from_oom_killer() -> Result<(), String> {
    std::fs::write("/proc/self/oom_score_adj", OOM_SCORE).map_err(|error| format!("oom_score_adj: {error}"))
}

/// Keeps every page of this process in memory.
pub fn lock_memory() -> Result<(), String> {
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE).map_err(|error| format!("mlockall: {error}"))
}

/// Runs this process before every ordinary one.
pub fn run_in_real_time() -> Result<(), String> {
    let lowest = libc::sched_param { sched_priority: 1 };
    // SAFETY: the call reads one `sched_param` that outlives it; 0 means this process.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &lowest) };
    Errno::result(result).map(drop).map_err(|error| format!("real-time priority: {error}"))
}
