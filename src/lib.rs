//! Virtual Linux desktops for whole organisations: the rooms of the system.
//! `ARCHITECTURE.md` says who may use whom. Without feature `node` only what the agent and the keeper need is built.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails should say where"))]

#[cfg(feature = "node")]
pub mod demo;
#[cfg(feature = "node")]
pub mod hypervisor;
pub mod model;
