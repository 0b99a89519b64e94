//! Files that browsers and programs bring to the staging directory, piece by piece, as tus 1.0 does it: one request says what
//! comes, others bring it from the offset where it ended, and it gets its name when it is whole. Needs the directory here.

pub(super) mod part;

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{OriginalUri, Path, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures_util::StreamExt;
use serde_json::json;
use tokio::{sync::mpsc, task::spawn_blocking, time::timeout};

use crate::db::DbError;

use super::{
    api::{Addresses, Operation, text},
    server::Wat,
    visitor::Visitor,
};
use part::{Append, PartError, Progress, Ticket};

pub use part::Staging;

/// Whoever is silent for longer is gone, and another may go on.
pub(super) const SILENCE: Duration = Duration::from_secs(30);
/// Pieces that wait to be written.
pub(super) const AHEAD: usize = 8;
/// Unfinished ones that nobody touched for so long are removed.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// How often they are looked for.
const COLLECTED: Duration = Duration::from_secs(3600);

const OFFSET: HeaderName = HeaderName::from_static("upload-offset");
const LENGTH: HeaderName = HeaderName::from_static("upload-length");
const METADATA: HeaderName = HeaderName::from_static("upload-metadata");
const RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
const PIECE: &str = "application/offset+octet-stream";
/// What tus answers to a wrong checksum.
const CHECKSUM_MISMATCH: u16 = 460;

/// Where they are asked for, and how.
pub fn add(to: &mut Addresses) {
    let (all, one) = ("/staging", "/staging/{id}");
    let bytes = || json!({ "type": "string", "pattern": "^[0-9]{1,18}$" });
    let begun = Operation::post(all, "upload_create", "Begin to bring a file, as tus 1.0 does it")
        .required_header("Upload-Length", "How many bytes will come", bytes())
        .required_header(
            "Upload-Metadata",
            "filename, sha256, overwrite: values in base64, separated by commas",
            text(),
        )
        .says_nothing(201, "Begun")
        .tells(201, "Location", "Where the pieces go");
    to.add(begun, create);
    let standing_there = Operation::head(one, "upload_look", "How much is there").says_nothing(200, "So much");
    to.add(standing_there.tells(200, "Upload-Offset", "Where it goes on"), standing);
    let brought = Operation::patch(one, "upload_bring", "Bring a piece")
        .required_header("Upload-Offset", "Where the piece begins", bytes())
        .takes_as(PIECE, json!({ "type": "string", "format": "binary" }))
        .says_nothing(204, "Taken")
        .tells(204, "Upload-Offset", "Where it goes on")
        .refuses(CHECKSUM_MISMATCH, "It is whole, but not what was said");
    to.add(brought, bring);
    to.add(Operation::delete(one, "upload_delete", "Give one up").says_nothing(204, "Done"), discard);
}

/// Removes what was begun and forgotten, for as long as it is polled.
pub async fn collect(wat: &Arc<Wat>) -> std::convert::Infallible {
    loop {
        let here = wat.clone();
        if let Ok(Err(error)) = spawn_blocking(move || here.staging.collect(KEPT)).await {
            tracing::warn!(%error, "unfinished uploads cannot be looked for");
        }
        tokio::time::sleep(COLLECTED).await;
    }
}

/// Why something is not taken.
pub(super) enum Refusal {
    Part(PartError),
    Database(DbError),
    /// He may not make images.
    Forbidden,
    /// The request says too little, or too much.
    Request(StatusCode, &'static str),
}

impl From<PartError> for Refusal {
    fn from(error: PartError) -> Self {
        Self::Part(error)
    }
}

impl From<DbError> for Refusal {
    fn from(error: DbError) -> Self {
        Self::Database(error)
    }
}

impl Refusal {
    /// What HTTP calls it, and a sentence for people.
    pub(super) fn said(self) -> (StatusCode, String) {
        match self {
            Self::Forbidden => (StatusCode::FORBIDDEN, "you may not do that: it takes the ACL di.create.".to_owned()),
            Self::Request(status, text) => (status, text.to_owned()),
            Self::Database(error) => {
                tracing::error!(%error, "an upload cannot go on");
                (StatusCode::SERVICE_UNAVAILABLE, "The database cannot answer now.".to_owned())
            }
            Self::Part(error) => {
                let status = match &error {
                    PartError::Missing => StatusCode::NOT_FOUND,
                    PartError::Name(_) => StatusCode::UNPROCESSABLE_ENTITY,
                    PartError::Taken(_) | PartError::Offset(_) => StatusCode::CONFLICT,
                    PartError::Busy => StatusCode::LOCKED,
                    PartError::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
                    PartError::Full => StatusCode::INSUFFICIENT_STORAGE,
                    PartError::Checksum { .. } => {
                        StatusCode::from_u16(CHECKSUM_MISMATCH).unwrap_or(StatusCode::UNPROCESSABLE_ENTITY)
                    }
                    PartError::NoStorage(_) => StatusCode::SERVICE_UNAVAILABLE,
                    PartError::Io(_) => {
                        tracing::error!(%error, "an upload cannot be kept");
                        StatusCode::INTERNAL_SERVER_ERROR
                    }
                };
                (status, error.to_string())
            }
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, text) = self.said();
        (status, format!("{text}\n")).into_response()
    }
}

/// Runs what waits for the disk.
pub(super) async fn on_disk<T: Send + 'static>(
    wat: &Arc<Wat>,
    work: impl FnOnce(&Staging) -> Result<T, PartError> + Send + 'static,
) -> Result<T, Refusal> {
    let wat = wat.clone();
    let done = spawn_blocking(move || work(&wat.staging)).await;
    Ok(done.unwrap_or_else(|error| Err(PartError::Io(std::io::Error::other(error))))?)
}

/// Everybody may who may make images.
pub(super) async fn permitted(wat: &Wat, visitor: &Visitor) -> Result<(), Refusal> {
    let acting = wat.database.acting_as(visitor.who.id, visitor.address, "WAT").await?;
    let may = acting.may("di.create.").await?;
    acting.finish().await?;
    if may { Ok(()) } else { Err(Refusal::Forbidden) }
}

/// What is known of an upload of this visitor; those of others are not there.
async fn own(wat: &Arc<Wat>, visitor: &Visitor, id: &str) -> Result<Progress, Refusal> {
    permitted(wat, visitor).await?;
    let id = id.to_owned();
    let progress = on_disk(wat, move |staging| staging.progress(&id)).await?;
    if progress.ticket.administrator == visitor.who.id && progress.ticket.source.is_none() {
        Ok(progress)
    } else {
        Err(PartError::Missing.into())
    }
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

/// What tus says of a file: words with values in base64, separated by commas.
fn metadata(headers: &HeaderMap) -> Option<Vec<(String, String)>> {
    let text = headers.get(METADATA)?.to_str().ok()?;
    text.split(',')
        .map(|pair| {
            let (name, value) = pair.trim().split_once(' ').unwrap_or((pair.trim(), ""));
            let value = String::from_utf8(BASE64_STANDARD.decode(value.trim()).ok()?).ok()?;
            Some((name.to_owned(), value))
        })
        .collect()
}

fn answer(status: StatusCode, offset: u64, length: u64) -> Response {
    let mut response = status.into_response();
    let headers = response.headers_mut();
    headers.insert(OFFSET, offset.into());
    headers.insert(LENGTH, length.into());
    headers.insert(RESUMABLE, HeaderValue::from_static("1.0.0"));
    response
}

/// Begins one; where it goes on is said by `Location`.
async fn create(
    State(wat): State<Arc<Wat>>,
    visitor: Visitor,
    OriginalUri(here): OriginalUri,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    permitted(&wat, &visitor).await?;
    let wrong = |text| Refusal::Request(StatusCode::BAD_REQUEST, text);
    let length = number(&headers, &LENGTH).ok_or(wrong("Upload-Length says how many bytes will come"))?;
    let metadata = metadata(&headers).ok_or(wrong("Upload-Metadata names the file: filename, its value in base64"))?;
    let said = |wanted: &str| metadata.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
    let sha256 = said("sha256").map(|sum| sum.trim().to_ascii_lowercase()).filter(|sum| !sum.is_empty());
    if sha256.as_ref().is_some_and(|sum| sum.len() != 64 || !sum.bytes().all(|byte| byte.is_ascii_hexdigit())) {
        return Err(wrong("sha256 has 64 hexadecimal digits"));
    }
    let ticket = Ticket {
        name: said("filename").unwrap_or_default(),
        length,
        sha256,
        overwrite: said("overwrite").as_deref() == Some("true"),
        administrator: visitor.who.id,
        complete: false,
        source: None,
    };
    let id = on_disk(&wat, move |staging| staging.create(&ticket)).await?;
    let mut response = answer(StatusCode::CREATED, 0, length);
    let location = format!("{}/{id}", here.path().trim_end_matches('/'));
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// How much is there. One that is whole and was not given its name, because the process ended, is given it now.
async fn standing(State(wat): State<Arc<Wat>>, visitor: Visitor, Path(id): Path<String>) -> Result<Response, Refusal> {
    let progress = own(&wat, &visitor, &id).await?;
    let length = progress.ticket.length;
    if progress.offset == length && !progress.ticket.complete {
        let append = on_disk(&wat, move |staging| staging.append(&id, length)).await?;
        finish(&wat, &visitor, append).await?;
    }
    Ok(answer(StatusCode::OK, progress.offset, length))
}

/// Takes a piece. What came before the connection was lost is kept.
async fn bring(
    State(wat): State<Arc<Wat>>,
    visitor: Visitor,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let Progress { ticket, .. } = own(&wat, &visitor, &id).await?;
    if headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind != PIECE) {
        return Err(Refusal::Request(StatusCode::UNSUPPORTED_MEDIA_TYPE, "a piece is application/offset+octet-stream"));
    }
    let wrong = Refusal::Request(StatusCode::BAD_REQUEST, "Upload-Offset says where the piece begins");
    let offset = number(&headers, &OFFSET).ok_or(wrong)?;
    // Before anything is read.
    if number(&headers, &header::CONTENT_LENGTH).is_some_and(|piece| piece > ticket.length.saturating_sub(offset)) {
        return Err(PartError::TooLong.into());
    }
    let append = on_disk(&wat, move |staging| staging.append(&id, offset)).await?;
    let (pieces, arriving) = mpsc::channel(AHEAD);
    let writing = spawn_blocking(move || write(append, arriving));
    let mut body = body.into_data_stream();
    let mut broken = false;
    loop {
        match timeout(SILENCE, body.next()).await {
            Ok(Some(Ok(piece))) => {
                // What went wrong is said by who writes.
                if pieces.send(piece).await.is_err() {
                    break;
                }
            }
            Ok(None) => break,
            Ok(Some(Err(_))) | Err(_) => {
                broken = true;
                break;
            }
        }
    }
    drop(pieces);
    let append = writing.await.unwrap_or_else(|error| Err(PartError::Io(std::io::Error::other(error))))?;
    let offset = append.offset();
    if offset == ticket.length {
        finish(&wat, &visitor, append).await?;
    } else {
        on_disk(&wat, move |staging| staging.pause(append)).await?;
        if broken {
            return Err(Refusal::Request(StatusCode::REQUEST_TIMEOUT, "the rest of the piece did not come"));
        }
    }
    Ok(answer(StatusCode::NO_CONTENT, offset, ticket.length))
}

fn write(mut append: Append, mut arriving: mpsc::Receiver<Bytes>) -> Result<Append, PartError> {
    while let Some(piece) = arriving.blocking_recv() {
        append.write(&piece)?;
    }
    Ok(append)
}

/// Gives it its name, and tells the log and the nodes.
async fn finish(wat: &Arc<Wat>, visitor: &Visitor, mut append: Append) -> Result<(), Refusal> {
    let finished = on_disk(wat, move |staging| staging.finish(&mut append)).await?;
    tracing::info!(administrator = visitor.who.id, file = finished.name, size = finished.size, "uploaded");
    let acting = wat.database.acting_as(visitor.who.id, visitor.address, "WAT").await?;
    let about = json!({ "size": finished.size, "sha256": finished.sha256 });
    acting.staging_log("upload", &finished.name, &about).await?;
    acting.staging_refresh().await?;
    Ok(acting.finish().await?)
}

/// Gives one up.
async fn discard(State(wat): State<Arc<Wat>>, visitor: Visitor, Path(id): Path<String>) -> Result<Response, Refusal> {
    own(&wat, &visitor, &id).await?;
    on_disk(&wat, move |staging| staging.discard(&id)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
