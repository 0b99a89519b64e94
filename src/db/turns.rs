//! Who is given a connection of the pool next: who came first. Work that takes one after another, as a user's way to his
//! desktop does, keeps its place from beginning to end. So a crowd is let through one by one, and half of it has arrived after
//! half of the time; with a new place for each step all would arrive at the end.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::oneshot;

tokio::task_local! {
    static SINCE: Instant;
}

/// Lets what `work`, which began `since` then, asks of a pool come before what began later.
pub async fn in_order<T>(since: Instant, work: impl Future<Output = T>) -> T {
    SINCE.scope(since, work).await
}

/// As many turns at once as there are connections.
pub(super) struct Turns(Mutex<Queue>);

struct Queue {
    free: usize,
    waiting: BinaryHeap<Reverse<Waiting>>,
    /// How many have waited so far.
    waited: u64,
}

struct Waiting {
    since: Instant,
    /// Tells those apart who came at the same moment.
    number: u64,
    called: oneshot::Sender<Turn>,
}

/// Until it is dropped, nobody else has it.
pub(super) struct Turn(Arc<Turns>);

impl Turns {
    pub fn new(at_once: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Queue { free: at_once, waiting: BinaryHeap::new(), waited: 0 })))
    }

    /// Waits for a turn. Who stops waiting loses his place.
    pub async fn wait(self: &Arc<Self>) -> Turn {
        let (called, call) = oneshot::channel();
        {
            let mut queue = self.queue();
            if queue.free > 0 {
                queue.free -= 1;
                return Turn(self.clone());
            }
            let since = SINCE.try_with(|since| *since).unwrap_or_else(|_| Instant::now());
            queue.waited += 1;
            let number = queue.waited;
            queue.waiting.push(Reverse(Waiting { since, number, called }));
        }
        match call.await {
            Ok(turn) => turn,
            // Whoever drops a turn calls somebody, and turns are dropped before their queue.
            Err(_) => std::future::pending().await,
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let next = {
            let mut queue = self.0.queue();
            let next = std::iter::from_fn(|| queue.waiting.pop()).find(|Reverse(next)| !next.called.is_closed());
            if next.is_none() {
                queue.free += 1;
            }
            next
        };
        if let Some(Reverse(next)) = next {
            // One who stopped waiting just now drops it, which calls the next.
            let _ = next.called.send(Turn(self.0.clone()));
        }
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.since, self.number).cmp(&(other.since, other.number))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::{Pin, pin},
        task::{Context, Poll, Waker},
    };

    use super::*;

    fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    fn given<F: Future>(future: Pin<&mut F>) -> F::Output {
        match poll(future) {
            Poll::Ready(turn) => turn,
            Poll::Pending => panic!("it is nobody's turn"),
        }
    }

    #[test]
    fn who_began_first_comes_first_however_late_he_asks() {
        let turns = Turns::new(1);
        let held = given(pin!(turns.wait()));
        let (open, gate) = oneshot::channel::<()>();
        let mut early = pin!(in_order(Instant::now(), async {
            gate.await.unwrap();
            turns.wait().await
        }));
        let mut late = pin!(turns.wait());
        assert!(poll(early.as_mut()).is_pending());
        assert!(poll(late.as_mut()).is_pending());
        open.send(()).unwrap();
        assert!(poll(early.as_mut()).is_pending());
        drop(held);
        assert!(poll(late.as_mut()).is_pending());
        drop(given(early));
        drop(given(late));
    }

    #[test]
    fn who_stops_waiting_keeps_nobody_from_his_turn() {
        let turns = Turns::new(2);
        let (one, other) = (given(pin!(turns.wait())), given(pin!(turns.wait())));
        let mut gone = Box::pin(turns.wait());
        let mut called = Box::pin(turns.wait());
        let mut stays = pin!(turns.wait());
        assert!(poll(gone.as_mut()).is_pending());
        assert!(poll(called.as_mut()).is_pending());
        assert!(poll(stays.as_mut()).is_pending());
        drop(gone);
        drop(one);
        drop(called);
        drop(given(stays));
        drop(other);
        let _held = (given(pin!(turns.wait())), given(pin!(turns.wait())));
        assert!(poll(pin!(turns.wait())).is_pending(), "there are still two");
    }
}
