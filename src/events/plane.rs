//! The node's one listening connection: makes it, keeps it, replaces it, and feeds the hub.
//!
//! After every (re)connect it first listens, then declares a gap, so that whoever waits reads once more. Decisions
//! about trust are those of `Health`; this is the shell that carries them out.

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    db::{Connector, Database, Listen, Listener, Notification},
    model::HostId,
};

use super::{
    Channel, Health, Intervals, Trouble,
    health::Action,
    hub::{Hub, Request},
};

const TICK: Duration = Duration::from_millis(250);
const BACKOFF: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];

enum Ended {
    Lost,
    Replace,
    Cancelled,
}

/// The running event plane of a node.
#[derive(Clone)]
pub struct Plane {
    hub: Hub,
    told: mpsc::UnboundedSender<Told>,
}

/// What others tell the task that listens.
enum Told {
    FoundWork,
    /// The server has taken the echo.
    EchoSent,
    Intervals(Intervals),
}

impl Plane {
    /// Starts listening for `host`. Ends with `stop`.
    pub fn start(
        connector: Connector,
        database: Database,
        host: HostId,
        intervals: Intervals,
        stop: CancellationToken,
    ) -> Self {
        let (hub, requests) = Hub::new(intervals.urgent);
        let (tell, told) = mpsc::unbounded_channel();
        let task = Task {
            connector,
            database,
            host,
            hub: hub.clone(),
            health: Health::new(intervals, stagger(host, intervals.beat), Instant::now()),
            requests,
            tell: tell.clone(),
            told,
            stop,
        };
        tokio::spawn(task.run());
        Self { hub, told: tell }
    }

    /// Where to wait.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// A poll found work; if nothing announces it, wake-ups are not to be relied upon.
    pub fn poll_found_work(&self) {
        let _ = self.told.send(Told::FoundWork);
    }

    /// Beats and polls at another rhythm from now on.
    pub fn set_intervals(&self, intervals: Intervals) {
        let _ = self.told.send(Told::Intervals(intervals));
    }
}

/// What a node waits beyond the age at which the beat is due, so that most of those that would beat have heard one before.
fn stagger(host: HostId, beat: Duration) -> Duration {
    // Neighbouring ids far from each other.
    let spot = host.0.cast_unsigned().wrapping_mul(0x9E37_79B9);
    beat.mul_f64(f64::from(spot) / f64::from(u32::MAX) / 4.0)
}

struct Task {
    connector: Connector,
    database: Database,
    host: HostId,
    hub: Hub,
    health: Health,
    requests: mpsc::UnboundedReceiver<Request>,
    tell: mpsc::UnboundedSender<Told>,
    told: mpsc::UnboundedReceiver<Told>,
    stop: CancellationToken,
}

impl Task {
    async fn run(mut self) {
        let mut backoff = BACKOFF[0];
        loop {
            let attempt = tokio::select! {
                attempt = Self::listen(&self.connector, self.host, &self.hub) => attempt,
                () = self.stop.cancelled() => return,
            };
            match attempt {
                Ok(listen) => {
                    backoff = BACKOFF[0];
                    // What was said of the time before the connection.
                    while let Ok(told) = self.told.try_recv() {
                        self.follow(told);
                    }
                    self.health.connected(Instant::now());
                    self.publish();
                    self.hub.gap();
                    match self.serve(listen).await {
                        Ended::Cancelled => return,
                        Ended::Replace => {
                            self.hub.stats().reconnects.fetch_add(1, Relaxed);
                            tracing::warn!(host = %self.host, "replacing the listening connection");
                        }
                        Ended::Lost => tracing::warn!(host = %self.host, "the listening connection was lost"),
                    }
                    self.health.disconnected();
                    self.publish();
                    continue;
                }
                Err(error) => {
                    tracing::debug!(host = %self.host, %error, "cannot listen");
                    self.health.disconnected();
                    self.publish();
                }
            }
            self.wait_disconnected(backoff).await;
            backoff = (backoff * 2).min(BACKOFF[1]);
        }
    }

    async fn listen(connector: &Connector, host: HostId, hub: &Hub) -> Result<Listen, crate::db::DbError> {
        let listen = Listener::connect(connector).await?;
        let mut channels = vec![Channel::Beat, Channel::Config, Channel::Host(host), Channel::Node(host)];
        channels.extend(hub.watched());
        let names: Vec<String> = channels.iter().map(ToString::to_string).collect();
        listen.listener.listen(names.iter().map(String::as_str)).await?;
        Ok(listen)
    }

    /// Without a connection requests are dropped: the gap that follows makes up for them.
    async fn wait_disconnected(&mut self, limit: Duration) {
        let deadline = tokio::time::sleep(limit);
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                () = &mut deadline => return,
                () = self.stop.cancelled() => return,
                _ = self.requests.recv() => {}
                Some(told) = self.told.recv() => self.follow(told),
            }
        }
    }

    async fn serve(&mut self, listen: Listen) -> Ended {
        let Listen { listener, mut notifications } = listen;
        let mut ticks = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return Ended::Cancelled,
                () = listener.moved() => return Ended::Lost,
                heard = notifications.recv() => match heard {
                    Some(notification) => self.heard(&notification),
                    None => return Ended::Lost,
                },
                Some(request) = self.requests.recv() => {
                    if self.change(&listener, request).await.is_err() {
                        return Ended::Lost;
                    }
                }
                Some(told) = self.told.recv() => self.follow(told),
                _ = ticks.tick() => {
                    for action in self.health.tick(Instant::now()) {
                        match action {
                            Action::Beat => self.spawn_beat(),
                            Action::Echo => self.spawn_echo(),
                            Action::Reconnect => {
                                if self.health.trouble() == Some(Trouble::Unannounced) {
                                    self.hub.stats().missed.fetch_add(1, Relaxed);
                                }
                                // Said before the connection ends, which is the consequence and not the reason.
                                self.publish();
                                return Ended::Replace;
                            }
                        }
                    }
                    self.publish();
                }
            }
        }
    }

    async fn change(&self, listener: &Listener, request: Request) -> Result<(), crate::db::DbError> {
        match request {
            Request::Listen(channel, done) => {
                listener.listen([channel.to_string().as_str()]).await?;
                let _ = done.send(());
            }
            // Between the last waiter's drop and now another may have come.
            Request::Unlisten(channel) if !self.hub.watched().contains(&channel) && !self.own(channel) => {
                listener.unlisten([channel.to_string().as_str()]).await?;
            }
            Request::Unlisten(_) => {}
        }
        Ok(())
    }

    fn follow(&mut self, told: Told) {
        match told {
            Told::FoundWork => self.health.poll_found_work(Instant::now()),
            Told::EchoSent => self.health.echo_sent(Instant::now()),
            Told::Intervals(intervals) => {
                self.health.set_intervals(intervals);
                self.hub.set_poll(self.health.poll_interval());
            }
        }
    }

    fn own(&self, channel: Channel) -> bool {
        matches!(channel, Channel::Beat | Channel::Config)
            || [Channel::Host(self.host), Channel::Node(self.host)].contains(&channel)
    }

    fn heard(&mut self, notification: &Notification) {
        let now = Instant::now();
        let Ok(channel) = notification.channel.parse::<Channel>() else { return };
        match channel {
            Channel::Beat => {
                self.hub.stats().beat(now, self.health.beat_age());
                self.health.beat(now);
                self.publish();
            }
            // The echo is the one message whose content counts: it asks nobody to read.
            Channel::Host(_) if notification.payload.contains("\"echo\"") => {
                self.hub.stats().echoes.fetch_add(1, Relaxed);
                self.health.echoed(now);
            }
            Channel::Host(_) => {
                self.health.woken(now);
                self.hub.wake(channel);
            }
            _ => self.hub.wake(channel),
        }
    }

    fn publish(&self) {
        let trouble = self.health.trouble().map(|trouble| trouble.to_string());
        let before = self.hub.trouble();
        match (&before, &trouble) {
            (None, Some(trouble)) => {
                tracing::warn!(host = %self.host, "notifications cannot be relied upon: {trouble}; polling instead");
            }
            (Some(_), None) => tracing::info!(host = %self.host, "notifications arrive again"),
            _ => {}
        }
        self.hub.set_trouble(trouble);
        self.hub.set_poll(self.health.poll_interval());
    }

    fn spawn_beat(&self) {
        let (database, age) = (self.database.clone(), self.health.beat_age());
        tokio::spawn(async move {
            if let Err(error) = database.beat_try(age).await {
                tracing::debug!(%error, "cannot beat");
            }
        });
    }

    fn spawn_echo(&self) {
        let (database, host, tell) = (self.database.clone(), self.host, self.tell.clone());
        tokio::spawn(async move {
            match database.echo(host).await {
                Ok(()) => drop(tell.send(Told::EchoSent)),
                Err(error) => tracing::debug!(%error, "cannot send an echo"),
            }
        });
    }
}
