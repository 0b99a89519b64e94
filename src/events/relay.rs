//! Carries wake-ups from `hkd` to `l7r` over a unix socket, so that a node needs one listening connection.
//!
//! Lines. From l7r: `+<channel>` wants wake-ups, `-<channel>` no longer, `?` asks for the counters. From hkd:
//! `=<channel>` the server listens now, `!<channel>` wake-up (or gap), `ok` or `trouble <text>`
//! every second. When hkd is silent, l7r polls urgently until it hears it again; then all is a gap.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;
use nix::poll::{PollFd, PollFlags, poll};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream, unix::OwnedWriteHalf},
    sync::{Notify, mpsc, watch},
};
use tokio_util::sync::CancellationToken;

use super::{
    Channel,
    hub::{Cause, Hub, Request},
};

const PULSE: Duration = Duration::from_secs(1);
const SILENCE: Duration = Duration::from_secs(3);
const RETRY: Duration = Duration::from_millis(100);
/// In milliseconds, from the end of a connection to the end of the process that had it.
const LAST_BREATH: u16 = 5000;

/// Asks the daemon for what else `qvd status` shows.
pub type Figures = Box<dyn Fn() -> BoxFuture<'static, serde_json::Value> + Send + Sync>;

/// The side of hkd.
pub struct RelayServer {
    listener: UnixListener,
}

impl RelayServer {
    /// Binds the socket; the file of an earlier run is replaced. Any account of the machine may connect: wake-ups
    /// carry nothing.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
        Ok(Self { listener })
    }

    /// Serves until `stop`. `figures` is an object of what is known elsewhere: the phases of VMs, what the database counts.
    /// `departures` is told of every client whose process has ended.
    pub async fn serve(self, hub: Hub, figures: Figures, departures: Arc<Notify>, stop: CancellationToken) {
        let figures = Arc::new(figures);
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (hub, figures, stop) = (hub.clone(), figures.clone(), stop.clone());
                    let departures = departures.clone();
                    tokio::spawn(async move {
                        let process = stream.peer_cred().ok().and_then(|peer| Process::with(peer.pid()?));
                        let served = async {
                            let _ = serve_one(stream, hub, &figures).await;
                            if let Some(process) = process {
                                process.ended().await;
                                departures.notify_one();
                            }
                        };
                        tokio::select! {
                            () = served => {}
                            () = stop.cancelled() => {}
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the relay cannot accept");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

/// A process at the other end, whatever becomes of its number.
struct Process(OwnedFd);

impl Process {
    fn with(pid: i32) -> Option<Self> {
        let pid = rustix::process::Pid::from_raw(pid)?;
        rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok().map(Self)
    }

    /// Resolves when it has ended, though it may still wait to be noticed by its parent, or does not within a while.
    async fn ended(self) {
        let wait = move || poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], LAST_BREATH);
        let _ = tokio::task::spawn_blocking(wait).await;
    }
}

async fn serve_one(stream: UnixStream, hub: Hub, figures: &Figures) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    let (sender, mut outgoing) = mpsc::unbounded_channel::<String>();
    let mut watches: HashMap<Channel, tokio::task::AbortHandle> = HashMap::new();
    let mut pulse = tokio::time::interval(PULSE);
    let result = loop {
        tokio::select! {
            line = lines.next_line() => match line {
                Ok(Some(line)) if line == "?" => {
                    let mut shown = serde_json::json!(hub.shown());
                    if let (Some(shown), serde_json::Value::Object(figures)) = (shown.as_object_mut(), figures().await) {
                        shown.extend(figures);
                    }
                    write(&mut writer, &shown.to_string()).await?;
                }
                Ok(Some(line)) => {
                    let Some((sign, Ok(channel))) = line.split_at_checked(1).map(|(s, c)| (s, c.parse::<Channel>()))
                    else { continue };
                    match (sign, watches.contains_key(&channel)) {
                        ("+", false) => {
                            let task = tokio::spawn(forward(hub.clone(), channel, sender.clone()));
                            watches.insert(channel, task.abort_handle());
                        }
                        // Beginning anew could lose the wake-up that another waiter of l7r waits for.
                        ("+", true) => drop(tokio::spawn(confirm(hub.clone(), channel, sender.clone()))),
                        _ => watches.remove(&channel).into_iter().for_each(|task| task.abort()),
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            },
            Some(line) = outgoing.recv() => write(&mut writer, &line).await?,
            _ = pulse.tick() => {
                let line = hub.trouble().map_or_else(|| "ok".to_owned(), |trouble| format!("trouble {trouble}"));
                write(&mut writer, &line).await?;
            }
        }
    };
    watches.into_values().for_each(|task| task.abort());
    result
}

async fn forward(hub: Hub, channel: Channel, to: mpsc::UnboundedSender<String>) {
    let mut watch = hub.watch(channel).await;
    let mut line = format!("={channel}");
    while to.send(line).is_ok() {
        // l7r polls by itself; only real wake-ups are worth a line.
        while watch.changed().await == Cause::Poll {}
        line = format!("!{channel}");
    }
}

/// Tells that the server listens to a channel whose wake-ups are forwarded already.
async fn confirm(hub: Hub, channel: Channel, to: mpsc::UnboundedSender<String>) {
    let _watch = hub.watch(channel).await;
    let _ = to.send(format!("={channel}"));
}

async fn write(writer: &mut OwnedWriteHalf, line: &str) -> io::Result<()> {
    writer.write_all(format!("{line}\n").as_bytes()).await
}

/// How often to poll.
#[derive(Clone, Copy, Debug)]
pub struct Polls {
    /// While wake-ups can be relied upon.
    pub relaxed: Duration,
    /// While they cannot.
    pub urgent: Duration,
}

/// The side of l7r: a hub that is fed by the relay at `path`.
pub fn follow(path: PathBuf, polls: watch::Receiver<Polls>, stop: CancellationToken) -> Hub {
    let (hub, requests) = Hub::new(polls.borrow().urgent);
    tokio::spawn(follower(path, hub.clone(), requests, polls, stop));
    hub
}

async fn follower(
    path: PathBuf,
    hub: Hub,
    mut requests: mpsc::UnboundedReceiver<Request>,
    polls: watch::Receiver<Polls>,
    stop: CancellationToken,
) {
    while !stop.is_cancelled() {
        if let Ok(stream) = UnixStream::connect(&path).await {
            let ended = tokio::select! {
                ended = follow_one(stream, &hub, &mut requests, &polls) => ended,
                () = stop.cancelled() => return,
            };
            tracing::debug!(reason = ?ended, "the relay ended");
        }
        hub.set_poll(polls.borrow().urgent);
        hub.set_trouble(Some("the node's hkd is silent".to_owned()));
        let pause = tokio::time::sleep(RETRY);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => break,
                // Dropping the request answers it: nobody listens, a gap will follow.
                _ = requests.recv() => {}
            }
        }
    }
}

async fn follow_one(
    stream: UnixStream,
    hub: &Hub,
    requests: &mut mpsc::UnboundedReceiver<Request>,
    polls: &watch::Receiver<Polls>,
) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    let mut waiting: HashMap<Channel, Vec<tokio::sync::oneshot::Sender<()>>> = HashMap::new();
    for channel in hub.watched() {
        write(&mut writer, &format!("+{channel}")).await?;
    }
    hub.gap();
    loop {
        tokio::select! {
            line = tokio::time::timeout(SILENCE, lines.next_line()) => {
                let Some(line) = line.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? else { return Ok(()) };
                if line == "ok" {
                    hub.set_poll(polls.borrow().relaxed);
                    hub.set_trouble(None);
                } else if let Some(trouble) = line.strip_prefix("trouble ") {
                    hub.set_poll(polls.borrow().urgent);
                    hub.set_trouble(Some(trouble.to_owned()));
                } else if let Some(Ok(channel)) = line.strip_prefix('=').map(str::parse::<Channel>) {
                    for done in waiting.remove(&channel).unwrap_or_default() {
                        let _ = done.send(());
                    }
                } else if let Some(Ok(channel)) = line.strip_prefix('!').map(str::parse::<Channel>) {
                    hub.wake(channel);
                }
            }
            Some(request) = requests.recv() => match request {
                Request::Listen(channel, done) => {
                    waiting.entry(channel).or_default().push(done);
                    write(&mut writer, &format!("+{channel}")).await?;
                }
                Request::Unlisten(channel) => write(&mut writer, &format!("-{channel}")).await?,
            }
        }
    }
}

/// The counters of the hkd behind the relay at `path`, as one JSON object.
pub async fn status(path: &Path) -> io::Result<String> {
    let stream = UnixStream::connect(path).await?;
    let (reader, mut writer) = stream.into_split();
    write(&mut writer, "?").await?;
    let mut lines = BufReader::new(reader).lines();
    while let Some(line) = lines.next_line().await? {
        if line.starts_with('{') {
            return Ok(line);
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}
