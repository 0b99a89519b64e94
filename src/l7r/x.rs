//! The stage in which the X session of the VM is started or resumed: what its agent is told, and how it is waited for.

use std::{sync::Arc, time::Duration};

use crate::{
    model::{XState, config::keys},
    vma::client::{AgentClient, AgentError},
};

use super::{connect::Attempt, flow::Event, nodes::ToAgent};

/// How long one question for the X state may wait at the agent. Shorter than the interval in which a client is told
/// that it still waits.
const X_WAIT: Duration = Duration::from_millis(1900);
/// Before a classic agent is asked for the second time. It doubles with each answer that says nothing new.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

impl Attempt {
    /// Has the X session started or resumed.
    pub(super) async fn start_x(&self) -> Event {
        let outcome = match self.agent() {
            Some(agent) => agent.x_start(&self.x_parameters()).await,
            None => Err(AgentError::Protocol("its address is not known".to_owned())),
        };
        Event::XStarted(outcome.map_err(|error| self.explain(&error)))
    }

    fn agent(&self) -> Option<AgentClient> {
        let seen = self.seen.as_ref()?;
        let limit = self.router.config.load().get(&keys::L7R_TIMEOUT_VMA);
        let (address, secret) = (seen.vma?, seen.secret.clone());
        Some(match &self.road {
            Some(road) => {
                let connect = ToAgent { road: road.clone(), address, limit };
                AgentClient::through(Arc::new(connect), address, secret, limit)
            }
            None => AgentClient::new(address, secret, limit),
        })
    }

    /// Later ones override earlier ones: what the client sent, what we add, properties, what authentication found.
    fn x_parameters(&self) -> Vec<(String, String)> {
        let mut merged: Vec<(String, String)> = Vec::new();
        let acquired = self.acquired.as_ref();
        let ours = [
            ("auth_token".to_owned(), self.token.clone()),
            ("host_address".to_owned(), acquired.map(|acquired| acquired.host_address.clone()).unwrap_or_default()),
        ];
        let properties = acquired.map(|acquired| acquired.properties.clone()).unwrap_or_default();
        let key = [("qvd.slave.key".to_owned(), self.slave_key.clone())];
        let all = self.parameters.iter().cloned().chain(ours).chain(properties);
        for (name, value) in all.chain(self.visit.user.parameters.iter().cloned()).chain(key) {
            match merged.iter_mut().find(|(known, _)| *known == name) {
                Some((_, old)) => *old = value,
                None => merged.push((name, value)),
            }
        }
        merged
    }

    /// An agent of ours answers when its state changes; a classic one is asked again and again, fast at first.
    pub(super) async fn ask_x(&mut self, seen: Option<XState>) -> Result<XState, AgentError> {
        let Some(agent) = self.agent() else {
            return Err(AgentError::Protocol("its address is not known".to_owned()));
        };
        let Some(seen) = seen else { return agent.x_state().await };
        let pause = match self.pause {
            Some(pause) => pause,
            None => match agent.x_wait(seen, X_WAIT).await? {
                Some(state) => return Ok(state),
                None => FIRST_PAUSE,
            },
        };
        let slowest = self.router.config.load().get(&keys::L7R_POLL_X);
        tokio::time::sleep(pause.min(slowest)).await;
        let state = agent.x_state().await?;
        // What has just changed will soon change again.
        self.pause = Some(if state == seen { (pause * 2).min(slowest) } else { FIRST_PAUSE });
        Ok(state)
    }

    /// What the user may read of an agent's failure; the log gets all of it.
    pub(super) fn explain(&self, error: &AgentError) -> String {
        tracing::info!(vm = %self.vm, error = error as &dyn std::error::Error, "the agent could not do it");
        match error {
            AgentError::Refused(text) => text.clone(),
            other => other.to_string(),
        }
    }
}
