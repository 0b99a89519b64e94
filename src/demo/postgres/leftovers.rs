//! Ends what an earlier run left in a data directory, so that two servers never share it.
//! PostgreSQL's own guard is a file with a process id, which says nothing once that id belongs to somebody else. We
//! hold the directory's lock already, so whatever still works in it is left over; every server process works *in* it.

use std::{
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time;

/// What the processes may take to end by each signal.
const PATIENCE: [(Signal, Duration); 3] = [
    // To the postmaster a fast shutdown. To a backend, which a dead postmaster left, nothing that it would not do itself.
    (Signal::SIGINT, Duration::from_secs(20)),
    (Signal::SIGQUIT, Duration::from_secs(5)),
    (Signal::SIGKILL, Duration::from_secs(5)),
];
const POLL: Duration = Duration::from_millis(10);

/// Ends every server process that works in `data_dir` and removes its process id file.
pub async fn end(data_dir: &Path) -> io::Result<()> {
    let Ok(data_dir) = data_dir.canonicalize() else { return Ok(()) };
    for (signal, patience) in PATIENCE {
        let left = working_in(&data_dir)?;
        if left.is_empty() {
            break;
        }
        tracing::warn!(data_dir = %data_dir.display(), processes = left.len(), %signal, "ending an earlier server");
        for process in left {
            // It may end by itself meanwhile.
            let _ = kill(process, signal);
        }
        let deadline = Instant::now() + patience;
        while !working_in(&data_dir)?.is_empty() && Instant::now() < deadline {
            time::sleep(POLL).await;
        }
    }
    if !working_in(&data_dir)?.is_empty() {
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, "an earlier server does not end"));
    }
    match fs::remove_file(data_dir.join("postmaster.pid")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Stops every server process that works in `data_dir` in its tracks, or lets them go on.
pub fn freeze(data_dir: &Path, frozen: bool) -> io::Result<()> {
    let signal = if frozen { Signal::SIGSTOP } else { Signal::SIGCONT };
    for process in working_in(&data_dir.canonicalize()?)? {
        // One that has ended needs no signal.
        let _ = kill(process, signal);
    }
    Ok(())
}

/// The processes of a PostgreSQL server whose working directory this is.
fn working_in(data_dir: &Path) -> io::Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let is_server = fs::read_to_string(entry.path().join("comm")).is_ok_and(|name| name.trim() == "postgres");
        if is_server && fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == data_dir) {
            found.push(Pid::from_raw(pid));
        }
    }
    Ok(found)
}
