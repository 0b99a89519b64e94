//! The agent inside a VM and the protocol that nodes speak with it.
//! `protocol` is what both sides put on the wire, `client` the caller in HKD and L7R, `agent` the static program
//! `qvd-vma` that runs inside. Which VM is asked, and what follows from its answer, is not decided here.

pub mod agent;
#[cfg(feature = "node")]
pub mod client;
pub mod protocol;
