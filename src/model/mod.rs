//! The words of the system: ids, states, commands, what a VM is made of, configuration keys.
//! Everything here is data or a pure function; nothing does I/O, knows the time or a database.
//! Every other room may use this one; this one uses none of ours.

mod causes;
mod census;
pub mod config;
#[cfg(test)]
pub(crate) mod diagram;
pub mod filter;
mod ids;
pub mod networks;
mod owner;
mod secret;
mod state;
mod storage_id;
mod vm;
mod xstate;

pub use causes::in_one_line;
pub use census::{Census, CensusImage};
pub use ids::{DiId, HostId, InstanceId, OsfId, SessionId, TenantId, UserId, VmId};
pub use owner::{NotAnOwner, Owner};
pub use secret::{SecretError, VmSecret};
pub use state::{Agent, HostState, UnknownWord, UserState, VmCommand, VmState};
pub use storage_id::{NotAStorageId, StorageId};
pub use vm::{Epoch, Expiry, HomeOf, VmPorts, VmSpec, node_ports};
pub use xstate::XState;
