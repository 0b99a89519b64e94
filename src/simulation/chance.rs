//! Chance and time of the simulation: a generator of numbers whose sequence belongs to its seed for ever, and a queue of
//! what is going to happen. Two runs of a seed draw the same numbers in the same order.

use std::{cmp::Ordering, collections::BinaryHeap};

/// Virtual milliseconds since a world began.
pub type Millis = u64;

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators). Our own, because a seed that once
/// found something must find it again with any version of any crate.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    /// An index below `count`.
    pub fn index(&mut self, count: usize) -> usize {
        (self.next() % count as u64) as usize
    }

    /// True so many times in a hundred.
    pub fn percent(&mut self, times: u64) -> bool {
        self.next() % 100 < times
    }
}

struct Entry<E> {
    at: Millis,
    number: u64,
    // Entries are moved about a lot.
    event: Box<E>,
}

impl<E> Ord for Entry<E> {
    // The soonest is the greatest, and of two at once the one that was planned first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<E> Eq for Entry<E> {}

/// What is going to happen, in order of time.
pub struct Schedule<E> {
    now: Millis,
    planned: u64,
    queue: BinaryHeap<Entry<E>>,
}

impl<E> Schedule<E> {
    pub fn new() -> Self {
        Self { now: 0, planned: 0, queue: BinaryHeap::new() }
    }

    pub fn now(&self) -> Millis {
        self.now
    }

    pub fn at(&mut self, at: Millis, event: E) {
        self.planned += 1;
        self.queue.push(Entry { at: at.max(self.now), number: self.planned, event: Box::new(event) });
    }

    pub fn after(&mut self, delay: Millis, event: E) {
        self.at(self.now + delay, event);
    }

    /// Takes what comes next and moves the clock there, unless that is after `end`.
    pub fn next(&mut self, end: Millis) -> Option<E> {
        if self.queue.peek()?.at > end {
            return None;
        }
        let entry = self.queue.pop()?;
        self.now = entry.at;
        Some(*entry.event)
    }
}
