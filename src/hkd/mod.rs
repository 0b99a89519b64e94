//! The house keeping daemon: owns the VMs that are assigned to its node.
//!
//! `daemon` starts it and holds its parts together, `reconcile` turns commands of the database into messages, one
//! `supervisor` task per VM carries out what its `machine` decides within the node's `slots` and `launches`, `duties` obeys
//! orders for the node itself (`stopping`) and lets VMs expire, `progress` tells what takes long, `console` sends what VMs say to those who watch, `lease` gives the node's signs of life (`signs`)
//! and asks the `observer` about those of others. What a VM
//! is made of is the hypervisor's business; who gets a VM is the L7R's.

mod console;
mod daemon;
mod duties;
mod fleet;
mod heir;
mod images;
mod launches;
mod lease;
mod limits;
mod load;
pub(crate) mod machine;
pub(crate) mod observer;
mod progress;
mod reconcile;
mod remount;
mod retention;
mod routers;
mod signs;
pub(crate) mod slots;
mod stopping;
mod succession;
mod supervisor;

pub use daemon::{End, HkdError, Lines, Member, hypervisor_for, run};
