//! States and commands of VMs, users' sessions and nodes, and which state may follow which.
//!
//! `ARCHITECTURE.md` has the diagram of a VM's states, which a test compares with the table here.
//! The database holds the same table as `vm_transition_allowed`; a test compares the two. Words are those of the
//! classic lookup tables.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A word that names no state or command.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{word:?} is no {kind}")]
pub struct UnknownWord {
    kind: &'static str,
    word: String,
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $kind:literal { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            /// Every word of this kind.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The word as the database and the protocols write it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownWord;
            fn from_str(word: &str) -> Result<Self, UnknownWord> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(UnknownWord { kind: $kind, word: word.to_owned() }),
                }
            }
        }
    };
}

words!(
    /// The published state of a VM (`vm_runtimes.vm_state`).
    VmState, "VM state" {
        /// Holds no resources and belongs to no node.
        Stopped = "stopped",
        /// Is being prepared or booted.
        Starting = "starting",
        /// Its agent answers.
        Running = "running",
        /// Is shutting down or being cleaned up.
        Stopping = "stopping",
        /// Could not be cleaned up; its node keeps trying.
        Zombie = "zombie",
        /// Its agent is dead, the VM is kept for inspection.
        Debugging = "debugging",
    }
);

words!(
    /// What an administrator or the L7R asks of a VM (`vm_runtimes.vm_cmd`).
    VmCommand, "VM command" {
        /// Bring it up; legal when stopped and placed on a node.
        Start = "start",
        /// Bring it down; legal while it is starting, running or being debugged.
        Stop = "stop",
    }
);

words!(
    /// Which agent the containers of a disk image have (`dis.agent`).
    Agent, "agent" {
        /// That of the image when it brings one and an init that starts it, else that of the node.
        Auto = "auto",
        /// That of the node, as the first process.
        Ours = "ours",
        /// That of the image, started by the image's own init.
        Image = "image",
    }
);

words!(
    /// Whether somebody uses a VM (`vm_runtimes.user_state`).
    UserState, "user state" {
        /// Nobody.
        Disconnected = "disconnected",
        /// An L7R is bringing a client and the VM together.
        Connecting = "connecting",
        /// Bytes flow.
        Connected = "connected",
    }
);

words!(
    /// The state of a node (`host_runtimes.state`).
    HostState, "host state" {
        /// Its HKD does not run.
        Stopped = "stopped",
        /// Its HKD checks the machine and adopts what runs.
        Starting = "starting",
        /// It takes VMs and users.
        Running = "running",
        /// It is being shut down.
        Stopping = "stopping",
        /// Others found it dead.
        Lost = "lost",
    }
);

impl VmState {
    /// Whether the database lets `self` be followed by `next`.
    pub fn may_become(self, next: Self) -> bool {
        use VmState::*;
        match (self, next) {
            (from, to) if from == to => true,
            // A node that is gone holds nothing any more, whatever it was doing.
            (_, Stopped) => true,
            (Stopped, Starting) => true,
            (Starting, Running | Stopping | Zombie) => true,
            (Running, Stopping | Debugging) => true,
            (Debugging, Running | Stopping) => true,
            (Stopping, Zombie) => true,
            _ => false,
        }
    }

    /// Whether the database accepts `command` in this state.
    pub fn accepts(self, command: VmCommand) -> bool {
        match command {
            VmCommand::Start => self == Self::Stopped,
            VmCommand::Stop => matches!(self, Self::Starting | Self::Running | Self::Debugging),
        }
    }
}

impl UserState {
    /// Whether the database lets `self` be followed by `next`.
    pub fn may_become(self, next: Self) -> bool {
        use UserState::*;
        self == next || matches!((self, next), (Disconnected, Connecting) | (Connecting, Connected) | (_, Disconnected))
    }
}

impl HostState {
    /// Whether the database lets `self` be followed by `next`.
    pub fn may_become(self, next: Self) -> bool {
        use HostState::*;
        self == next
            || matches!(
                (self, next),
                (_, Starting)
                    | (Starting, Running | Stopping | Stopped | Lost)
                    | (Running, Stopping | Stopped | Lost)
                    | (Stopping, Stopped | Lost)
                    | (Lost, Stopped)
            )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_reads_back_as_itself() {
        for state in VmState::ALL {
            assert_eq!(state.as_str().parse(), Ok(*state));
        }
        assert_eq!("busy".parse::<VmCommand>().unwrap_err().to_string(), "\"busy\" is no VM command");
    }

    #[test]
    fn the_diagram_in_the_documents_shows_the_transitions_that_exist() {
        let drawn: Vec<_> = crate::model::diagram::arrows("The life of a VM in the database")
            .into_iter()
            .map(|arrow| (arrow.from.parse().unwrap(), arrow.to.parse().unwrap()))
            .collect();
        let pairs = VmState::ALL.iter().flat_map(|from| VmState::ALL.iter().map(move |to| (*from, *to)));
        for (from, to) in pairs.filter(|(from, to)| from != to) {
            let times = drawn.iter().filter(|arrow| **arrow == (from, to)).count();
            assert_eq!(times, usize::from(from.may_become(to)), "arrows from {from} to {to}");
        }
    }

    #[test]
    fn every_state_of_a_vm_leads_back_to_stopped() {
        assert!(VmState::ALL.iter().all(|state| state.may_become(VmState::Stopped)));
    }

    #[test]
    fn nothing_runs_without_having_been_started() {
        for state in VmState::ALL {
            if state.may_become(VmState::Running) {
                assert!(matches!(state, VmState::Running | VmState::Starting | VmState::Debugging));
            }
        }
    }
}
