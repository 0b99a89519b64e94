//! A cluster in virtual time: nodes with hkd, keeper, router, shims and VMs, the storage they share, the database and its
//! standby, users, an administrator, a watchdog, and what goes wrong. What decides is the project's own (`hkd::machine`,
//! `hkd::observer`, `keeper::fence`, `events::health`, `l7r::flow`, `model::state`); what carries it out is modelled here, in
//! steps between which anything can happen. A seed is a world: it happens again exactly as it did.

mod chance;
mod database;
mod faults;
mod fleet;
mod hkd;
mod judge;
mod launch;
mod life;
mod node;
mod process;
mod publish;
mod router;
mod rules;
mod shim;
mod storage;
mod tests;
mod users;
mod world;
