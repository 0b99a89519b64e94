//! Administration from outside of a node: over the database itself, or over the REST API of the web tool. Whoever asks here does not
//! know over which of them; both come to the same functions of the database, which refuse in the same words.

mod changes;
mod images;
mod lists;
mod single;

use std::path::PathBuf;

use serde_json::Value;
use thiserror::Error;

use crate::db::{Acting, Connector, DbError, ListError, Outcome, Query, Refused, VmStanding};

use super::{
    objects::{self, Object},
    remote::{Client, RemoteError},
    words,
};

pub use changes::Changes;
pub use lists::{Listing, Row};

/// VMs whose ids fit into an address.
const IN_ONE_ADDRESS: usize = 200;

/// Somebody who administers.
pub struct Administration {
    by: By,
}

enum By {
    Database { connector: Connector, acting: Acting },
    Api(Client),
}

/// Why something was not done, or it is not known.
#[derive(Debug, Error)]
pub enum AccessError {
    /// The database refuses, or is lost.
    #[error(transparent)]
    Db(#[from] DbError),
    /// It has no such list.
    #[error(transparent)]
    List(#[from] ListError),
    /// The web tool refuses, or is lost.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// One object was refused.
    #[error("{0}")]
    Refused(Refused),
}

type Answer<T> = Result<T, AccessError>;

impl Administration {
    /// Over the database, as the role that is logged in there.
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn of_database(connector: Connector) -> Answer<Self> {
        let acting = connector.acting().await?;
        Ok(Self { by: By::Database { connector, acting } })
    }

    /// Over a web tool, as an administrator.
    ///
    /// # Errors
    /// It is no address of one, or the file of authorities cannot be used.
    pub fn of_api(url: &str, authorities: Option<PathBuf>, name: &str, password: &str) -> Answer<Self> {
        Ok(Self { by: By::Api(Client::new(url, authorities, name, password)?) })
    }

    /// Makes an object. Returns its id.
    ///
    /// # Errors
    /// It is refused.
    pub async fn create(&self, kind: &str, fields: &Value) -> Answer<i32> {
        Ok(match &self.by {
            By::Database { acting, .. } => acting.create(kind, fields).await?,
            By::Api(client) => client.create(kind, fields).await?,
        })
    }

    /// Changes objects, deletes them, or does with them what `verb` says; each for itself.
    ///
    /// # Errors
    /// It is refused for all.
    pub async fn act(&self, kind: &str, verb: &str, ids: &[i32], arguments: &Value) -> Answer<Vec<Outcome>> {
        Ok(match &self.by {
            By::Database { acting, .. } => acting.act(kind, verb, ids, arguments).await?,
            By::Api(client) => client.act(kind, verb, ids, arguments).await?,
        })
    }

    /// The same with one.
    async fn act_on(&self, kind: &str, verb: &str, id: i32) -> Answer<()> {
        let outcome = self.act(kind, verb, &[id], &Value::Object(serde_json::Map::new())).await?.pop();
        match outcome.and_then(|outcome| outcome.refused) {
            Some(why) => Err(AccessError::Refused(why)),
            None => Ok(()),
        }
    }

    /// How those VMs stand that are still there.
    ///
    /// # Errors
    /// They are not to be seen.
    pub async fn vm_standings(&self, ids: &[i32]) -> Answer<Vec<VmStanding>> {
        let client = match &self.by {
            By::Database { acting, .. } => return Ok(acting.vm_standings(ids).await?),
            By::Api(client) => client,
        };
        let mut standings = Vec::new();
        for ids in ids.chunks(IN_ONE_ADDRESS) {
            let one_of: Vec<_> = ids.iter().map(i32::to_string).collect();
            let query = Query {
                filter: words::filter(&format!("id=[{}]", one_of.join(",")))
                    .map_err(|wrong| unexpected(&wrong.to_string()))?,
                columns: ["id", "state", "command", "reason"].map(str::to_owned).to_vec(),
                order: Vec::new(),
                limit: None,
                offset: 0,
            };
            for vm in client.objects(&objects::VM, &query).await? {
                standings.push(standing(&vm)?);
            }
        }
        Ok(standings)
    }

    /// What happens from now on.
    ///
    /// # Errors
    /// Nobody tells.
    pub async fn changes(&self) -> Answer<Changes> {
        match &self.by {
            By::Database { connector, .. } => Changes::of_database(connector).await,
            By::Api(client) => Ok(Changes::of_api(client.changes().await?)),
        }
    }

    /// Lists of a kind of objects.
    ///
    /// # Errors
    /// There are none.
    pub async fn list<'a>(&'a self, object: &'a Object) -> Answer<Listing<'a>> {
        Ok(match &self.by {
            By::Database { acting, .. } => Listing::of_database(acting.list(object.name).await?, object),
            By::Api(client) => Listing::of_api(client, object),
        })
    }
}

fn standing(vm: &Value) -> Answer<VmStanding> {
    let text = |name: &str| vm[name].as_str();
    let state = text("state").ok_or_else(|| unexpected("the states of VMs are not for this administrator to see"))?;
    let wrong = |_| unexpected(&format!("the web tool tells of a VM what this version does not know: {vm}"));
    Ok(VmStanding {
        id: vm["id"].as_i64().and_then(|id| i32::try_from(id).ok()).unwrap_or_default(),
        state: state.parse().map_err(wrong)?,
        command: text("command").map(str::parse).transpose().map_err(wrong)?,
        reason: text("reason").map(str::to_owned),
    })
}

fn unexpected(what: &str) -> AccessError {
    RemoteError::Shape(what.to_owned()).into()
}
