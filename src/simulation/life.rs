//! Signs of life of a node in the database and its look at those of others, after `src/hkd/lease.rs`. Whom to give up is
//! asked of the real observer.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use crate::{
    db::{Peer, Peers},
    hkd::observer::{Beats, Look, Observer},
    keeper::fence::Signer,
    model::HostId,
};

use super::{
    chance::Millis,
    database::{Answer, Call},
    hkd::{After, Then},
    node::Number,
    shim::{INTERVAL, PATIENCE},
    storage::{Operation, Shown, Stored},
    world::{Event, Failure, Input, World},
};

/// The loop that gives signs and looks.
#[derive(Default)]
pub struct Life {
    observer: Observer,
    step: Step,
    /// Numbers what is asked; an answer that comes too late belongs to another.
    round: u32,
    renew_at: Millis,
    /// Numbers connections; there is another one after a failure.
    connection: u32,
    /// A router may be gone that the database believes alive; those before this daemon are looked for once.
    routers_seen: bool,
    storage_silent: bool,
    /// The storage has not answered yet; while it hangs it is not asked again.
    reading: bool,
    /// What an observer who does not know that he is deaf believes to hear.
    believed: Option<(Instant, Peers, HashMap<HostId, String>)>,
    believed_own: u64,
}

/// What is waited for.
#[derive(Default)]
enum Step {
    #[default]
    Pause,
    Renew,
    Restart,
    Routers,
    RoutersGone,
    Peers(Instant),
    Beats(Instant, Option<Peers>),
    TakeOver(Vec<Peer>),
}

/// How often nodes are looked at that are late.
const ALERT: Millis = 500;
/// How long the database or the storage may take before a look counts as none.
const LIMIT: Millis = PATIENCE / 4;

impl World {
    fn life_of(&mut self, node: usize) -> Option<&mut Life> {
        self.hkd_of(node).map(|hkd| &mut hkd.life)
    }

    /// Begins a step that does not wait for ever; its number.
    fn step(&mut self, node: usize, number: Number, step: Step) -> u32 {
        let late = self.nodes[node].clock.after(self.now(), LIMIT);
        let Some(life) = self.life_of(node) else { return 0 };
        life.step = step;
        life.round += 1;
        let round = life.round;
        self.schedule.at(late, Event::To { node, number, input: Input::Late(round) });
        round
    }

    pub fn life(&mut self, node: usize, number: Number, input: Input) {
        let Some(life) = self.life_of(node) else { return };
        match input {
            Input::Life => self.renew(node, number),
            Input::Departed => {
                life.routers_seen = false;
                if matches!(life.step, Step::Pause) {
                    self.look_for_routers(node, number);
                }
            }
            Input::Late(round) if life.round == round => self.failed(node, number, Failure::Unreachable),
            Input::Stored(After::Beats(round), Stored::Beats(beats)) => {
                life.reading = false;
                if life.round == round {
                    self.looked(node, number, Some(beats));
                }
            }
            _ => {}
        }
    }

    pub fn life_answered(&mut self, node: usize, number: Number, round: u32, answer: Result<Answer, Failure>) {
        let server = self.server.number;
        let Some(life) = self.life_of(node).filter(|life| life.round == round) else { return };
        let answer = match answer {
            Ok(answer) => answer,
            Err(failure) => return self.failed(node, number, failure),
        };
        match (std::mem::take(&mut life.step), answer) {
            (Step::Renew, _) => {}
            (Step::Restart, _) => self.look_for_routers(node, number),
            (Step::Routers, Answer::Instances(routers)) => {
                let (host, epoch) = self.identity(node);
                let instances = self.gone_routers(node, &routers);
                if instances.is_empty() {
                    return self.saw_routers(node, number);
                }
                let round = self.step(node, number, Step::RoutersGone);
                self.call(node, number, Call::NodeRoutersGone { node: host, epoch, instances }, Then::Life(round));
            }
            (Step::RoutersGone, _) => self.saw_routers(node, number),
            (Step::Peers(began), Answer::Peers(peers)) => {
                let source = format!("{} {server}", life.connection);
                self.read_beats(node, number, began, Some(Peers { source, peers }));
            }
            (Step::TakeOver(rest), _) => self.take_over(node, number, rest),
            _ => {}
        }
    }

    pub fn renewed(
        &mut self,
        node: usize,
        number: Number,
        (round, began): (u32, Millis),
        answer: Result<Answer, Failure>,
    ) {
        if self.life_of(node).is_none_or(|life| life.round != round) {
            return;
        }
        if let Err(failure) = answer {
            return self.failed(node, number, failure);
        }
        self.signed(node, Signer::Hkd, began);
        let round = self.step(node, number, Step::Restart);
        self.call(node, number, Call::VmsRestart, Then::Life(round));
    }

    /// What was asked fails or takes too long.
    fn failed(&mut self, node: usize, number: Number, failure: Failure) {
        self.mind(node, number, failure);
        let Some(life) = self.life_of(node) else { return };
        match std::mem::take(&mut life.step) {
            Step::Beats(began, peers) => {
                life.step = Step::Beats(began, peers);
                self.looked(node, number, None);
            }
            Step::Renew | Step::Restart => {
                life.connection += 1;
                self.look_for_routers(node, number);
            }
            Step::Routers | Step::RoutersGone => {
                life.connection += 1;
                self.look(node, number);
            }
            Step::Peers(began) => {
                life.connection += 1;
                self.read_beats(node, number, began, None);
            }
            Step::TakeOver(_) => {
                life.connection += 1;
                self.rest(node, number);
            }
            Step::Pause => {}
        }
    }

    fn renew(&mut self, node: usize, number: Number) {
        let began = self.nodes[node].clock.local(self.now());
        let (host, epoch) = self.identity(node);
        let Some(life) = self.life_of(node) else { return };
        if began < life.renew_at {
            return self.look_for_routers(node, number);
        }
        life.renew_at = began + INTERVAL;
        let call = Call::NodeLease { node: host, epoch, storage_degraded: life.storage_silent };
        let round = self.step(node, number, Step::Renew);
        self.call(node, number, call, Then::Renewed { round, began });
    }

    fn look_for_routers(&mut self, node: usize, number: Number) {
        let (host, epoch) = self.identity(node);
        if self.life_of(node).is_none_or(|life| life.routers_seen) {
            return self.look(node, number);
        }
        let round = self.step(node, number, Step::Routers);
        self.call(node, number, Call::NodeRouters { node: host, epoch }, Then::Life(round));
    }

    fn saw_routers(&mut self, node: usize, number: Number) {
        if let Some(life) = self.life_of(node) {
            life.routers_seen = true;
        }
        self.look(node, number);
    }

    fn look(&mut self, node: usize, number: Number) {
        let began = self.nodes[node].clock.instant(self.now());
        let (host, epoch) = self.identity(node);
        let round = self.step(node, number, Step::Peers(began));
        self.call(node, number, Call::NodePeers { node: host, epoch }, Then::Life(round));
    }

    fn read_beats(&mut self, node: usize, number: Number, began: Instant, peers: Option<Peers>) {
        let round = self.step(node, number, Step::Beats(began, peers));
        let Some(life) = self.life_of(node) else { return };
        if std::mem::replace(&mut life.reading, true) {
            return self.looked(node, number, None);
        }
        self.store(node, number, Operation::ReadBeats, After::Beats(round));
    }

    fn looked(&mut self, node: usize, number: Number, beats: Option<BTreeMap<HostId, Shown>>) {
        let ended = self.nodes[node].clock.instant(self.now());
        let (host, deafness) = (self.nodes[node].host, self.rules.deafness);
        let Some(life) = self.life_of(node) else { return };
        let Step::Beats(began, database) = std::mem::take(&mut life.step) else { return };
        let shown = beats.clone().unwrap_or_else(|| self.storage.seen.clone());
        let Some(life) = self.life_of(node) else { return };
        let storage = beats.map(|mut beats| Beats {
            own: beats.remove(&host).map(|shown| shown.beat.to_string()),
            others: beats.into_iter().map(|(host, shown)| (host, shown.beat.to_string())).collect(),
        });
        let look = Look { began, ended, database, storage };
        let silent = if deafness { life.observer.look(look) } else { life.believe(look) };
        life.storage_silent =
            life.observer.own_silence(ended).is_some_and(|silence| silence.as_millis() as Millis >= PATIENCE);
        silent.iter().for_each(|peer| self.judge_verdict(peer.host, shown.get(&peer.host)));
        self.take_over(node, number, silent);
    }

    fn take_over(&mut self, node: usize, number: Number, mut silent: Vec<Peer>) {
        let Some(peer) = silent.pop() else { return self.rest(node, number) };
        let (host, epoch) = self.identity(node);
        self.note(|| format!("n{node} gives up host {} in epoch {}", peer.host, peer.epoch));
        let call =
            Call::NodeTakeOver { node: host, epoch, silent: peer.host, silent_epoch: peer.epoch, lease: peer.lease };
        let round = self.step(node, number, Step::TakeOver(silent));
        self.call(node, number, call, Then::Life(round));
    }

    fn rest(&mut self, node: usize, number: Number) {
        let (local, now) = (self.nodes[node].clock.local(self.now()), self.nodes[node].clock.instant(self.now()));
        let Some(life) = self.life_of(node) else { return };
        life.step = Step::Pause;
        life.round += 1;
        let late = life.observer.somebody_is_late(now, Duration::from_millis(INTERVAL));
        let pause = life.renew_at.saturating_sub(local);
        let pause = if late { pause.min(ALERT) } else { pause };
        let at = self.nodes[node].clock.after(self.now(), pause.max(1));
        self.schedule.at(at, Event::To { node, number, input: Input::Life });
    }
}

impl Life {
    /// As one looks who takes what he does not hear for silence: what is not shown has not changed, and he was there all
    /// the time.
    fn believe(&mut self, look: Look) -> Vec<Peer> {
        let Look { began, ended, database, storage } = look;
        let (since, peers, beats) = self
            .believed
            .take()
            .unwrap_or_else(|| (began, Peers { source: String::new(), peers: Vec::new() }, HashMap::new()));
        let mut at = since + Duration::from_secs(1);
        while at < began {
            self.see((at, at), peers.clone(), beats.clone());
            at += Duration::from_secs(1);
        }
        let peers = database.map_or(peers, |database| Peers { source: String::new(), ..database });
        let beats = storage.map_or(beats, |storage| storage.others);
        self.believed = Some((ended, peers.clone(), beats.clone()));
        self.see((began, ended), peers, beats)
    }

    fn see(&mut self, (began, ended): (Instant, Instant), peers: Peers, others: HashMap<HostId, String>) -> Vec<Peer> {
        self.believed_own += 1;
        let storage = Beats { own: Some(self.believed_own.to_string()), others };
        self.observer.look(Look { began, ended, database: Some(peers), storage: Some(storage) })
    }
}
