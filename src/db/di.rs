//! What administration asks of the database about disk images (`sql/functions/36_images.sql`). An image is named by its id, or
//! as `osf[@tenant]/version` or `osf[@tenant]/tag`.

use super::{Connector, DbError, Table};

/// What is to become a version of an OSF.
#[derive(Clone, Debug, Default)]
pub struct NewImage {
    /// The OSF, as `name[@tenant]`.
    pub osf: String,
    /// File name in the staging directory.
    pub file: String,
    /// `None`: the first of today that is free.
    pub version: Option<String>,
    /// The file shall not stay in the staging directory.
    pub moves: bool,
    /// Tags beside the version and `head`.
    pub tags: Vec<String>,
    /// VMs start from it as soon as it is ready.
    pub publish: bool,
    /// When users of other images are told to log out, as PostgreSQL reads intervals, from its publication.
    pub soft: Option<String>,
    /// When those VMs are stopped, likewise.
    pub hard: Option<String>,
}

/// How an image stands.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageStanding {
    /// Its id.
    pub di: i32,
    /// Its version.
    pub version: String,
    /// Its state.
    pub state: String,
    /// Of being copied or checked.
    pub percent: f32,
    /// Why there is none, or what may surprise.
    pub message: Option<String>,
    /// What it is known by.
    pub tags: Vec<String>,
    /// It does not start VMs.
    pub blocked: bool,
}

impl ImageStanding {
    /// Whether a node still works on it.
    pub fn is_on_its_way(&self) -> bool {
        !matches!(self.state.as_str(), "ready" | "published" | "fail" | "retired")
    }
}

impl Connector {
    /// Has a node make an image of a file in the staging directory. Returns its id.
    pub async fn di_import(&self, new: &NewImage) -> Result<i32, DbError> {
        let client = self.client().await?;
        let row = client
            .query_one(
                "select qvd.di_import($1, $2, $3, $4, $5, $6, $7::text::interval, $8::text::interval)",
                &[&new.osf, &new.file, &new.version, &new.moves, &new.tags, &new.publish, &new.soft, &new.hard],
            )
            .await?;
        Ok(row.get(0))
    }

    /// How an image stands; `None`: it was deleted.
    pub async fn di_standing(&self, di: i32) -> Result<Option<ImageStanding>, DbError> {
        let client = self.client().await?;
        let row = client
            .query_opt(
                "select id, version, state::text, percentage, message, coalesce(tags, '{}'), blocked from qvd.di_list where id = $1",
                &[&di],
            )
            .await?;
        Ok(row.map(|row| ImageStanding {
            di: row.get(0),
            version: row.get(1),
            state: row.get(2),
            percent: row.get(3),
            message: row.get(4),
            tags: row.get(5),
            blocked: row.get(6),
        }))
    }

    /// Lets VMs start from an image that is ready.
    pub async fn di_publish(&self, di: &str) -> Result<i32, DbError> {
        Ok(self.client().await?.query_one("select qvd.di_publish($1)", &[&di]).await?.get(0))
    }

    /// Gives an image a tag.
    pub async fn di_tag(&self, di: &str, tag: &str) -> Result<i32, DbError> {
        Ok(self.client().await?.query_one("select qvd.di_tag($1, $2)", &[&di, &tag]).await?.get(0))
    }

    /// Takes a tag away.
    pub async fn di_untag(&self, di: &str, tag: &str) -> Result<i32, DbError> {
        Ok(self.client().await?.query_one("select qvd.di_untag($1, $2)", &[&di, &tag]).await?.get(0))
    }

    /// Keeps VMs from starting from an image, or lets them again.
    pub async fn di_block(&self, di: &str, blocked: bool) -> Result<i32, DbError> {
        Ok(self.client().await?.query_one("select qvd.di_block($1, $2)", &[&di, &blocked]).await?.get(0))
    }

    /// Deletes an image with its file. Returns the id that it had.
    pub async fn di_delete(&self, di: &str) -> Result<i32, DbError> {
        Ok(self.client().await?.query_one("select qvd.di_delete($1)", &[&di]).await?.get(0))
    }

    /// Has the staging directories listed anew.
    pub async fn staging_refresh(&self) -> Result<(), DbError> {
        self.execute("select qvd.staging_refresh()").await
    }

    /// Whether every staging directory was listed since it was last asked for.
    pub async fn staging_is_fresh(&self) -> Result<bool, DbError> {
        let query = "select not exists (select from qvd.storage_reports where reported_at = '-infinity')";
        Ok(self.client().await?.query_one(query, &[]).await?.get(0))
    }

    /// What lies in the staging directories, as far as nodes have said.
    pub async fn staging(&self) -> Result<Table, DbError> {
        self.table("staging_list").await
    }
}
