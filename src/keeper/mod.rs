//! What must outlive the daemons: the shim that holds one VM, and the node's sign of life on the shared storage.
//! Both are one small static program, `qvd-keeper`, with one `poll` loop and neither threads nor an async runtime.
//! A shim knows a command line, not a hypervisor, and never decides when its VM should run. `client` is the daemons'
//! side of the shim's socket.

mod claim;
#[cfg(feature = "node")]
pub mod client;
mod deadline;
mod detach;
pub mod fence;
pub mod heartbeat;
mod idmap;
mod orders;
mod outlet;
mod priority;
pub mod process_table;
mod quarantine;
mod root;
pub mod shim;
mod spawn;
mod spec;
mod tap;
mod volume;
mod words;

pub use detach::{Readiness, detach};
pub use idmap::Ids;
pub use orders::Orders;
pub use quarantine::Quarantine;
pub use root::{Bind, RootSpec, Tree, may_map};
pub use spec::{Access, Account, Ended, FIRST_FILE, Open, Phase, ShimDir, ShimSpec, ShimStatus};
pub use volume::Volume;
