//! What the overview draws, as `overview()` in SQL has it: each part only for who has the right to it.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Acting, Database, DbError};

/// Figures of the moment.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Overview {
    /// VMs by state.
    pub vm_states: Option<BTreeMap<String, i64>>,
    /// Which VMs are blocked.
    pub vms: Option<Blocked>,
    /// Which users are blocked.
    pub users: Option<Blocked>,
    /// The nodes that are most loaded, the most loaded first.
    pub hosts: Option<Vec<HostLoad>>,
    /// The VMs whose time ends.
    pub expiring: Option<Expiring>,
    /// Minutes of the last hour in UTC and the sessions that began in each.
    pub logins: Option<Vec<(String, i64)>>,
    /// How changes are told; for superadministrators.
    pub events: Option<Events>,
}

/// How many are blocked.
#[derive(Clone, Debug, Deserialize)]
pub struct Blocked {
    /// Of so many.
    pub all: i64,
    /// So many.
    pub blocked: i64,
}

/// A node that runs.
#[derive(Clone, Debug, Deserialize)]
pub struct HostLoad {
    /// Which.
    pub id: i32,
    /// Its name.
    pub name: String,
    /// VMs on it.
    pub vms: i64,
    /// Share of its memory that is in use, if it has said.
    pub memory: Option<f64>,
    /// Share of the time in which processors are waited for, if it has said.
    pub processors: Option<f64>,
}

/// VMs with a limit that is still to come.
#[derive(Clone, Debug, Deserialize)]
pub struct Expiring {
    /// How many there are.
    pub all: i64,
    /// The next ones.
    pub first: Vec<ExpiringVm>,
}

/// A VM whose time ends.
#[derive(Clone, Debug, Deserialize)]
pub struct ExpiringVm {
    /// Which.
    pub id: i32,
    /// Its full name.
    pub vm: String,
    /// When its user is told, in UTC.
    pub soft: Option<String>,
    /// When it is stopped, in UTC.
    pub hard: Option<String>,
}

/// How changes are told.
#[derive(Clone, Debug, Deserialize)]
pub struct Events {
    /// Share of the server's queue that is in use.
    pub queue: f64,
    /// Nodes that cannot rely on being told.
    pub degraded: Vec<DegradedHost>,
}

/// A node that asks by itself more often.
#[derive(Clone, Debug, Deserialize)]
pub struct DegradedHost {
    /// Which.
    pub id: i32,
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
}

impl Acting {
    /// The figures that there are for who acts.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn overview(&self) -> Result<Overview, DbError> {
        let found = self.client().query_one("select qvd.overview()", &[]).await?;
        serde_json::from_value(found.get(0)).map_err(|error| DbError::Shape(error.to_string()))
    }
}

impl Database {
    /// Notifies a channel of nothing, for whoever measures how long it takes until that is heard.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn notify_nothing_on(&self, channel: &str) -> Result<(), DbError> {
        self.connection().await?.execute("select pg_notify($1, '')", &[&channel]).await
    }
}
