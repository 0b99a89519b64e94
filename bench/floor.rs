//! The physical floor of a swarm: as many bare listeners, and for each wake-up what no design can leave out, a committed
//! update that notifies one of them and a committed update by that one.

use std::{sync::Arc, time::Instant};

use qvd::db::{Connector, Listener};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_postgres::{Client, Statement};

use crate::{
    fleet::{Ground, POOL},
    since::Since,
};

/// The listeners, each on a channel of its own.
pub struct Floor {
    listeners: usize,
    clients: Vec<(Client, Statement)>,
    heard: mpsc::UnboundedReceiver<(usize, Instant)>,
    _listening: JoinSet<()>,
}

impl Floor {
    /// In a database where nobody else notifies.
    pub async fn open(ground: &Ground, database: &str, listeners: usize) -> anyhow::Result<Self> {
        let owner = ground.client(database).await?;
        owner
            .batch_execute(&format!(
                "create table floor (id int primary key, n bigint not null default 0) with (fillfactor = 50);
                 insert into floor (id) select n from generate_series(0, {}) n",
                listeners * 2 - 1
            ))
            .await?;
        let mut claimers = Vec::new();
        for _ in 0..POOL {
            let client = ground.client(database).await?;
            let claim = client.prepare("update floor set n = n + 1 where id = $1").await?;
            claimers.push((client, claim));
        }
        let (claimers, connector) =
            (Arc::new(claimers), Connector::from_url(&ground.url(database, "postgres"), "floor")?);
        let (sender, heard) = mpsc::unbounded_channel();
        let mut listening = JoinSet::new();
        for number in 0..listeners {
            let mut listen = Listener::connect(&connector).await?;
            listen.listener.listen([format!("floor_{number}").as_str()]).await?;
            let (claimers, sender) = (claimers.clone(), sender.clone());
            listening.spawn(async move {
                let _listener = listen.listener;
                while listen.notifications.recv().await.is_some() {
                    let (client, claim) = &claimers[number % POOL];
                    let row = i32::try_from(listeners + number).unwrap_or_default();
                    if client.execute(claim, &[&row]).await.is_ok() {
                        let _ = sender.send((number, Instant::now()));
                    }
                }
            });
        }
        let mut clients = Vec::new();
        for _ in 0..POOL {
            let client = ground.client(database).await?;
            let send = client
                .prepare(
                    "with sent as (update floor set n = n + 1 where id = $1 returning id)
                     select pg_notify('floor_' || id, id::text) from sent",
                )
                .await?;
            clients.push((client, send));
        }
        Ok(Self { listeners, clients, heard, _listening: listening })
    }

    /// Wakes the listener that is the `number`th in turn. Returns when the commit has; since when it counts.
    pub async fn wake(&self, number: usize, since: Since) -> anyhow::Result<Instant> {
        let (client, send) = &self.clients[number % self.clients.len()];
        since.run(client, send, &[&i32::try_from(number % self.listeners)?]).await
    }

    /// Which listener that is.
    pub fn listener(&self, number: usize) -> usize {
        number % self.listeners
    }

    /// The next listener that has committed its update, and when.
    pub async fn heard(&mut self) -> Option<(usize, Instant)> {
        self.heard.recv().await
    }
}
