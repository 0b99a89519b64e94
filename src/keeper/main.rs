//! `qvd-keeper`: the shim of one VM, the keeper of the node's sign of life, or a look at what the kernel can mount.

use std::{env, path::PathBuf, process::ExitCode, time::Duration};

use qvd::keeper::{Readiness, ShimDir, detach, heartbeat, heartbeat::HeartbeatSpec, may_map, shim};

const USAGE: &str = "usage: qvd-keeper shim [--detach] DIRECTORY
       qvd-keeper keeper --hosts-dir DIRECTORY --run DIRECTORY --name NODE [--interval SECONDS]
       qvd-keeper may-map DIRECTORY...";

enum Invocation {
    Shim { dir: PathBuf, detached: bool },
    Keeper(HeartbeatSpec),
    MayMap(Vec<PathBuf>),
}

fn main() -> ExitCode {
    match parse(env::args().skip(1)) {
        Some(Invocation::Shim { dir, detached }) => run_shim(dir, detached),
        Some(Invocation::Keeper(spec)) => run_keeper(&spec),
        Some(Invocation::MayMap(dirs)) => match may_map(&dirs) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        },
        None => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn run_shim(dir: PathBuf, detached: bool) -> ExitCode {
    // Before `detach` leaves the current directory.
    let dir = ShimDir::new(std::path::absolute(&dir).unwrap_or(dir));
    let readiness = match detached.then(detach).transpose() {
        Ok(readiness) => readiness.unwrap_or_else(Readiness::nobody_waits),
        Err(error) => {
            eprintln!("cannot become a daemon: {error}");
            return ExitCode::FAILURE;
        }
    };
    match shim::run(&dir, readiness) {
        Ok(_) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run_keeper(spec: &HeartbeatSpec) -> ExitCode {
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).with_target(false);
    // A log that cannot be written, on a full disk say, must not end the keeper; complaining about it would.
    log.log_internal_errors(false).init();
    match heartbeat::run(spec) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the keeper of {} cannot go on: {error}", spec.name);
            ExitCode::FAILURE
        }
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Option<Invocation> {
    match args.next()?.as_str() {
        "shim" => {
            let (detached, dir) = match args.next()? {
                flag if flag == "--detach" => (true, args.next()?),
                dir => (false, dir),
            };
            args.next().is_none().then(|| Invocation::Shim { dir: dir.into(), detached })
        }
        "keeper" => {
            let (mut hosts_dir, mut run, mut name, mut interval) = (None, None, None, Duration::from_secs(1));
            while let Some(option) = args.next() {
                let value = args.next()?;
                match option.as_str() {
                    "--hosts-dir" => hosts_dir = Some(PathBuf::from(value)),
                    "--run" => run = Some(PathBuf::from(value)),
                    "--name" => name = Some(value),
                    "--interval" => interval = Duration::try_from_secs_f64(value.parse().ok()?).ok()?,
                    _ => return None,
                }
            }
            Some(Invocation::Keeper(HeartbeatSpec { hosts_dir: hosts_dir?, run: run?, name: name?, interval }))
        }
        "may-map" => Some(Invocation::MayMap(args.map(PathBuf::from).collect())),
        _ => None,
    }
}
