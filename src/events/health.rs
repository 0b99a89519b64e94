//! Whether wake-ups can be relied upon, as a pure state machine.
//!
//! ```text
//!            lost connection, missed beat, unannounced work, nothing heard at all
//!   healthy ────────────────────────────────────────────────────────────────────► troubled
//!      ▲                                                                             │
//!      └── a beat is heard, and no work came unannounced for a relaxed interval ─────┘
//! ```
//!
//! A node that misses a beat notifies itself once (*echo*): if it hears that, the connection is good and the beat is
//! what failed; if not, its connection is dead and is replaced. It also does so on every new connection, and where that
//! is not heard, something between swallows notifications. Work that a poll found and that nothing announced
//! within `GRACE` means that notifications are swallowed on the way although the connection looks well.

use std::{
    fmt,
    time::{Duration, Instant},
};

/// How long a notification may come after the poll that found its work.
const GRACE: Duration = Duration::from_millis(500);
/// How long an echo may take once it is on its way.
const ECHO: Duration = Duration::from_secs(2);
/// How long it may take to send one.
const SEND: Duration = Duration::from_secs(8);

/// The rhythm of a node.
#[derive(Clone, Copy, Debug)]
pub struct Intervals {
    /// Age at which the beat is renewed.
    pub beat: Duration,
    /// Between polls when all is well.
    pub relaxed: Duration,
    /// Between polls in trouble.
    pub urgent: Duration,
}

/// Why wake-ups cannot be relied upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// There is no listening connection.
    Disconnected,
    /// The cluster's beat stays away.
    NoBeat,
    /// Work was found that nobody announced.
    Unannounced,
    /// On a new connection not even the node's own notification was heard.
    Swallowed,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disconnected => "the listening connection to the database is lost",
            Self::NoBeat => "notifications do not arrive (no beat)",
            Self::Unannounced => "work was found that no notification announced",
            Self::Swallowed => {
                "the node does not hear what it notifies itself; does a pooler in transaction mode stand before the database?"
            }
        })
    }
}

/// What the shell must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Try to be the one who beats.
    Beat,
    /// Notify this node itself.
    Echo,
    /// Replace the listening connection.
    Reconnect,
}

/// A notification of the node to itself.
#[derive(Clone, Copy, Debug)]
enum Echo {
    /// To be sent at the next tick.
    Due,
    /// Being sent since.
    Asked(Instant),
    /// On its way since.
    Sent(Instant),
}

/// The state of the event plane as one node sees it.
#[derive(Debug)]
pub struct Health {
    intervals: Intervals,
    stagger: Duration,
    connected: bool,
    last_beat: Instant,
    last_try: Option<Instant>,
    last_wake: Option<Instant>,
    echo: Option<Echo>,
    /// Something was heard on this connection.
    heard: bool,
    suspicion: Option<Instant>,
    last_unannounced: Option<Instant>,
    trouble: Option<Trouble>,
}

impl Health {
    /// Before the first connection. The node leaves the beat to others for `stagger` after it is due.
    pub fn new(intervals: Intervals, stagger: Duration, now: Instant) -> Self {
        Self {
            intervals,
            stagger,
            connected: false,
            last_beat: now,
            last_try: None,
            last_wake: None,
            echo: None,
            heard: false,
            suspicion: None,
            last_unannounced: None,
            trouble: Some(Trouble::Disconnected),
        }
    }

    /// What is wrong, if anything is.
    pub fn trouble(&self) -> Option<Trouble> {
        self.trouble
    }

    /// The interval between polls.
    pub fn poll_interval(&self) -> Duration {
        if self.trouble.is_some() { self.intervals.urgent } else { self.intervals.relaxed }
    }

    /// Another rhythm from now on.
    pub fn set_intervals(&mut self, intervals: Intervals) {
        self.intervals = intervals;
    }

    /// The age at which a beat is due.
    pub fn beat_age(&self) -> Duration {
        self.intervals.beat
    }

    /// The listening connection was made and listens.
    pub fn connected(&mut self, now: Instant) {
        self.connected = true;
        self.last_beat = now;
        // What is known to swallow everything is not asked at every turn.
        self.echo = (self.trouble != Some(Trouble::Swallowed)).then_some(Echo::Due);
        self.heard = false;
        // What a poll found while nobody listened could not have been announced.
        self.suspicion = None;
        self.last_try = None;
        if self.trouble == Some(Trouble::Disconnected) && self.last_unannounced.is_none() {
            self.trouble = None;
        }
    }

    /// The listening connection ended.
    pub fn disconnected(&mut self) {
        self.connected = false;
        // That a connection which hears nothing was replaced is no news.
        if self.trouble != Some(Trouble::Swallowed) {
            self.trouble = Some(Trouble::Disconnected);
        }
    }

    /// The beat was heard.
    pub fn beat(&mut self, now: Instant) {
        self.last_beat = now;
        self.echo = None;
        self.heard = true;
        if self.connected {
            self.recover(now);
        }
    }

    /// A wake-up for this node was heard.
    pub fn woken(&mut self, now: Instant) {
        self.last_wake = Some(now);
        self.heard = true;
        self.suspicion = None;
    }

    /// The server has taken the echo; it should be heard now.
    pub fn echo_sent(&mut self, now: Instant) {
        if let Some(Echo::Asked(_)) = self.echo {
            self.echo = Some(Echo::Sent(now));
        }
    }

    /// The echo was heard: the connection is good.
    pub fn echoed(&mut self, now: Instant) {
        self.echo = None;
        self.heard = true;
        // The plane carries what is sent; who beats is another question, asked again after a full interval.
        self.last_beat = now;
    }

    /// A poll found work.
    pub fn poll_found_work(&mut self, now: Instant) {
        if self.last_wake.is_none_or(|wake| now.saturating_duration_since(wake) > GRACE) {
            self.suspicion.get_or_insert(now);
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.suspicion.is_some_and(|since| now.saturating_duration_since(since) > GRACE) {
            self.suspicion = None;
            self.last_unannounced = Some(now);
            self.trouble = Some(Trouble::Unannounced);
            if self.connected {
                actions.push(Action::Reconnect);
            }
        }
        if !self.connected {
            return actions;
        }
        let silence = now.saturating_duration_since(self.last_beat);
        let due = silence >= self.intervals.beat + self.stagger;
        if self.last_try.is_none_or(|tried| due && now.saturating_duration_since(tried) >= self.intervals.beat) {
            self.last_try = Some(now);
            actions.push(Action::Beat);
        }
        match self.echo {
            Some(Echo::Due) => {
                self.echo = Some(Echo::Asked(now));
                actions.push(Action::Echo);
            }
            Some(Echo::Sent(since)) if now.saturating_duration_since(since) > ECHO => {
                self.echo = None;
                if !self.heard {
                    self.trouble = Some(Trouble::Swallowed);
                }
                actions.push(Action::Reconnect);
            }
            Some(Echo::Asked(since)) if now.saturating_duration_since(since) > SEND => {
                self.echo = None;
                actions.push(Action::Reconnect);
            }
            Some(_) => {}
            None if silence > self.intervals.beat * 2 + ECHO => {
                if self.trouble != Some(Trouble::Swallowed) {
                    self.trouble = Some(Trouble::NoBeat);
                }
                self.echo = Some(Echo::Asked(now));
                actions.push(Action::Echo);
            }
            None => {}
        }
        if self.trouble == Some(Trouble::Unannounced) && silence <= self.intervals.beat * 2 + ECHO {
            self.recover(now);
        }
        actions
    }

    fn recover(&mut self, now: Instant) {
        let calm = self.last_unannounced.is_none_or(|at| now.saturating_duration_since(at) >= self.intervals.relaxed);
        if calm {
            self.last_unannounced = None;
            self.trouble = None;
        } else {
            self.trouble = Some(Trouble::Unannounced);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVALS: Intervals =
        Intervals { beat: Duration::from_secs(5), relaxed: Duration::from_secs(30), urgent: Duration::from_secs(1) };

    fn healthy() -> (Health, Instant) {
        let now = Instant::now();
        let mut health = Health::new(INTERVALS, Duration::ZERO, now);
        health.connected(now);
        assert_eq!(health.tick(now), [Action::Beat, Action::Echo]);
        health.echo_sent(now);
        health.echoed(now);
        assert_eq!(health.trouble(), None);
        (health, now)
    }

    fn seconds(n: f64) -> Duration {
        Duration::from_secs_f64(n)
    }

    #[test]
    fn whoever_hears_the_beat_in_time_leaves_it_to_others() {
        let now = Instant::now();
        let mut health = Health::new(INTERVALS, seconds(1.0), now);
        health.connected(now);
        assert!(health.tick(now).contains(&Action::Beat), "once on every connection");
        for round in 1..10 {
            let at = now + seconds(5.25) * round;
            assert!(!health.tick(at).contains(&Action::Beat), "{round}");
            health.beat(at);
        }
        let silent = now + seconds(5.25 * 9.0 + 6.0);
        assert!(health.tick(silent).contains(&Action::Beat));
    }

    #[test]
    fn a_lost_connection_makes_polls_urgent_until_it_is_back() {
        let (mut health, now) = healthy();
        health.disconnected();
        assert_eq!(health.poll_interval(), INTERVALS.urgent);
        health.connected(now + seconds(3.0));
        assert_eq!(health.poll_interval(), INTERVALS.relaxed);
    }

    #[test]
    fn a_missed_beat_is_followed_by_one_echo_and_without_answer_by_a_new_connection() {
        let (mut health, now) = healthy();
        let mut seen = Vec::new();
        for quarter in 0..80 {
            let at = now + seconds(f64::from(quarter) / 4.0);
            let actions = health.tick(at);
            if actions.contains(&Action::Echo) {
                health.echo_sent(at);
            }
            seen.extend(actions.into_iter().filter(|action| *action != Action::Beat));
            if seen.contains(&Action::Reconnect) {
                break;
            }
        }
        assert_eq!(seen, [Action::Echo, Action::Reconnect]);
        assert_eq!(health.trouble(), Some(Trouble::NoBeat));
    }

    #[test]
    fn an_echo_that_is_heard_keeps_the_connection() {
        let (mut health, now) = healthy();
        let at = now + seconds(12.5);
        assert!(health.tick(at).contains(&Action::Echo));
        health.echoed(at + seconds(0.1));
        assert!(!health.tick(at + seconds(5.0)).contains(&Action::Reconnect));
        assert_eq!(health.poll_interval(), INTERVALS.urgent, "still no beat");
        health.beat(at + seconds(6.0));
        assert_eq!(health.trouble(), None);
    }

    #[test]
    fn a_new_connection_that_hears_nothing_is_named_and_tried_again_now_and_then() {
        let now = Instant::now();
        let mut health = Health::new(INTERVALS, Duration::ZERO, now);
        health.connected(now);
        let mut attempts = 0;
        for quarter in 1..240 {
            let at = now + seconds(f64::from(quarter) / 4.0);
            let actions = health.tick(at);
            if actions.contains(&Action::Echo) {
                health.echo_sent(at);
            }
            if actions.contains(&Action::Reconnect) {
                attempts += 1;
                assert_eq!(health.trouble(), Some(Trouble::Swallowed));
                health.disconnected();
                health.connected(at);
            }
            if attempts > 0 {
                assert_eq!(health.trouble(), Some(Trouble::Swallowed));
                assert_eq!(health.poll_interval(), INTERVALS.urgent);
            }
        }
        assert_eq!(attempts, 1 + 57 / 15, "each after two missed beats and an echo");
        health.beat(now + seconds(61.0));
        assert_eq!(health.trouble(), None);
    }

    #[test]
    fn an_echo_that_cannot_be_sent_accuses_nobody_of_swallowing_it() {
        let now = Instant::now();
        let mut health = Health::new(INTERVALS, Duration::ZERO, now);
        health.connected(now);
        assert!(health.tick(now).contains(&Action::Echo));
        assert!(!health.tick(now + seconds(7.0)).contains(&Action::Reconnect));
        assert!(health.tick(now + seconds(9.0)).contains(&Action::Reconnect));
        assert_ne!(health.trouble(), Some(Trouble::Swallowed));
    }

    #[test]
    fn unannounced_work_makes_polls_urgent_for_a_relaxed_interval() {
        let (mut health, now) = healthy();
        health.poll_found_work(now + seconds(1.0));
        assert!(!health.tick(now + seconds(1.2)).contains(&Action::Reconnect));
        assert!(health.tick(now + seconds(1.6)).contains(&Action::Reconnect));
        assert_eq!(health.trouble(), Some(Trouble::Unannounced));
        health.disconnected();
        health.connected(now + seconds(2.0));
        health.beat(now + seconds(3.0));
        assert_eq!(health.trouble(), Some(Trouble::Unannounced));
        health.beat(now + seconds(33.0));
        assert_eq!(health.trouble(), None);
    }

    #[test]
    fn work_whose_notification_comes_a_moment_later_or_came_just_before_was_announced() {
        let (mut health, now) = healthy();
        health.poll_found_work(now + seconds(1.0));
        health.woken(now + seconds(1.1));
        assert!(!health.tick(now + seconds(2.0)).contains(&Action::Reconnect));
        health.poll_found_work(now + seconds(1.3));
        assert!(!health.tick(now + seconds(3.0)).contains(&Action::Reconnect));
        assert_eq!(health.trouble(), None);
    }
}
