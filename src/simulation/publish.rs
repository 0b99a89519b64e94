//! What a supervisor tells the database, after `Publisher` in `src/hkd/supervisor.rs`: one thing after the other, each again
//! and again until the database has answered. It may lose the answer, but not the order.

use std::collections::VecDeque;

use crate::{
    hkd::machine::{self, published_from},
    model::VmState,
};

use super::{
    database::{Answer, Call},
    fleet::Begin,
    hkd::{LifeOf, Then},
    node::Number,
    rules::Rules,
    world::{Event, Failure, Input, World},
};

/// What is still to be said of one life of a VM.
pub struct Publisher {
    rules: Rules,
    /// Of what is on record nowhere nothing is said: a record that is made meanwhile is of the next life.
    silent: bool,
    /// It was said to be on its way down.
    down: bool,
    /// What was said of it last.
    last: (VmState, Option<String>),
    words: VecDeque<Word>,
    /// The first of them was sent, or will be after a pause.
    busy: bool,
    /// The database took the end.
    told: bool,
}

#[derive(Clone, Debug)]
enum Word {
    State {
        expected: Vec<VmState>,
        becomes: VmState,
        reason: Option<String>,
    },
    /// It is said only so that another may follow.
    Step {
        expected: Vec<VmState>,
        becomes: VmState,
        reason: Option<String>,
    },
    Here,
}

impl Publisher {
    pub fn new(begin: Begin, rules: Rules) -> Self {
        let record = match begin {
            Begin::Start => VmState::Starting,
            Begin::Adopt { published, .. } => published,
        };
        let silent = record == VmState::Stopped && rules.strays;
        Self {
            rules,
            silent,
            down: matches!(record, VmState::Stopping | VmState::Zombie),
            last: (record, None),
            words: VecDeque::new(),
            busy: false,
            // Who begins what is on record by then may not know of it.
            told: !silent,
        }
    }

    pub fn say(&mut self, becomes: VmState, reason: Option<String>) {
        use VmState::{Stopped, Stopping, Zombie};
        if self.silent {
            return;
        }
        if !self.rules.downward {
            return self.words.push_back(Word::State { expected: published_from(becomes), becomes, reason });
        }
        if matches!(becomes, Stopping | Zombie | Stopped) && !std::mem::replace(&mut self.down, true) {
            let reason = reason.clone().filter(|_| becomes == Stopping);
            self.words.push_back(Word::Step { expected: published_from(Stopping), becomes: Stopping, reason });
        }
        let expected = match becomes {
            Stopping => return,
            Zombie => vec![Stopping],
            Stopped => vec![Stopping, Zombie],
            other => published_from(other),
        };
        self.words.push_back(Word::State { expected, becomes, reason });
    }

    pub fn put_on_record(&mut self) {
        if !self.silent {
            self.words.push_back(Word::Here);
        }
    }

    pub fn is_done(&self) -> bool {
        self.words.is_empty() && !self.busy
    }

    /// Whether the database knows how it ended.
    pub fn has_told(&self) -> bool {
        self.told || !self.rules.doubt
    }

    /// The database had it as starting, though more was said of it.
    fn repeat(&mut self) {
        use VmState::{Debugging, Running, Starting};
        let (last, reason) = self.last.clone();
        if last == Debugging {
            self.words.push_front(Word::Step { expected: vec![Running], becomes: Debugging, reason });
        }
        if matches!(last, Running | Debugging) {
            self.words.push_front(Word::Step { expected: vec![Starting], becomes: Running, reason: None });
        }
    }
}

impl World {
    pub fn publish(&mut self, node: usize, number: Number, life: LifeOf) {
        let (host, epoch) = self.identity(node);
        let Some(supervisor) = self.supervisor(node, life) else { return };
        if supervisor.publisher.busy {
            return;
        }
        let Some(word) = supervisor.publisher.words.front().cloned() else { return };
        supervisor.publisher.busy = true;
        let vm = life.vm;
        let call = match word {
            Word::State { expected, becomes, reason } | Word::Step { expected, becomes, reason } => {
                Call::NodeVmState { node: host, epoch, vm, expected, becomes, reason }
            }
            Word::Here => Call::NodeAdopt { node: host, epoch, vm },
        };
        self.call(node, number, call, Then::Published(life));
    }

    pub fn published(&mut self, node: usize, number: Number, life: LifeOf, answer: Result<Answer, Failure>) {
        let Some(supervisor) = self.supervisor(node, life) else { return };
        if answer == Err(Failure::Unreachable) {
            // Not before a pause; nobody else publishes meanwhile.
            let pause = self.chance.between(50, 1000);
            return self.schedule.after(pause, Event::To { node, number, input: Input::PublishAgain(life) });
        }
        let publisher = &mut supervisor.publisher;
        publisher.busy = false;
        match (publisher.words.pop_front(), answer) {
            (_, Err(failure)) => self.mind(node, number, failure),
            (Some(Word::State { becomes, reason, .. }), Ok(answer)) => {
                publisher.told = (becomes, &answer) != (VmState::Stopped, &Answer::Flag(false));
                publisher.last = (becomes, reason);
                if becomes == VmState::Running && answer == Answer::Flag(false) {
                    publisher.words.push_front(Word::Here);
                }
            }
            (Some(Word::Here), Ok(Answer::Adopted(Some(VmState::Starting)))) => publisher.repeat(),
            (Some(Word::Here), Ok(Answer::Adopted(None | Some(VmState::Stopping | VmState::Zombie)))) => {
                self.given_away(node, life.vm);
                self.step_machine(node, number, life, machine::Event::Stop);
            }
            _ => {}
        }
        self.publish(node, number, life);
        self.retire(node, number, life);
    }

    pub fn publish_again(&mut self, node: usize, number: Number, life: LifeOf) {
        if let Some(supervisor) = self.supervisor(node, life) {
            supervisor.publisher.busy = false;
        }
        self.publish(node, number, life);
    }
}
