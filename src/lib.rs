//! Virtual Linux desktops for whole organisations: the rooms of the system.
//! `ARCHITECTURE.md` says who may use whom. Without feature `node` only what the agent and the keeper need is built.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails should say where"))]

pub mod keeper;
pub mod model;
pub mod vma;

#[cfg(feature = "node")]
pub mod admin;
#[cfg(feature = "node")]
pub mod auth;
#[cfg(feature = "node")]
pub mod certificate;
#[cfg(feature = "node")]
pub mod cli;
#[cfg(feature = "node")]
pub mod client;
#[cfg(feature = "node")]
pub mod db;
#[cfg(feature = "node")]
pub mod demo;
#[cfg(feature = "node")]
pub mod doctor;
#[cfg(feature = "node")]
pub mod events;
#[cfg(feature = "node")]
pub mod fuzz;
#[cfg(feature = "node")]
pub mod hkd;
#[cfg(feature = "node")]
pub mod hypervisor;
#[cfg(feature = "node")]
pub mod l7r;
#[cfg(feature = "node")]
pub mod logging;
#[cfg(feature = "node")]
pub mod network;
#[cfg(feature = "node")]
pub mod node;
#[cfg(feature = "node")]
pub mod process;
#[cfg(all(test, feature = "node"))]
mod simulation;
#[cfg(feature = "node")]
pub mod storage;
#[cfg(feature = "node")]
pub mod tunnel;
#[cfg(feature = "node")]
pub mod wat;
