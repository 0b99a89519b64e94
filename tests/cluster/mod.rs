//! The database, the event plane and hkd with simulated VMs. Containers, routers and clients are not needed here.

mod administration;
mod claims;
mod command_line;
mod contention;
pub mod database;
mod expiry;
mod failover;
mod guard;
mod host;
mod inside;
mod joining;
mod node;
mod outage;
mod patience;
mod pool;
mod privileges;
pub mod promotion;
mod refusals;
mod remote;
mod retention;
mod schema;
mod sessions;
mod specs;
mod steps;
mod stopping;
mod why;
