//! What hkd asks of the database about disk images (`sql/functions/56_imports.sql`).

use std::time::{Duration, UNIX_EPOCH};

use crate::model::{DiId, Epoch, HostId};

use super::{Database, DbError};

/// What a node has to do about images now.
#[derive(Debug, Default)]
pub struct ImageWork {
    /// It shall list the staging directory.
    pub list: bool,
    /// Files of deleted images, to be removed.
    pub leftovers: Vec<String>,
    /// An image that is this node's to make.
    pub import: Option<ImportOrder>,
}

/// An image to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportOrder {
    /// The image version.
    pub di: DiId,
    /// File name in the staging directory.
    pub source: String,
    /// File name among the images.
    pub target: String,
    /// The file shall not stay in the staging directory.
    pub moves: bool,
}

/// A file in the staging directory, as it is reported.
#[derive(Clone, Debug)]
pub struct StagedFile {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// When it was written last.
    pub modified: std::time::SystemTime,
    /// What it is.
    pub kind: String,
}

/// What becomes of an image that is in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageFate {
    /// VMs can start from it.
    Ready,
    /// It was deleted while it was made.
    Deleted,
    /// Another node makes it by now, since this one was thought to be gone.
    AnothersToMake,
}

impl Database {
    /// What there is to do. The staging directory is listed when nobody did so for `patience`; an image is given only to a
    /// node that makes none, together with the claim on it.
    pub async fn node_images(
        &self,
        host: HostId,
        epoch: Epoch,
        patience: Duration,
        idle: bool,
    ) -> Result<ImageWork, DbError> {
        let connection = self.connection().await?;
        let statement = connection
            .prepare_cached("select list, leftovers, di, source, path, move from node_images($1, $2, $3, $4)")
            .await?;
        let row = connection.query_one(&statement, &[&host.0, &epoch, &patience.as_secs_f64(), &idle]).await?;
        let import = row.get::<_, Option<i32>>(2).map(|di| ImportOrder {
            di: DiId(di),
            source: row.get(3),
            target: row.get(4),
            moves: row.get(5),
        });
        Ok(ImageWork { list: row.get(0), leftovers: row.get(1), import })
    }

    /// Says what lies in the staging directory, or why that cannot be said.
    pub async fn node_staging(
        &self,
        host: HostId,
        epoch: Epoch,
        files: &[StagedFile],
        problem: Option<&str>,
    ) -> Result<(), DbError> {
        let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
        let sizes: Vec<i64> = files.iter().map(|file| file.size.cast_signed()).collect();
        let since_1970 = |file: &StagedFile| file.modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let modified: Vec<f64> = files.iter().map(since_1970).collect();
        let kinds: Vec<&str> = files.iter().map(|file| file.kind.as_str()).collect();
        let connection = self.connection().await?;
        let statement = connection.prepare_cached("select node_staging($1, $2, $3, $4, $5, $6, $7)").await?;
        connection.execute(&statement, &[&host.0, &epoch, &names, &sizes, &modified, &kinds, &problem]).await?;
        Ok(())
    }

    /// Says how far an image is, in percent of being copied or, with `verifying`, of being checked. `false`: it is not this
    /// node's any more.
    pub async fn node_di_progress(
        &self,
        host: HostId,
        epoch: Epoch,
        di: DiId,
        verifying: bool,
        percent: f32,
    ) -> Result<bool, DbError> {
        let phase = if verifying { "verifying" } else { "uploading" };
        let connection = self.connection().await?;
        let statement =
            connection.prepare_cached("select node_di_progress($1, $2, $3, $4::text::di_state, $5)").await?;
        Ok(connection.query_one(&statement, &[&host.0, &epoch, &di.0, &phase, &percent]).await?.get(0))
    }

    /// An image is in its place.
    pub async fn node_di_ready(
        &self,
        host: HostId,
        epoch: Epoch,
        di: DiId,
        sha256: &str,
        size: u64,
        warnings: Option<&str>,
    ) -> Result<ImageFate, DbError> {
        let connection = self.connection().await?;
        let row = connection
            .query_one(
                "select node_di_ready($1, $2, $3, $4, $5, $6)",
                &[&host.0, &epoch, &di.0, &sha256, &size.cast_signed(), &warnings],
            )
            .await?;
        Ok(match row.get(0) {
            Some(true) => ImageFate::Ready,
            Some(false) => ImageFate::Deleted,
            None => ImageFate::AnothersToMake,
        })
    }

    /// No image can be made of it. `false`: nobody wants it any more.
    pub async fn node_di_failed(&self, host: HostId, epoch: Epoch, di: DiId, why: &str) -> Result<bool, DbError> {
        let connection = self.connection().await?;
        let row =
            connection.query_one("select node_di_failed($1, $2, $3, $4)", &[&host.0, &epoch, &di.0, &why]).await?;
        Ok(row.get(0))
    }

    /// The file of a deleted image is gone.
    pub async fn node_di_removed(&self, host: HostId, epoch: Epoch, path: &str) -> Result<(), DbError> {
        let connection = self.connection().await?;
        connection.execute("select node_di_removed($1, $2, $3)", &[&host.0, &epoch, &path]).await?;
        Ok(())
    }

    /// The paths of all images.
    pub async fn node_di_paths(&self, host: HostId, epoch: Epoch) -> Result<Vec<String>, DbError> {
        let connection = self.connection().await?;
        Ok(connection.query_one("select node_di_paths($1, $2)", &[&host.0, &epoch]).await?.get(0))
    }
}
