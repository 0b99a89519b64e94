//! The stage in which the VM becomes this client's: a session is made for it, or whoever has the VM is told to go.

use crate::db::DbError;

use super::{connect::Attempt, flow::Event, router::Sessions};

impl Attempt {
    /// Takes the VM, unless another session has it. Not to be interrupted: see `drive`.
    pub(super) async fn acquire(&mut self) -> Result<Event, DbError> {
        let Self { router, user, .. } = &*self;
        let acquired = router
            .database
            .l7r_acquire(router.instance, self.vm, user.user, self.client, &self.token, &user.parameters)
            .await;
        let acquired = acquired.inspect_err(|_| self.router.sessions.doubt())?;
        if let Some(acquired) = &acquired {
            self.session = Some((acquired.session, Sessions::register(&self.router, acquired.session)));
        }
        self.acquired = acquired;
        Ok(Event::Acquired(self.acquired.is_some()))
    }
}
