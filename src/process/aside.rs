//! Work that may take long or never end, on other threads than the runtime's: a storage whose server is gone holds whoever
//! asks it, and cannot be interrupted.

use std::time::Duration;

use tokio::sync::oneshot;

/// Does something on a thread of its own, for which nobody waits longer than `limit`; `None` when it took longer, or there
/// is no thread to be had.
pub async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static, limit: Duration) -> Option<T> {
    let (sender, receiver) = oneshot::channel();
    let spawned = std::thread::Builder::new().name("aside".to_owned()).spawn(move || sender.send(work()).is_ok());
    if let Err(error) = spawned {
        tracing::error!(%error, "no thread for what may never end");
        return None;
    }
    tokio::time::timeout(limit, receiver).await.ok()?.ok()
}

/// Does something that may be slow where it holds up nobody else, and waits for it. What has begun goes on to its end though
/// nobody waits any more.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_waits_for_what_never_ends() {
        let (_held, never) = std::sync::mpsc::channel::<()>();
        assert_eq!(aside(move || never.recv().is_ok(), Duration::from_millis(1)).await, None);
        assert_eq!(aside(|| 7, Duration::from_secs(60)).await, Some(7));
    }
}
