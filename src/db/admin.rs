//! What administration asks of the database with the rights of whoever runs it: lists, any statement, and what it
//! takes to set up an installation on one machine.

use std::net::IpAddr;

use serde_json::Value;
use thiserror::Error;
use tokio_postgres::types::ToSql;

use crate::model::{HostState, VmState};

use super::{Certificates, Connector, DbError, node::word};

/// The answer to a query, every value as text.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Rows; `None` is null.
    pub rows: Vec<Vec<Option<String>>>,
}

/// What a node is used for at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostUse {
    /// Users connected through its router.
    pub sessions: i64,
    /// VMs assigned to it.
    pub vms: i64,
}

/// How one-time passwords are used in the tenant of a user.
#[derive(Clone, Debug)]
pub struct TotpSettings {
    /// The user, with the tenant.
    pub user: String,
    /// The user had a secret before.
    pub had_one: bool,
    /// The tenant's logins are asked for them.
    pub required: bool,
    /// How many digits they have.
    pub digits: u32,
    /// How many seconds each is good for.
    pub interval: u32,
    /// What intervals are counted from, in seconds since 1970.
    pub t0: u32,
}

/// A question that cannot be asked.
#[derive(Debug, Error)]
pub enum AdminError {
    /// The list does not exist.
    #[error("there is no list of {0}")]
    NoList(String),
    /// The database could not answer.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl Connector {
    /// A view of `sql/views/lists.sql`: `vm`, `host`, `session`, `user`, `di`, `tunnel` or `end`.
    pub async fn list(&self, what: &str) -> Result<Table, AdminError> {
        if !["vm", "host", "session", "user", "di", "tunnel", "end"].contains(&what) {
            return Err(AdminError::NoList(what.to_owned()));
        }
        // Long lists have no order of their own.
        let order = match what {
            "vm" => "vm",
            "user" => "\"user\"",
            "di" => "osf, id",
            "session" => "started_at desc, id desc",
            "host" => "host",
            "tunnel" => "host, tunnel",
            _ => "host, sessions desc, reason",
        };
        Ok(self.table(&format!("{what}_list order by {order}")).await?)
    }

    /// All of a view.
    pub(super) async fn table(&self, view: &str) -> Result<Table, DbError> {
        let client = self.client().await?;
        let rows = client.query(&format!("select to_json(l)::text from (select * from qvd.{view}) l"), &[]).await?;
        let mut table = Table::default();
        for row in rows {
            let object: Value = serde_json::from_str(row.get(0)).map_err(|error| DbError::Shape(error.to_string()))?;
            let object = object.as_object().cloned().unwrap_or_default();
            if table.columns.is_empty() {
                table.columns = object.keys().cloned().collect();
            }
            table.rows.push(object.into_iter().map(|(_, value)| shown(value)).collect());
        }
        Ok(table)
    }

    /// Says that the database was restored, or moved to another server when it is `complete`. Returns how many VMs were up.
    pub async fn database_restored(&self, complete: bool) -> Result<i32, DbError> {
        let client = self.client().await?;
        Ok(client.query_one("select qvd.database_restored($1)", &[&complete]).await?.get(0))
    }

    /// Puts a node on record, with the VM network it is in, unless it is there already.
    pub async fn settle_node(&self, name: &str, address: IpAddr, first_vm: IpAddr) -> Result<(), DbError> {
        let client = self.client().await?;
        client
            .execute(
                "select qvd.config_set('vm.network.ip.start', $1), qvd.config_set('vm.network.netmask', $2)",
                &[&first_vm.to_string(), &if first_vm.is_ipv4() { "24" } else { "64" }],
            )
            .await?;
        client
            .execute(
                "select qvd.host_create($1, $2) where not exists (select from qvd.hosts where name = $1)",
                &[&name, &address],
            )
            .await?;
        Ok(())
    }

    /// Makes one user with one desktop from an image, as far as they are not there. Sizes in MB.
    pub async fn settle_desktop(
        &self,
        (login, password): (&str, &str),
        vm: &str,
        image: &str,
        (memory, home): (i32, i32),
    ) -> Result<(), DbError> {
        let client = self.client().await?;
        let steps: [(&str, &[&(dyn ToSql + Sync)]); 4] = [
            (
                "select qvd.osf_create('desktop', $1, $2) where not exists (select from qvd.osfs where name = 'desktop')",
                &[&memory, &home],
            ),
            ("select qvd.di_create('desktop', $1) where not exists (select from qvd.dis where path = $1)", &[&image]),
            (
                "select qvd.user_create($1, $2) where not exists (select from qvd.users where login = $1)",
                &[&login, &password],
            ),
            (
                "select qvd.vm_create($1, $2, 'desktop') where not exists (
                     select from qvd.vms v join qvd.users u on u.id = v.user_id where u.login = $1 and v.name = $2)",
                &[&login, &vm],
            ),
        ];
        for (statement, parameters) in steps {
            client.execute(statement, parameters).await?;
        }
        Ok(())
    }

    /// Stores what routers need for TLS, all of it or nothing; what is `None` stays as it is. Whether it can be used is
    /// the caller's to know: the database cannot read keys.
    pub async fn store_certificates(&self, new: &Certificates) -> Result<(), DbError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        if let (Some(certificate), Some(key)) = (&new.certificate, &new.key) {
            transaction.execute("select qvd.config_ssl($1, $2)", &[certificate, key]).await?;
        }
        if new.authorities.is_some() || new.revoked.is_some() {
            let clients: [&(dyn ToSql + Sync); 2] = [&new.authorities, &new.revoked];
            transaction.execute("select qvd.config_ssl_clients($1, $2)", &clients).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// Forgets what is stored about TLS, so that every node shows its own certificate.
    pub async fn forget_certificates(&self) -> Result<(), DbError> {
        self.execute("select qvd.config_ssl_reset()").await
    }

    /// The state of a node, and whether a router of it is on record; `None`: no such node.
    pub async fn node_readiness(&self, name: &str) -> Result<Option<(HostState, bool)>, DbError> {
        let client = self.client().await?;
        let row = client
            .query_opt(
                "select r.state::text, exists (select from qvd.l7r_instances l where l.host_id = h.id and l.ended_at is null)
                 from qvd.host_runtimes r join qvd.hosts h on h.id = r.host_id where h.name = $1",
                &[&name],
            )
            .await?;
        row.map(|row| Ok((word(row.get(0))?, row.get(1)))).transpose()
    }

    /// The state of the VM that `login[@tenant]/vm` means.
    pub async fn vm_state(&self, vm: &str) -> Result<VmState, DbError> {
        let client = self.client().await?;
        let row =
            client.query_one("select vm_state::text from qvd.vm_runtimes where vm_id = qvd.vm_id($1)", &[&vm]).await?;
        word(row.get(0))
    }

    /// Tells every VM to stop that can be told.
    pub async fn stop_vms(&self) -> Result<(), DbError> {
        self.execute(
            "select qvd.vm_stop(vm_id) from qvd.vm_runtimes
             where vm_state in ('starting', 'running', 'debugging') or vm_cmd = 'start'",
        )
        .await
    }

    /// Blocks a node or takes it into use again.
    pub async fn host_block(&self, host: &str, blocked: bool) -> Result<(), DbError> {
        self.client().await?.execute("select qvd.host_block($1, $2)", &[&host, &blocked]).await?;
        Ok(())
    }

    /// Frees the VMs of a node that is off. Returns those that were up.
    pub async fn host_release(&self, host: &str) -> Result<Vec<i32>, DbError> {
        Ok(self.client().await?.query_one("select qvd.host_release($1)", &[&host]).await?.get(0))
    }

    /// Tells a node to stop, with all its VMs.
    pub async fn host_stop(&self, host: &str) -> Result<(), DbError> {
        self.client().await?.execute("select qvd.host_stop($1)", &[&host]).await?;
        Ok(())
    }

    /// The state of a node by its name.
    pub async fn host_state(&self, host: &str) -> Result<HostState, DbError> {
        let client = self.client().await?;
        let row = client
            .query_one(
                "select r.state::text from qvd.host_runtimes r join qvd.hosts h on h.id = r.host_id where h.name = $1",
                &[&host],
            )
            .await?;
        word(row.get(0))
    }

    /// Lets the present run of a VM expire; times as PostgreSQL reads them, or an interval from now behind a `+`. Returns
    /// both as they were understood.
    pub async fn vm_expire(
        &self,
        vm: &str,
        soft: Option<&str>,
        hard: Option<&str>,
    ) -> Result<(Option<String>, Option<String>), DbError> {
        let client = self.client().await?;
        let row = client
            .query_one(
                "with given as (
                     select case when soft like '+%' then now() + substr(soft, 2)::interval else soft::timestamptz end as soft,
                         case when hard like '+%' then now() + substr(hard, 2)::interval else hard::timestamptz end as hard
                     from (values ($2::text, $3::text)) v (soft, hard))
                 select date_trunc('second', soft)::text, date_trunc('second', hard)::text, qvd.vm_expire($1::text, soft, hard)
                 from given",
                &[&vm, &soft, &hard],
            )
            .await?;
        Ok((row.get(0), row.get(1)))
    }

    /// Why a VM is in the state it is in, in words and as facts.
    pub async fn vm_why(&self, vm: &str) -> Result<(String, Value), DbError> {
        let client = self.client().await?;
        let row =
            client.query_one("select qvd.vm_why(id), qvd.vm_why_facts(id)::text from qvd.vm_id($1) id", &[&vm]).await?;
        let facts = serde_json::from_str(row.get(1)).map_err(|error| DbError::Shape(error.to_string()))?;
        Ok((row.get(0), facts))
    }

    /// Who uses a node.
    pub async fn host_use(&self, host: &str) -> Result<HostUse, DbError> {
        let client = self.client().await?;
        let row = client
            .query_one(
                "select (select count(*) from qvd.user_sessions s where s.l7r_host_id = h.id and s.ended_at is null),
                     (select count(*) from qvd.vm_runtimes r where r.host_id = h.id)
                 from qvd.hosts h where h.name = $1",
                &[&host],
            )
            .await?;
        Ok(HostUse { sessions: row.get(0), vms: row.get(1) })
    }

    /// Stores what a user's one-time passwords are made from (base32), or forgets it.
    pub async fn user_totp(&self, user: &str, secret: Option<&str>) -> Result<TotpSettings, DbError> {
        let client = self.client().await?;
        let row = client
            .query_one(
                "select account, had_one, required, digits, period, t0 from qvd.user_totp($1, $2)",
                &[&user, &secret],
            )
            .await?;
        let number = |at: usize| u32::try_from(row.get::<_, i64>(at)).unwrap_or_default();
        Ok(TotpSettings {
            user: row.get(0),
            had_one: row.get(1),
            required: row.get(2),
            digits: number(3),
            interval: number(4),
            t0: number(5),
        })
    }

    /// How many VMs are not stopped, or will not stay so.
    pub async fn vms_up(&self) -> Result<i64, DbError> {
        let client = self.client().await?;
        let row = client
            .query_one("select count(*) from qvd.vm_runtimes where vm_state <> 'stopped' or vm_cmd is not null", &[])
            .await?;
        Ok(row.get(0))
    }

    /// Runs statements for their effect.
    pub async fn execute(&self, statements: &str) -> Result<(), DbError> {
        Ok(self.client().await?.batch_execute(statements).await?)
    }

    /// The first column of the first row as text; `None` when there is no row or it is null.
    pub async fn value(&self, query: &str) -> Result<Option<String>, DbError> {
        let client = self.client().await?;
        let messages = client.simple_query(query).await?;
        Ok(messages.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        }))
    }
}

fn shown(value: Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    }
}
