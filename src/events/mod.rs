//! The event plane: who is woken when something changed in the database.
//!
//! A *wake-up* carries no information; whoever is woken reads. A *gap* is a time in which wake-ups may have been
//! lost; it wakes everybody. `hkd` owns the node's one listening connection (`plane`) and relays wake-ups to `l7r`
//! (`relay`). Both wait through a `Hub`, which also wakes them when a poll is due, so that losing wake-ups costs
//! latency only. Nothing here reads or writes what the wake-ups are about.

mod channel;
mod exposition;
mod health;
mod hub;
mod plane;
mod relay;

pub use channel::Channel;
pub use exposition::{Exposition, exposition};
pub use health::{Action, Health, Intervals, Trouble};
pub use hub::{Cause, Hub, Stats, Watch};
pub use plane::Plane;
pub use relay::{Polls, RelayServer, follow, status};
