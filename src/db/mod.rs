//! The database as the daemons and tools see it: a pool, the migration runner, and one file of typed calls for each
//! group of functions in `sql/`. No other room holds SQL.
//!
//! A refusal by the database's own rules (SQLSTATE class `QV`) is an error of its own kind, because its sentence is
//! meant for people. What a refusal means for the caller is not decided here.

mod acting;
mod admin;
mod auth;
mod connect;
mod console;
mod di;
mod error;
mod examine;
mod fields;
mod images;
mod join;
mod l7r;
mod lease;
mod listen;
mod lists;
mod migrate;
mod node;
mod overview;
mod routed;
mod servers;
mod settle;
mod single;
mod spy;
mod storage;
mod tls;
mod turns;
mod views;

pub use acting::{
    Acting, AdminAccount, Administrator, Origin, Outcome, Profile, Refused, RestartDue, RoleAcl, Setting, VmStanding,
};
pub use admin::{AdminError, HostUse, Table, TotpSettings};
pub use auth::{AutoVm, Tenant, TokenOwner};
pub use connect::{Connector, Role};
pub use console::{Console, WantedConsole};
pub use di::{AffectedVm, ImageStanding, ImageView, NewImage, StagedView};
pub use error::DbError;
pub use examine::{Standing, Way};
pub use fields::FieldType;
pub use images::{ImageFate, ImageWork, ImportOrder, StagedFile};
pub use join::{Joined, Login};
pub use l7r::{
    AbortCause, Account, Acquired, Certificates, HostStatus, Instance, ListedVm, SessionVm, StartAsked, Started,
    Taking, Terms, TunnelCount, VmCheck,
};
pub use listen::{Listen, Listener, Notification};
pub use lists::{List, ListError, Query};
pub use migrate::{MigrateError, Migration, Status};
pub use node::{Claim, Duties, Former, Life, Load, NodeVm, Peer, Peers, VmProgress};
pub use overview::{Blocked, DegradedHost, Events, Expiring, ExpiringVm, HostLoad, Overview};
pub use routed::{NodeRouter, Passage, Reach};
pub use single::Expiration;
pub use spy::SpiedAgent;
pub use turns::in_order;
pub use views::Device;

use std::{sync::Arc, time::Duration};

use deadpool::{
    Runtime,
    managed::{Pool, QueueMode},
};
use tokio::time::timeout;
use tokio_postgres::error::SqlState;

use crate::model::TenantId;
use lease::{Lease, Manager};
use settle::Settling;
use turns::Turns;

/// A pool of connections that speak with the rights of one role.
#[derive(Clone)]
pub struct Database {
    pool: Pool<Manager>,
    turns: Arc<Turns>,
    connector: Connector,
    settling: Arc<Settling>,
}

impl Database {
    /// Makes the pool; connections are opened when they are needed, so this does not fail while the server is down.
    pub fn new(connector: &Connector, size: usize) -> Result<Self, DbError> {
        let limit = connector.servers().limit();
        let manager = Manager { connector: connector.clone() };
        let pool = Pool::builder(manager)
            .max_size(size)
            // The connection used last has its plans and its server process in the caches.
            .queue_mode(QueueMode::Lifo)
            .runtime(Runtime::Tokio1)
            // What it is made of has its own limits.
            .create_timeout(Some(limit * 2))
            .build()
            .map_err(|error| DbError::Setup(error.to_string()))?;
        Ok(Self { pool, turns: Turns::new(size), connector: connector.clone(), settling: Arc::default() })
    }

    /// Waits until the database answers or `limit` has passed.
    pub async fn reachable(&self, limit: Duration) -> Result<(), DbError> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            match self.connection().await {
                Ok(_) => return Ok(()),
                Err(error) if tokio::time::Instant::now() >= deadline => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    async fn connection(&self) -> Result<Lease, DbError> {
        let limit = self.connector.servers().limit();
        let turn = timeout(limit, self.turns.wait()).await.map_err(|_| DbError::Busy)?;
        Ok(Lease::new(self.pool.get().await?, turn, self.connector.clone()))
    }

    /// Returns when what was committed over a connection is on disk. It fails when the server may have lost it meanwhile.
    async fn settle(&self, committed: Lease) -> Result<(), DbError> {
        // Not while others wait for it.
        let origin = committed.into_origin();
        let write = async {
            let connection = self.connection().await?;
            let statement = connection.prepare_cached(settle::SETTLE).await?;
            connection.execute(&statement, &[]).await?;
            Ok(())
        };
        let written = self.settling.settle(write).await;
        // That it went down is the reason for everything else, whoever noticed first.
        if !self.connector.servers().has_run_on(&origin) {
            return Err(DbError::Unreachable("its server went down before all was on disk".into()));
        }
        written
    }

    /// Whether this program may use the schema: it is that of this version, or a newer one whose migrations let older
    /// programs go on. Otherwise its version (0: there is none), or why it is not known, and ours.
    pub async fn schema_is_ours(&self) -> Result<(), (Result<String, DbError>, i32)> {
        let known = migrate::newest();
        let found = async {
            let connection = self.connection().await?;
            let query =
                "select version, coalesce((select version from versions where component = 'schema_oldest'), version)
                         from versions where component = 'schema'";
            match connection.query_opt(query, &[]).await {
                Ok(Some(row)) => Ok((row.get::<_, String>(0), row.get::<_, String>(1))),
                Ok(None) => Ok(Default::default()),
                Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(("0".to_owned(), "0".to_owned())),
                Err(error) => Err(error),
            }
        };
        match found.await {
            Ok((found, oldest)) => match (found.parse::<i32>(), oldest.parse::<i32>()) {
                (Ok(version), Ok(oldest)) if oldest <= known && known <= version => Ok(()),
                _ => Err((Ok(found), known)),
            },
            Err(error) => Err((Err(error), known)),
        }
    }

    /// Rows of `configs` that apply to every tenant.
    pub async fn config_rows(&self) -> Result<Vec<(String, String)>, DbError> {
        let connection = self.connection().await?;
        let statement = connection.prepare_cached("select key, value from configs where tenant_id = -1").await?;
        let rows = connection.query(&statement, &[]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Rows of `configs` that apply to one tenant only.
    pub async fn tenant_config_rows(&self) -> Result<Vec<(TenantId, String, String)>, DbError> {
        let connection = self.connection().await?;
        let statement =
            connection.prepare_cached("select tenant_id, key, value from configs where tenant_id >= 0").await?;
        let rows = connection.query(&statement, &[]).await?;
        Ok(rows.iter().map(|row| (TenantId(row.get(0)), row.get(1), row.get(2))).collect())
    }
}
