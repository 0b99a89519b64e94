//! What is said on a stream between two nodes before the bytes of a VM: who is wanted, and what came of it.
//!
//! ```text
//! asks:    version (1 byte) │ VM (4 bytes) │ port (2 bytes), in network order
//! answers: 0, and the stream is the connection from here on; or why not (1 byte), and nothing more
//! ```

use thiserror::Error;

use crate::model::{VmId, VmPorts};

/// Of this dialogue.
const VERSION: u8 = 1;
/// Length of what is asked.
pub const LENGTH: usize = 7;
/// The answer of a node on which the connection stands.
pub const CONNECTED: u8 = 0;

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Of this node.
    pub vm: VmId,
    /// Of its agent or its X session.
    pub port: u16,
}

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Another program's dialogue.
    #[error("the router of its node speaks another version")]
    Version,
    /// The VM does not run there.
    #[error("it does not run on that node")]
    NotHere,
    /// No port of the agent or the X session.
    #[error("nobody may connect to that port")]
    Port,
    /// The node that asks is not on record any more, or blocked.
    #[error("its node does not let this one in: it is blocked or not on record")]
    Peer,
    /// Nobody listens there.
    #[error("nobody listens there")]
    Refused,
    /// The VM does not answer.
    #[error("it does not answer its node")]
    Unreachable,
    /// The database could not be asked.
    #[error("its node cannot ask the database")]
    Database,
    /// Not known to this version.
    #[error("its node refuses for a reason that is not known here")]
    Other,
}

impl Refusal {
    const ALL: [Self; 7] =
        [Self::Version, Self::NotHere, Self::Port, Self::Peer, Self::Refused, Self::Unreachable, Self::Database];

    /// The byte for it.
    pub fn code(self) -> u8 {
        match self {
            Self::Version => 1,
            Self::NotHere => 2,
            Self::Port => 3,
            Self::Peer => 4,
            Self::Refused => 5,
            Self::Unreachable => 6,
            Self::Database => 7,
            Self::Other => u8::MAX,
        }
    }

    /// What an answer means that is not [`CONNECTED`].
    pub fn of(code: u8) -> Self {
        Self::ALL.into_iter().find(|refusal| refusal.code() == code).unwrap_or(Self::Other)
    }
}

impl Header {
    /// As it is sent.
    pub fn to_bytes(self) -> [u8; LENGTH] {
        let ([a, b, c, d], [e, f]) = (self.vm.0.to_be_bytes(), self.port.to_be_bytes());
        [VERSION, a, b, c, d, e, f]
    }

    /// As it arrives.
    pub fn parse([version, a, b, c, d, e, f]: [u8; LENGTH]) -> Result<Self, Refusal> {
        if version != VERSION {
            return Err(Refusal::Version);
        }
        Ok(Self { vm: VmId(i32::from_be_bytes([a, b, c, d])), port: u16::from_be_bytes([e, f]) })
    }

    /// Whether it is a port that the VM has for routers.
    pub fn allowed(self, ports: VmPorts) -> Result<(), Refusal> {
        if [ports.vma, ports.x].contains(&self.port) { Ok(()) } else { Err(Refusal::Port) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_and_another_version_is_refused() {
        let header = Header { vm: VmId(0x0102_0304), port: 4100 };
        assert_eq!(header.to_bytes(), [1, 1, 2, 3, 4, 0x10, 0x04]);
        assert_eq!(Header::parse(header.to_bytes()), Ok(header));
        assert_eq!(Header::parse([2, 1, 2, 3, 4, 0x10, 0x04]), Err(Refusal::Version));
    }

    #[test]
    fn only_ports_of_agent_and_x_session_are_allowed() {
        let ports = VmPorts { vma: 3030, x: 4100 };
        let allowed = |port| Header { vm: VmId(1), port }.allowed(ports);
        assert_eq!([3030, 4100, 22, 0].map(allowed), [Ok(()), Ok(()), Err(Refusal::Port), Err(Refusal::Port)]);
    }

    #[test]
    fn every_refusal_reads_back_and_none_is_a_success() {
        for refusal in Refusal::ALL {
            assert_eq!(Refusal::of(refusal.code()), refusal);
            assert_ne!(refusal.code(), CONNECTED);
        }
        assert_eq!(Refusal::of(200), Refusal::Other);
    }
}
