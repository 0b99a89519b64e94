//! Decides when another node is given up. Each node has two counters, the lease in the database and the heartbeat on the
//! shared storage; while one of them moves, the node lives.
//!
//! ```text
//!              its heart was seen to beat in this epoch       both counters stood still for its patience
//!   Stranger ──────────────────────────────────────► Watched ──────────────────────────────────────────► take over
//!                                                     │   ▲
//!                                                     └───┘ a counter moved, or we could not have seen it move:
//!                                                           the measurement begins again
//! ```
//!
//! It trusts nobody's clock but the monotonic one of its own machine, and no silence that could be its own deafness: the
//! database did not answer, is another server or another connection, the storage did not take and show this node's own
//! heartbeat, or nobody looked for a while. What is read and written, and by whom, is not known here.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::{
    db::{Peer, Peers},
    model::HostId,
};

/// Content of a heartbeat's file. Only whether it changes matters.
pub type Beat = String;

/// What one look at both places showed.
#[derive(Clone, Debug)]
pub struct Look {
    /// Nothing that is shown is older.
    pub began: Instant,
    /// Nothing that is shown is younger.
    pub ended: Instant,
    /// `None`: the database did not answer.
    pub database: Option<Peers>,
    /// `None`: the storage did not answer.
    pub storage: Option<Beats>,
}

/// The heartbeats on the storage, all read through the same directory.
#[derive(Clone, Debug, Default)]
pub struct Beats {
    /// Of this node; `None` when it cannot be read.
    pub own: Option<Beat>,
    /// Of the others, as far as they can be read.
    pub others: HashMap<HostId, Beat>,
}

/// The observer of all other nodes.
#[derive(Debug, Default)]
pub struct Observer {
    /// Last end of a look.
    looked: Option<Instant>,
    source: Option<String>,
    own: Own,
    watched: HashMap<HostId, Watched>,
}

/// This node's heartbeat as the storage shows it.
#[derive(Debug, Default)]
struct Own {
    beat: Option<Beat>,
    /// The latest moment at which it certainly moved, or nobody had looked yet.
    moved: Option<Instant>,
    /// It moved before our eyes.
    beats: bool,
}

#[derive(Debug)]
struct Watched {
    peer: Peer,
    beat: Option<Beat>,
    /// Its heart was seen to beat in this epoch.
    beats: bool,
    /// Neither counter has moved since, and we would have seen it.
    still_since: Instant,
}

impl Observer {
    /// The observer of one node that may have died long before anybody saw its heart beat.
    pub fn expecting(peer: Peer, now: Instant) -> Self {
        let watched = Watched { peer, beat: None, beats: true, still_since: now };
        Self { watched: HashMap::from([(watched.peer.host, watched)]), ..Self::default() }
    }

    /// Takes note of what a look showed; returns the nodes to take over.
    pub fn look(&mut self, look: Look) -> Vec<Peer> {
        let Look { began, ended, database, storage } = look;
        let absent = self.looked.replace(ended).map(|before| ended.saturating_duration_since(before));
        self.own.look(began, storage.as_ref().and_then(|beats| beats.own.clone()));
        let own_silence = self.own.beats.then(|| self.own_silence(ended)).flatten();

        let Some(database) = database else {
            // Its connection is broken; the next one is another.
            self.source = None;
            self.watched.values_mut().for_each(|watched| watched.still_since = ended);
            return Vec::new();
        };
        let same_source = self.source.as_ref() == Some(&database.source);
        self.source = Some(database.source);

        let mut beats = storage.map(|storage| storage.others).unwrap_or_default();
        let mut known = std::mem::take(&mut self.watched);
        let mut silent = Vec::new();
        for peer in database.peers {
            let beat = beats.remove(&peer.host);
            // Longer than this we would not go without noticing that it is we who are deaf.
            let limit = peer.patience / 2;
            let deaf = !same_source
                || absent.is_none_or(|absent| absent > limit)
                || own_silence.is_none_or(|silence| silence > limit)
                || beat.is_none();
            let mut watched = match known.remove(&peer.host).filter(|known| known.peer.epoch == peer.epoch) {
                Some(known) => known,
                None => Watched { peer: peer.clone(), beat: None, beats: false, still_since: ended },
            };
            let beat_moved = beat.is_some() && watched.beat.is_some() && beat != watched.beat;
            if deaf || beat_moved || watched.peer.lease != peer.lease {
                watched.still_since = ended;
            }
            watched.beats |= beat_moved;
            watched.beat = beat.or(watched.beat);
            watched.peer = peer;
            if watched.beats && began.saturating_duration_since(watched.still_since) >= watched.peer.patience {
                silent.push(watched.peer.clone());
            }
            self.watched.insert(watched.peer.host, watched);
        }
        silent
    }

    /// For how long the storage has not shown this node's own heart beating; `None` before the first look.
    pub fn own_silence(&self, now: Instant) -> Option<Duration> {
        self.own.moved.map(|moved| now.saturating_duration_since(moved))
    }

    /// Whether a node that should give a sign every `interval` is late with both, so that it pays to look more often.
    pub fn somebody_is_late(&self, now: Instant, interval: Duration) -> bool {
        let late = |watched: &Watched| now.saturating_duration_since(watched.still_since) > interval + interval / 2;
        self.watched.values().any(|watched| watched.beats && late(watched))
    }
}

impl Own {
    fn look(&mut self, began: Instant, beat: Option<Beat>) {
        let first = self.moved.is_none();
        if let Some(beat) = beat
            && self.beat.as_ref() != Some(&beat)
        {
            self.beats |= self.beat.is_some();
            self.beat = Some(beat);
            self.moved = Some(began);
        } else if first {
            self.moved = Some(began);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);
    const PEER: HostId = HostId(2);

    /// Two nodes: what is really so, and what the observer is shown of it.
    struct World {
        zero: Instant,
        /// Milliseconds since `zero`.
        now: u64,
        observer: Observer,
        epoch: i64,
        lease: i64,
        beat: u64,
        own: u64,
        server: u32,
        /// When either counter really moved last.
        moved: u64,
    }

    impl World {
        fn new() -> Self {
            let observer = Observer::default();
            Self { zero: Instant::now(), now: 0, observer, epoch: 1, lease: 0, beat: 0, own: 0, server: 1, moved: 0 }
        }

        fn peer(&self) -> Peer {
            Peer { host: PEER, name: "n2".into(), epoch: self.epoch, lease: self.lease, patience: PATIENCE }
        }

        fn shown(&self) -> Look {
            let at = self.zero + Duration::from_millis(self.now);
            Look {
                began: at,
                ended: at,
                database: Some(Peers { source: self.server.to_string(), peers: vec![self.peer()] }),
                storage: Some(Beats {
                    own: Some(self.own.to_string()),
                    others: HashMap::from([(PEER, self.beat.to_string())]),
                }),
            }
        }

        /// A second passes in which this node lives; whether the peer is then taken over.
        fn second(&mut self) -> bool {
            self.now += 1000;
            self.own += 1;
            let look = self.shown();
            !self.observer.look(look).is_empty()
        }

        fn peer_lives(&mut self) {
            self.lease += 1;
            self.beat += 1;
            self.moved = self.now;
        }

        /// The observer knows a peer that lived until now.
        fn acquainted() -> Self {
            let mut world = Self::new();
            for _ in 0..3 {
                world.peer_lives();
                assert!(!world.second());
            }
            world
        }

        /// Seconds until the peer is taken over, if nothing else happens.
        fn taken_over_after(&mut self, limit: u32) -> Option<u32> {
            (1..=limit).find(|_| self.second())
        }
    }

    #[test]
    fn a_node_whose_counters_both_stand_still_is_taken_over_after_its_patience() {
        assert_eq!(World::acquainted().taken_over_after(60), Some(10));
    }

    #[test]
    fn a_node_that_gives_one_of_its_signs_lives() {
        for beats in [true, false] {
            let mut world = World::acquainted();
            for _ in 0..100 {
                if beats {
                    world.beat += 1
                } else {
                    world.lease += 1
                }
                assert!(!world.second());
            }
            assert_eq!(world.taken_over_after(60), Some(10), "and once it gives none, it does not");
        }
    }

    #[test]
    fn a_node_whose_heart_was_never_seen_to_beat_is_never_taken_over() {
        let mut world = World::new();
        for _ in 0..5 {
            world.lease += 1;
            assert!(!world.second());
        }
        assert_eq!(world.taken_over_after(100), None);
    }

    #[test]
    fn a_new_epoch_is_a_stranger_again() {
        let mut world = World::acquainted();
        world.epoch += 1;
        world.lease += 1;
        assert_eq!(world.taken_over_after(100), None);
        world.beat += 1;
        assert_eq!(world.taken_over_after(60), Some(11));
    }

    /// The peer is silent for six seconds; then the observer looks once like this; how much longer it waits.
    fn wait_after(shown: impl FnOnce(&mut World) -> Look) -> Option<u32> {
        let mut world = World::acquainted();
        assert_eq!(world.taken_over_after(6), None);
        world.now += 1000;
        world.own += 1;
        let look = shown(&mut world);
        assert!(world.observer.look(look).is_empty());
        world.taken_over_after(60)
    }

    #[test]
    fn the_measurement_begins_again_after_whatever_may_have_hidden_a_sign() {
        assert_eq!(wait_after(|world| world.shown()), Some(3), "nothing was hidden");
        assert_eq!(wait_after(|world| Look { database: None, ..world.shown() }), Some(11), "the connection broke");
        let other_server = |world: &mut World| {
            world.server += 1;
            world.shown()
        };
        assert_eq!(wait_after(other_server), Some(10), "another server answered");
        assert_eq!(wait_after(|world| Look { storage: None, ..world.shown() }), Some(10), "the storage did not answer");
        let unreadable = |world: &mut World| Look {
            storage: Some(Beats { own: Some(world.own.to_string()), ..Beats::default() }),
            ..world.shown()
        };
        assert_eq!(wait_after(unreadable), Some(10), "its heartbeat cannot be read");
        let frozen = |world: &mut World| {
            world.now += 60_000;
            world.shown()
        };
        assert_eq!(wait_after(frozen), Some(10), "nobody looked for a minute");
    }

    #[test]
    fn a_storage_that_does_not_take_our_own_heartbeat_shows_nothing_of_others() {
        let mut world = World::acquainted();
        for _ in 0..100 {
            world.now += 1000;
            let look = world.shown();
            assert!(world.observer.look(look).is_empty());
        }
        assert!(world.observer.own_silence(world.zero + Duration::from_millis(world.now)) >= Some(PATIENCE * 9));
        assert_eq!(world.taken_over_after(60), Some(10));
    }

    #[test]
    fn one_that_is_late_is_looked_at_more_often() {
        let mut world = World::acquainted();
        let interval = Duration::from_secs(2);
        let late =
            |world: &World| world.observer.somebody_is_late(world.zero + Duration::from_millis(world.now), interval);
        assert!(!late(&world));
        world.taken_over_after(4);
        assert!(late(&world));
        world.peer_lives();
        world.second();
        assert!(!late(&world));
    }

    #[test]
    fn a_node_that_is_off_the_list_is_forgotten() {
        let mut world = World::acquainted();
        world.taken_over_after(9);
        world.now += 1000;
        let mut look = world.shown();
        look.database = Some(Peers { source: "1".into(), peers: Vec::new() });
        assert!(world.observer.look(look).is_empty());
        assert_eq!(world.taken_over_after(60), None, "it must be seen to live before it can be seen to die");
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Beat,
        Renew,
        NewEpoch,
        /// A look: what fails of it, whether our own heart has beaten, and how long it takes.
        Look {
            database: bool,
            storage: bool,
            own: bool,
            takes: u64,
        },
        OtherServer,
    }

    fn step() -> impl Strategy<Value = Step> {
        let look = (prop::bool::weighted(0.95), prop::bool::weighted(0.95), prop::bool::weighted(0.9), 0u64..400)
            .prop_map(|(database, storage, own, takes)| Step::Look { database, storage, own, takes });
        prop_oneof![
            2 => Just(Step::Beat),
            2 => Just(Step::Renew),
            1 => Just(Step::OtherServer),
            1 => Just(Step::NewEpoch),
            40 => look,
        ]
    }

    proptest! {
        #[test]
        fn whatever_happens_nobody_is_taken_over_who_gave_a_sign_within_its_patience(
            steps in proptest::collection::vec((step(), 0u64..1500), 0..200),
        ) {
            let mut world = World::new();
            for (step, pause) in steps {
                world.now += pause;
                match step {
                    Step::Beat => { world.beat += 1; world.moved = world.now; }
                    Step::Renew => { world.lease += 1; world.moved = world.now; }
                    Step::NewEpoch => { world.epoch += 1; world.lease += 1; world.moved = world.now; }
                    Step::OtherServer => world.server += 1,
                    Step::Look { database, storage, own, takes } => {
                        world.own += u64::from(own);
                        let mut look = world.shown();
                        world.now += takes;
                        look.ended += Duration::from_millis(takes);
                        if !database { look.database = None; }
                        if !storage { look.storage = None; }
                        let began = world.now - takes;
                        if !world.observer.look(look).is_empty() {
                            prop_assert!(began - world.moved >= PATIENCE.as_millis() as u64);
                        }
                    }
                }
            }
        }

        #[test]
        fn a_dead_node_is_taken_over_soon_once_nothing_hides_its_silence(
            steps in proptest::collection::vec((step(), 0u64..1500), 0..60),
        ) {
            let mut world = World::acquainted();
            for (step, pause) in steps {
                world.now += pause;
                match step {
                    Step::OtherServer => world.server += 1,
                    Step::Look { database, storage, own, .. } => {
                        world.own += u64::from(own);
                        let mut look = world.shown();
                        if !database { look.database = None; }
                        if !storage { look.storage = None; }
                        if !world.observer.look(look).is_empty() {
                            return Ok(());
                        }
                    }
                    _ => {}
                }
            }
            prop_assert!(world.taken_over_after(12).is_some());
        }
    }
}
