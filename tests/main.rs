//! Tests of whole parts against the real machine: databases, containers, bridges, processes. They need root. One
//! program, so that modules share what is dear to start.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails should say where")]

mod browser;
mod cluster;
mod desktop;
mod hosts;
mod kvm;
mod platform;
mod wat;
mod wire;
