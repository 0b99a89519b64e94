//! The steps by which a VM comes to its end.

use std::time::Instant;

use crate::model::VmState;

use super::{Effect, Limits, Machine, Phase};

impl Machine {
    pub(super) fn shut_down(&mut self, limits: &Limits, now: Instant) -> Vec<Effect> {
        if !self.has_agent {
            return self.kill(limits, now);
        }
        // One whose agent never answered has nothing to lose.
        self.button = self.phase != Phase::Booting;
        self.retries = if self.button { limits.ask_retries } else { 0 };
        self.enter(Phase::ShuttingDown, now + limits.shutdown);
        vec![Effect::PowerOff]
    }

    pub(super) fn kill(&mut self, limits: &Limits, now: Instant) -> Vec<Effect> {
        self.enter(Phase::Killing, now + limits.kill);
        vec![Effect::Kill]
    }

    /// Whoever watched for its exit may have gone before it became a zombie.
    pub(super) fn kill_again(&mut self, limits: &Limits, now: Instant) -> Vec<Effect> {
        let mut effects = vec![Effect::WatchExit];
        effects.extend(self.kill(limits, now));
        effects
    }

    pub(super) fn abandon_and_kill(&mut self, limits: &Limits, now: Instant) -> Vec<Effect> {
        let mut effects = vec![Effect::Abandon, Effect::WatchExit];
        effects.extend(self.kill(limits, now));
        effects
    }

    pub(super) fn clean(&mut self, limits: &Limits, now: Instant) -> Vec<Effect> {
        self.enter(Phase::Cleaning, now + limits.clean);
        vec![Effect::Clean]
    }

    pub(super) fn abandon_and_clean(&mut self, limits: &Limits, now: Instant) -> Vec<Effect> {
        let mut effects = vec![Effect::Abandon];
        effects.extend(self.clean(limits, now));
        effects
    }

    /// From a queue for a slot.
    pub(super) fn clean_without_slot(&mut self, limits: &Limits, now: Instant) -> Vec<Effect> {
        let mut effects = vec![Effect::FreeSlot];
        effects.extend(self.clean(limits, now));
        effects
    }

    pub(super) fn free_slot(&mut self) -> Vec<Effect> {
        if std::mem::take(&mut self.slot) { vec![Effect::FreeSlot] } else { vec![] }
    }

    pub(super) fn zombie(&mut self, why: &str, limits: &Limits, now: Instant) -> Vec<Effect> {
        self.enter(Phase::Zombie, now + limits.zombie);
        self.rounds += 1;
        self.note = Some(why.to_owned());
        // One that does not die must not keep others from starting.
        let mut effects = self.free_slot();
        // Only a VM that is on its way down becomes a zombie; where it is already, the first of the two does nothing.
        effects.push(Effect::Publish(VmState::Stopping, None));
        effects.push(Effect::Publish(VmState::Zombie, Some(format!("it cannot be cleaned up: {why}"))));
        effects
    }
}
