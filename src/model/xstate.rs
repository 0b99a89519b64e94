//! The state of the X session as the agent reports it (`spec` names: reported state of `x_state`).

use std::{fmt, str::FromStr};

/// What `x_state` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum XState {
    /// No X session.
    Stopped,
    /// nxagent is coming up or resuming and does not accept its proxy yet.
    Starting,
    /// The user's home and account are being made.
    Provisioning,
    /// nxagent waits for its proxy.
    Listening,
    /// A proxy is connected.
    Connected,
    /// nxagent is letting go of its proxy.
    Suspending,
    /// The session lives without a proxy.
    Suspended,
    /// nxagent is ending.
    Stopping,
}

impl XState {
    /// Every state.
    pub const ALL: &'static [Self] = &[
        Self::Stopped,
        Self::Starting,
        Self::Provisioning,
        Self::Listening,
        Self::Connected,
        Self::Suspending,
        Self::Suspended,
        Self::Stopping,
    ];

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Provisioning => "provisioning",
            Self::Listening => "listening",
            Self::Connected => "connected",
            Self::Suspending => "suspending",
            Self::Suspended => "suspended",
            Self::Stopping => "stopping",
        }
    }
}

impl fmt::Display for XState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for XState {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        Self::ALL
            .iter()
            .copied()
            .find(|state| state.as_str() == word)
            .ok_or_else(|| format!("{word:?} is no state of an X session"))
    }
}
