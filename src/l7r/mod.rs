//! The layer-7 router: everything that strangers can reach. It terminates TLS, understands the clients' requests and,
//! once a desktop is ready, turns into a tunnel. It can neither start VMs nor touch a hypervisor.

pub mod http;
pub mod listener;
pub mod tls;

mod accept;
mod authenticate;
mod certificates;
mod connect;
mod daemon;
pub(crate) mod flow;
mod handover;
mod hello;
mod limits;
mod memory;
mod metrics;
mod nodes;
mod offer;
mod port;
mod proxy;
mod quic;
mod requests;
mod router;
mod start;
mod stop;
mod takeover;
mod tokens;
mod tunnel;
mod x;

pub use daemon::{L7rError, forgo_new_privileges, run};
pub(crate) use hello::read_any as fuzz_hello;
pub use nodes::{Header, Identity, Refusal};
pub(crate) use proxy::read_any as fuzz_proxy;
