//! The layer-7 router: everything that strangers can reach. It terminates TLS, understands the clients' requests and,
//! once a desktop is ready, turns into a tunnel. It can neither start VMs nor touch a hypervisor.

pub mod http;
pub mod listener;
pub mod tls;

mod connect;
mod daemon;
mod flow;
mod quic;
mod requests;
mod router;
mod stop;

pub use daemon::{L7rError, run};
