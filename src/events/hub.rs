//! Wakes those who wait. A waiter holds a `Watch` of one channel and loops: read, then `changed()`. Wake-ups are
//! counted, not queued: any number of them while a waiter works means one more round, and none can be lost between
//! its read and its next wait.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};

use super::Channel;

/// Counters of the event plane since the process began.
#[derive(Debug, Default)]
pub struct Stats {
    /// Wake-ups heard.
    pub wakeups: AtomicU64,
    /// Times in which wake-ups may have been lost.
    pub gaps: AtomicU64,
    /// Polls that found work nobody had announced.
    pub missed: AtomicU64,
    /// Beats heard.
    pub beats: AtomicU64,
    /// Notifications of the node to itself that it heard.
    pub echoes: AtomicU64,
    /// Connections replaced.
    pub reconnects: AtomicU64,
    /// Times that the daemon asked for commands, by `Cause`.
    reconciles: [AtomicU64; Cause::ALL.len()],
    rhythm: Mutex<Rhythm>,
}

/// When the last beat was heard, and how much later than it was due.
#[derive(Clone, Copy, Debug, Default)]
struct Rhythm {
    heard: Option<Instant>,
    late: Option<Duration>,
}

impl Stats {
    /// The daemon asks for commands.
    pub fn reconciled(&self, cause: Cause) {
        self.reconciles[cause as usize].fetch_add(1, Relaxed);
    }

    /// A beat was heard; the next is due after `interval`.
    pub(super) fn beat(&self, now: Instant, interval: Duration) {
        self.beats.fetch_add(1, Relaxed);
        let mut rhythm = self.rhythm();
        let since = rhythm.heard.map(|heard| now.saturating_duration_since(heard));
        *rhythm = Rhythm { heard: Some(now), late: since.map(|since| since.saturating_sub(interval)) };
    }

    fn rhythm(&self) -> std::sync::MutexGuard<'_, Rhythm> {
        self.rhythm.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What `Stats` shows.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    wakeups: u64,
    gaps: u64,
    missed_wakeups: u64,
    beats: u64,
    echoes: u64,
    beat_age_s: Option<f64>,
    beat_delay_s: Option<f64>,
    reconnects: u64,
    reconciles: BTreeMap<&'static str, u64>,
    poll_interval_s: f64,
    trouble: Option<String>,
}

/// A change of what is listened to. The answer comes when the server has committed it; it is dropped when there is
/// no connection, in which case a gap follows as soon as there is one.
pub(super) enum Request {
    Listen(Channel, oneshot::Sender<()>),
    Unlisten(Channel),
}

/// How often waiters were woken, and how often because of a gap.
#[derive(Clone, Copy, Default)]
struct Wakes {
    all: u64,
    gaps: u64,
}

struct Entry {
    wakes: watch::Sender<Wakes>,
    watches: usize,
}

struct Inner {
    channels: Mutex<HashMap<Channel, Entry>>,
    requests: mpsc::UnboundedSender<Request>,
    poll: watch::Sender<Duration>,
    trouble: watch::Sender<Option<String>>,
    stats: Stats,
}

/// The meeting point of those who wait and the source of wake-ups.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

impl Hub {
    pub(super) fn new(poll: Duration) -> (Self, mpsc::UnboundedReceiver<Request>) {
        let (requests, receiver) = mpsc::unbounded_channel();
        let inner = Inner {
            channels: Mutex::default(),
            requests,
            poll: watch::Sender::new(poll),
            trouble: watch::Sender::new(None),
            stats: Stats::default(),
        };
        (Self { inner: Arc::new(inner) }, receiver)
    }

    /// Waits on a channel. Returns when the server listens, so a row read after this is no older than what is missed;
    /// returns at once when there is no connection, since a gap will follow.
    pub async fn watch(&self, channel: Channel) -> Watch {
        let wakes = {
            let mut channels = self.channels();
            let entry = channels
                .entry(channel)
                .or_insert_with(|| Entry { wakes: watch::Sender::new(Wakes::default()), watches: 0 });
            entry.watches += 1;
            entry.wakes.subscribe()
        };
        let gaps = wakes.borrow().gaps;
        let watch = Watch { hub: self.clone(), channel, wakes, gaps, poll: self.inner.poll.subscribe() };
        // A later waiter may come while the first is still being listened for, so each waits for an answer of its own.
        let (done, answer) = oneshot::channel();
        let _ = self.inner.requests.send(Request::Listen(channel, done));
        let _ = tokio::time::timeout(Duration::from_secs(1), answer).await;
        watch
    }

    /// Counters.
    pub fn stats(&self) -> &Stats {
        &self.inner.stats
    }

    /// Why wake-ups cannot be relied upon; `None` when they can.
    pub fn trouble(&self) -> Option<String> {
        self.inner.trouble.borrow().clone()
    }

    pub(super) fn shown(&self) -> Shown {
        let stats = self.stats();
        let rhythm = *stats.rhythm();
        let reconciles = Cause::ALL.map(|cause| (cause.as_str(), stats.reconciles[cause as usize].load(Relaxed)));
        Shown {
            wakeups: stats.wakeups.load(Relaxed),
            gaps: stats.gaps.load(Relaxed),
            missed_wakeups: stats.missed.load(Relaxed),
            beats: stats.beats.load(Relaxed),
            echoes: stats.echoes.load(Relaxed),
            beat_age_s: rhythm.heard.map(|heard| heard.elapsed().as_secs_f64()),
            beat_delay_s: rhythm.late.map(|late| late.as_secs_f64()),
            reconciles: reconciles.into(),
            reconnects: stats.reconnects.load(Relaxed),
            poll_interval_s: self.inner.poll.borrow().as_secs_f64(),
            trouble: self.trouble(),
        }
    }

    pub(super) fn wake(&self, channel: Channel) {
        self.inner.stats.wakeups.fetch_add(1, Relaxed);
        if let Some(entry) = self.channels().get(&channel) {
            entry.wakes.send_modify(|wakes| wakes.all += 1);
        }
    }

    /// Everybody reads again.
    pub(super) fn gap(&self) {
        self.inner.stats.gaps.fetch_add(1, Relaxed);
        for entry in self.channels().values() {
            entry.wakes.send_modify(|wakes| {
                wakes.all += 1;
                wakes.gaps += 1;
            });
        }
    }

    pub(super) fn set_poll(&self, interval: Duration) {
        self.inner.poll.send_if_modified(|current| std::mem::replace(current, interval) != interval);
    }

    pub(super) fn set_trouble(&self, trouble: Option<String>) {
        self.inner.trouble.send_if_modified(|current| {
            let changed = *current != trouble;
            *current = trouble;
            changed
        });
    }

    pub(super) fn watched(&self) -> Vec<Channel> {
        self.channels().keys().copied().collect()
    }

    fn channels(&self) -> std::sync::MutexGuard<'_, HashMap<Channel, Entry>> {
        self.inner.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One waiter on one channel.
pub struct Watch {
    hub: Hub,
    channel: Channel,
    wakes: watch::Receiver<Wakes>,
    /// As many were seen.
    gaps: u64,
    poll: watch::Receiver<Duration>,
}

/// Why somebody reads what may have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It has just begun.
    Start,
    /// A notification.
    Woken,
    /// Notifications may have been lost.
    Gap,
    /// Nothing was heard for a poll interval.
    Poll,
    /// The last time failed.
    Retry,
}

impl Cause {
    const ALL: [Self; 5] = [Self::Start, Self::Woken, Self::Gap, Self::Poll, Self::Retry];

    /// The word for it in `qvd status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Woken => "wake-up",
            Self::Gap => "gap",
            Self::Poll => "poll",
            Self::Retry => "retry",
        }
    }
}

impl Watch {
    /// Waits until something may have changed: a wake-up since the last call, a gap, or the end of a poll interval.
    pub async fn changed(&mut self) -> Cause {
        loop {
            let interval = *self.poll.borrow_and_update();
            tokio::select! {
                // The sender lives in the hub that this watch holds.
                _ = self.wakes.changed() => {
                    let gaps = self.wakes.borrow_and_update().gaps;
                    let gap = std::mem::replace(&mut self.gaps, gaps) != gaps;
                    return if gap { Cause::Gap } else { Cause::Woken };
                }
                () = tokio::time::sleep(interval) => return Cause::Poll,
                // A change to urgent polling must not wait for the end of a relaxed interval.
                _ = self.poll.changed() => {
                    if *self.poll.borrow() < interval {
                        return Cause::Poll;
                    }
                }
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut channels = self.hub.channels();
        if let Some(entry) = channels.get_mut(&self.channel) {
            entry.watches -= 1;
            if entry.watches == 0 {
                channels.remove(&self.channel);
                let _ = self.hub.inner.requests.send(Request::Unlisten(self.channel));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_waiter_learns_whether_it_was_woken_or_may_have_missed_something() {
        let (hub, _requests) = Hub::new(Duration::from_secs(600));
        let mut watch = hub.watch(Channel::Config).await;
        hub.wake(Channel::Config);
        hub.wake(Channel::Config);
        assert_eq!(watch.changed().await, Cause::Woken);
        hub.gap();
        hub.wake(Channel::Config);
        assert_eq!(watch.changed().await, Cause::Gap);
        hub.set_poll(Duration::ZERO);
        assert_eq!(watch.changed().await, Cause::Poll);
        assert!(Cause::ALL.iter().enumerate().all(|(at, cause)| *cause as usize == at));
    }
}
