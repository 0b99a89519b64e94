//! The program `qvd-vma`: the agent of a VM, and the first process of containers that have none of their own.
//! Its command line is small enough to be read by hand; what the subcommands do is in `qvd::vma::agent`.

use std::{
    error::Error,
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
};

use nix::sys::stat::{Mode, umask};
use qvd::vma::agent::{self, Chain, Settings, init, launch, monitor};
use tracing::Level;

const HELP: &str = "\
The agent of a virtual machine: it starts, watches and stops the X session for the nodes.

Usage: qvd-vma <command>

Commands:
  agent      serve the nodes; for images with an init of their own, as a service that is
             restarted when it ends, without killing the processes it started
  init       be the first process of a container: keep the agent running, end everything
             on TERM, INT or PWR
  monitor    (called by the agent) run one X session; connection parameters on the input
  launch     (called by the monitor) become the user and run a program

Options:
  --help     show this text
  --version  show the version

Settings: /etc/qvd/vma.conf, then what the node gives. Log level: QVD_LOG (error, warn, info, debug, trace).
";

/// Exit status of a command line that makes no sense.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let words: Vec<String> = arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    if agent::answer_dialog(&words).is_some() {
        return ExitCode::SUCCESS;
    }
    let command = words.first().map(String::as_str);
    // PID 1 waits for its signals; everybody else must not inherit that.
    if command != Some("init") {
        agent::clear_signal_mask();
    }
    // Users read what the agent makes for them, whatever the one who started it had in mind for his own files.
    umask(Mode::from_bits_truncate(0o022));
    log_to_stderr();
    let result = match command {
        Some("--help" | "-h" | "help") => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Some("--version" | "-V") => {
            println!("qvd-vma {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Some("agent") => serve(),
        Some("init") => init::run().map_err(Into::into),
        Some(monitor::NAME) => watch(),
        Some(launch::NAME) => Err(launch::run(&arguments[1..]).into()),
        _ => {
            eprint!("{HELP}");
            return ExitCode::from(USAGE);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", Chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), Box<dyn Error>> {
    agent::meet_firmware();
    Ok(agent::serve(Settings::load()?)?)
}

/// The agent reads the first line of the output, so that is where an error goes too.
fn watch() -> Result<(), Box<dyn Error>> {
    let result = Settings::load().map_err(Box::<dyn Error>::from).and_then(|settings| Ok(monitor::run(&settings)?));
    // The agent may be gone by now, so a failure to tell it is none.
    result.inspect_err(|error| drop(writeln!(io::stdout(), "{}", Chain(error.as_ref()))))
}

fn log_to_stderr() {
    let level = std::env::var("QVD_LOG").ok().and_then(|level| level.parse().ok()).unwrap_or(Level::INFO);
    tracing_subscriber::fmt().with_max_level(level).with_writer(io::stderr).with_ansi(false).with_target(false).init();
}
