//! Waiting for conditions: one measure of patience for all of them.

use std::time::{Duration, Instant};

/// What comes about by itself when nothing is wrong does so within this time, on a busy machine too.
pub const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(10);

/// Asks `probe` until it has an answer, and says how long that took. `what` completes "it did not come about that …".
pub async fn until<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> (T, Duration) {
    let began = Instant::now();
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        if let Some(found) = probe().await {
            return (found, began.elapsed());
        }
        assert!(began.elapsed() < PATIENCE, "it did not come about that {what} within {PATIENCE:?}");
    }
}
