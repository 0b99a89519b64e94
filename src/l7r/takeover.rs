//! The stage in which the VM becomes this client's: a session is made for it, or whoever has the VM is told to go. Then
//! the authenticators do what they want to do before it is started.

use crate::db::DbError;

use super::{connect::Attempt, flow::Event, router::Sessions};

impl Attempt {
    /// Takes the VM, unless another session has it. Not to be interrupted: see `drive`.
    pub(super) async fn acquire(&mut self) -> Result<Event, DbError> {
        let Self { router, visit, .. } = &*self;
        let user = &visit.user;
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

    /// Lets the authenticators have their say.
    pub(super) async fn prepare(&mut self) -> Event {
        let Self { router, visit, vm, .. } = self;
        let prepared = router.authenticators.before_connect(visit, *vm).await;
        Event::Prepared(prepared.map_err(|error| {
            tracing::error!(%vm, error = &error as &dyn std::error::Error, "cannot connect");
            "the connection could not be prepared".to_owned()
        }))
    }
}
