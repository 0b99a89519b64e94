//! Tests of whole parts against the real machine: containers, bridges, processes. They need root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails should say where")]

mod desktop;
