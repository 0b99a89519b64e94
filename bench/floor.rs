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

/// Of all steps around a circle that which spreads any number of them most evenly.
const GOLDEN_RATIO: f64 = 0.618_033_988_749_895;

/// The listeners, each on a channel of its own.
pub struct Floor {
    listeners: usize,
    turn: usize,
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
        Ok(Self { listeners, turn: 0, clients, heard, _listening: listening })
    }

    /// Wakes one of the listeners. Returns when the commit has: which it is, and since when it counts. However few are woken, they
    /// are spread evenly over all: the server signals one after the other, and the first hear it soonest.
    pub async fn wake(&mut self, since: Since) -> anyhow::Result<(usize, Instant)> {
        self.turn += 1;
        let listener = ((self.turn as f64 * GOLDEN_RATIO).fract() * self.listeners as f64) as usize;
        let (client, send) = &self.clients[self.turn % self.clients.len()];
        Ok((listener, since.run(client, send, &[&i32::try_from(listener)?]).await?))
    }

    /// The next listener that has committed its update, and when.
    pub async fn heard(&mut self) -> Option<(usize, Instant)> {
        self.heard.recv().await
    }
}
