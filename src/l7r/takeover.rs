//! The stage in which the VM becomes this client's: a session is made for it, or whoever has the VM is told to go. Then
//! the authenticators do what they want to do before it is started.

use crate::db::DbError;

use super::{connect::Attempt, flow::Event, router::Sessions};

impl Attempt {
    /// Takes the VM, unless another session has it. Not to be interrupted: see `drive`.
    pub(super) async fn acquire(&mut self) -> Result<Event, DbError> {
        let Self { router, visit, .. } = &*self;
        let user = &visit.user;
        let session = router.sessions.name(router.instance);
        let by = (session, router.instance);
        let acquired =
            router.database.l7r_acquire(by, self.vm, user.user, self.client, &self.token, &user.parameters).await;
        let acquired = acquired.inspect_err(|_| self.router.sessions.doubt())?;
        let Some((acquired, vm)) = acquired else { return Ok(Event::Acquired(false)) };
        self.session = Some((session, Sessions::register(&self.router, session)));
        self.acquired = Some(acquired);
        self.fresh = Some(vm);
        Ok(Event::Acquired(true))
    }

    /// Lets the authenticators have their say.
    pub(super) async fn prepare(&mut self) -> Event {
        let Self { router, visit, vm, .. } = self;
        match router.authenticators.before_connect(visit, *vm).await {
            Ok(acted) => {
                self.fresh.take_if(|_| acted);
                Event::Prepared(Ok(()))
            }
            Err(error) => {
                tracing::error!(%vm, error = &error as &dyn std::error::Error, "cannot connect");
                Event::Prepared(Err("the connection could not be prepared".to_owned()))
            }
        }
    }
}
