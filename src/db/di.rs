//! What administration asks of the database about disk images (`sql/functions/36_images.sql`). An image is named by its id, or
//! as `osf[@tenant]/version` or `osf[@tenant]/tag`.

use serde_json::Value;
use tokio_postgres::Row;

use super::{Acting, Connector, DbError, Table};

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

/// An image as its page shows it. What the administrator may not see is empty.
#[derive(Clone, Debug)]
pub struct ImageView {
    /// Its id.
    pub id: i32,
    /// Its file.
    pub path: String,
    /// Its version, which is a tag that stays.
    pub version: Option<String>,
    /// Its OSF.
    pub osf_id: Option<i32>,
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
    /// Seconds from its publication until users of other images are told to log out, and until their VMs are stopped.
    pub expirations: [Option<f64>; 2],
}

impl ImageView {
    const QUERY: &str = "select id, path, version, osf_id, state::text, percentage, message, coalesce(tags, '{}'),
        coalesce(blocked, false), extract(epoch from expiration_time_soft)::float8,
        extract(epoch from expiration_time_hard)::float8 from qvd.di_list where";

    fn read(row: &Row) -> Self {
        Self {
            id: row.get(0),
            path: row.get(1),
            version: row.get(2),
            osf_id: row.get(3),
            state: row.get(4),
            percent: row.get(5),
            message: row.get(6),
            tags: row.get(7),
            blocked: row.get(8),
            expirations: [row.get(9), row.get(10)],
        }
    }

    /// Whether a node still works on it.
    #[must_use]
    pub fn is_on_its_way(&self) -> bool {
        !matches!(self.state.as_str(), "ready" | "published" | "fail" | "retired")
    }
}

/// A VM that is up with another image than it would start from next.
#[derive(Clone, Debug)]
pub struct AffectedVm {
    /// Which.
    pub id: i32,
    /// Its full name.
    pub name: String,
    /// Its state.
    pub state: Option<String>,
    /// That of its user's session.
    pub user_state: Option<String>,
    /// Where it runs.
    pub host: Option<String>,
    /// Of the image that it has.
    pub version: Option<String>,
    /// When its user is told to log out, and when it is stopped.
    pub expirations: [Option<String>; 2],
}

impl Acting {
    /// An image; `None`: there is none for him.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn image(&self, di: i32) -> Result<Option<ImageView>, DbError> {
        let query = format!("{} id = $1", ImageView::QUERY);
        Ok(self.client().query_opt(&query, &[&di]).await?.as_ref().map(ImageView::read))
    }

    /// The versions of an OSF, the newest first.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn images_of(&self, osf: i32) -> Result<Vec<ImageView>, DbError> {
        let query = format!("{} osf_id = $1 order by id desc", ImageView::QUERY);
        Ok(self.client().query(&query, &[&osf]).await?.iter().map(ImageView::read).collect())
    }

    /// Has a node make an image of a file in the staging directory. Returns its id.
    ///
    /// # Errors
    /// The database says why it refuses.
    pub async fn di_import(&self, new: &NewImage) -> Result<i32, DbError> {
        let call = "select qvd.di_import($1, $2, $3, $4, $5, $6, $7::text::interval, $8::text::interval)";
        let row = self
            .client()
            .query_one(
                call,
                &[&new.osf, &new.file, &new.version, &new.moves, &new.tags, &new.publish, &new.soft, &new.hard],
            )
            .await?;
        Ok(row.get(0))
    }

    /// Makes an image that failed once more.
    ///
    /// # Errors
    /// The database says why it refuses.
    pub async fn di_retry(&self, di: i32) -> Result<(), DbError> {
        self.client().query_one("select qvd.di_retry($1::integer::text)", &[&di]).await?;
        Ok(())
    }

    /// Gives an image a tag, or takes it away.
    ///
    /// # Errors
    /// The database says why it refuses.
    pub async fn di_mark(&self, di: i32, tag: &str, give: bool) -> Result<(), DbError> {
        let call = if give { "qvd.di_tag" } else { "qvd.di_untag" };
        self.client().query_one(&format!("select {call}($1::integer::text, $2)"), &[&di, &tag]).await?;
        Ok(())
    }

    /// The VMs that are up with another image than this, which they would start from next once it is published.
    ///
    /// # Errors
    /// The database says why it refuses.
    pub async fn di_affected(&self, di: i32) -> Result<Vec<AffectedVm>, DbError> {
        let query = "select vm_id, name, state::text, user_state::text, host, version,
            to_char(expiration_soft at time zone 'utc', 'YYYY-MM-DD HH24:MI'),
            to_char(expiration_hard at time zone 'utc', 'YYYY-MM-DD HH24:MI') from qvd.di_affected($1::integer::text)";
        let vm = |row: &Row| AffectedVm {
            id: row.get(0),
            name: row.get(1),
            state: row.get(2),
            user_state: row.get(3),
            host: row.get(4),
            version: row.get(5),
            expirations: [row.get(6), row.get(7)],
        };
        Ok(self.client().query(query, &[&di]).await?.iter().map(vm).collect())
    }

    /// Publishes an image and has those VMs expire at these times, as PostgreSQL reads them.
    ///
    /// # Errors
    /// The database says why it refuses.
    pub async fn di_rollout(&self, di: i32, soft: Option<&str>, hard: Option<&str>) -> Result<(), DbError> {
        let call = "select qvd.di_rollout($1::integer::text, $2::text::timestamptz, $3::text::timestamptz)";
        self.client().query_one(call, &[&di, &soft, &hard]).await?;
        Ok(())
    }

    /// Has the staging directories listed anew.
    ///
    /// # Errors
    /// The database says why it refuses.
    pub async fn staging_refresh(&self) -> Result<(), DbError> {
        self.client().query_one("select qvd.staging_refresh()", &[]).await?;
        Ok(())
    }

    /// Tells the log what is done with a file in the staging directory.
    ///
    /// # Errors
    /// He may not make images, or the database cannot be reached.
    pub async fn staging_log(&self, action: &str, file: &str, arguments: &Value) -> Result<(), DbError> {
        self.client().query_one("select qvd.staging_log($1, $2, $3)", &[&action, &file, arguments]).await?;
        Ok(())
    }

    /// The files in the staging directories, and what cannot be read.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn staged(&self) -> Result<Vec<StagedView>, DbError> {
        let query = "select file, size, kind, to_char(modified at time zone 'utc', 'YYYY-MM-DD HH24:MI'), problem,
            array_to_string(hosts, ', ') from qvd.staging_list";
        let file = |row: &Row| StagedView {
            file: row.get(0),
            size: row.get(1),
            kind: row.get(2),
            modified: row.get(3),
            problem: row.get(4),
            hosts: row.get::<_, Option<String>>(5).unwrap_or_default(),
        };
        Ok(self.client().query(query, &[]).await?.iter().map(file).collect())
    }
}

/// A file in a staging directory, or why it cannot be read.
#[derive(Clone, Debug)]
pub struct StagedView {
    /// Its name.
    pub file: Option<String>,
    /// Bytes.
    pub size: Option<i64>,
    /// What its first bytes say.
    pub kind: Option<String>,
    /// When it was written last, in UTC.
    pub modified: Option<String>,
    /// Why the directory cannot be read.
    pub problem: Option<String>,
    /// The nodes that have it.
    pub hosts: String,
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
