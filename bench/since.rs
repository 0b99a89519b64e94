//! Since when a claim is waited for: from the COMMIT, which is the way of the event, or from the call of the statement, with
//! everything that it does before it commits.

use std::time::Instant;

use tokio_postgres::{Client, Statement, types::ToSql};

/// Where the clock starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// The COMMIT after a statement was sent.
    Commit,
    /// A statement that commits by itself was sent.
    Call,
}

impl Since {
    pub const BOTH: [Self; 2] = [Self::Commit, Self::Call];

    /// What the names of figures begin with.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Commit => "",
            Self::Call => "call_",
        }
    }

    /// Carries out a statement; when the clock started. Nobody else may use the client meanwhile.
    pub async fn run(
        self,
        client: &Client,
        statement: &Statement,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> anyhow::Result<Instant> {
        if self == Self::Commit {
            client.batch_execute("begin").await?;
            client.query(statement, parameters).await?;
        }
        let began = Instant::now();
        match self {
            Self::Commit => client.batch_execute("commit").await?,
            Self::Call => drop(client.query(statement, parameters).await?),
        }
        Ok(began)
    }
}
