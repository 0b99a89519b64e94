//! The node's slots for VMs in a heavy phase. How many there are may change at any time: with fewer than are taken, none
//! is given until enough have come back. Stops go before starts, because they free what starts need; apart from that
//! who asks first is served first. Whether a VM needs one is the business of its `machine`.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// What a slot is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Bringing a VM up.
    Start,
    /// Bringing a VM down.
    Stop,
}

/// The slots of a node; clones share them.
#[derive(Clone, Debug)]
pub struct Slots {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    limit: usize,
    taken: usize,
    stops: VecDeque<oneshot::Sender<Slot>>,
    starts: VecDeque<oneshot::Sender<Slot>>,
}

/// One slot, given back when dropped.
#[derive(Debug)]
pub struct Slot {
    slots: Slots,
}

impl Slots {
    /// As many as `limit`, at least one.
    pub fn new(limit: usize) -> Self {
        let state = State { limit: limit.max(1), taken: 0, stops: VecDeque::new(), starts: VecDeque::new() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Changes how many there are. Slots that are taken stay so.
    pub fn set_limit(&self, limit: usize) {
        self.state().limit = limit.max(1);
        self.hand_out();
    }

    /// Joins the queue. The slot comes when it is free; who drops the receiver wants it no more.
    pub fn ask(&self, purpose: Purpose) -> oneshot::Receiver<Slot> {
        let (sender, receiver) = oneshot::channel();
        match purpose {
            Purpose::Start => self.state().starts.push_back(sender),
            Purpose::Stop => self.state().stops.push_back(sender),
        }
        self.hand_out();
        receiver
    }

    fn hand_out(&self) {
        while let Some(next) = self.next() {
            // One that nobody takes comes back by being dropped, which must not happen under the lock.
            drop(next.send(Slot { slots: self.clone() }));
        }
    }

    /// Takes a slot for the next in the queue that still waits.
    fn next(&self) -> Option<oneshot::Sender<Slot>> {
        let mut state = self.state();
        while state.taken < state.limit {
            let next = match state.stops.pop_front() {
                Some(stop) => stop,
                None => state.starts.pop_front()?,
            };
            if !next.is_closed() {
                state.taken += 1;
                return Some(next);
            }
        }
        None
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.state().taken -= 1;
        self.slots.hand_out();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(asked: &mut oneshot::Receiver<Slot>) -> Option<Slot> {
        asked.try_recv().ok()
    }

    #[test]
    fn stops_go_before_starts_and_otherwise_who_asks_first_is_first() {
        let slots = Slots::new(1);
        let mut asked = [Purpose::Start, Purpose::Start, Purpose::Stop].map(|purpose| slots.ask(purpose));
        let first = has(&mut asked[0]).unwrap();
        assert!(has(&mut asked[1]).is_none() && has(&mut asked[2]).is_none());
        drop(first);
        let stop = has(&mut asked[2]).unwrap();
        assert!(has(&mut asked[1]).is_none());
        drop(stop);
        assert!(has(&mut asked[1]).is_some());
    }

    #[test]
    fn the_limit_grows_at_once_and_shrinks_as_slots_come_back() {
        let slots = Slots::new(2);
        let mut asked = [(); 5].map(|()| slots.ask(Purpose::Start));
        let mut held: Vec<_> = asked.iter_mut().filter_map(has).collect();
        assert_eq!(held.len(), 2);
        slots.set_limit(4);
        held.extend(asked.iter_mut().filter_map(has));
        assert_eq!(held.len(), 4);
        slots.set_limit(1);
        held.truncate(1);
        assert_eq!(asked.iter_mut().filter_map(has).count(), 0, "one is taken and there is but one");
        held.clear();
        assert_eq!(asked.iter_mut().filter_map(has).count(), 1);
        slots.set_limit(0);
        assert!(has(&mut slots.ask(Purpose::Start)).is_some(), "a node without slots would do nothing for ever");
    }

    #[test]
    fn who_does_not_want_a_slot_any_more_holds_nobody_up() {
        let slots = Slots::new(1);
        let held = has(&mut slots.ask(Purpose::Start)).unwrap();
        drop(slots.ask(Purpose::Start));
        let (given_and_lost, mut last) = (slots.ask(Purpose::Start), slots.ask(Purpose::Start));
        drop(held);
        assert!(has(&mut last).is_none());
        drop(given_and_lost);
        assert!(has(&mut last).is_some());
    }
}
