//! The threads that hash passwords: few, since more than processors would only make everybody wait longer, and of low
//! priority, so that a flood of logins takes the processors only while no tunnel wants them.
//! What is hashed is not decided here.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

use tokio::sync::oneshot;

use super::password::give_space_back;

/// How far behind everything else of this process, as `nice` counts. The last step is left to what is truly idle.
const NICE: i32 = 18;

type Job = Box<dyn FnOnce() + Send>;

/// Runs one job per thread at a time. The threads end when the last clone is dropped.
#[derive(Clone)]
pub struct Hashing {
    jobs: mpsc::Sender<Job>,
}

impl Hashing {
    /// With so many threads, at least one.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn new(threads: usize) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads.max(1) {
            let queue = queue.clone();
            thread::Builder::new().name("hash".to_owned()).spawn(move || {
                // Of the calling thread alone: Linux gives each its own.
                if let Err(error) = rustix::process::setpriority_process(None, NICE) {
                    tracing::warn!(%error, "passwords are hashed at the priority of tunnels");
                }
                while let Some(job) = next(&queue) {
                    job();
                }
            })?;
        }
        Ok(Self { jobs })
    }

    /// What `work` returns, once a thread had time for it. `None` when it panicked. It is left undone when this is dropped
    /// before it began.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (done, outcome) = oneshot::channel();
        let job = Box::new(move || {
            if done.is_closed() {
                return;
            }
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            if let Ok(outcome) = outcome {
                // Whoever does not wait any more does not want to know.
                let _ = done.send(outcome);
            }
        });
        self.jobs.send(job).ok()?;
        outcome.await.ok()
    }
}

/// The next job; none when nobody can have one any more. Memory is kept from one job to the next in a flood alone.
fn next(queue: &Mutex<mpsc::Receiver<Job>>) -> Option<Job> {
    // Where another thread has the lock and sleeps, nothing is queued.
    if let Ok(waiting) = queue.try_lock()
        && let Ok(job) = waiting.try_recv()
    {
        return Some(job);
    }
    give_space_back();
    queue.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Barrier,
            atomic::{AtomicUsize, Ordering},
        },
        time::Duration,
    };

    use super::*;

    #[tokio::test]
    async fn no_more_jobs_run_at_once_than_there_are_threads() {
        static RUNNING: AtomicUsize = AtomicUsize::new(0);
        static PAIR: Barrier = Barrier::new(2);
        let hashing = Hashing::new(2).unwrap();
        let job = || {
            let at_once = RUNNING.fetch_add(1, Ordering::SeqCst) + 1;
            PAIR.wait();
            // Time for one more to begin beside the two, if one could.
            thread::sleep(Duration::from_millis(5));
            RUNNING.fetch_sub(1, Ordering::SeqCst);
            at_once
        };
        let jobs = futures_util::future::join_all((0..12).map(|_| hashing.run(job)));
        let most = tokio::time::timeout(Duration::from_secs(60), jobs).await.expect("two at once");
        assert_eq!(most.into_iter().max(), Some(Some(2)));
    }

    #[tokio::test]
    async fn a_job_that_panics_takes_no_thread_with_it() {
        let hashing = Hashing::new(1).unwrap();
        assert_eq!(hashing.run(|| -> () { panic!("as the test wants") }).await, None);
        assert_eq!(hashing.run(|| 7).await, Some(7));
    }

    #[tokio::test]
    async fn its_threads_and_no_other_stand_back() {
        let own = rustix::process::getpriority_process(None).unwrap();
        let hashing = Hashing::new(1).unwrap();
        let theirs = hashing.run(|| rustix::process::getpriority_process(None).unwrap()).await;
        assert_eq!(theirs, Some(NICE.max(own)));
        assert_eq!(rustix::process::getpriority_process(None).unwrap(), own);
    }
}
