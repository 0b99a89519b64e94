//! Everything that can keep a user from a desktop, each with the exit status that scripts rely upon.

use std::{error::Error, io};

use thiserror::Error;

use super::{
    config::ConfigError,
    http::HttpError,
    nxproxy::NxproxyError,
    trust::{Refusal, TrustError},
};

/// Why there is no session, or no session any more.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Arguments or answers that do not go together.
    #[error("{0}")]
    Usage(String),
    /// A configuration file or value.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Certificates of our own that cannot be read or stored.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The user cannot be asked.
    #[error("cannot ask on this terminal")]
    Terminal(#[from] io::Error),
    /// No connection came about.
    #[error("cannot connect to {server}")]
    Unreachable {
        /// `host:port`.
        server: String,
        /// Why.
        source: io::Error,
    },
    /// What answers is no server of ours.
    #[error("the answer of {server} cannot be understood")]
    Gibberish {
        /// `host:port`.
        server: String,
        /// What is wrong with it.
        source: HttpError,
    },
    /// The certificate was not accepted.
    #[error(transparent)]
    Certificate(#[from] Refusal),
    /// Wrong password or token.
    #[error("the server rejected the login: {text}")]
    Rejected {
        /// What the server says.
        text: String,
    },
    /// The server will not, or cannot, give the desktop.
    #[error("{text}")]
    Unavailable {
        /// What the server says.
        text: String,
    },
    /// The program that draws.
    #[error(transparent)]
    Nxproxy(#[from] NxproxyError),
    /// The connection broke.
    #[error("the connection to {server} was lost")]
    Lost {
        /// `host:port`.
        server: String,
        /// Why, when that is known.
        source: Option<io::Error>,
    },
}

impl ClientError {
    /// The exit status, as `--help` lists them.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Config(_) | Self::Trust(_) | Self::Terminal(_) => 1,
            Self::Unreachable { .. } | Self::Gibberish { .. } => 2,
            Self::Certificate(_) => 3,
            Self::Rejected { .. } => 4,
            Self::Unavailable { .. } => 5,
            Self::Nxproxy(_) => 6,
            Self::Lost { .. } => 7,
        }
    }

    /// Whether another attempt may help.
    pub fn is_about_connection(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Lost { .. })
    }

    /// The error and its causes in one line for the user.
    pub fn sentence(&self) -> String {
        let mut texts = vec![self.to_string()];
        let mut cause = self.source();
        while let Some(error) = cause {
            texts.push(error.to_string());
            cause = error.source();
        }
        // Libraries like to say in the error what the cause says again.
        texts.dedup_by(|cause, error| error.contains(cause.as_str()));
        texts.join(": ")
    }
}
