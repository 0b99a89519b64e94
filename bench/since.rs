//! Since when a claim is waited for: with everything that its statement does before it commits, or from the COMMIT alone,
//! which is the way of the event.

use std::time::Instant;

use tokio_postgres::{Client, Statement, types::ToSql};

/// Where the clock starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// A statement that commits by itself was sent.
    Statement,
    /// The COMMIT after it was sent.
    Commit,
}

impl Since {
    pub const BOTH: [Self; 2] = [Self::Statement, Self::Commit];

    /// What the names of figures begin with.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Statement => "",
            Self::Commit => "committed_",
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
            Self::Statement => drop(client.query(statement, parameters).await?),
            Self::Commit => client.batch_execute("commit").await?,
        }
        Ok(began)
    }
}
