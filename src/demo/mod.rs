//! Everything that `qvd demo` puts around one node on one machine: a database, a desktop image, a screen.
//! Tests and benchmarks use the same parts. What is started here is *attached*: it ends when we end, however we end.
//! Nodes, users and sessions are not made here; that is said once, in the `demo` command.

pub mod attached;
pub mod display;
pub mod guest;
pub mod hosts;
pub mod image;
pub mod postgres;
pub mod screenshot;
pub mod site;
