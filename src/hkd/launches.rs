//! The order in which VMs are launched that are all ready for it. To launch one is work for a processor, and many at the same
//! moment would all be done as late as the last; one after the other, half of them are done in half the time. Who comes first
//! is first. A launch that takes long waits for something else than processors, such as a storage, and lets others begin.
//! How many VMs may be in a heavy phase at all is the business of `slots`.

use std::{pin::pin, thread::available_parallelism, time::Duration};

use tokio::{sync::Semaphore, time::timeout};

/// How long the others wait for a launch.
const PATIENCE: Duration = Duration::from_millis(100);

/// The launches of a node.
#[derive(Debug)]
pub struct Launches {
    at_once: Semaphore,
    patience: Duration,
}

impl Launches {
    /// One for each processor and one more, since none works all the time.
    pub fn on_this_machine() -> Self {
        Self::new(available_parallelism().map_or(1, usize::from) + 1, PATIENCE)
    }

    fn new(at_once: usize, patience: Duration) -> Self {
        Self { at_once: Semaphore::new(at_once), patience }
    }

    /// Carries out a launch when it is its turn.
    pub async fn in_turn<T>(&self, launch: impl Future<Output = T>) -> T {
        // The queue is never closed; if it were, nobody would have to wait.
        let turn = self.at_once.acquire().await;
        let mut launch = pin!(launch);
        let soon = timeout(self.patience, &mut launch).await;
        drop(turn);
        match soon {
            Ok(launched) => launched,
            Err(_) => launch.await,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::join_all};
    use tokio::sync::{mpsc, oneshot};

    use super::*;

    #[tokio::test]
    async fn who_comes_first_is_launched_first_and_no_more_than_there_is_room_for() {
        let launches = Launches::new(2, Duration::MAX);
        let (began, mut begins) = mpsc::unbounded_channel();
        let (ends, ended): (Vec<_>, Vec<_>) = (0..4).map(|_| oneshot::channel::<()>()).unzip();
        let each = ended.into_iter().enumerate().map(|(number, ended)| {
            let began = began.clone();
            launches.in_turn(async move {
                began.send(number).unwrap();
                ended.await.unwrap();
            })
        });
        let mut all = join_all(each);
        for (number, end) in ends.into_iter().enumerate() {
            assert!((&mut all).now_or_never().is_none());
            let first: Vec<_> = std::iter::from_fn(|| begins.try_recv().ok()).collect();
            assert_eq!(
                first,
                if number == 0 {
                    vec![0, 1]
                } else if number < 3 {
                    vec![number + 1]
                } else {
                    vec![]
                }
            );
            end.send(()).unwrap();
        }
        all.await;
    }

    #[tokio::test]
    async fn a_launch_that_hangs_holds_nobody_up_and_one_that_is_given_up_leaves_its_turn() {
        let launches = Launches::new(1, Duration::from_millis(1));
        let mut hangs = pin!(launches.in_turn(std::future::pending::<()>()));
        assert!((&mut hangs).now_or_never().is_none());
        tokio::select! {
            () = &mut hangs => unreachable!("it hangs"),
            () = launches.in_turn(async {}) => {}
        }
        let patient = Launches::new(1, Duration::MAX);
        let given_up = patient.in_turn(std::future::pending::<()>()).now_or_never();
        assert!(given_up.is_none());
        assert_eq!(patient.in_turn(async { 1 }).now_or_never(), Some(1));
    }
}
