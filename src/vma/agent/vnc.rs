//! Shows the desktop to an administrator: x11vnc speaks RFB on the caller's own connection, with the rights and the
//! environment of nxagent. The user is asked before, unless the settings say otherwise. Who may look at all is known to the
//! callers alone; that one who only looks does nothing is kept by them, too.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Write},
    net::TcpStream,
    os::{fd::OwnedFd, unix::ffi::OsStringExt},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use nix::{
    sys::socket::{setsockopt, sockopt},
    unistd::Pid,
};
use thiserror::Error;

use super::{
    command::is_executable,
    config::Settings,
    launch::{self, Rights},
    session::Session,
};
use crate::model::XState;

/// More do not look at a desktop at once: each has a place among the callers of the agent.
const MOST: usize = 8;

/// What x11vnc said last.
const LOG_NAME: &str = "qvd-x11vnc.log";

/// Why nothing is shown.
#[derive(Debug, Error)]
pub enum VncError {
    /// The image lacks the program.
    #[error("the image has no x11vnc: {} is no program", .0.display())]
    Missing(PathBuf),
    /// There is nothing to be seen.
    #[error("there is no desktop to be seen, the X session is {0}")]
    NoSession(XState),
    /// The user must be asked and is not there.
    #[error("the user must agree and is not connected")]
    Absent,
    /// There are enough.
    #[error("too many look at it already")]
    Crowded,
}

impl VncError {
    /// Status and reason of the answer.
    pub fn status(&self) -> (u16, &'static str) {
        match self {
            Self::Missing(_) => (501, "Not Implemented"),
            Self::NoSession(_) => (503, "Service Unavailable"),
            Self::Absent => (409, "Conflict"),
            Self::Crowded => (429, "Too Many Requests"),
        }
    }
}

/// Those who look.
#[derive(Default)]
pub struct Lookers(Arc<AtomicUsize>);

struct Looker(Arc<AtomicUsize>);

impl Lookers {
    fn admit(&self) -> Option<Looker> {
        // Counted before it is compared, so that the place is given back in any case.
        let looker = Looker(Arc::clone(&self.0));
        (self.0.fetch_add(1, Ordering::Relaxed) < MOST).then_some(looker)
    }
}

impl Drop for Looker {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A desktop that may be shown.
pub struct Shown {
    command: Command,
    log: Option<File>,
    _looker: Looker,
}

/// Finds out whether the desktop can be shown, and how.
pub fn prepare(settings: &Settings, session: &Session, lookers: &Lookers, view_only: bool) -> Result<Shown, VncError> {
    if !is_executable(&settings.x11vnc) {
        return Err(VncError::Missing(settings.x11vnc.clone()));
    }
    let state = session.state();
    may_be_seen(state, settings.x11vnc_confirm)?;
    let nxagent = session.nxagent().ok_or(VncError::NoSession(XState::Stopped))?;
    let rights = Rights::of(nxagent).ok_or(VncError::NoSession(XState::Stopped))?;
    let looker = lookers.admit().ok_or(VncError::Crowded)?;
    let mut command = launch::command(&rights, settings.umask.0, &settings.x11vnc);
    command.args(arguments(settings, view_only)).env_clear().envs(environment(nxagent));
    let log = File::create(settings.log_dir.join(LOG_NAME));
    let log = log.inspect_err(|error| tracing::warn!(%error, "what x11vnc says is not kept")).ok();
    Ok(Shown { command, log, _looker: looker })
}

impl Shown {
    /// Shows it on a connection until one of both ends.
    pub fn on(mut self, mut stream: TcpStream) -> io::Result<()> {
        // A desktop on which nothing moves is no caller that is gone.
        stream.set_read_timeout(None)?;
        stream.set_write_timeout(None)?;
        setsockopt(&stream, sockopt::KeepAlive, &true)?;
        self.command.stdin(Stdio::from(OwnedFd::from(stream.try_clone()?)));
        self.command.stdout(Stdio::from(OwnedFd::from(stream.try_clone()?)));
        self.command.stderr(self.log.take().map_or(Stdio::null(), Stdio::from));
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: VNC\r\n\r\n")?;
        let mut x11vnc = self.command.spawn()?;
        // Else the connection would be held open by what it was started with.
        drop(self.command);
        let status = x11vnc.wait()?;
        tracing::info!(%status, "the desktop is shown no longer");
        Ok(())
    }
}

/// Whether there is something to be seen, and somebody to be asked.
fn may_be_seen(state: XState, confirm: bool) -> Result<(), VncError> {
    match state {
        XState::Connected => Ok(()),
        XState::Suspended if confirm => Err(VncError::Absent),
        XState::Suspended => Ok(()),
        state => Err(VncError::NoSession(state)),
    }
}

fn arguments(settings: &Settings, view_only: bool) -> Vec<String> {
    let display = format!(":{}", settings.display);
    // Neither the user's own settings of x11vnc nor a slow name service have a say.
    let mut arguments: Vec<_> =
        ["-display", &display, "-inetd", "-norc", "-nolookup", "-quiet"].map(str::to_owned).to_vec();
    if view_only {
        // What the user copies is not to be seen on the screen.
        arguments.extend(["-viewonly", "-nosel"].map(str::to_owned));
    }
    if settings.x11vnc_confirm {
        arguments.extend(["-accept".to_owned(), settings.x11vnc_confirm_command.clone()]);
    }
    arguments.extend(settings.x11vnc_args.0.iter().cloned());
    arguments
}

/// The environment in which a process was started; where its X server is does not matter here.
fn environment(process: Pid) -> Vec<(OsString, OsString)> {
    let block = fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
    let variables = block.split(|byte| *byte == 0).filter_map(|variable| {
        let equals = variable.iter().position(|byte| *byte == b'=')?;
        let text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        Some((text(&variable[..equals]), text(&variable[equals + 1..])))
    });
    variables.filter(|(name, _)| name != "DISPLAY").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        Settings::from_text(text).unwrap()
    }

    #[test]
    fn the_user_is_asked_unless_the_settings_say_otherwise() {
        let asks = |text: &str| {
            let arguments = arguments(&settings(text), false);
            arguments.windows(2).find(|pair| pair[0] == "-accept").map(|pair| pair[1].clone())
        };
        assert_eq!(asks("").as_deref(), Some("popup"));
        assert_eq!(asks("vma.x11vnc.confirm.command = /usr/bin/ask").as_deref(), Some("/usr/bin/ask"));
        assert_eq!(asks("vma.x11vnc.confirm.enabled = 0"), None);
    }

    #[test]
    fn who_only_looks_gets_neither_keyboard_nor_clipboard_and_more_arguments_come_last() {
        let settings = settings("vma.x11vnc.extra_args = -noxdamage");
        let looking = arguments(&settings, true);
        assert!(looking.contains(&"-viewonly".to_owned()) && looking.contains(&"-nosel".to_owned()), "{looking:?}");
        let acting = arguments(&settings, false);
        assert!(!acting.contains(&"-viewonly".to_owned()), "{acting:?}");
        assert_eq!((looking.last(), acting.last()), (Some(&"-noxdamage".to_owned()), Some(&"-noxdamage".to_owned())));
    }

    #[test]
    fn only_a_session_that_is_up_is_seen_and_one_without_its_user_only_where_nobody_is_asked() {
        for state in [XState::Stopped, XState::Starting, XState::Provisioning, XState::Listening, XState::Stopping] {
            assert!(matches!(may_be_seen(state, false), Err(VncError::NoSession(_))), "{state}");
        }
        assert!(may_be_seen(XState::Connected, true).is_ok() && may_be_seen(XState::Suspended, false).is_ok());
        assert!(matches!(may_be_seen(XState::Suspended, true), Err(VncError::Absent)));
    }

    #[test]
    fn a_place_is_free_again_when_who_had_it_is_gone() {
        let lookers = Lookers::default();
        let all: Vec<_> = (0..MOST).map(|_| lookers.admit().unwrap()).collect();
        assert!(lookers.admit().is_none());
        drop(all);
        assert!(lookers.admit().is_some());
    }
}
