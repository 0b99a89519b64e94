//! The stage in which the VM becomes this client's: a session is made for it, or whoever has the VM is told to go. Then
//! the authenticators do what they want to do before it is started.

use crate::{
    db::{DbError, Taking, Terms},
    model::{InstanceId, SessionId},
};

use super::{
    connect::{Attempt, Unable},
    flow::Event,
    router::{Registered, Sessions},
    tunnel::finish,
};

impl Attempt {
    /// Takes the VM, unless another session has it. Not to be interrupted: see `drive`.
    pub(super) async fn acquire(&mut self) -> Result<Event, Unable> {
        let instance = *self.router.instance.lock().await;
        let (session, registered, taking) = match self.ask(instance).await {
            // With its node, perhaps: the checks know what to say then.
            Err(DbError::Revoked(_)) if self.terms == Terms::Unchecked => return Err(Unable::Unfit),
            Err(DbError::Revoked(_)) => self.ask(self.router.begin_anew(instance).await?).await?,
            asked => asked?,
        };
        if let Taking::Unfit = taking {
            return Err(Unable::Unfit);
        }
        if self.terms == Terms::Unchecked {
            self.admitted();
        }
        let Taking::Taken(acquired, vm) = taking else { return Ok(Event::Acquired(false)) };
        self.session = Some((session, registered));
        self.acquired = Some(acquired);
        self.fresh = Some(vm);
        Ok(Event::Acquired(true))
    }

    /// Asks for the VM under the name of a new session.
    async fn ask(&self, instance: InstanceId) -> Result<(SessionId, Registered, Taking), DbError> {
        let Self { router, visit, .. } = self;
        let (user, vm) = (&visit.user, (self.vm, self.terms));
        let session = router.sessions.name(instance);
        let registered = Sessions::register(router, session);
        let by = (session, instance);
        let asked = router.database.l7r_acquire(by, vm, user.user, self.client, &self.token, &user.parameters).await;
        if asked.as_ref().is_err_and(DbError::is_passing) {
            // It may have been given all the same, and would stay taken. The server may also be about to give it.
            router.sessions.doubt();
            let router = router.clone();
            tokio::spawn(async move { finish(&router, session, "its client never got it", (0, 0), false).await });
        }
        Ok((session, registered, asked?))
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
