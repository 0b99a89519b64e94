//! The ways to move the bytes of a tunnel. `Conn::way` chooses one for each connection; nobody else does.

use std::fmt;

/// How the bytes of a tunnel are moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Plain TCP, from socket to socket inside the kernel.
    Splice,
    /// TLS whose keys are in the kernel, likewise.
    Ktls,
    /// TLS in this process.
    User,
    /// A stream of a QUIC connection.
    Quic,
    /// Another node's tunnel, from its stream to a VM here. No session here has it.
    Node,
}

impl Way {
    /// The word for it in logs and in the record of sessions.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Splice => "splice",
            Self::Ktls => "ktls",
            Self::User => "user",
            Self::Quic => "quic",
            Self::Node => "node",
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
