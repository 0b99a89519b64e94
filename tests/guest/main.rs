//! TLS in the kernel, tested in a virtual machine whose kernel has it. On the outside this program starts the machine
//! with itself inside; inside it runs the checks one after the other and says how long each took.
//! Emulation makes no statement about speed, so none is made here.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a check that fails is to end the program")]

mod checks;
mod stage;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use qvd::demo::guest::Guest;

/// For all of it, on a machine that is busy with other things.
const LIMIT: Duration = Duration::from_secs(180);

fn main() -> ExitCode {
    if std::env::var_os("QVD_GUEST").is_some() {
        return inside();
    }
    let other = |argument: String| !argument.starts_with('-') && !"guest::kernel_tls".contains(&argument);
    // Somebody wants to know of tests, or other tests only.
    if std::env::args().skip(1).any(|argument| argument == "--list" || other(argument)) {
        return ExitCode::SUCCESS;
    }
    let began = Instant::now();
    let ran = std::env::current_exe().and_then(|program| {
        let mut guest = Guest { limit: LIMIT, tools: &["openssl"], parameters: "" }.command(&program);
        guest.env(checks::MIB, set(checks::MIB, "16")).env(checks::CONNECTIONS, set(checks::CONNECTIONS, "1000"));
        guest.status()
    });
    println!("guest: {} s", began.elapsed().as_secs());
    match ran {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(status) => {
            eprintln!("guest: {status}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("guest: {error}");
            ExitCode::FAILURE
        }
    }
}

/// How much is to be done.
fn set(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

fn inside() -> ExitCode {
    let _ = tracing_subscriber::fmt().with_env_filter("qvd=info").with_ansi(false).without_time().try_init();
    // A check that fails ends the program, and with it the machine.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(checks::all());
    ExitCode::SUCCESS
}
