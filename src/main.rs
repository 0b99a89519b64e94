//! The `qvd` command: reads its arguments, sets up logging and hands over to `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    qvd::cli::main()
}
