//! QEMU's machine protocol, as far as a node needs it: lines of JSON, a command answered before the next is sent. Events
//! that come between are passed over. The monitor of a guest serves one caller at a time, so nobody keeps a connection.
//! <https://www.qemu.org/docs/master/interop/qmp-spec.html>

use std::{
    io::{self, ErrorKind},
    path::Path,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::timeout,
};

use crate::hypervisor::Memory;

/// QEMU answers at once unless its storage hangs.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where QEMU keeps the balloon that `command` calls so.
const BALLOON: &str = "/machine/peripheral/balloon";
/// How often QEMU asks a guest's kernel what it has, in seconds.
const STATISTICS_PAUSE: u32 = 10;

/// A conversation with the QEMU of one guest.
pub struct Qmp {
    stream: BufReader<UnixStream>,
}

/// Whether a guest runs, in the words of QEMU that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// It has not been let run yet.
    Prelaunch,
    /// It runs.
    Running,
    /// It neither runs nor will by itself.
    Other,
}

impl Qmp {
    /// Begins to talk to the QEMU that listens at `socket`.
    pub async fn connect(socket: &Path) -> io::Result<Self> {
        within(async {
            let mut qmp = Self { stream: BufReader::new(UnixStream::connect(socket).await?) };
            if qmp.receive().await?.get("QMP").is_none() {
                return Err(io::Error::new(ErrorKind::InvalidData, "this is no QEMU"));
            }
            qmp.ask("qmp_capabilities", json!({})).await?;
            Ok(qmp)
        })
        .await
    }

    /// Whether the guest runs.
    pub async fn run_state(&mut self) -> io::Result<RunState> {
        let status = self.execute("query-status").await?;
        Ok(match status["status"].as_str() {
            Some("prelaunch") => RunState::Prelaunch,
            Some("running") => RunState::Running,
            _ => RunState::Other,
        })
    }

    /// Lets the guest run.
    pub async fn go_on(&mut self) -> io::Result<()> {
        self.execute("cont").await.map(drop)
    }

    /// Has QEMU ask the guest now and then what it has of its memory. An error where it has no balloon.
    pub async fn watch_memory(&mut self) -> io::Result<()> {
        let property = "guest-stats-polling-interval";
        let arguments = json!({ "path": BALLOON, "property": property, "value": STATISTICS_PAUSE });
        within(self.ask("qom-set", arguments)).await.map(drop)
    }

    /// What the guest has of its memory. An error where it has no balloon.
    pub async fn memory(&mut self) -> io::Result<Memory> {
        let balloon = self.execute("query-balloon").await?;
        let given = balloon["actual"].as_u64().ok_or_else(|| unexpected("query-balloon"))?;
        let arguments = json!({ "path": BALLOON, "property": "guest-stats" });
        let told = within(self.ask("qom-get", arguments)).await?;
        // What the guest did not tell is all ones.
        let available = told["stats"]["stat-available-memory"].as_u64().filter(|bytes| *bytes != u64::MAX);
        Ok(Memory { given, available })
    }

    /// Presses the guest's power button, of which its system may make what it likes.
    pub async fn press_power_button(&mut self) -> io::Result<()> {
        self.execute("system_powerdown").await.map(drop)
    }

    /// Ends QEMU, which writes out what it holds of the disks first.
    pub async fn quit(&mut self) -> io::Result<()> {
        match self.execute("quit").await {
            Err(error) => match error.kind() {
                // It was quicker than its answer.
                ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => Ok(()),
                _ => Err(error),
            },
            Ok(_) => Ok(()),
        }
    }

    async fn execute(&mut self, command: &str) -> io::Result<Value> {
        within(self.ask(command, json!({}))).await
    }

    async fn ask(&mut self, command: &str, arguments: Value) -> io::Result<Value> {
        let order = json!({ "execute": command, "arguments": arguments });
        self.stream.get_mut().write_all(format!("{order}\n").as_bytes()).await?;
        loop {
            let mut message = self.receive().await?;
            if let Some(error) = message.get("error") {
                let why = error["desc"].as_str().unwrap_or("without a reason");
                return Err(io::Error::other(format!("QEMU refuses {command}: {why}")));
            }
            if let Some(answer) = message.get_mut("return") {
                return Ok(answer.take());
            }
        }
    }

    async fn receive(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        match self.stream.read_line(&mut line).await? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(serde_json::from_str(&line)?),
        }
    }
}

fn unexpected(command: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("QEMU answers nonsense to {command}"))
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    /// Says `greeting`, and to each line that it hears one of the answers.
    async fn qemu(dir: &Path, greeting: &'static str, answers: &'static [&'static str]) -> std::path::PathBuf {
        let path = dir.join("qmp.sock");
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            let mut stream = BufReader::new(listener.accept().await.unwrap().0);
            stream.get_mut().write_all(greeting.as_bytes()).await.unwrap();
            for answer in answers {
                stream.read_line(&mut String::new()).await.unwrap();
                stream.get_mut().write_all(answer.as_bytes()).await.unwrap();
            }
        });
        path
    }

    #[tokio::test]
    async fn events_before_an_answer_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let answers = &[
            "{\"return\": {}}\n",
            "{\"event\": \"RESUME\"}\n{\"event\": \"STOP\"}\n{\"return\": {\"status\": \"running\"}}\n",
            "{\"error\": {\"class\": \"GenericError\", \"desc\": \"not now\"}}\n",
        ];
        let mut qmp = Qmp::connect(&qemu(dir.path(), "{\"QMP\": {}}\n", answers).await).await.unwrap();
        assert_eq!(qmp.run_state().await.unwrap(), RunState::Running);
        assert_eq!(qmp.go_on().await.unwrap_err().to_string(), "QEMU refuses cont: not now");
        qmp.quit().await.unwrap();
    }

    #[tokio::test]
    async fn a_guest_whose_kernel_tells_nothing_still_has_what_it_was_given() {
        let dir = tempfile::tempdir().unwrap();
        let answers = &[
            "{\"return\": {}}\n",
            "{\"return\": {\"actual\": 1000}}\n",
            "{\"return\": {\"stats\": {\"stat-available-memory\": 18446744073709551615}, \"last-update\": 0}}\n",
            "{\"return\": {\"actual\": 900}}\n",
            "{\"return\": {\"stats\": {\"stat-available-memory\": 400}, \"last-update\": 7}}\n",
            "{\"error\": {\"class\": \"DeviceNotActive\", \"desc\": \"No balloon device\"}}\n",
        ];
        let mut qmp = Qmp::connect(&qemu(dir.path(), "{\"QMP\": {}}\n", answers).await).await.unwrap();
        assert_eq!(qmp.memory().await.unwrap(), Memory { given: 1000, available: None });
        assert_eq!(qmp.memory().await.unwrap(), Memory { given: 900, available: Some(400) });
        qmp.memory().await.unwrap_err();
    }

    #[tokio::test]
    async fn whoever_is_no_qemu_is_not_talked_to() {
        let dir = tempfile::tempdir().unwrap();
        for (name, greeting) in [("a", "{\"hello\": 1}\n"), ("b", "garbage\n"), ("c", "")] {
            let dir = dir.path().join(name);
            std::fs::create_dir(&dir).unwrap();
            assert!(Qmp::connect(&qemu(&dir, greeting, &[]).await).await.is_err(), "{greeting}");
        }
    }
}
