//! Stands in for the dialog program that nxagent calls when its link stalls (`NX_CLIENT`): instead of asking the user
//! whether to wait, the session is suspended, so that he can come back to it. Menus (`pulldown`) get no answer.

use std::path::Path;

use nix::{sys::signal::Signal, unistd::getppid};

use super::{
    rundir::{RunDir, send},
    state::hup_suspends,
};

/// Answers a call with nxagent's arguments; `None` when this is no such call.
pub fn answer(arguments: &[String]) -> Option<()> {
    let kind = arguments.windows(2).find(|pair| pair[0] == "-dialog").map(|pair| pair[1].as_str())?;
    // The session's user may not read the settings of a node, and needs nothing but the run directory, which nxagent's
    // environment names.
    let dir = std::env::var_os("QVD_RUN")?;
    let state = RunDir::new(Path::new(&dir)).state();
    // A dialog that comes too late would wake a session that sleeps already.
    if kind != "pulldown" && state.is_some_and(|(state, _)| hup_suspends(state)) {
        send(getppid(), Signal::SIGHUP);
    }
    Some(())
}
