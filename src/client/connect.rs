//! What the desktop is told about the user's side, and the session itself: nxproxy on one end, the server on the
//! other, the tunnel between them.

use std::{
    io,
    pin::Pin,
    time::{Duration, Instant},
};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{ClientError, Console, Environment, NxproxyError, Settings, nxproxy::Nxproxy, session::Link};
use crate::tunnel::{Counters, Ended, Reason, quic::Parting, relay};

/// For the server to say why it ended a session.
const WHY_LIMIT: Duration = Duration::from_secs(8);

/// The parameters of the connection, in the words of the protocol.
pub(super) fn parameters(settings: &Settings, environment: &Environment) -> Vec<(String, String)> {
    let os = if std::env::consts::OS == "macos" { "darwin" } else { std::env::consts::OS };
    let flag = |on: bool| if on { "1" } else { "0" };
    let mut parameters = vec![
        ("qvd.client.os", os.to_owned()),
        ("qvd.client.link", settings.link.clone()),
        ("qvd.client.geometry", settings.geometry.clone()),
        ("qvd.client.keyboard", settings.keyboard.clone()),
        ("qvd.client.fullscreen", flag(settings.fullscreen).to_owned()),
        ("qvd.client.printing.enabled", flag(false).to_owned()),
        ("qvd.client.usb.enabled", flag(false).to_owned()),
    ];
    let zone = environment.variable("TZ").map(str::to_owned);
    if let Some(zone) = zone.or_else(|| jiff::tz::TimeZone::system().iana_name().map(str::to_owned)) {
        parameters.push(("qvd.client.timezone", zone));
    }
    if let Some(options) = &settings.nxagent_args {
        parameters.push(("qvd.client.nxagent.extra_args", options.clone()));
    }
    let own = parameters.into_iter().map(|(key, value)| (key.to_owned(), value));
    own.chain(settings.custom.iter().cloned()).collect()
}

/// What comes after a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing.
    Leave,
    /// The same desktop again: the server is being replaced.
    Return,
}

/// Runs the session to its end and says how it ended. An interrupt ends it in good order. `why` asks the server, when
/// it was the server that ended the session.
pub(super) async fn hold(
    link: Link,
    settings: &Settings,
    environment: &Environment,
    console: &impl Console,
    interrupt: &mut Interrupt,
    why: impl Future<Output = Option<String>>,
) -> Result<Next, ClientError> {
    let cancel = CancellationToken::new();
    let begun = Instant::now();
    let session = run(link, settings, environment, &cancel);
    tokio::pin!(session);
    let ended = tokio::select! {
        ended = &mut session => ended,
        () = interrupt => {
            cancel.cancel();
            session.await
        }
    }?;
    if ended.returns {
        return Ok(Next::Return);
    }
    console.say(&report(&ended, begun.elapsed()));
    if matches!(ended.tunnel.reason, Reason::OuterClosed | Reason::OuterCut | Reason::OuterFailed(_))
        && let Ok(Some(why)) = tokio::time::timeout(WHY_LIMIT, why).await
    {
        console.say(&format!("the server says: {why}"));
    }
    match ended.lost {
        Some(error) => Err(error),
        None => Ok(Next::Leave),
    }
}

/// Whether the server wants its client back at once, which it says with its last word.
pub(super) async fn wants_return(parting: Option<Parting>) -> bool {
    match parting {
        Some(parting) => tokio::time::timeout(WHY_LIMIT, parting.wants_reconnect()).await.unwrap_or(false),
        None => false,
    }
}

/// How a session ended.
pub(super) struct End {
    pub(super) tunnel: Ended,
    farewell: Farewell,
    /// The server wants the client back.
    returns: bool,
    /// Why it was not in good order.
    pub(super) lost: Option<ClientError>,
}

pub(super) async fn run(
    link: Link,
    settings: &Settings,
    environment: &Environment,
    cancel: &CancellationToken,
) -> Result<End, ClientError> {
    let start = Nxproxy::start(&settings.nxproxy, &settings.nxproxy_args, environment);
    let started = tokio::select! {
        started = start => started?,
        () = cancel.cancelled() => {
            let tunnel = Ended { up: 0, down: 0, reason: Reason::Cancelled };
            return Ok(End { tunnel, farewell: Farewell::Unknown, returns: false, lost: None });
        }
    };
    let (nxproxy, stream) = started;
    let parting = link.conn.parting();
    let tunnel = relay(link.conn, stream, link.leftover, &Counters::default(), cancel).await;
    let output = nxproxy.finish().await;
    let farewell = Farewell::of(&output);
    let by_server = matches!(tunnel.reason, Reason::OuterClosed | Reason::OuterCut | Reason::OuterFailed(_));
    if by_server && wants_return(parting).await {
        return Ok(End { tunnel, farewell, returns: true, lost: None });
    }
    let lost = |source| Some(ClientError::Lost { server: link.server.clone(), source });
    let silent = tunnel.up == 0;
    let lost = match &tunnel.reason {
        Reason::InnerClosed | Reason::InnerFailed(_) if silent => {
            return Err(NxproxyError::Refused { output: output.join("\n") }.into());
        }
        Reason::OuterClosed if silent => {
            let text = "the desktop closed the connection before it drew anything; retry later".to_owned();
            return Err(ClientError::Unavailable { text });
        }
        Reason::OuterFailed(error) => lost(Some(io::Error::new(error.kind(), error.to_string()))),
        Reason::OuterCut if farewell != Farewell::Orderly => lost(None),
        _ => None,
    };
    Ok(End { tunnel, farewell, returns: false, lost })
}

/// What nxproxy says about how its peer in the desktop left. It reports a terminated session in either case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Farewell {
    /// The peer said that it would end: the user logged out.
    Orderly,
    /// The stream ended under the peer.
    Broken,
    /// nxproxy was stopped, or said nothing.
    Unknown,
}

impl Farewell {
    fn of(output: &[String]) -> Self {
        let says = |text: &str| output.iter().any(|line| line.contains(text));
        if says("Connection with remote peer broken") {
            Self::Broken
        } else if says("Session: Session terminated") {
            Self::Orderly
        } else {
            Self::Unknown
        }
    }
}

fn report(end: &End, duration: Duration) -> String {
    let how = match end.tunnel.reason {
        Reason::OuterClosed if end.farewell == Farewell::Broken => {
            "the server ended the session (the desktop was stopped, or another client took it over)"
        }
        Reason::OuterClosed if end.farewell == Farewell::Orderly => "the session ended",
        Reason::OuterClosed => "the server ended the session",
        Reason::InnerClosed => "the session ended",
        Reason::InnerFailed(_) => "nxproxy ended abruptly",
        Reason::Cancelled => "interrupted",
        Reason::OuterCut if end.farewell == Farewell::Orderly => "the session ended",
        Reason::OuterCut | Reason::OuterFailed(_) => "the connection broke",
    };
    let seconds = duration.as_secs();
    let time = format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    // Up is what came from the server, since the server is this tunnel's outer side.
    format!("{how} after {time}; {} bytes received, {} sent", end.tunnel.up, end.tunnel.down)
}

/// Resolves when the user or the system asks this process to end.
pub(super) type Interrupt = Pin<Box<dyn Future<Output = ()> + Send>>;

/// From now on such a wish ends nothing by itself.
pub(super) fn interrupt() -> Result<Interrupt, io::Error> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(Box::pin(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }))
}
