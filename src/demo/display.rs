//! A screen that nobody looks at: Xvfb on a display of its own, whose picture lies in a file of ours.
//! It stands for the user's screen in the demo without a display and in tests. It ends with its value and with us.

use std::{
    fs,
    io::{self, Read, pipe},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use nix::sys::signal::Signal;
use thiserror::Error;
use tokio::time;

use super::{
    attached::{Account, Attached, attached_command},
    screenshot::{Rgb, Screenshot, XwdError},
};
use crate::process::last_lines;

/// A fresh Xvfb is up in well under a second.
const START_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// A running virtual screen.
#[derive(Debug)]
pub struct Display {
    number: u32,
    // The server is stopped before its directory goes.
    server: Attached,
    dir: tempfile::TempDir,
}

/// Why there is no screen or no picture of it.
#[derive(Debug, Error)]
pub enum DisplayError {
    /// The server could not be started.
    #[error("cannot start a virtual screen (Xvfb)")]
    Start(#[source] io::Error),
    /// The server ended at once.
    #[error("the virtual screen (Xvfb) did not start: {0}; is package xvfb installed?")]
    Ended(String),
    /// The frame buffer file cannot be read.
    #[error("cannot read the picture of display :{number}")]
    Read {
        /// Number of the display.
        number: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The frame buffer file is not understood.
    #[error("cannot understand the picture of display :{number}")]
    Picture {
        /// Number of the display.
        number: u32,
        /// Why.
        #[source]
        source: XwdError,
    },
    /// What was waited for did not appear.
    #[error("display :{number} did not show what was expected within {} s", .limit.as_secs())]
    Late {
        /// Number of the display.
        number: u32,
        /// How long was waited.
        limit: Duration,
    },
}

impl Display {
    /// Starts a screen of that size in pixels on the first free display number; returns when it accepts clients.
    pub async fn start(width: u32, height: u32) -> Result<Self, DisplayError> {
        let dir = tempfile::Builder::new().prefix("qvd-screen-").tempdir().map_err(DisplayError::Start)?;
        let account = Account::own().map_err(DisplayError::Start)?;
        let log = fs::File::create(dir.path().join("log")).map_err(DisplayError::Start)?;
        let (number_in, number_out) = pipe().map_err(DisplayError::Start)?;
        let mut command = attached_command("Xvfb", &account, Signal::SIGTERM);
        command.args(["-screen", "0", &format!("{width}x{height}x24")]);
        // The server writes its number to descriptor 1 when it is ready.
        command.args(["-displayfd", "1", "-nolisten", "tcp", "-noreset", "-fbdir"]).arg(dir.path());
        command.stdin(Stdio::null()).stdout(number_out).stderr(log);
        let server = Attached::start(command, Signal::SIGTERM).map_err(DisplayError::Start)?;
        let number = time::timeout(START_LIMIT, tokio::task::spawn_blocking(|| read_number(number_in))).await;
        let number = number.ok().and_then(Result::ok).flatten();
        let Some(number) = number else {
            let log = fs::read_to_string(dir.path().join("log")).unwrap_or_default();
            return Err(DisplayError::Ended(last_lines(&log, 3)));
        };
        Ok(Self { number, server, dir })
    }

    /// What clients want in `DISPLAY`.
    pub fn name(&self) -> String {
        format!(":{}", self.number)
    }

    /// Whether the server still runs.
    pub fn is_alive(&self) -> bool {
        self.server.pid().is_some()
    }

    /// What is on the screen now. A change that is just being drawn may be there in part.
    pub fn screenshot(&self) -> Result<Screenshot, DisplayError> {
        let number = self.number;
        let file = fs::read(self.frame_buffer()).map_err(|source| DisplayError::Read { number, source })?;
        Screenshot::from_xwd(&file).map_err(|source| DisplayError::Picture { number, source })
    }

    /// Waits until the screen satisfies `condition` and returns the picture that did.
    pub async fn wait_for(
        &self,
        limit: Duration,
        condition: impl Fn(&Screenshot) -> bool,
    ) -> Result<Screenshot, DisplayError> {
        let shown = async {
            loop {
                let picture = self.screenshot()?;
                if condition(&picture) {
                    return Ok(picture);
                }
                time::sleep(POLL).await;
            }
        };
        let late = DisplayError::Late { number: self.number, limit };
        time::timeout(limit, shown).await.unwrap_or(Err(late))
    }

    fn frame_buffer(&self) -> PathBuf {
        self.dir.path().join("Xvfb_screen0")
    }
}

/// Whether the demo's desktop is drawn in full: its terminals in their colour, something written in the upper one and in
/// the lower one, and round them a picture of many colours, which an empty screen or a bare window does not have.
pub fn shows_desktop(picture: &Screenshot) -> bool {
    let (middle, bottom) = (picture.height() / 2, picture.height());
    picture.share_of(TERMINAL_COLOUR, 6) > 0.2
        && [0..middle, middle..bottom].into_iter().all(|half| picture.written_rows(TERMINAL_COLOUR, 6, half) > WRITTEN)
        && picture.distinct_colours() > 200
}

/// Rows of pixels with writing that each terminal must have; both have more once their text is there.
const WRITTEN: usize = 60;

/// The background of the terminals of the demo's desktop.
pub const TERMINAL_COLOUR: Rgb = Rgb(0x0e, 0x1a, 0x2b);

/// Reads up to the end of the line, or of the server.
fn read_number(mut from: io::PipeReader) -> Option<u32> {
    let mut text = String::new();
    let mut byte = [0];
    while from.read(&mut byte).ok()? == 1 && byte != *b"\n" {
        text.push(char::from(byte[0]));
    }
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests;
