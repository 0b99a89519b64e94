//! Waits until what was committed is on disk, for many at once.
//!
//! A commit that notifies holds a lock of the whole server until it is done, so one that waits for the disk in it makes
//! all others wait, each for a write of its own. Functions that notify often therefore commit without waiting, and
//! their callers wait here: one further commit covers all that were before it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::sync::Mutex;

use super::DbError;

/// Writes something, so that the commit waits, and with it for standbys where commits do.
pub(super) const SETTLE: &str = "select pg_logical_emit_message(true, 'qvd', '')";

/// Those who wait. Each takes a number; whoever has the turn waits for all numbers that are taken.
#[derive(Debug, Default)]
pub(super) struct Settling {
    taken: AtomicU64,
    /// The highest number that is on disk.
    settled: Mutex<u64>,
}

impl Settling {
    /// Returns when everything that was committed before the call is on disk; `write` does it, unless somebody else has.
    pub async fn settle(&self, write: impl Future<Output = Result<(), DbError>>) -> Result<(), DbError> {
        let own = self.taken.fetch_add(1, Relaxed) + 1;
        let mut settled = self.settled.lock().await;
        if *settled < own {
            // Whoever has taken a number by now has committed before.
            let covered = self.taken.load(Relaxed);
            write.await?;
            *settled = covered;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::{sync::Semaphore, task::JoinSet};

    use super::*;

    /// So many who want to settle, once all of them wait.
    async fn waiting(settling: &Arc<Settling>, count: u64, write: &Arc<Semaphore>) -> JoinSet<Result<(), DbError>> {
        let (mut all, before) = (JoinSet::new(), settling.taken.load(Relaxed));
        for _ in 0..count {
            let (settling, write) = (settling.clone(), write.clone());
            let write = async move {
                let allowed = write.acquire().await.map_err(|_| DbError::Busy)?;
                allowed.forget();
                Ok(())
            };
            all.spawn(async move { settling.settle(write).await });
        }
        while settling.taken.load(Relaxed) < before + count {
            tokio::task::yield_now().await;
        }
        all
    }

    #[tokio::test]
    async fn those_who_come_while_one_is_under_way_share_the_next() {
        let (settling, write) = (Arc::new(Settling::default()), Arc::new(Semaphore::new(0)));
        let first = waiting(&settling, 1, &write).await;
        let others = waiting(&settling, 10, &write).await;
        write.add_permits(2);
        assert!(first.join_all().await.iter().chain(&others.join_all().await).all(Result::is_ok));
        assert_eq!(write.available_permits(), 0);
    }

    #[tokio::test]
    async fn one_that_fails_or_is_given_up_covers_nobody() {
        let (settling, write) = (Arc::new(Settling::default()), Arc::new(Semaphore::new(0)));
        let mut given_up = waiting(&settling, 1, &write).await;
        given_up.shutdown().await;
        assert!(settling.settle(async { Err(DbError::Busy) }).await.is_err());
        let last = waiting(&settling, 1, &write).await;
        write.add_permits(1);
        assert!(last.join_all().await.iter().all(Result::is_ok));
        assert_eq!(write.available_permits(), 0, "it did not write itself");
    }
}
