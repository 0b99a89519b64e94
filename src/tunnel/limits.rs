//! How long a tunnel may last, and how long in silence. Bytes in either direction end the silence, but for the few that
//! the ends of an idle link exchange to know that it is there. The clock reads the byte counters now and then, so that
//! moving bytes costs nothing; who looks, and who then ends the tunnel, is not known here.

use std::{
    fmt,
    time::{Duration, Instant},
};

/// What a tunnel is granted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Longest silence; `None`: any.
    pub idle: Option<Duration>,
    /// Longest life; `None`: any.
    pub total: Option<Duration>,
}

/// A limit that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Nothing was said for this long.
    Idle(Duration),
    /// It has lasted this long.
    Total(Duration),
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Idle(limit) => write!(f, "nothing was said for {} s, the limit", limit.as_secs_f64()),
            Self::Total(limit) => write!(f, "it lasted {} s, the limit", limit.as_secs_f64()),
        }
    }
}

/// Holds one tunnel against its limits.
#[derive(Debug)]
pub struct Clock {
    limits: Limits,
    began: Instant,
    bytes: u64,
    looked: Instant,
    /// Bytes that have moved and not yet run off.
    level: f64,
    moved: Instant,
}

/// What runs off in a second. On an idle link the proxies of NX send each other eight bytes every five seconds.
const LEAK: f64 = 8.0;
/// What has to come together to end a silence: chosen to be above the keep-alive, not measured against single keystrokes.
const WORDS: f64 = 64.0;

/// The part of the longest silence by which its end may be noticed late, and the most that this may be.
const LATE: (u32, Duration) = (8, Duration::from_secs(15));
/// Looks are not more frequent than this.
const SOON: Duration = Duration::from_millis(50);

impl Clock {
    /// For a tunnel that begins now.
    pub fn new(limits: Limits, now: Instant) -> Self {
        Self { limits, began: now, bytes: 0, looked: now, level: 0.0, moved: now }
    }

    /// Looks at the bytes moved so far, in both directions together, and says when to look again: `None` is never.
    ///
    /// # Errors
    /// The limit that was reached.
    pub fn look(&mut self, bytes: u64, now: Instant) -> Result<Option<Instant>, Limit> {
        let leaked = LEAK * now.saturating_duration_since(self.looked).as_secs_f64();
        self.level = (self.level - leaked).max(0.0) + bytes.saturating_sub(self.bytes) as f64;
        (self.bytes, self.looked) = (bytes, now);
        if self.level >= WORDS {
            (self.level, self.moved) = (0.0, now);
        }
        let end = self.limits.total.map(|total| (self.began + total, Limit::Total(total)));
        let silence = self.limits.idle.map(|idle| (self.moved + idle, Limit::Idle(idle)));
        for (at, limit) in [end, silence].into_iter().flatten() {
            if now >= at {
                return Err(limit);
            }
        }
        let (part, most) = LATE;
        let soon = self.limits.idle.map(|idle| now + (idle / part).clamp(SOON, most));
        Ok([end.map(|(at, _)| at), silence.map(|(at, _)| at), soon].into_iter().flatten().min())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn clock(idle: u32, total: u32) -> (Clock, Instant) {
        let some = |seconds: u32| (seconds > 0).then(|| SECOND * seconds);
        let now = Instant::now();
        (Clock::new(Limits { idle: some(idle), total: some(total) }, now), now)
    }

    /// Looks when told to, with bytes moved at the given seconds; the second at which it is over.
    fn run(idle: u32, total: u32, moves: &[u32]) -> (u32, Limit) {
        run_with(100, idle, total, moves)
    }

    fn run_with(size: u64, idle: u32, total: u32, moves: &[u32]) -> (u32, Limit) {
        let (mut clock, began) = clock(idle, total);
        let mut now = began;
        loop {
            let bytes = moves.iter().filter(|at| began + SECOND * **at <= now).count() as u64 * size;
            match clock.look(bytes, now) {
                Ok(next) => now = next.expect("a limit means another look").max(now + Duration::from_millis(1)),
                Err(limit) => return ((now - began).as_secs() as u32, limit),
            }
        }
    }

    #[test]
    fn without_limits_nobody_needs_to_look_again() {
        let (mut clock, now) = clock(0, 0);
        assert_eq!(clock.look(7, now + SECOND * 1_000_000), Ok(None));
    }

    #[test]
    fn a_tunnel_that_is_silent_from_the_start_ends_at_its_idle_limit() {
        assert_eq!(run(60, 0, &[]), (60, Limit::Idle(SECOND * 60)));
    }

    #[test]
    fn bytes_start_the_silence_anew_and_its_end_is_noticed_at_most_an_eighth_late() {
        let (at, limit) = run(80, 0, &[3, 50, 101]);
        assert_eq!(limit, Limit::Idle(SECOND * 80));
        assert!((181..=191).contains(&at), "{at}");
    }

    #[test]
    fn what_nx_says_on_an_idle_link_does_not_count_and_typing_does() {
        let every_five: Vec<u32> = (0..2000).step_by(5).collect();
        for idle in [10, 60, 900] {
            assert_eq!(run_with(16, idle, 0, &every_five), (idle, Limit::Idle(SECOND * idle)));
        }
        let typed: Vec<u32> = (0..200).collect();
        let (at, _) = run_with(30, 60, 0, &typed);
        assert!(at > 200, "{at}");
    }

    #[test]
    fn the_total_limit_holds_however_much_is_said() {
        let moves: Vec<u32> = (0..200).collect();
        assert_eq!(run(10, 100, &moves), (100, Limit::Total(SECOND * 100)));
    }

    #[test]
    fn of_two_limits_the_earlier_one_counts() {
        assert_eq!(run(10, 100, &[]).1, Limit::Idle(SECOND * 10));
        assert_eq!(run(100, 10, &[]), (10, Limit::Total(SECOND * 10)));
    }
}
