//! Who may begin a life as a node. The boot that lives goes on; another boot of the same machine means that all of the node's
//! VMs are dead. Another machine of the same name waits like anybody who watches the node: until both its signs of life have
//! stood still for its patience, by the waiting machine's own clock.
//!
//! ```text
//!            same boot                              ► goes on
//!            same machine, or nothing to lose       ► new life at once
//!  former ─┤ gives signs that can be watched        ► Watch ──both stood still──► new life, if the lease is still as seen
//!            VMs on record and nothing to watch     ► refused: an administrator knows whether it is off
//! ```

use std::time::{Duration, Instant};

use crate::db::{Former, Peer, Peers};

use super::observer::{Beats, Look, Observer};

/// Which machine, and which run of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Of `/etc/machine-id`; `None` where there is none, which is never the same as another.
    pub id: Option<String>,
    /// Of the kernel.
    pub boot_id: String,
}

/// What a machine that wants to be a node has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Succession {
    /// Nothing: the database lets it begin or go on.
    Begin,
    /// Watch the one that was the node before.
    Watch(Peer),
    /// Leave it: VMs are on record, and nothing shows whether they live.
    Refuse,
}

/// What follows from what is on record of the node, for a machine that shares its storage or does not.
pub fn succession(former: Option<&Former>, us: &Machine, shared: bool) -> Succession {
    let Some(former) = former else { return Succession::Begin };
    let same_machine = us.id.is_some() && former.machine_id == us.id;
    if former.boot_id == us.boot_id || same_machine {
        return Succession::Begin;
    }
    match former.patience {
        // One that said that it stops, or was given up, gives no signs; then only what is on record counts.
        Some(patience) if shared && former.lives => Succession::Watch(Peer {
            host: former.host,
            name: former.name.clone(),
            epoch: former.epoch,
            lease: former.lease,
            patience,
        }),
        _ if former.vms == 0 && !former.lives => Succession::Begin,
        _ => Succession::Refuse,
    }
}

/// The watch over the one that was the node before.
#[derive(Debug)]
pub struct Watch {
    observer: Observer,
    former: Peer,
}

/// What a look showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing yet.
    Silence,
    /// It lives, so nobody else is this node.
    Alive,
    /// It has been silent for its patience; its lease is this one.
    Dead(Peer),
}

impl Watch {
    /// Begins. Whether its heart ever beat is not asked: it may have died long ago.
    pub fn new(former: Peer, now: Instant) -> Self {
        Self { observer: Observer::expecting(former.clone(), now), former }
    }

    /// Takes note of what is shown: the record of the node, its heartbeat, and a heartbeat that we gave meanwhile under
    /// another name, which proves that the storage shows what is new.
    pub fn look(
        &mut self,
        began: Instant,
        ended: Instant,
        database: Option<(String, Peer)>,
        storage: Option<Beats>,
    ) -> Seen {
        let moved = database.as_ref().is_some_and(|(_, peer)| *peer != self.former);
        if let Some((_, peer)) = &database {
            self.former = peer.clone();
        }
        let database = database.map(|(source, peer)| Peers { source, peers: vec![peer] });
        match self.observer.look(Look { began, ended, database, storage }).pop() {
            Some(peer) => Seen::Dead(peer),
            None if moved => Seen::Alive,
            None => Seen::Silence,
        }
    }

    /// How often to look.
    pub fn pause(&self) -> Duration {
        (self.former.patience / 8).clamp(Duration::from_millis(50), Duration::from_millis(500))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::model::HostId;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn former() -> Former {
        Former {
            host: HostId(1),
            name: "n1".into(),
            boot_id: "old".into(),
            machine_id: Some("a".into()),
            epoch: 3,
            lease: 70,
            patience: Some(PATIENCE),
            lives: true,
            vms: 2,
        }
    }

    fn machine(id: Option<&str>, boot: &str) -> Machine {
        Machine { id: id.map(str::to_owned), boot_id: boot.to_owned() }
    }

    #[test]
    fn the_same_boot_goes_on_and_another_boot_of_the_same_machine_begins_at_once() {
        assert_eq!(succession(None, &machine(None, "new"), true), Succession::Begin);
        assert_eq!(succession(Some(&former()), &machine(None, "old"), true), Succession::Begin);
        assert_eq!(succession(Some(&former()), &machine(Some("a"), "new"), true), Succession::Begin);
    }

    #[test]
    fn another_machine_watches_the_first_one() {
        for other in [machine(Some("b"), "new"), machine(None, "new")] {
            let Succession::Watch(peer) = succession(Some(&former()), &other, true) else { panic!("{other:?}") };
            assert_eq!((peer.epoch, peer.lease, peer.patience), (3, 70, PATIENCE));
        }
        let nameless = Former { machine_id: None, ..former() };
        assert!(matches!(succession(Some(&nameless), &machine(None, "new"), true), Succession::Watch(_)));
    }

    #[test]
    fn another_machine_is_refused_where_nothing_shows_whether_vms_live() {
        let other = machine(Some("b"), "new");
        let stopped = Former { lives: false, ..former() };
        assert_eq!(succession(Some(&stopped), &other, true), Succession::Refuse, "its VMs go on");
        assert_eq!(succession(Some(&Former { vms: 0, ..stopped }), &other, true), Succession::Begin);
        let local = Former { patience: None, ..former() };
        assert_eq!(succession(Some(&local), &other, false), Succession::Refuse);
        assert_eq!(succession(Some(&former()), &other, false), Succession::Refuse, "we cannot see its heart");
    }

    /// What one second after the other shows, until the node is dead, in seconds.
    fn dead_after(shown: impl Fn(u64) -> (u64, u64)) -> Option<u64> {
        let zero = Instant::now();
        let mut watch = Watch::new(peer(70), zero);
        (1..60).find(|second| {
            let (lease, beat) = shown(*second);
            let at = zero + Duration::from_secs(*second);
            let beats = Beats { own: Some(second.to_string()), others: HashMap::from([(HostId(1), beat.to_string())]) };
            let database = Some(("server".to_owned(), peer(lease as i64)));
            matches!(watch.look(at, at, database, Some(beats)), Seen::Dead(_))
        })
    }

    fn peer(lease: i64) -> Peer {
        Peer { host: HostId(1), name: "n1".into(), epoch: 3, lease, patience: PATIENCE }
    }

    #[test]
    fn it_is_dead_when_both_signs_stood_still_before_our_eyes() {
        let dead = dead_after(|_| (70, 5));
        assert!(dead.is_some_and(|second| (11..=13).contains(&second)), "{dead:?}");
        assert_eq!(dead_after(|second| (70 + second, 5)), None, "its lease lives");
        assert_eq!(dead_after(|second| (70, second)), None, "its heart beats");
    }
}
