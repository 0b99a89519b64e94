//! Why a call of the database failed, sorted by what the caller can do about it.

use deadpool::managed::PoolError;
use thiserror::Error;
use tokio_postgres::error::SqlState;

use crate::model::{config::keys, in_one_line};

use super::tls;

/// A failed call.
#[derive(Debug, Error)]
pub enum DbError {
    /// The server cannot be reached or the connection broke; the same call may work later.
    #[error("the database cannot be reached: {}", in_one_line(.0.as_ref()))]
    Unreachable(Box<dyn std::error::Error + Send + Sync>),
    /// Every connection of the pool stayed busy.
    #[error("no database connection became free in time")]
    Busy,
    /// The connection cannot be set up as configured.
    #[error("the connection to the database is not configured right: {0}")]
    Setup(String),
    /// Another process has taken over the node or the instance that the caller speaks for.
    #[error("{0}")]
    Revoked(String),
    /// The rules of the schema refuse; the sentence is meant for people.
    #[error("{}", advised(.message, .hint.as_deref()))]
    Refused {
        /// SQLSTATE of class `QV`.
        code: String,
        /// What is wrong.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// The server cancelled the statement because it, or a lock that it waited for, took too long. Nothing was done.
    #[error("{message}; the limit is {key}")]
    Late {
        /// The server's message.
        message: String,
        /// The key that sets the limit.
        key: &'static str,
    },
    /// The statement was undone because it met another one; the same call may work when it is repeated.
    #[error("the database undid a statement: {message}")]
    Undone {
        /// The server's message.
        message: String,
    },
    /// The server lacks what it needs (disk, memory); the same call may work when somebody has seen to it.
    #[error("the database cannot go on: {message}")]
    Failing {
        /// The server's message.
        message: String,
    },
    /// The statement failed for a reason that nobody planned for.
    #[error("the database refused a statement: {message}")]
    Statement {
        /// The server's message.
        message: String,
        /// The whole error.
        #[source]
        source: tokio_postgres::Error,
    },
    /// An answer does not have the shape that this version expects.
    #[error("the database gave an unexpected answer: {0}")]
    Shape(String),
}

/// What is wrong, and what to do about it.
pub(super) fn advised(message: &str, hint: Option<&str>) -> String {
    hint.map_or_else(|| message.to_owned(), |hint| format!("{message} ({hint})"))
}

impl DbError {
    /// Whether the same call may succeed when it is repeated.
    pub fn is_passing(&self) -> bool {
        use DbError::{Busy, Failing, Late, Undone, Unreachable};
        matches!(self, Unreachable(_) | Busy | Late { .. } | Undone { .. } | Failing { .. })
    }

    /// The SQLSTATE of a statement that failed for a reason that nobody planned for.
    pub(super) fn code(&self) -> Option<&SqlState> {
        match self {
            Self::Statement { source, .. } => source.code(),
            _ => None,
        }
    }

    /// The SQLSTATE with which the server refused, also where it is the connection that it refused.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Statement { source, .. } => source.code(),
            Self::Unreachable(error) => error.downcast_ref::<tokio_postgres::Error>()?.code(),
            Self::Refused { code, .. } => return Some(code),
            _ => None,
        }
        .map(SqlState::code)
    }
}

impl From<tokio_postgres::Error> for DbError {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(server) = error.as_db_error() else {
            return match tls::distrust(&error) {
                Some(why) => Self::Unreachable(why.into()),
                None => Self::Unreachable(Box::new(error)),
            };
        };
        let code = server.code().clone();
        let message = server.message().to_owned();
        let gone = [
            SqlState::TOO_MANY_CONNECTIONS,
            SqlState::READ_ONLY_SQL_TRANSACTION,
            SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
        ];
        // Classes of appendix A of PostgreSQL's manual.
        let is_of = |classes: &[&str]| classes.iter().any(|class| code.code().starts_with(class));
        if code.code() == "QV001" {
            Self::Revoked(message)
        } else if is_of(&["QV"]) {
            Self::Refused { code: code.code().to_owned(), message, hint: server.hint().map(str::to_owned) }
        } else if gone.contains(&code) || is_of(&["08", "57P"]) {
            Self::Unreachable(Box::new(error))
        } else if is_of(&["53", "58"]) {
            Self::Failing { message }
        } else if code == SqlState::QUERY_CANCELED {
            Self::Late { message, key: keys::DATABASE_STATEMENT_TIMEOUT.name }
        } else if code == SqlState::LOCK_NOT_AVAILABLE {
            Self::Late { message, key: keys::DATABASE_LOCK_TIMEOUT.name }
        } else if code == SqlState::T_R_SERIALIZATION_FAILURE || code == SqlState::T_R_DEADLOCK_DETECTED {
            Self::Undone { message }
        } else {
            Self::Statement { message, source: error }
        }
    }
}

impl From<PoolError<DbError>> for DbError {
    fn from(error: PoolError<DbError>) -> Self {
        match error {
            PoolError::Backend(error) => error,
            other => Self::Unreachable(Box::new(other)),
        }
    }
}
