//! Administration over one connection: on behalf of the role that is logged in, or, in the web tool, of an administrator
//! and within a transaction. Everything is decided and written to the log by SQL functions.

use std::{fmt, net::IpAddr};

use serde_json::Value;
use tokio_postgres::{Client, types::ToSql};

use crate::model::{VmCommand, VmState};

use super::{Connector, Database, DbError, error::advised, lease::Lease, node::word};

/// SQLSTATE of what went well.
const DONE: &str = "00000";

/// Somebody who administers.
pub struct Acting {
    connection: Connection,
}

enum Connection {
    Own(Client),
    /// In a transaction, which ends with this unless it is finished.
    Pooled(Lease),
}

/// What became of one object.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Which.
    pub id: i32,
    /// What it is called, as far as that was known.
    pub name: Option<String>,
    /// Why nothing was done; `None`: it was.
    pub refused: Option<Refused>,
}

/// Where a VM is on the way to where it was told to be.
#[derive(Clone, Debug)]
pub struct VmStanding {
    /// Which.
    pub id: i32,
    /// Its state.
    pub state: VmState,
    /// What it was told and has not begun.
    pub command: Option<VmCommand>,
    /// Why it is in that state, if there is something to say.
    pub reason: Option<String>,
}

/// Why something was not done.
#[derive(Clone, Debug)]
pub struct Refused {
    /// SQLSTATE.
    pub code: String,
    /// A sentence.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&advised(&self.message, self.hint.as_deref()))
    }
}

impl Connector {
    /// Acts as the role that is logged in.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn acting(&self) -> Result<Acting, DbError> {
        Ok(Acting { connection: Connection::Own(self.client().await?) })
    }
}

impl Database {
    /// Acts as an administrator, who asks from an address by means of `source`. What is done counts when it is finished.
    ///
    /// # Errors
    /// The database cannot be reached, the role may not do so, or there is no such administrator.
    pub async fn acting_as(&self, administrator: i32, address: IpAddr, source: &str) -> Result<Acting, DbError> {
        self.transaction_as("begin", administrator, address, source).await
    }

    /// Looks as an administrator: at one moment, whatever is changed while he looks, and at nothing that looking changes.
    ///
    /// # Errors
    /// The same.
    pub async fn looking_as(&self, administrator: i32, address: IpAddr, source: &str) -> Result<Acting, DbError> {
        let begin = "begin isolation level repeatable read read only";
        self.transaction_as(begin, administrator, address, source).await
    }

    async fn transaction_as(
        &self,
        begin: &str,
        administrator: i32,
        address: IpAddr,
        source: &str,
    ) -> Result<Acting, DbError> {
        let acting = Acting { connection: Connection::Pooled(self.connection().await?) };
        acting.client().batch_execute(begin).await?;
        acting.client().query("select qvd.act_as($1, $2, $3)", &[&administrator, &address, &source]).await?;
        Ok(acting)
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        if let Connection::Pooled(lease) = &self.connection {
            lease.undone();
        }
    }
}

impl Acting {
    pub(super) fn client(&self) -> &Client {
        match &self.connection {
            Connection::Own(client) => client,
            Connection::Pooled(lease) => lease.taken(),
        }
    }

    /// Makes what was done count.
    ///
    /// # Errors
    /// The database refuses, or is lost: then it may count or not.
    pub async fn finish(self) -> Result<(), DbError> {
        if let Connection::Pooled(lease) = &self.connection {
            lease.taken().batch_execute("commit").await?;
            lease.returned();
        }
        Ok(())
    }

    /// Makes an object. Returns its id.
    ///
    /// # Errors
    /// The database says why it refuses.
    pub async fn create(&self, kind: &str, fields: &Value) -> Result<i32, DbError> {
        Ok(self.client().query_one("select qvd.object_create($1, $2)", &[&kind, fields]).await?.get(0))
    }

    /// Changes objects, deletes them, or does with them what `verb` says; each for itself, in the order of the ids.
    ///
    /// # Errors
    /// There is no such verb for them, or the database cannot do it for any.
    pub async fn act(&self, kind: &str, verb: &str, ids: &[i32], arguments: &Value) -> Result<Vec<Outcome>, DbError> {
        let blocked = verb == "block";
        let (call, parameters): (&str, &[&(dyn ToSql + Sync)]) = match (kind, verb) {
            (_, "set") => ("qvd.objects_update($1, $2, $3)", &[&kind, &ids, arguments]),
            (_, "del") => ("qvd.objects_delete($1, $2)", &[&kind, &ids]),
            ("vm", "start") => ("qvd.vms_start($1)", &[&ids]),
            ("vm", "stop") => ("qvd.vms_stop($1)", &[&ids]),
            ("vm", "disconnect") => ("qvd.vms_disconnect($1)", &[&ids]),
            ("vm", "block" | "unblock") => ("qvd.vms_block($1, $2)", &[&ids, &blocked]),
            ("user", "block" | "unblock") => ("qvd.users_block($1, $2)", &[&ids, &blocked]),
            ("host", "block" | "unblock") => ("qvd.hosts_block($1, $2)", &[&ids, &blocked]),
            ("di", "block" | "unblock") => ("qvd.dis_block($1, $2)", &[&ids, &blocked]),
            ("tenant", "block" | "unblock") => ("qvd.tenants_block($1, $2)", &[&ids, &blocked]),
            // All of them or none.
            ("tenant", "purge") => (
                "unnest($1::integer[]) id, lateral (select null::text as name, '00000' sqlstate, '' message, '' hint
                    from qvd.tenant_purge(id)) p",
                &[&ids],
            ),
            ("di", "publish") => ("qvd.dis_publish($1)", &[&ids]),
            _ => return Err(DbError::Setup(format!("nothing is known of {verb} for {kind}"))),
        };
        let query = format!("select id, name, sqlstate, message, hint from {call} order by id");
        let rows = self.client().query(&query, parameters).await?;
        let outcome = |row: tokio_postgres::Row| Outcome {
            id: row.get(0),
            name: row.get(1),
            refused: Some(row.get::<_, String>(2)).filter(|code| code != DONE).map(|code| Refused {
                code,
                message: row.get::<_, Option<String>>(3).unwrap_or_default(),
                hint: row.get(4),
            }),
        };
        Ok(rows.into_iter().map(outcome).collect())
    }

    /// Whether who acts has a right, asked of the database and not of what is remembered.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn may(&self, acl: &str) -> Result<bool, DbError> {
        Ok(self.client().query_one("select qvd.acl_check($1)", &[&acl]).await?.get(0))
    }

    /// Why a VM is in the state it is in, in words.
    ///
    /// # Errors
    /// There is no such VM, or the database cannot be reached.
    pub async fn vm_why(&self, id: i32) -> Result<String, DbError> {
        Ok(self.client().query_one("select qvd.vm_why($1::integer)", &[&id]).await?.get(0))
    }

    /// Counters, as far as they are for who asks.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn statistics(&self) -> Result<Value, DbError> {
        Ok(self.client().query_one("select qvd.statistics()", &[]).await?.get(0))
    }

    /// How all nodes and their server are, as JSON.
    ///
    /// # Errors
    /// It is not for this administrator, or the database cannot be reached.
    pub async fn cluster_status(&self) -> Result<Value, DbError> {
        Ok(self.client().query_one("select qvd.cluster_status()", &[]).await?.get(0))
    }

    /// How those VMs stand that are still there.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn vm_standings(&self, ids: &[i32]) -> Result<Vec<VmStanding>, DbError> {
        let rows = self
            .client()
            .query(
                "select vm_id, vm_state::text, vm_cmd::text, vm_reason from qvd.vm_runtimes where vm_id = any($1)",
                &[&ids],
            )
            .await?;
        rows.iter()
            .map(|row| {
                let command: Option<&str> = row.get(2);
                let (state, command) = (word(row.get(1))?, command.map(word).transpose()?);
                Ok(VmStanding { id: row.get(0), state, command, reason: row.get(3) })
            })
            .collect()
    }
}

/// Somebody who administers in the web tool.
#[derive(Clone, Debug)]
pub struct Administrator {
    /// Who.
    pub id: i32,
    /// The name.
    pub name: String,
    /// Of which tenant; 0 is above all.
    pub tenant_id: i32,
    /// Its name.
    pub tenant: String,
    /// `en`, `es` or `auto`.
    pub language: String,
    /// Rows on a page.
    pub block: i64,
    /// What he may do, in order.
    pub acls: Vec<String>,
}

impl Administrator {
    /// Whether things of this tenant are his business; those of none are everybody's.
    #[must_use]
    pub fn may_see(&self, tenant: Option<i32>) -> bool {
        self.tenant_id == 0 || tenant.is_none_or(|tenant| tenant == self.tenant_id)
    }

    /// Whether he has a right. What he does is checked again where it is done.
    #[must_use]
    pub fn can(&self, acl: &str) -> bool {
        self.acls.binary_search_by(|known| known.as_str().cmp(acl)).is_ok()
    }
}

/// Who logs in, and what the password is checked against.
#[derive(Clone, Debug)]
pub struct AdminAccount {
    /// Who; what he may do is not known yet.
    pub administrator: Administrator,
    /// The stored hash.
    pub password: String,
}

impl Database {
    /// The account that a name of a tenant means; none when there is none or the tenant is blocked.
    ///
    /// # Errors
    /// The database cannot be reached, or the role may not ask.
    pub async fn wat_account(&self, name: &str, tenant: &str) -> Result<Option<AdminAccount>, DbError> {
        let connection = self.connection().await?;
        let query = "select id, tenant_id, password, language::text, block from qvd.wat_administrator($1, $2)";
        let row = connection.query_one(query, &[&name, &tenant]).await?;
        let (id, password): (Option<i32>, Option<String>) = (row.get(0), row.get(2));
        Ok(id.zip(password).map(|(id, password)| AdminAccount {
            administrator: Administrator {
                id,
                name: name.to_owned(),
                tenant_id: row.get(1),
                tenant: tenant.to_owned(),
                language: row.get(3),
                block: row.get::<_, i32>(4).into(),
                acls: Vec::new(),
            },
            password,
        }))
    }

    /// Replaces the hash of a password by a better one of the same, unless it was changed meanwhile.
    ///
    /// # Errors
    /// The database cannot be reached, or the role may not do so.
    pub async fn wat_password_upgrade(&self, id: i32, old: &str, new: &str) -> Result<(), DbError> {
        self.connection().await?.execute("select qvd.wat_password_upgrade($1, $2, $3)", &[&id, &old, &new]).await
    }

    /// Says in the log that somebody logged in, or did not get in.
    ///
    /// # Errors
    /// The database cannot be reached, or the role may not do so.
    pub async fn wat_login_log(&self, name: &str, tenant: &str, address: IpAddr, entered: bool) -> Result<(), DbError> {
        let connection = self.connection().await?;
        connection.execute("select qvd.wat_login_log($1, $2, $3, $4)", &[&name, &tenant, &address, &entered]).await
    }
}

impl Acting {
    /// What this administrator may do, in order.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn acls(&self, administrator: i32) -> Result<Vec<String>, DbError> {
        let rows = self.client().query("select a from qvd.acls_of($1) a", &[&administrator]).await?;
        let mut acls: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        acls.sort_unstable();
        Ok(acls)
    }
}

/// A configuration key as it stands for everybody or for one tenant.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Its name, in parts with dots between them.
    pub key: String,
    /// What counts.
    pub value: String,
    /// What counts where nobody says anything; none: no program of this version knows the key.
    pub default: Option<String>,
    /// What a value looks like: a word, or the possible ones with `|` between them.
    pub unit: String,
    /// What it is for.
    pub meaning: String,
    /// Programs that run do not notice a change.
    pub needs_restart: bool,
    /// Who says so.
    pub origin: Origin,
}

/// Who gave a setting its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The programs.
    Default,
    /// It was set for all tenants.
    Everybody,
    /// The tenant has its own.
    Tenant,
}

/// A setting that programs read when they start, and that was changed since.
#[derive(Clone, Debug)]
pub struct RestartDue {
    /// Which.
    pub key: String,
    /// When, in UTC.
    pub changed: String,
    /// The nodes whose programs go on with what was before.
    pub nodes: Vec<String>,
}

/// What administrators may change of themselves.
#[derive(Clone, Debug)]
pub struct Profile {
    /// `en`, `es`, `auto` or `default`, which is the tenant's.
    pub language: String,
    /// Rows on a page; 0 is the tenant's.
    pub block: i32,
}

impl Acting {
    /// Every key that who acts may see, in order, for a tenant; without one for his own or, above all tenants, for everybody.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn settings(&self, tenant: Option<i32>) -> Result<Vec<Setting>, DbError> {
        let rows = self
            .client()
            .query(
                r#"select e.key, coalesce(o.value, e.value, ''), e."default", e.unit, e.meaning, e.needs_restart,
                    case when o.key is not null then 'tenant'
                        when not e.is_default then case e.tenant_id when -1 then 'everybody' else 'tenant' end
                        when e.value is distinct from e."default" then 'everybody' else 'default' end
                from qvd.config_list e
                    left join qvd.config_list o on o.key = e.key and o.tenant_id = $1 and not o.is_default
                where e.tenant_id = case when (select qvd.sees_all()) then -1 else qvd.my_tenant() end
                order by string_to_array(e.key, '.') collate "C""#,
                &[&tenant],
            )
            .await?;
        let setting = |row: &tokio_postgres::Row| Setting {
            key: row.get(0),
            value: row.get(1),
            default: row.get(2),
            unit: row.get(3),
            meaning: row.get::<_, Option<String>>(4).unwrap_or_default(),
            needs_restart: row.get(5),
            origin: match row.get(6) {
                "tenant" => Origin::Tenant,
                "everybody" => Origin::Everybody,
                _ => Origin::Default,
            },
        };
        Ok(rows.iter().map(setting).collect())
    }

    /// The settings for everybody that count only when programs of nodes are started again, for who may see both.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn restarts_due(&self) -> Result<Vec<RestartDue>, DbError> {
        let query =
            "select key, to_char(changed at time zone 'UTC', 'YYYY-MM-DD HH24:MI'), nodes from qvd.restarts_due()";
        let rows = self.client().query(query, &[]).await?;
        Ok(rows.iter().map(|row| RestartDue { key: row.get(0), changed: row.get(1), nodes: row.get(2) }).collect())
    }

    /// Sets a key for a tenant; without one for his own or for everybody.
    ///
    /// # Errors
    /// The database says why it refuses.
    pub async fn config_set(&self, key: &str, value: &str, tenant: Option<&str>) -> Result<(), DbError> {
        self.client().query("select qvd.config_set($1, $2, $3)", &[&key, &value, &tenant]).await?;
        Ok(())
    }

    /// Back to what everybody has, or to the default.
    ///
    /// # Errors
    /// The database says why it refuses.
    pub async fn config_reset(&self, key: &str, tenant: Option<&str>) -> Result<(), DbError> {
        self.client().query("select qvd.config_reset($1, $2)", &[&key, &tenant]).await?;
        Ok(())
    }

    /// What the administrator said of himself.
    ///
    /// # Errors
    /// There is no such administrator, or the database cannot be reached.
    pub async fn profile(&self) -> Result<Profile, DbError> {
        let query = "select language::text, block from qvd.administrators where id = qvd.me()";
        let row = self.client().query_one(query, &[]).await?;
        Ok(Profile { language: row.get(0), block: row.get(1) })
    }

    /// Changes fields of the administrator who acts.
    ///
    /// # Errors
    /// The database says why it refuses.
    pub async fn profile_update(&self, changes: &Value) -> Result<(), DbError> {
        self.client().query("select qvd.me_update($1)", &[changes]).await?;
        Ok(())
    }
}

/// An ACL as a role has it.
#[derive(Clone, Debug)]
pub struct RoleAcl {
    /// Which.
    pub name: String,
    /// What the role itself says: that it has it, or that it does not have what it inherits.
    pub own: Option<bool>,
    /// Whether it comes to that.
    pub effective: bool,
    /// The roles it is inherited from.
    pub from: Vec<String>,
}

impl Acting {
    /// What a role comes to, ACL by ACL; nothing if there is no such role for who acts.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn role_acls(&self, role: i32) -> Result<Vec<RoleAcl>, DbError> {
        let rows = self
            .client()
            .query(
                "select l.name, l.own, l.effective, array(
                    select i.name from qvd.role_role_relations m
                        join qvd.roles i on i.id = m.inherited_id
                        join qvd.role_acls e on e.role_id = i.id
                    where m.inheritor_id = l.role_id and e.acl = l.name order by 1)::text[]
                from qvd.acl_list l where l.role_id = $1 order by l.name",
                &[&role],
            )
            .await?;
        let acl = |row: &tokio_postgres::Row| RoleAcl {
            name: row.get(0),
            own: row.get(1),
            effective: row.get(2),
            from: row.get(3),
        };
        Ok(rows.iter().map(acl).collect())
    }

    /// Name, whether it stays as it is, and the names of the roles it inherits.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn role(&self, role: i32) -> Result<Option<(String, bool, Vec<String>)>, DbError> {
        let query = "select name::text, fixed, coalesce(roles, '{}')::text[] from qvd.role_list where id = $1";
        Ok(self.client().query_opt(query, &[&role]).await?.map(|row| (row.get(0), row.get(1), row.get(2))))
    }
}
