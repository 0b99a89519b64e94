//! What the authenticators ask of the database (`sql/functions/65_auth.sql`).

use crate::model::{TenantId, UserId, VmId};

use super::{Database, DbError, ListedVm, node::word};

/// A tenant that has users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// The tenant.
    pub tenant: TenantId,
    /// An administrator took it out of service.
    pub blocked: bool,
}

/// Whom a token stands for.
#[derive(Clone, Debug)]
pub struct TokenOwner {
    /// The user.
    pub user: UserId,
    /// The user's tenant.
    pub tenant: TenantId,
    /// The login as stored.
    pub login: String,
    /// The user or the tenant is blocked.
    pub blocked: bool,
    /// The VM that the token was made for.
    pub vm: Option<VmId>,
    /// It may be presented again and again.
    pub multi_use: bool,
    /// What was learned about the user when the token was made, for the agent.
    pub parameters: Vec<(String, String)>,
}

/// The VM that every user shall have.
#[derive(Clone, Debug)]
pub struct AutoVm {
    /// Its OSF.
    pub osf: i32,
    /// Tag of its disk image.
    pub tag: String,
    /// How many names are tried for it.
    pub names: i32,
}

impl Database {
    /// The tenant of this name, normalised.
    pub async fn l7r_tenant(&self, name: &str) -> Result<Option<Tenant>, DbError> {
        let connection = self.connection().await?;
        let statement = connection.prepare_cached("select id, blocked from l7r_tenant($1)").await?;
        let row = connection.query_one(&statement, &[&name]).await?;
        let id: Option<i32> = row.get(0);
        Ok(id.map(|id| Tenant { tenant: TenantId(id), blocked: row.get(1) }))
    }

    /// Presents a token; `None` when there is no such token or its time is over. A token for a single use is used up.
    pub async fn l7r_token_use(&self, token: &str) -> Result<Option<TokenOwner>, DbError> {
        let connection = self.connection().await?;
        let statement = connection
            .prepare_cached(
                "select user_id, tenant_id, login, blocked, vm_id, multi_use, parameters from l7r_token_use($1)",
            )
            .await?;
        let row = connection.query_one(&statement, &[&token]).await?;
        let user: Option<i32> = row.get(0);
        Ok(user.map(|user| TokenOwner {
            user: UserId(user),
            tenant: TenantId(row.get(1)),
            login: row.get(2),
            blocked: row.get(3),
            vm: row.get::<_, Option<i32>>(4).map(VmId),
            multi_use: row.get(5),
            parameters: parameters(row.get(6)),
        }))
    }

    /// Sees to it that the user exists and has the VM that every user shall have.
    pub async fn l7r_auto(&self, login: &str, tenant: TenantId, vm: &AutoVm) -> Result<(), DbError> {
        let connection = self.connection().await?;
        let statement = connection.prepare_cached("select l7r_auto($1, $2, $3, $4, $5)").await?;
        connection.execute(&statement, &[&login, &tenant.0, &vm.osf, &vm.tag, &vm.names]).await?;
        Ok(())
    }

    /// Some VM of a pool user that nobody has and that opens files with this extension.
    pub async fn l7r_pool_find(&self, owner: UserId, extension: &str) -> Result<Option<ListedVm>, DbError> {
        let connection = self.connection().await?;
        let statement = connection
            .prepare_cached("select id, name, state::text, blocked, is_application from l7r_pool_find($1, $2)")
            .await?;
        let row = connection.query_opt(&statement, &[&owner.0, &extension]).await?;
        row.map(|row| {
            Ok(ListedVm {
                vm: VmId(row.get(0)),
                name: row.get(1),
                state: word(row.get(2))?,
                blocked: row.get(3),
                is_application: row.get(4),
            })
        })
        .transpose()
    }

    /// Lends a VM of a pool user to somebody, unless another has it.
    pub async fn l7r_pool_take(&self, vm: VmId, owner: UserId, user: UserId) -> Result<bool, DbError> {
        let connection = self.connection().await?;
        let statement = connection.prepare_cached("select l7r_pool_take($1, $2, $3)").await?;
        Ok(connection.query_one(&statement, &[&vm.0, &owner.0, &user.0]).await?.get(0))
    }

    /// Whether a VM of a pool user is lent to somebody.
    pub async fn l7r_pool_has(&self, vm: VmId, owner: UserId, user: UserId) -> Result<bool, DbError> {
        let connection = self.connection().await?;
        let statement = connection.prepare_cached("select l7r_pool_has($1, $2, $3)").await?;
        Ok(connection.query_one(&statement, &[&vm.0, &owner.0, &user.0]).await?.get(0))
    }

    /// What the one-time passwords of a user are made from, in base32.
    pub async fn l7r_totp_secret(&self, login: &str, tenant: TenantId) -> Result<Option<(UserId, String)>, DbError> {
        let connection = self.connection().await?;
        let statement = connection.prepare_cached("select user_id, secret from l7r_totp_secret($1, $2)").await?;
        let row = connection.query_one(&statement, &[&login, &tenant.0]).await?;
        let user: Option<i32> = row.get(0);
        Ok(user.map(|user| (UserId(user), row.get(1))))
    }

    /// Uses up the one-time password of the interval that began then (seconds since 1970); false when it, or a later
    /// one, was used before.
    pub async fn l7r_totp_use(&self, user: UserId, began: i64) -> Result<bool, DbError> {
        let connection = self.connection().await?;
        let statement = connection.prepare_cached("select l7r_totp_use($1, $2)").await?;
        Ok(connection.query_one(&statement, &[&user.0, &began]).await?.get(0))
    }
}

/// Values are texts for the agent, whatever type they were stored with.
fn parameters(stored: Option<serde_json::Value>) -> Vec<(String, String)> {
    let Some(serde_json::Value::Object(stored)) = stored else { return Vec::new() };
    let text = |value: serde_json::Value| match value {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    };
    stored.into_iter().map(|(key, value)| (key, text(value))).collect()
}
