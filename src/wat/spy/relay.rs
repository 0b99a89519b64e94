//! One look at a desktop, from the first byte to the last. Neither side is read from faster than the other one takes it. It ends
//! when a side ends it, when the administrator may no longer, or when the VM stops, and the page is told which.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::Bytes,
    extract::ws::{CloseFrame, Message, WebSocket},
};
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::broadcast::error::RecvError,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use crate::{
    db::{DbError, SpiedAgent},
    vma::client::{AgentClient, AgentError, Connection, Desktop, VncError},
};

use super::{
    super::{live::Change, server::Wat},
    rfb::{Mode, Viewer},
    tickets::Look,
};

/// For the agent to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often is asked whether it may go on when nobody tells of a change, and the browser for a sign of life.
const ASK: Duration = Duration::from_secs(20);
/// Without an answer of database or browser for so long it ends.
const SILENCE: Duration = Duration::from_secs(70);
/// For the browser to hear that it has ended.
const PARTING: Duration = Duration::from_secs(2);
/// What changes within a moment is one reason to ask.
const GATHER: Duration = Duration::from_millis(200);
/// Of a picture, at once.
const PIECE: usize = 64 * 1024;
/// So much an X server's side says before it knows whether the user agrees: its version.
const GREETING: usize = 12;

/// Why it ended, as the page is told by a code of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The administrator left, or the page has nothing to be told.
    Left,
    /// May not, or may no longer.
    Forbidden,
    /// The VM does not run, or runs no more.
    Stopped,
    /// Its image has no x11vnc.
    NoProgram,
    /// Nobody uses it.
    NoSession,
    /// The user must agree and is not there.
    Absent,
    /// The user does not agree.
    Declined,
    /// The desktop's side has ended it.
    Ended,
    /// Too many look.
    Crowded,
    /// The agent cannot be reached from here, or does not let us in.
    Unreachable,
    /// The viewer said what nobody understands.
    Nonsense,
    /// The database does not answer.
    Unknown,
}

impl Ending {
    /// Those that the page says something about, with the code of the WebSocket's end and what is said.
    pub const TOLD: [(Self, u16, &str); 11] = [
        (Self::Forbidden, 4403, "You may not see this desktop, or not any longer."),
        (Self::Stopped, 4410, "The VM does not run."),
        (
            Self::NoProgram,
            4501,
            "The image of this VM has no x11vnc, so its desktop cannot be shown. Add the package x11vnc to the image.",
        ),
        (Self::NoSession, 4503, "Nobody is using this desktop, so there is nothing to be seen."),
        (Self::Absent, 4409, "The user would have to agree and is not connected."),
        (Self::Declined, 4451, "The user did not agree."),
        (Self::Ended, 4499, "The desktop has ended the connection."),
        (Self::Crowded, 4429, "Too many look already. Try again later."),
        (Self::Unreachable, 4502, "The VM cannot be reached from the machine of this web tool."),
        (Self::Nonsense, 4400, "Browser and desktop do not understand each other."),
        (Self::Unknown, 4504, "The database cannot answer now."),
    ];

    fn code(self) -> u16 {
        Self::TOLD.iter().find(|(ending, ..)| *ending == self).map_or(1000, |(_, code, _)| *code)
    }
}

impl From<&DbError> for Ending {
    fn from(error: &DbError) -> Self {
        match error.sqlstate() {
            // To whom a VM is none of his, there is none: his tenant may have been blocked while he was asking.
            Some("QV010" | "QV040" | "42501") => Self::Forbidden,
            Some("QV021") => Self::Stopped,
            _ => Self::Unknown,
        }
    }
}

impl From<&VncError> for Ending {
    fn from(error: &VncError) -> Self {
        match error {
            VncError::Agent(AgentError::Protocol(_) | AgentError::Refused(_)) => Self::Nonsense,
            VncError::Agent(_) => Self::Unreachable,
            VncError::Missing => Self::NoProgram,
            VncError::NoSession => Self::NoSession,
            VncError::Absent => Self::Absent,
            VncError::Crowded => Self::Crowded,
        }
    }
}

/// Carries one look.
pub async fn relay(wat: Arc<Wat>, look: Look, mut socket: WebSocket) {
    let ending = match wat.spying.places.clone().try_acquire_owned() {
        Err(_) => Ending::Crowded,
        Ok(_place) => show(&wat, &look, &mut socket).await,
    };
    tracing::info!(administrator = look.who.id, vm = look.vm, mode = ?look.mode, ?ending, "no longer looks at a desktop");
    let close = CloseFrame { code: ending.code(), reason: "".into() };
    // Who has left does not hear it.
    let _ = timeout(PATIENCE, socket.send(Message::Close(Some(close)))).await;
    // What the browser says meanwhile is read, or the kernel would take back what it was told.
    let _ = timeout(PARTING, async { while let Some(Ok(_)) = socket.next().await {} }).await;
}

async fn show(wat: &Wat, look: &Look, socket: &mut WebSocket) -> Ending {
    // Heard from before it is asked for the first time.
    let changes = wat.live.changes();
    let desktop = match begin(wat, look).await {
        Ok(desktop) => desktop,
        Err(ending) => return ending,
    };
    tracing::info!(administrator = look.who.id, vm = look.vm, mode = ?look.mode, "looks at a desktop");
    let (to_browser, from_browser) = socket.split();
    let (from_desktop, to_desktop) = tokio::io::split(desktop.stream);
    let ending = tokio::select! {
        ending = show_pictures(desktop.said, from_desktop, to_browser) => ending,
        ending = pass_on(from_browser, to_desktop, look.mode) => ending,
        ending = withdrawn(wat, look, changes) => ending,
    };
    // A VM that stops takes its desktop away before anybody may have told of it.
    match ending {
        Ending::Ended if still_may(wat, look).await.is_err_and(|error| Ending::from(&error) == Ending::Stopped) => {
            Ending::Stopped
        }
        ending => ending,
    }
}

/// Whether it may go on.
async fn still_may(wat: &Wat, look: &Look) -> Result<(), DbError> {
    let acting = wat.database.acting_as(look.who.id, look.address, "WAT").await?;
    acting.vm_spy_check(look.vm, look.mode == Mode::Interactive).await?;
    acting.finish().await
}

async fn begin(wat: &Wat, look: &Look) -> Result<Desktop, Ending> {
    let asked = async {
        let acting = wat.database.acting_as(look.who.id, look.address, "WAT").await?;
        let agent = acting.vm_spy(look.vm, look.mode == Mode::Interactive).await?;
        acting.finish().await?;
        Ok(agent)
    };
    let SpiedAgent { address, secret } = asked.await.map_err(|error: DbError| {
        tracing::warn!(administrator = look.who.id, vm = look.vm, %error, "does not get to see a desktop");
        Ending::from(&error)
    })?;
    let agent = AgentClient::new(address, secret, PATIENCE);
    agent.vnc(look.mode == Mode::Watch).await.map_err(|error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        tracing::warn!(vm = look.vm, %address, %error, cause, "a desktop cannot be shown");
        Ending::from(&error)
    })
}

/// From the desktop to the browser, which is also asked for signs of life.
async fn show_pictures(
    said: Vec<u8>,
    mut desktop: ReadHalf<Box<dyn Connection>>,
    mut browser: SplitSink<&mut WebSocket, Message>,
) -> Ending {
    let mut shown = said.len();
    if shown > 0 && browser.send(Message::Binary(said.into())).await.is_err() {
        return Ending::Left;
    }
    let mut clock = interval(ASK);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut piece = vec![0; PIECE];
    loop {
        let message = tokio::select! {
            read = desktop.read(&mut piece) => match read {
                Ok(length @ 1..) => {
                    shown += length;
                    Message::Binary(Bytes::copy_from_slice(&piece[..length]))
                }
                _ if shown <= GREETING => return Ending::Declined,
                _ => return Ending::Ended,
            },
            _ = clock.tick() => Message::Ping(Bytes::new()),
        };
        if browser.send(message).await.is_err() {
            return Ending::Left;
        }
    }
}

/// From the browser to the desktop, as far as it is allowed.
async fn pass_on(
    mut browser: SplitStream<&mut WebSocket>,
    mut desktop: WriteHalf<Box<dyn Connection>>,
    mode: Mode,
) -> Ending {
    let mut viewer = Viewer::new(mode);
    loop {
        // A browser that is there answers what it is asked.
        let said = match timeout(SILENCE, browser.next()).await {
            Ok(Some(Ok(Message::Binary(said)))) => said,
            Ok(Some(Ok(Message::Ping(_) | Message::Pong(_)))) => continue,
            Ok(Some(Ok(Message::Text(_)))) => return Ending::Nonsense,
            Ok(Some(Ok(Message::Close(_)) | Err(_)) | None) | Err(_) => return Ending::Left,
        };
        let heard = match viewer.hear(&said) {
            Ok(heard) => heard,
            Err(problem) => {
                tracing::warn!(%problem, "a look at a desktop ends");
                return Ending::Nonsense;
            }
        };
        // The other half sees how it ended.
        if !heard.is_empty() && desktop.write_all(&heard).await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Resolves when it may not go on. Whoever cannot be asked for a while counts as one who says no.
async fn withdrawn(wat: &Wat, look: &Look, mut changes: tokio::sync::broadcast::Receiver<Arc<Change>>) -> Ending {
    let mut confirmed = Instant::now();
    loop {
        match still_may(wat, look).await {
            Ok(()) => confirmed = Instant::now(),
            Err(error) => match Ending::from(&error) {
                Ending::Unknown if confirmed.elapsed() < SILENCE => {}
                ending => return ending,
            },
        }
        let _ = timeout(ASK, changed(&mut changes, look.vm)).await;
    }
}

/// Resolves when something changed that may matter here.
async fn changed(changes: &mut tokio::sync::broadcast::Receiver<Arc<Change>>, vm: i32) {
    loop {
        match changes.recv().await {
            Ok(change) if !matters(&change, vm) => {}
            Ok(_) | Err(RecvError::Lagged(_)) => return tokio::time::sleep(GATHER).await,
            Err(RecvError::Closed) => match std::future::pending::<Infallible>().await {},
        }
    }
}

/// Whether somebody's rights may be others now, or the VM does.
fn matters(change: &Change, vm: i32) -> bool {
    match change.kind.as_str() {
        "vm" => change.id.is_none_or(|id| id == i64::from(vm)),
        "administrator" | "admin" | "role" | "tenant" => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_matter_is_a_reason_to_ask_again() {
        let change = |kind: &str, id| Change { kind: kind.to_owned(), id, tenant: None };
        assert!(matters(&change("vm", Some(7)), 7) && matters(&change("vm", None), 7));
        assert!(!matters(&change("vm", Some(8)), 7) && !matters(&change("user", Some(7)), 7));
        for kind in ["administrator", "role", "tenant"] {
            assert!(matters(&change(kind, Some(3)), 7), "{kind}");
        }
    }

    #[test]
    fn every_ending_that_is_told_has_a_code_of_its_own() {
        let mut codes: Vec<_> = Ending::TOLD.iter().map(|(_, code, _)| *code).collect();
        codes.dedup();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Ending::TOLD.len());
        assert!(codes.iter().all(|code| (4000..5000).contains(code)));
        assert_eq!((Ending::Left.code(), Ending::Stopped.code()), (1000, 4410));
    }
}
