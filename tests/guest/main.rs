//! What this machine's kernel may not have, TLS, NFS, control groups of one version alone, tested in virtual machines whose kernel
//! has it. On the outside this program starts the machines with itself inside; inside it runs the checks one after the other and
//! says how long each took.
//! Emulation makes no statement about speed, so none is made here.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a check that fails is to end the program")]

mod checks;
mod containers;
mod nfs;
mod stage;

use std::{
    path::Path,
    process::{ExitCode, ExitStatus},
    time::{Duration, Instant},
};

use qvd::demo::guest::{Guest, TLS};

use containers::Version;

/// For all of one of them, on a machine that is busy with other things.
const LIMIT: Duration = Duration::from_secs(300);
/// Says inside which.
const TEST: &str = "QVD_GUEST_TEST";
const TESTS: [&str; 4] = ["kernel_tls", "nfs", "cgroups_v1", "cgroups_v2"];

fn main() -> ExitCode {
    if let Ok(test) = std::env::var(TEST) {
        return inside(&test);
    }
    let words: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--nocapture").collect();
    // Somebody wants to know of tests, or other tests only.
    let wanted = |test: &&&str| {
        let name = format!("guest::{test}");
        words.iter().all(|word| word != "--list" && (word.starts_with('-') || name.contains(word.as_str())))
    };
    let mut code = ExitCode::SUCCESS;
    for test in TESTS.iter().filter(wanted) {
        let began = Instant::now();
        let ran = run(test);
        println!("guest: {test}: {} s", began.elapsed().as_secs());
        match ran {
            Ok(status) if status.success() => continue,
            Ok(status) => eprintln!("guest: {test}: {status}"),
            Err(error) => eprintln!("guest: {test}: {error}"),
        }
        code = ExitCode::FAILURE;
    }
    code
}

fn run(test: &str) -> std::io::Result<ExitStatus> {
    let (tools, modules, parameters) = match test {
        "nfs" => (nfs::TOOLS, nfs::MODULES, ""),
        "cgroups_v1" => (containers::TOOLS, containers::MODULES, ""),
        "cgroups_v2" => (containers::TOOLS, containers::MODULES, containers::ONLY_V2),
        _ => (&["openssl"][..], TLS, ""),
    };
    let mut guest = Guest { limit: LIMIT, tools, modules, parameters }.command(&std::env::current_exe()?);
    // Our own programs are tools, too.
    let path = std::env::var("PATH").unwrap_or_default();
    let own = Path::new(env!("CARGO_BIN_EXE_qvd-keeper")).parent().map(Path::display);
    guest.env("PATH", format!("{}:{path}", own.unwrap()));
    guest.env(TEST, test);
    guest.env(checks::MIB, set(checks::MIB, "16")).env(checks::CONNECTIONS, set(checks::CONNECTIONS, "1000"));
    guest.status()
}

/// How much is to be done.
fn set(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

fn inside(test: &str) -> ExitCode {
    let _ = tracing_subscriber::fmt().with_env_filter("qvd=info").with_ansi(false).without_time().try_init();
    // A check that fails ends the program, and with it the machine.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    match test {
        "nfs" => runtime.block_on(nfs::all()),
        "cgroups_v1" => runtime.block_on(containers::all(Version::V1)),
        "cgroups_v2" => runtime.block_on(containers::all(Version::V2)),
        _ => runtime.block_on(checks::all()),
    }
    ExitCode::SUCCESS
}
