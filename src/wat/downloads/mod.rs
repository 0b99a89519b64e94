//! Files that the web tool takes from elsewhere to the staging directory, kept as uploads are. One that ended early is tried again
//! when its administrator says so, from where it ended if it is still the same. Begin, end and failure are in the log.

mod places;
mod remote;

use std::{net::IpAddr, sync::Arc};

use axum::{
    Json,
    body::Bytes,
    extract::{self, Path},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    task::{JoinError, spawn_blocking},
    time::timeout,
};
use url::Url;

use super::{
    api::{Addresses, Operation, object, text, truth},
    server::Wat,
    uploads::{
        AHEAD, Refusal, SILENCE, on_disk,
        part::{Append, PartError, Progress, Source, Ticket},
        permitted,
    },
    visitor::Visitor,
};
use places::Place;
use remote::{Remote, RemoteError};

pub use places::Places;

/// Where they are asked for, and how.
pub fn add(to: &mut Addresses) {
    let (all, one) = ("/staging/downloads", "/staging/downloads/{id}");
    let (maybe, bytes) = (json!({ "type": ["string", "null"] }), json!({ "type": "integer", "minimum": 0 }));
    let known = object(
        json!({
            "id": text(), "name": text(), "url": maybe, "length": bytes, "offset": bytes,
            "state": { "enum": ["running", "complete", "failed"] }, "problem": maybe,
        }),
        &["id", "name", "state"],
    );
    let listed = Operation::get(all, "download_list", "What was fetched to the staging directory, or is");
    to.add(listed.gives(200, json!({ "type": "array", "items": known })), list);
    let wanted = object(json!({ "url": text(), "name": maybe, "sha256": maybe, "overwrite": truth() }), &["url"]);
    let begun = object(json!({ "id": text(), "name": text(), "length": bytes }), &["id", "name", "length"]);
    let made = Operation::post(all, "download_create", "Fetch a file from an address to the staging directory");
    to.add(made.takes(wanted).gives(202, begun), create);
    let again = Operation::post(one, "download_retry", "Go on with one that failed");
    to.add(again.says_nothing(202, "It goes on"), retry);
    to.add(Operation::delete(one, "download_delete", "Give one up").says_nothing(204, "Done"), discard);
}

/// What is wanted.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    pub url: String,
    /// As in the address unless given.
    pub name: Option<String>,
    pub sha256: Option<String>,
    #[serde(default)]
    pub overwrite: bool,
}

/// One that was begun.
struct Begun {
    id: String,
    name: String,
    length: u64,
}

/// How far one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Running,
    Complete,
    Failed,
}

/// One of somebody's downloads.
pub struct Download {
    pub id: String,
    pub name: String,
    pub url: String,
    pub length: u64,
    pub offset: u64,
    pub state: State,
    /// Why it failed.
    pub problem: Option<String>,
}

/// Why something is not taken.
pub enum Refused {
    Request(Refusal),
    Remote(RemoteError),
    /// As many run as may.
    Busy(usize),
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::Request(refusal)
    }
}

impl From<RemoteError> for Refused {
    fn from(error: RemoteError) -> Self {
        Self::Remote(error)
    }
}

impl Refused {
    /// What HTTP calls it, and a sentence for people.
    pub fn said(self) -> (StatusCode, String) {
        match self {
            Self::Request(refusal) => refusal.said(),
            Self::Remote(error) => (StatusCode::UNPROCESSABLE_ENTITY, error.to_string()),
            Self::Busy(0) => {
                (StatusCode::TOO_MANY_REQUESTS, "no downloads are allowed (wat.download.limit)".to_owned())
            }
            Self::Busy(most) => {
                let text =
                    format!("as many downloads run as may, {most} (wat.download.limit); try again when one has ended");
                (StatusCode::TOO_MANY_REQUESTS, text)
            }
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (status, text) = self.said();
        (status, format!("{text}\n")).into_response()
    }
}

/// In whose name it is taken.
#[derive(Clone, Copy)]
struct Actor {
    administrator: i32,
    address: IpAddr,
}

impl From<&Visitor> for Actor {
    fn from(visitor: &Visitor) -> Self {
        Self { administrator: visitor.who.id, address: visitor.address }
    }
}

fn place(wat: &Wat) -> Result<Place, Refused> {
    wat.downloads.take().ok_or(Refused::Busy(wat.downloads.most()))
}

async fn create(
    extract::State(wat): extract::State<Arc<Wat>>,
    visitor: Visitor,
    Json(wanted): Json<Wanted>,
) -> Result<Response, Refused> {
    let Begun { id, name, length } = begun(&wat, &visitor, wanted).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "id": id, "name": name, "length": length }))).into_response())
}

/// Begins one, for the page.
pub async fn begin(wat: &Arc<Wat>, visitor: &Visitor, wanted: Wanted) -> Result<(), Refused> {
    begun(wat, visitor, wanted).await.map(drop)
}

/// Begins one. It is begun when the server has said what will come.
async fn begun(wat: &Arc<Wat>, visitor: &Visitor, wanted: Wanted) -> Result<Begun, Refused> {
    permitted(wat, visitor).await?;
    let sha256 = wanted.sha256.map(|sum| sum.trim().to_ascii_lowercase()).filter(|sum| !sum.is_empty());
    if sha256.as_ref().is_some_and(|sum| sum.len() != 64 || !sum.bytes().all(|byte| byte.is_ascii_hexdigit())) {
        return Err(Refusal::Request(StatusCode::BAD_REQUEST, "sha256 has 64 hexadecimal digits").into());
    }
    let url = remote::address(&wanted.url)?;
    let last = || url.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or_default().to_owned();
    let name = wanted.name.filter(|name| !name.is_empty()).unwrap_or_else(last);
    let place = place(wat)?;
    let remote = remote::open(&url, 0, None, remote::allowed(wat.private_downloads)).await?;
    let source = Source { url: url.to_string(), validator: remote.validator.clone(), problem: None };
    let ticket = Ticket {
        name: name.clone(),
        length: remote.length,
        sha256,
        overwrite: wanted.overwrite,
        administrator: visitor.who.id,
        complete: false,
        source: Some(source),
    };
    let (id, append) = on_disk(wat, move |staging| {
        let id = staging.create(&ticket)?;
        let append = staging.append(&id, 0)?;
        Ok((id, append))
    })
    .await?;
    let actor = Actor::from(visitor);
    tell(wat, actor, "download-begin", &name, &json!({ "from": shown(&url), "size": remote.length })).await?;
    let length = remote.length;
    tokio::spawn(take(wat.clone(), actor, place.of(&id), append, Some(remote)));
    Ok(Begun { id, name, length })
}

/// Without the query, which may hold a secret.
fn shown(url: &Url) -> &str {
    &url[..url::Position::AfterPath]
}

async fn tell(wat: &Wat, actor: Actor, action: &str, name: &str, about: &Value) -> Result<(), Refusal> {
    let acting = wat.database.acting_as(actor.administrator, actor.address, "WAT").await?;
    acting.staging_log(action, name, about).await?;
    if action == "download" {
        acting.staging_refresh().await?;
    }
    Ok(acting.finish().await?)
}

/// Takes what comes, gives it its name, and says how it ended. Nobody else may write until all that is said: who tries again at
/// once has an entry of his own after it.
async fn take(wat: Arc<Wat>, actor: Actor, place: Place, append: Append, remote: Option<Remote>) {
    let name = append.name().to_owned();
    let Ok((mut append, received)) = (match remote {
        Some(remote) => receive(&wat, &place, append, remote).await,
        None => Ok((append, Ok(()))),
    }) else {
        return tracing::error!(file = name, "who wrote a download has died");
    };
    drop(place);
    let here = wat.clone();
    let ended = spawn_blocking(move || {
        if append.is_discarded() {
            return None;
        }
        let finished = received.and_then(|()| here.staging.finish(&mut append).map_err(|error| error.to_string()));
        let noted = finished.as_ref().err().map(|problem| here.staging.fail(&mut append, problem));
        if let Some(Err(error)) = noted {
            tracing::warn!(file = append.name(), %error, "that a download failed cannot be noted");
        }
        Some((append, finished))
    });
    let Ok(Some((append, finished))) = ended.await else { return };
    let (action, about) = match finished {
        Ok(finished) => ("download", json!({ "size": finished.size, "sha256": finished.sha256 })),
        Err(problem) => {
            tracing::warn!(file = name, problem, "a download failed");
            ("download-fail", json!({ "problem": problem }))
        }
    };
    if tell(&wat, actor, action, &name, &about).await.is_err() {
        tracing::error!(file = name, action, "the log cannot be told of a download");
    }
    if action == "download-fail" && on_disk(&wat, move |staging| staging.pause(append)).await.is_err() {
        tracing::warn!(file = name, "what there is of a download may not be on the disk");
    }
}

/// Until nothing more comes or it is given up. Errs when who writes has died.
async fn receive(
    wat: &Arc<Wat>,
    place: &Place,
    mut append: Append,
    mut remote: Remote,
) -> Result<(Append, Result<(), String>), JoinError> {
    let (length, offset, validator) = (remote.length, remote.offset, remote.validator.take());
    let (pieces, arriving) = mpsc::channel(AHEAD);
    let here = wat.clone();
    let writing = spawn_blocking(move || {
        let begun = here.staging.begin(&mut append, length, offset, validator);
        let written = begun.and_then(|()| write(&mut append, arriving));
        (append, written)
    });
    let mut broken = None;
    loop {
        let next = tokio::select! {
            next = timeout(SILENCE, remote.body.frame()) => next,
            () = place.given_up.cancelled() => break,
        };
        match next {
            Ok(Some(Ok(frame))) => {
                let Ok(piece) = frame.into_data() else { continue };
                // What went wrong is said by who writes.
                if pieces.send(piece).await.is_err() {
                    break;
                }
            }
            Ok(None) => break,
            Ok(Some(Err(error))) => {
                broken = Some(format!("the connection was lost: {error}"));
                break;
            }
            Err(_) => {
                broken = Some("the server is silent".to_owned());
                break;
            }
        }
    }
    drop(pieces);
    let (append, written) = writing.await?;
    let received = match written {
        Err(error) => Err(error.to_string()),
        Ok(()) if append.offset() < length => Err(broken.unwrap_or_else(|| "it ended early".to_owned())),
        Ok(()) => Ok(()),
    };
    Ok((append, received))
}

/// Until nothing comes any more or it is given up.
fn write(append: &mut Append, mut arriving: mpsc::Receiver<Bytes>) -> Result<(), PartError> {
    while let Some(piece) = arriving.blocking_recv() {
        if append.is_discarded() {
            break;
        }
        append.write(&piece)?;
    }
    Ok(())
}

/// Those of this visitor.
async fn list(extract::State(wat): extract::State<Arc<Wat>>, visitor: Visitor) -> Result<Response, Refused> {
    let shown = own(&wat, &visitor).await?.into_iter().map(|download| {
        let state = match download.state {
            State::Complete => "complete",
            State::Running => "running",
            State::Failed => "failed",
        };
        json!({
            "id": download.id, "name": download.name, "url": download.url, "length": download.length,
            "offset": download.offset, "state": state, "problem": download.problem,
        })
    });
    Ok(Json(shown.collect::<Vec<_>>()).into_response())
}

/// The downloads of this visitor.
pub async fn own(wat: &Arc<Wat>, visitor: &Visitor) -> Result<Vec<Download>, Refused> {
    permitted(wat, visitor).await?;
    let found = on_disk(wat, |staging| staging.downloads()).await?;
    let own = found.into_iter().filter(|(_, progress, _)| progress.ticket.administrator == visitor.who.id);
    let download = |(id, Progress { ticket, offset }, running): (String, Progress, bool)| {
        let state = match (ticket.complete, running) {
            (true, _) => State::Complete,
            (_, true) => State::Running,
            _ => State::Failed,
        };
        let (url, problem) = ticket.source.map_or_else(Default::default, |source| (source.url, source.problem));
        let problem = (state == State::Failed).then(|| problem.unwrap_or_else(|| "the web tool ended".to_owned()));
        Download { id, name: ticket.name, url, length: ticket.length, offset, state, problem }
    };
    Ok(own.map(download).collect())
}

async fn one(wat: &Arc<Wat>, visitor: &Visitor, id: &str) -> Result<(Progress, Source), Refusal> {
    permitted(wat, visitor).await?;
    let id = id.to_owned();
    let progress = on_disk(wat, move |staging| staging.progress(&id)).await?;
    match progress.ticket.source.clone() {
        Some(source) if progress.ticket.administrator == visitor.who.id => Ok((progress, source)),
        _ => Err(PartError::Missing.into()),
    }
}

async fn retry(
    state: extract::State<Arc<Wat>>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Result<StatusCode, Refused> {
    again(&state, &visitor, id).await.map(|()| StatusCode::ACCEPTED)
}

/// Tries one again that ended early.
pub async fn again(wat: &Arc<Wat>, visitor: &Visitor, id: String) -> Result<(), Refused> {
    let (Progress { ticket, offset }, source) = one(wat, visitor, &id).await?;
    let place = place(wat)?;
    let held = id.clone();
    let append = on_disk(wat, move |staging| staging.append(&held, offset)).await?;
    // With all of it there, the process ended before it had its name.
    let remote = if offset > 0 && offset == ticket.length {
        None
    } else {
        let url = remote::address(&source.url)?;
        Some(remote::open(&url, offset, source.validator.as_deref(), remote::allowed(wat.private_downloads)).await?)
    };
    tokio::spawn(take(wat.clone(), Actor::from(visitor), place.of(&id), append, remote));
    Ok(())
}

async fn discard(
    state: extract::State<Arc<Wat>>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Result<StatusCode, Refused> {
    give_up(&state, &visitor, id).await.map(|()| StatusCode::NO_CONTENT)
}

/// Gives one up; who takes it ends by itself.
pub async fn give_up(wat: &Arc<Wat>, visitor: &Visitor, id: String) -> Result<(), Refused> {
    one(wat, visitor, &id).await?;
    let gone = id.clone();
    on_disk(wat, move |staging| staging.discard(&gone)).await?;
    wat.downloads.give_up(&id);
    Ok(())
}
