//! The stage in which the VM gets a node and is started. The database places it and its node starts it; here it is
//! only asked for and looked at.

use std::sync::Arc;

use crate::db::{DbError, StartAsked};

use super::{
    connect::Attempt,
    flow::{Event, Seen},
    nodes::Road,
};

impl Attempt {
    /// How the VM stands.
    pub(super) async fn look(&mut self) -> Result<Event, DbError> {
        self.seen = match (self.fresh.take(), &self.session) {
            (Some(fresh), _) => Some(fresh),
            (None, Some((session, _))) => self.router.database.l7r_session(*session).await?,
            (None, None) => None,
        };
        self.road = match (&self.router.nodes, &self.session) {
            (Some(nodes), Some((session, _))) => Some(Arc::new(Road::new(nodes.clone(), *session, self.vm))),
            _ => None,
        };
        Ok(match &self.seen {
            Some(seen) => Event::Vm(Seen {
                state: seen.state,
                commanded: seen.commanded,
                placed: seen.placed,
                aborted: seen.aborted,
            }),
            None => Event::Aborted(None),
        })
    }

    /// Asks for the VM to be placed and started.
    pub(super) async fn start_vm(&self) -> Result<Event, DbError> {
        let Some((session, _)) = &self.session else { return Ok(Event::Aborted(None)) };
        Ok(Event::StartAsked(match self.router.database.l7r_vm_start(*session).await? {
            StartAsked::Accepted => Ok(()),
            StartAsked::NoHost => Err("no host available".to_owned()),
            StartAsked::Refused => Err(format!("Failed to start virtual machine {}", self.vm)),
        }))
    }
}
