//! Space for bytes on their way. It belongs to the process and is borrowed while bytes move, so that a connection on
//! which nothing moves has none. There are two sizes: one for keystrokes and one for pictures; what needs more, which
//! no ordinary traffic does, gets space of its own that is not kept.

use std::sync::{Mutex, PoisonError};

/// Holds the longest record that TLS allows.
const SMALL: usize = 20 * 1024;
/// Holds eight full records.
pub const LARGE: usize = 132 * 1024;

/// What is kept for the next one: below a megabyte of small, sixteen of large.
static POOL: [Shelf; 2] = [Shelf::new(SMALL, 48), Shelf::new(LARGE, 128)];

struct Shelf {
    size: usize,
    keep: usize,
    free: Mutex<Vec<Box<[u8]>>>,
}

impl Shelf {
    const fn new(size: usize, keep: usize) -> Self {
        Self { size, keep, free: Mutex::new(Vec::new()) }
    }

    fn take(&self) -> Box<[u8]> {
        let kept = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.unwrap_or_else(|| vec![0; self.size].into_boxed_slice())
    }

    fn put(&self, space: Box<[u8]>) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < self.keep {
            free.push(space);
        }
    }
}

/// A queue of bytes that has space only while it needs some.
#[derive(Debug, Default)]
pub struct Buffer {
    space: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// Whether nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The bytes that are queued.
    pub fn filled(&self) -> &[u8] {
        &self.space[self.start..self.end]
    }

    /// The bytes that are queued, to be changed in place.
    pub fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.space[self.start..self.end]
    }

    /// Room for `wanted` more bytes at least. What is put there counts from `advance` on.
    pub fn spare(&mut self, wanted: usize) -> &mut [u8] {
        if self.space.len() - self.end < wanted {
            let queued = self.end - self.start;
            if self.space.len() - queued >= wanted {
                self.space.copy_within(self.start..self.end, 0);
            } else {
                // What grows beyond the pool grows faster than it is filled, so that it is not copied for every piece.
                let least = if queued > LARGE / 2 { queued * 2 } else { queued };
                let mut space = borrow(least.max(queued + wanted));
                space[..queued].copy_from_slice(self.filled());
                give_back(std::mem::replace(&mut self.space, space));
            }
            (self.start, self.end) = (0, queued);
        }
        &mut self.space[self.end..]
    }

    /// Queues the first `added` bytes of what `spare` gave.
    pub fn advance(&mut self, added: usize) {
        assert!(added <= self.space.len() - self.end, "only what was given can be filled");
        self.end += added;
    }

    /// Queues a copy.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.spare(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.advance(bytes.len());
    }

    /// Takes bytes off the front. The space stays, for more is likely to come.
    pub fn consume(&mut self, taken: usize) {
        assert!(taken <= self.end - self.start, "only what is queued can be taken");
        self.start += taken;
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Forgets what is queued and gives the space back.
    pub fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
        give_back(std::mem::take(&mut self.space));
    }

    /// How much space it has.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.space.len()
    }

    /// Gives the space back if nothing is queued.
    pub fn rest(&mut self) {
        if self.is_empty() {
            self.clear();
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.clear();
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        let end = bytes.len();
        Self { space: bytes.into_boxed_slice(), start: 0, end }
    }
}

fn borrow(size: usize) -> Box<[u8]> {
    match POOL.iter().find(|shelf| size <= shelf.size) {
        Some(shelf) => shelf.take(),
        None => vec![0; size].into_boxed_slice(),
    }
}

fn give_back(space: Box<[u8]>) {
    if let Some(shelf) = POOL.iter().find(|shelf| shelf.size == space.len()) {
        shelf.put(space);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_as_they_went_in_whatever_the_space() {
        let mut buffer = Buffer::default();
        let (mut put, mut got) = (0_u32, 0_u32);
        for round in 0..2000 {
            for _ in 0..round % 97 {
                buffer.extend(&put.to_be_bytes());
                put += 1;
            }
            for _ in 0..round % 89 {
                let Some(first) = buffer.filled().first_chunk::<4>() else { break };
                assert_eq!(u32::from_be_bytes(*first), got);
                got += 1;
                buffer.consume(4);
            }
        }
        assert_eq!(buffer.filled().len() as u32, (put - got) * 4);
    }

    #[test]
    fn only_a_queue_with_bytes_has_space() {
        let mut buffer = Buffer::default();
        assert_eq!(buffer.held(), 0);
        buffer.extend(b"ab");
        assert_eq!(buffer.held(), SMALL);
        buffer.rest();
        assert_eq!(buffer.filled(), b"ab");
        assert!(buffer.spare(SMALL).len() >= SMALL);
        assert_eq!((buffer.filled(), buffer.held()), (&b"ab"[..], LARGE));
        buffer.consume(2);
        buffer.rest();
        assert_eq!(buffer.held(), 0);
        assert!(buffer.spare(LARGE + 1).len() > LARGE, "more than the pool has");
    }
}
