//! How many connections to directories there are at once: a crowd that logs in must not be one in the directory. Each
//! tenant has its own, so that one whose directory is slow keeps nobody else waiting.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::model::TenantId;

/// The connections of all tenants.
#[derive(Default)]
pub struct Slots {
    tenants: Mutex<HashMap<TenantId, Tenant>>,
}

struct Tenant {
    size: usize,
    free: Arc<Semaphore>,
}

impl Slots {
    /// Waits for one of so many; in the order in which they came. `None` never happens: nobody closes it.
    pub async fn get(&self, tenant: TenantId, size: usize) -> Option<OwnedSemaphorePermit> {
        self.of(tenant, size).acquire_owned().await.ok()
    }

    /// A new size is a new start: whoever has a connection by the old one keeps it besides.
    fn of(&self, tenant: TenantId, size: usize) -> Arc<Semaphore> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Tenant { size, free: Arc::new(Semaphore::new(size.min(Semaphore::MAX_PERMITS))) };
        let known = tenants.entry(tenant).or_insert_with(fresh);
        if known.size != size {
            *known = fresh();
        }
        known.free.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_tenant_has_so_many_and_a_new_size_holds_for_those_who_come() {
        let slots = Slots::default();
        let (one, two) = (TenantId(1), TenantId(2));
        let held = slots.get(one, 1).await;
        assert_eq!(slots.of(one, 1).available_permits(), 0);
        assert!(slots.get(two, 1).await.is_some());
        assert!(slots.get(one, 2).await.is_some());
        drop(held);
        assert_eq!(slots.of(one, 2).available_permits(), 2);
    }
}
