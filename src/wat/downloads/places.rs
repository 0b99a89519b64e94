//! How many downloads this process takes at a time, and how one that is given up ends at once, also when nothing comes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Places for downloads.
pub struct Places {
    most: usize,
    free: Arc<Semaphore>,
    /// Those that are taken, by download.
    taken: Mutex<HashMap<String, CancellationToken>>,
}

/// One of them, free again when this is dropped.
pub struct Place {
    /// Whoever waits for what comes ends with this.
    pub given_up: CancellationToken,
    places: Arc<Places>,
    id: Option<String>,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    pub fn new(most: usize) -> Arc<Self> {
        let most = most.min(Semaphore::MAX_PERMITS);
        Arc::new(Self { most, free: Arc::new(Semaphore::new(most)), taken: Mutex::default() })
    }

    /// How many there are.
    pub fn most(&self) -> usize {
        self.most
    }

    /// A free one.
    pub fn take(self: &Arc<Self>) -> Option<Place> {
        let permit = self.free.clone().try_acquire_owned().ok()?;
        Some(Place { given_up: CancellationToken::new(), places: self.clone(), id: None, _permit: permit })
    }

    /// Ends a download, if it is one of this process.
    pub fn give_up(&self, id: &str) {
        if let Some(given_up) = self.taken().get(id) {
            given_up.cancel();
        }
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<String, CancellationToken>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// It is for this download.
    pub fn of(mut self, id: &str) -> Self {
        self.places.taken().insert(id.to_owned(), self.given_up.clone());
        self.id = Some(id.to_owned());
        self
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(id) = &self.id {
            self.places.taken().remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_download_ends_and_only_that_is_given_up() {
        let places = Places::new(2);
        let (one, other) = (places.take().unwrap().of("a"), places.take().unwrap().of("b"));
        assert!(places.take().is_none());
        places.give_up("a");
        places.give_up("c");
        assert!(one.given_up.is_cancelled() && !other.given_up.is_cancelled());
        drop(one);
        assert!(places.take().is_some());
        assert!(Places::new(0).take().is_none());
    }
}
