//! Tests of the parts together: real programs, real PostgreSQL, real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails should say where")]

mod wire;
