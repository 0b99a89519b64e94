//! The `qvd` command.

fn main() {}
