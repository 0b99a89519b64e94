//! Reads what nxagent says about itself on its output. The lines are those of nxagent 3.5 and its classic variants.
//! Whatever else the X session prints is nobody's business here, and nothing printed is believed without need: the
//! user's programs write to the same output, so a pid is only taken when the process is the user's (see `monitor`).

use super::state::NxState;

/// Something nxagent said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Its process.
    Pid(i32),
    /// It entered this state.
    State(NxState),
    /// From now on it accepts its proxy.
    Waiting,
}

/// Reads one line.
pub fn hear(line: &str) -> Option<Heard> {
    if let Some(info) = line.strip_prefix("Info: ") {
        if info.starts_with("Waiting for connection from ") {
            return Some(Heard::Waiting);
        }
        let pid = info.strip_prefix("Agent running with pid '")?.split('\'').next()?;
        return pid.parse().ok().filter(|pid| *pid > 1).map(Heard::Pid);
    }
    let (first, rest) = line.strip_prefix("Session: ")?.split_once(" at ")?.0.split_once(' ')?;
    let word = match (first, rest) {
        ("Session", word) => word.to_owned(),
        (word, "session") => word.to_ascii_lowercase(),
        _ => return None,
    };
    NxState::parse(&word).filter(|state| spoken(*state)).map(Heard::State)
}

/// The state after something was heard, `None` when nothing changes.
pub fn after(current: Option<NxState>, heard: Heard) -> Option<NxState> {
    use NxState::*;
    match (heard, current) {
        (Heard::State(state), _) => Some(state),
        (Heard::Waiting, Some(Resuming)) => Some(AwaitingResume),
        (Heard::Waiting, None | Some(Initiating | Provisioning | Starting)) => Some(AwaitingStart),
        (Heard::Waiting, _) | (Heard::Pid(_), _) => None,
    }
}

/// The states that nxagent itself announces.
fn spoken(state: NxState) -> bool {
    use NxState::*;
    !matches!(state, Initiating | Provisioning | AwaitingStart | AwaitingResume | Stopped)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_announcement_is_understood() {
        use NxState::*;
        for (line, state) in [
            ("Session: Starting session at 'Tue Nov 18 10:00:00 2025'.", Starting),
            ("Session: Session started at 'Tue Nov 18 10:00:00 2025'.", Started),
            ("Session: Suspending session at 'x'.", Suspending),
            ("Session: Session suspended at 'x'.", Suspended),
            ("Session: Resuming session at 'x'.", Resuming),
            ("Session: Session resumed at 'x'.", Resumed),
            ("Session: Terminating session at 'x'.", Terminating),
            ("Session: Session terminated at 'x'.", Terminated),
            ("Session: Aborting session at 'x'.", Aborting),
            ("Session: Session aborted at 'x'.", Aborted),
        ] {
            assert_eq!(hear(line), Some(Heard::State(state)), "{line}");
        }
        assert_eq!(hear("Info: Agent running with pid '42'."), Some(Heard::Pid(42)));
        assert_eq!(hear("Info: Waiting for connection from any host on socket 'tcp:*:4100'."), Some(Heard::Waiting));
    }

    #[test]
    fn what_is_no_announcement_means_nothing() {
        for line in [
            "",
            "Session: ",
            "Session: Display failure detected at 'x'.",
            "Session: Session initiating at 'x'.",
            "Session: Session awaiting-start at 'x'.",
            "Info: Agent running with pid '1'.",
            "Info: Agent running with pid '-5'.",
            "xterm: Session: Session terminated at 'x'.",
        ] {
            assert_eq!(hear(line), None, "{line}");
        }
    }

    #[test]
    fn the_port_is_open_only_after_nxagent_said_so() {
        use NxState::*;
        assert_eq!(after(Some(Starting), Heard::Waiting), Some(AwaitingStart));
        assert_eq!(after(Some(Resuming), Heard::Waiting), Some(AwaitingResume));
        assert_eq!(after(Some(Started), Heard::Waiting), None);
        assert_eq!(after(Some(AwaitingResume), Heard::State(Suspended)), Some(Suspended));
    }

    proptest! {
        #[test]
        fn no_line_is_too_strange(line in ".*") {
            let _ = hear(&line);
        }
    }
}
