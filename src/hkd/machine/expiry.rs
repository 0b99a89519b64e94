//! What the agent of a VM is told of its expiry: one thing at a time, so that the newest is told last.

use std::time::Instant;

use crate::model::Expiry;

use super::{Effect, Limits, Machine, Phase};

/// What has still to be told.
#[derive(Clone, Debug, Default)]
pub(super) struct Telling {
    due: Option<Expiry>,
    /// The agent is being told this.
    now: Option<Expiry>,
}

impl Machine {
    pub(super) fn expires(&mut self, expiry: Expiry) -> Vec<Effect> {
        if self.expiry.due.as_ref() == Some(&expiry) {
            return vec![];
        }
        self.expiry.due = Some(expiry);
        self.tell_expiry()
    }

    /// Only while the agent answers; otherwise when it does again.
    pub(super) fn tell_expiry(&mut self) -> Vec<Effect> {
        if self.phase != Phase::Running || self.expiry.now.is_some() {
            return vec![];
        }
        self.expiry.now = self.expiry.due.clone();
        self.expiry.now.iter().cloned().map(Effect::TellExpiry).collect()
    }

    pub(super) fn told_expiry(&mut self, knows: bool, limits: &Limits, now: Instant) -> Vec<Effect> {
        let told = self.expiry.now.take();
        if told != self.expiry.due {
            return self.tell_expiry();
        }
        if knows {
            self.expiry.due = None;
        } else if self.phase == Phase::Running {
            self.ask_at = Some(now + limits.ask_pause);
        }
        vec![]
    }
}
