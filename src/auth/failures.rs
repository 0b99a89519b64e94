//! Failed logins per user and per address. Every question is answered in memory, before a password is hashed. Time is an
//! argument. What a refused client is told is not decided here.
//!
//! A bucket of failures is one point in time, at which it will be empty again; each failure moves it by the share of a
//! minute that one failure is worth, and there is room as long as it lies less than a minute ahead.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::model::config::{Config, keys};

/// The time that rates are given for.
const MINUTE: Duration = Duration::from_secs(60);
/// Attempts of one user that may be under way at the same time while none has failed lately. Otherwise as many
/// guesses as there are connections would be checked before the first of them counts.
const TOGETHER: u32 = 64;
/// Buckets kept. Beyond it those that are nearest to empty are forgotten.
const BUCKETS: usize = 65_536;

/// Failed logins that are allowed in a minute; 0 means any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Of one user, from anywhere.
    pub user: u32,
    /// From one address, whoever the user.
    pub address: u32,
}

impl Rates {
    /// As configured.
    pub fn from_config(config: &Config) -> Self {
        Self { user: config.get(&keys::L7R_FAILURES_USER), address: config.get(&keys::L7R_FAILURES_ADDRESS) }
    }
}

/// Who failed to log in lately.
#[derive(Debug, Default)]
pub struct FailedLogins {
    users: Mutex<Buckets>,
    addresses: Mutex<Buckets>,
}

/// A login that is being checked. Dropped without more, it has done no harm.
#[derive(Debug)]
pub struct LoginAttempt {
    limits: Arc<FailedLogins>,
    rates: Rates,
    user: u64,
    address: IpAddr,
}

impl FailedLogins {
    /// Lets a login be checked, or says how long the client must wait before the next.
    ///
    /// # Errors
    /// The time until an attempt of this user, or from this address, may succeed.
    pub fn allow(
        self: &Arc<Self>,
        now: Instant,
        rates: Rates,
        login: &str,
        address: IpAddr,
    ) -> Result<LoginAttempt, Duration> {
        lock(&self.addresses).room(network(address), rates.address, now)?;
        let mut users = lock(&self.users);
        let user = users.name(login);
        users.begin(user, rates.user, now)?;
        drop(users);
        Ok(LoginAttempt { limits: self.clone(), rates, user, address })
    }
}

impl LoginAttempt {
    /// The login was wrong, which counts against user and address.
    pub fn failed(self, now: Instant) {
        lock(&self.limits.users).fail(self.user, self.rates.user, now);
        lock(&self.limits.addresses).fail_named(network(self.address), self.rates.address, now);
    }
}

impl Drop for LoginAttempt {
    fn drop(&mut self) {
        lock(&self.limits.users).end(self.user);
    }
}

/// Failures by the hash of whom they count against: what strangers type is not kept, and takes the same space
/// however long it is.
#[derive(Debug, Default)]
struct Buckets {
    hasher: RandomState,
    buckets: HashMap<u64, Bucket>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    empty: Instant,
    under_way: u32,
}

impl Bucket {
    fn used(&self, rate: u32, now: Instant) -> u32 {
        let ahead = self.empty.saturating_duration_since(now);
        // Rounded up: what has not quite drained is not free.
        (ahead.as_nanos() * u128::from(rate)).div_ceil(MINUTE.as_nanos()) as u32
    }
}

impl Buckets {
    fn name(&self, of: impl Hash) -> u64 {
        self.hasher.hash_one(of)
    }

    fn room(&self, of: impl Hash, rate: u32, now: Instant) -> Result<(), Duration> {
        match self.buckets.get(&self.name(of)) {
            Some(bucket) if rate > 0 && bucket.used(rate, now) >= rate => Err(wait(bucket.empty, rate, now)),
            _ => Ok(()),
        }
    }

    fn begin(&mut self, name: u64, rate: u32, now: Instant) -> Result<(), Duration> {
        self.make_room(now);
        let bucket = self.buckets.entry(name).or_insert(Bucket { empty: now, under_way: 0 });
        let used = bucket.used(rate, now);
        if rate > 0 && used >= rate {
            return Err(wait(bucket.empty, rate, now));
        }
        let together = if used == 0 { rate.max(TOGETHER) } else { rate - used };
        if rate > 0 && bucket.under_way >= together {
            return Err(Duration::from_secs(1));
        }
        bucket.under_way += 1;
        Ok(())
    }

    fn end(&mut self, name: u64) {
        if let Some(bucket) = self.buckets.get_mut(&name) {
            bucket.under_way = bucket.under_way.saturating_sub(1);
        }
    }

    fn fail(&mut self, name: u64, rate: u32, now: Instant) {
        let Some(worth) = MINUTE.checked_div(rate) else { return };
        self.make_room(now);
        let bucket = self.buckets.entry(name).or_insert(Bucket { empty: now, under_way: 0 });
        // What was under way when the bucket became full does not lock anybody out for longer.
        bucket.empty = (bucket.empty.max(now) + worth).min(now + MINUTE);
    }

    fn fail_named(&mut self, of: impl Hash, rate: u32, now: Instant) {
        self.fail(self.name(of), rate, now);
    }

    fn make_room(&mut self, now: Instant) {
        if self.buckets.len() < BUCKETS {
            return;
        }
        self.buckets.retain(|_, bucket| bucket.under_way > 0 || bucket.empty > now);
        if self.buckets.len() < BUCKETS {
            return;
        }
        let mut ends: Vec<Instant> = self.buckets.values().map(|bucket| bucket.empty).collect();
        let (_, median, _) = ends.select_nth_unstable(BUCKETS / 2);
        let median = *median;
        let mut excess = BUCKETS / 2;
        self.buckets.retain(|_, bucket| {
            let forget = excess > 0 && bucket.empty <= median;
            excess -= usize::from(forget);
            !forget
        });
    }
}

/// How long until a full bucket has room for one more.
fn wait(empty: Instant, rate: u32, now: Instant) -> Duration {
    let worth = MINUTE / rate;
    (empty + worth).saturating_duration_since(now + MINUTE).max(Duration::from_millis(1))
}

/// What counts as one address: with IPv6 everybody has 2^64 of them.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATES: Rates = Rates { user: 10, address: 60 };
    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn fail(limits: &Arc<FailedLogins>, now: Instant, login: &str, address: IpAddr) -> Result<(), Duration> {
        limits.allow(now, RATES, login, address).map(|attempt| attempt.failed(now))
    }

    #[test]
    fn the_eleventh_failure_of_a_user_waits_for_its_share_of_the_minute() {
        let (limits, now) = (Arc::<FailedLogins>::default(), Instant::now());
        for _ in 0..10 {
            fail(&limits, now, "alice", HERE).unwrap();
        }
        let wait = fail(&limits, now, "alice", HERE).unwrap_err();
        assert_eq!(wait, Duration::from_secs(6));
        // From elsewhere it is the same user, and somebody else is somebody else.
        assert!(fail(&limits, now, "alice", "198.51.100.1".parse().unwrap()).is_err());
        fail(&limits, now, "bob", HERE).unwrap();
        assert!(fail(&limits, now + wait - Duration::from_millis(1), "alice", HERE).is_err());
        fail(&limits, now + wait, "alice", HERE).unwrap();
        assert!(fail(&limits, now + wait, "alice", HERE).is_err());
        let later = now + wait + MINUTE;
        for _ in 0..10 {
            fail(&limits, later, "alice", HERE).unwrap();
        }
    }

    #[test]
    fn an_address_runs_out_whoever_it_tries_to_be() {
        let (limits, now) = (Arc::<FailedLogins>::default(), Instant::now());
        for number in 0..60 {
            fail(&limits, now, &format!("user{number}"), HERE).unwrap();
        }
        assert_eq!(fail(&limits, now, "another", HERE), Err(Duration::from_secs(1)));
        fail(&limits, now, "another", "192.0.2.2".parse().unwrap()).unwrap();
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one() {
        let (limits, now) = (Arc::<FailedLogins>::default(), Instant::now());
        for number in 0..60 {
            let address = format!("2001:db8::{number:x}").parse().unwrap();
            fail(&limits, now, &format!("user{number}"), address).unwrap();
        }
        assert!(fail(&limits, now, "another", "2001:db8::ffff".parse().unwrap()).is_err());
        fail(&limits, now, "another", "2001:db8:0:1::1".parse().unwrap()).unwrap();
    }

    #[test]
    fn success_does_not_count() {
        let (limits, now) = (Arc::<FailedLogins>::default(), Instant::now());
        for _ in 0..1000 {
            limits.allow(now, RATES, "alice", HERE).unwrap();
        }
        fail(&limits, now, "alice", HERE).unwrap();
    }

    #[test]
    fn guesses_made_at_the_same_time_are_limited_too() {
        let (limits, now) = (Arc::<FailedLogins>::default(), Instant::now());
        let first: Vec<_> = (0..TOGETHER).map(|_| limits.allow(now, RATES, "alice", HERE).unwrap()).collect();
        assert!(limits.allow(now, RATES, "alice", HERE).is_err());
        limits.allow(now, RATES, "bob", HERE).unwrap();
        drop(first);
        for _ in 0..7 {
            fail(&limits, now, "alice", HERE).unwrap();
        }
        let second: Vec<_> = (0..3).map(|_| limits.allow(now, RATES, "alice", HERE).unwrap()).collect();
        assert!(limits.allow(now, RATES, "alice", HERE).is_err());
        second.into_iter().for_each(|attempt| attempt.failed(now));
    }

    #[test]
    fn nobody_is_locked_out_for_longer_than_a_minute() {
        let (limits, now) = (Arc::<FailedLogins>::default(), Instant::now());
        let many: Vec<_> = (0..TOGETHER).map(|_| limits.allow(now, RATES, "alice", HERE).unwrap()).collect();
        many.into_iter().for_each(|attempt| attempt.failed(now));
        fail(&limits, now + MINUTE / 10, "alice", "192.0.2.9".parse().unwrap()).unwrap();
    }

    #[test]
    fn a_rate_of_zero_is_no_limit() {
        let (limits, now) = (Arc::<FailedLogins>::default(), Instant::now());
        for _ in 0..200 {
            limits.allow(now, Rates { user: 0, address: 0 }, "alice", HERE).unwrap().failed(now);
        }
    }

    #[test]
    fn memory_is_bounded_and_the_worst_are_remembered() {
        let (limits, now) = (Arc::<FailedLogins>::default(), Instant::now());
        let mut users = lock(&limits.users);
        let worst = users.name("worst");
        for _ in 0..10 {
            users.fail(worst, 10, now);
        }
        for number in 0..BUCKETS * 2 {
            let name = users.name(number);
            users.fail(name, 10, now);
            assert!(users.buckets.len() <= BUCKETS);
        }
        drop(users);
        assert!(fail(&limits, now, "worst", HERE).is_err());
    }
}
