//! The one connection of a process that listens. Outside the pool, since it lives as long as it can and must never sit
//! in a transaction: an open transaction of a listener stops the server from cleaning its queue.

use std::{future::poll_fn, time::Duration};

use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client, Connection};

use super::{Connector, DbError};

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
    client: Client,
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
        let connecting = connector.postgres();
        let connecting = connecting.connect(connector.tls()?);
        let (client, connection) = tokio::time::timeout(connector.connect_timeout(), connecting)
            .await
            .map_err(|elapsed| DbError::Unreachable(Box::new(elapsed)))??;
        let (sender, notifications) = mpsc::unbounded_channel();
        tokio::spawn(drive(connection, sender));
        Ok(Listen { listener: Self { client }, notifications })
    }

    /// Listens to `channels`. When this returns, the server has committed it: whatever changes from now on is heard,
    /// so a row read after this cannot be older than what is missed.
    pub async fn listen<'a>(&self, channels: impl IntoIterator<Item = &'a str>) -> Result<(), DbError> {
        self.batch("listen", channels).await
    }

    /// No longer listens to `channels`.
    pub async fn unlisten<'a>(&self, channels: impl IntoIterator<Item = &'a str>) -> Result<(), DbError> {
        self.batch("unlisten", channels).await
    }

    /// Whether the server answers within `limit`.
    pub async fn answers(&self, limit: Duration) -> bool {
        matches!(tokio::time::timeout(limit, self.client.simple_query("")).await, Ok(Ok(_)))
    }

    async fn batch<'a>(&self, verb: &str, channels: impl IntoIterator<Item = &'a str>) -> Result<(), DbError> {
        let mut statements = String::new();
        for channel in channels {
            statements.push_str(verb);
            statements.push(' ');
            statements.push_str(&quoted(channel));
            statements.push(';');
        }
        Ok(self.client.batch_execute(&statements).await?)
    }
}

fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// Awaiting the connection would discard notifications, so its messages are polled. The end and an error are final.
async fn drive<S, T>(mut connection: Connection<S, T>, heard: mpsc::UnboundedSender<Notification>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    loop {
        match poll_fn(|context| connection.poll_message(context)).await {
            Some(Ok(AsyncMessage::Notification(notification))) => {
                let notification = Notification {
                    channel: notification.channel().to_owned(),
                    payload: notification.payload().to_owned(),
                };
                if heard.send(notification).is_err() {
                    return;
                }
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                tracing::debug!(%error, "listening connection failed");
                return;
            }
            None => return,
        }
    }
}
