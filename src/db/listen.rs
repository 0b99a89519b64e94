//! The one connection of a process that listens. Outside the pool, since it lives as long as it can and must never sit
//! in a transaction: an open transaction of a listener stops the server from cleaning its queue.

use tokio::{sync::mpsc, time::timeout};

use super::{
    Connector, DbError,
    servers::{Link, silent},
};

/// A wake-up as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// The channel.
    pub channel: String,
    /// What the sender said; a hint at most.
    pub payload: String,
}

/// A listening connection. Notifications arrive on the receiver, which ends when the connection does.
pub struct Listener {
    link: Link,
    connector: Connector,
}

/// A new listener and what it hears.
pub struct Listen {
    /// Changes the set of channels.
    pub listener: Listener,
    /// Wake-ups; closed when the connection is lost.
    pub notifications: mpsc::UnboundedReceiver<Notification>,
}

impl Listener {
    /// Connects; nothing is listened to yet.
    pub async fn connect(connector: &Connector) -> Result<Listen, DbError> {
        let (sender, notifications) = mpsc::unbounded_channel();
        let link = connector.servers().open(Some(sender)).await?;
        Ok(Listen { listener: Self { link, connector: connector.clone() }, notifications })
    }

    /// Ends when the database is another server than the one that is listened to.
    pub async fn moved(&self) {
        self.connector.servers().moved(self.link.generation).await;
    }

    /// Listens to `channels`. When this returns, the server has committed it: whatever changes from now on is heard,
    /// so a row read after this cannot be older than what is missed.
    pub async fn listen<'a>(&self, channels: impl IntoIterator<Item = &'a str>) -> Result<(), DbError> {
        self.batch("listen", channels).await
    }

    /// Listens to what administrators see, see `watch` in SQL.
    pub async fn watch(&self) -> Result<(), DbError> {
        self.execute("select watch()").await
    }

    /// No longer listens to `channels`.
    pub async fn unlisten<'a>(&self, channels: impl IntoIterator<Item = &'a str>) -> Result<(), DbError> {
        self.batch("unlisten", channels).await
    }

    async fn batch<'a>(&self, verb: &str, channels: impl IntoIterator<Item = &'a str>) -> Result<(), DbError> {
        let mut statements = String::new();
        for channel in channels {
            statements.push_str(verb);
            statements.push(' ');
            statements.push_str(&quoted(channel));
            statements.push(';');
        }
        self.execute(&statements).await
    }

    async fn execute(&self, statements: &str) -> Result<(), DbError> {
        let limit = self.connector.statement_limit();
        Ok(timeout(limit, self.link.client.batch_execute(statements)).await.map_err(|_| silent(limit))??)
    }
}

fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}
