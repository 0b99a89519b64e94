//! What is done with one object, named by its id, beside setting its fields; and which one a name means.

use serde_json::Value;

use super::{Acting, DbError, TotpSettings};

/// When the present run of a VM ends, as it was understood.
#[derive(Clone, Debug)]
pub struct Expiration {
    /// From when on its user is asked to log out.
    pub soft: Option<String>,
    /// When it is stopped.
    pub hard: Option<String>,
}

fn missing(kind: &str, id: i32) -> DbError {
    DbError::Refused { code: "QV010".to_owned(), message: format!("there is no {kind} {id}"), hint: None }
}

impl Acting {
    /// The object of that name: `login@tenant/vm`, `login@tenant`, `osf@tenant`, `osf@tenant/version` and so on; the tenant may be
    /// left out where the name has but one meaning.
    ///
    /// # Errors
    /// There is none, or more than one, or the database cannot be reached.
    pub async fn named(&self, kind: &str, name: &str) -> Result<i32, DbError> {
        let query = match kind {
            "vm" => "select qvd.vm_id($1)",
            "user" => "select qvd.user_id($1)",
            "osf" => "select qvd.osf_id($1)",
            "di" => "select qvd.di_id($1)",
            "tenant" => "select qvd.tenant_id($1)",
            "host" => "select (select id from qvd.hosts where name = $1)",
            _ => return Err(DbError::Setup(format!("nothing is known of names of kind {kind}"))),
        };
        let id: Option<i32> = self.client().query_one(query, &[&name]).await?.get(0);
        id.ok_or_else(|| DbError::Refused {
            code: "QV010".to_owned(),
            message: format!("there is no {kind} {name}"),
            hint: None,
        })
    }

    /// Lets the present run of a VM expire; times as PostgreSQL reads them, or an interval from now behind a `+`.
    ///
    /// # Errors
    /// The database says why it refuses.
    pub async fn vm_expire(&self, vm: i32, soft: Option<&str>, hard: Option<&str>) -> Result<Expiration, DbError> {
        let row = self
            .client()
            .query_one(
                "with given as (
                     select case when soft like '+%' then now() + substr(soft, 2)::interval else soft::timestamptz end as soft,
                         case when hard like '+%' then now() + substr(hard, 2)::interval else hard::timestamptz end as hard
                     from (values ($2::text, $3::text)) v (soft, hard))
                 select date_trunc('second', soft)::text, date_trunc('second', hard)::text, qvd.vm_expire($1::integer, soft, hard)
                 from given",
                &[&vm, &soft, &hard],
            )
            .await?;
        Ok(Expiration { soft: row.get(0), hard: row.get(1) })
    }

    /// Why a VM is in the state it is in, as facts.
    ///
    /// # Errors
    /// There is no such VM, or the database cannot be reached.
    pub async fn vm_facts(&self, vm: i32) -> Result<Value, DbError> {
        let facts: Option<Value> = self.client().query_one("select qvd.vm_why_facts($1)", &[&vm]).await?.get(0);
        facts.ok_or_else(|| missing("vm", vm))
    }

    /// Tells a node to stop, with all its VMs.
    ///
    /// # Errors
    /// The database says why it refuses.
    pub async fn host_stop(&self, host: i32) -> Result<(), DbError> {
        let query = "select qvd.host_stop(name) from qvd.hosts where id = $1";
        self.client().query_opt(query, &[&host]).await?.map(drop).ok_or_else(|| missing("host", host))
    }

    /// Frees the VMs of a node that is off. Returns those that were up.
    ///
    /// # Errors
    /// The database says why it refuses.
    pub async fn host_release(&self, host: i32) -> Result<Vec<i32>, DbError> {
        let query = "select qvd.host_release(name) from qvd.hosts where id = $1";
        let row = self.client().query_opt(query, &[&host]).await?;
        Ok(row.ok_or_else(|| missing("host", host))?.get(0))
    }

    /// Stores what a user's one-time passwords are made from (base32), or forgets it.
    ///
    /// # Errors
    /// The database says why it refuses.
    pub async fn user_totp(&self, user: i32, secret: Option<&str>) -> Result<TotpSettings, DbError> {
        let query = "select t.account, t.had_one, t.required, t.digits, t.period, t.t0
             from qvd.users u join qvd.tenants o on o.id = u.tenant_id, qvd.user_totp(u.login || '@' || o.name, $2) t
             where u.id = $1";
        let row = self.client().query_opt(query, &[&user, &secret]).await?.ok_or_else(|| missing("user", user))?;
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

    /// Whether every staging directory was listed since it was last asked for.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn staging_is_fresh(&self) -> Result<bool, DbError> {
        let query = "select not exists (select from qvd.storage_reports where reported_at = '-infinity')";
        Ok(self.client().query_one(query, &[]).await?.get(0))
    }

    /// Keeps others from changing an object until this ends.
    ///
    /// # Errors
    /// There are no such objects, or the database cannot be reached.
    pub async fn hold(&self, kind: &str, id: i32) -> Result<(), DbError> {
        self.client().query("select qvd.object_hold($1, $2)", &[&kind, &id]).await?;
        Ok(())
    }
}
