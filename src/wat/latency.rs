//! How long it takes from a change until it is heard of, measured from time to time by this process with its own clock: it
//! notifies a channel that nobody else listens to. The last hour is kept, minute by minute.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Between two measurements. Each wakes every process that listens, so they are few.
pub const EVERY: Duration = Duration::from_secs(10);
const MINUTE: Duration = Duration::from_secs(60);
/// For so long they are kept.
pub const MINUTES: usize = 60;

/// What was measured.
#[derive(Debug, Default)]
pub struct Latency {
    /// When it was asked and how long it took, the oldest first.
    measured: VecDeque<(Instant, Duration)>,
    /// Asked and not yet heard.
    waiting: Option<Instant>,
}

impl Latency {
    /// A notification is about to be sent. One that was not heard by now took at least until now.
    pub fn asked(&mut self, now: Instant) {
        if let Some(asked) = self.waiting.replace(now) {
            self.measured.push_back((asked, now.duration_since(asked)));
        }
        let kept = MINUTE * MINUTES as u32;
        while self.measured.front().is_some_and(|(asked, _)| now.duration_since(*asked) >= kept) {
            self.measured.pop_front();
        }
    }

    /// It was heard.
    pub fn heard(&mut self, now: Instant) {
        if let Some(asked) = self.waiting.take() {
            self.measured.push_back((asked, now.duration_since(asked)));
        }
    }

    /// Nothing could be sent, or nobody listens any more: that says nothing of how long it takes.
    pub fn forget(&mut self) {
        self.waiting = None;
    }

    /// How long it took last.
    pub fn last(&self) -> Option<Duration> {
        self.measured.back().map(|(_, took)| *took)
    }

    /// The longest of each minute, from an hour ago to now.
    pub fn by_minute(&self, now: Instant) -> [Option<Duration>; MINUTES] {
        let mut minutes = [None; MINUTES];
        for (asked, took) in &self.measured {
            let ago = (now.duration_since(*asked).as_secs() / MINUTE.as_secs()) as usize;
            if let Some(minute) = MINUTES.checked_sub(ago + 1) {
                minutes[minute] = minutes[minute].max(Some(*took));
            }
        }
        minutes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_minute_shows_the_longest_and_an_hour_is_kept() {
        let begin = Instant::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let mut latency = Latency::default();
        for (seconds, took) in [(0, 900), (3601, 3), (3605, 8), (3700, 5)] {
            latency.asked(at(seconds));
            latency.heard(at(seconds) + Duration::from_millis(took));
        }
        let minutes = latency.by_minute(at(3710));
        assert_eq!(minutes[59], Some(Duration::from_millis(5)));
        assert_eq!(minutes[58], Some(Duration::from_millis(8)));
        assert_eq!(minutes.iter().flatten().count(), 2, "what is an hour old is gone: {minutes:?}");
        assert_eq!(latency.last(), Some(Duration::from_millis(5)));
    }

    #[test]
    fn what_is_not_heard_took_until_it_was_asked_again_unless_nobody_listened() {
        let now = Instant::now();
        let mut latency = Latency::default();
        latency.asked(now);
        latency.asked(now + EVERY);
        assert_eq!(latency.last(), Some(EVERY));
        latency.forget();
        latency.asked(now + 2 * EVERY);
        latency.heard(now + 2 * EVERY + Duration::from_millis(1));
        // Nobody asked.
        latency.heard(now + 3 * EVERY);
        assert_eq!((latency.last(), latency.measured.len()), (Some(Duration::from_millis(1)), 2));
    }
}
