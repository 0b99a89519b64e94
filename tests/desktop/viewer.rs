//! A user in front of a screen: the real client, which runs the real nxproxy, on an Xvfb.

use std::{
    cell::Cell,
    fs::{self, File},
    process::{ExitStatus, Stdio},
    time::Instant,
};

use nix::sys::signal::Signal;
use qvd::demo::{
    attached::{Account, Attached, attached_command},
    display::Display,
    screenshot::{Rgb, Screenshot},
};

use super::{
    PATIENCE,
    desk::{Desk, PASSWORD},
    eventually, holds, measured,
};

/// Where the animated window is whatever else is on the screen.
const LOOKED_AT: (u32, u32) = (240, 240);

/// A screen with a client on it.
pub struct Viewer {
    client: Attached,
    files: tempfile::TempDir,
    pub screen: Display,
    /// Until the first picture.
    began: Cell<Option<Instant>>,
}

impl Viewer {
    /// Connects to a desktop on a small screen, as classic clients do.
    pub async fn connect(desk: &Desk) -> Self {
        Self::on(Display::start(480, 360).await.unwrap(), desk)
    }

    /// The same over QUIC.
    pub async fn connect_over_quic(desk: &Desk) -> Self {
        Self::over(Display::start(480, 360).await.unwrap(), desk, "quic")
    }

    /// Connects to a desktop on a screen that is there.
    pub fn on(screen: Display, desk: &Desk) -> Self {
        Self::over(screen, desk, "tls")
    }

    fn over(screen: Display, desk: &Desk, transport: &str) -> Self {
        Self::at(screen, ("localhost", desk.at.port()), &desk.user, transport)
    }

    /// Connects to the desktop of a user at a server.
    pub fn at(screen: Display, (host, port): (&str, u16), user: &str, transport: &str) -> Self {
        let files = tempfile::Builder::new().prefix("qvd-user-").tempdir().unwrap();
        let said = File::create(files.path().join("said")).unwrap();
        let picture = screen.screenshot().unwrap();
        let geometry = format!("{}x{}", picture.width(), picture.height());
        let mut command = attached_command(env!("CARGO_BIN_EXE_qvd"), &Account::own().unwrap(), Signal::SIGTERM);
        command.args(["client", "--host", host, "--port", &port.to_string()]);
        command.args(["--user", user, "--vm", "desktop", "--ssl-errors", "continue"]);
        command.args(["--geometry", &geometry, "--fullscreen", "--link", "lan"]);
        command.args(["--transport", transport]);
        command.env("DISPLAY", screen.name()).env("QVDPASSWORD", PASSWORD).env("HOME", files.path());
        command.stdin(Stdio::null()).stdout(said.try_clone().unwrap()).stderr(said);
        let began = Cell::new(Some(Instant::now()));
        Self { client: Attached::start(command, Signal::SIGTERM).unwrap(), files, screen, began }
    }

    /// What the client told its user.
    pub fn said(&self) -> String {
        fs::read_to_string(self.files.path().join("said")).unwrap()
    }

    /// Waits for a picture. How long the first took since the client was started is told as `what`.
    pub async fn sees(&self, what: &str, condition: impl Fn(&Screenshot) -> bool) -> Screenshot {
        let seen = self.screen.wait_for(PATIENCE, condition);
        let picture = tokio::select! {
            seen = seen => seen,
            status = self.client.exited() => panic!("the client ended ({status:?}): {}", self.said()),
        };
        let picture = picture.unwrap_or_else(|error| {
            let shot = std::env::temp_dir().join("qvd-not-as-expected.png");
            self.screen.screenshot().unwrap().save_png(&shot).unwrap();
            panic!("{what}: {error}; see {}; the client said: {}", shot.display(), self.said())
        });
        if let Some(began) = self.began.take() {
            measured(what, began);
        }
        picture
    }

    /// Waits until the animation is there and moves, and goes on moving.
    pub async fn sees_motion(&self, what: &str) {
        self.sees(what, |picture| shade(picture).is_some()).await;
        for _ in 0..3 {
            let before = self.shade();
            let moved = self.screen.wait_for(PATIENCE, |picture| shade(picture).is_some_and(|now| Some(now) != before));
            if moved.await.is_err() {
                panic!("{what}: the picture stands still; the client said: {}", self.said());
            }
        }
    }

    /// The shade that the animation has now.
    pub fn shade(&self) -> Option<u8> {
        shade(&self.screen.screenshot().unwrap())
    }

    /// Whether the client still runs.
    pub fn is_connected(&self) -> bool {
        self.client.pid().is_some()
    }

    /// Waits until the client has connected again so many times.
    pub async fn comes_again(&self, times: usize) {
        let again = async || holds(self.said().matches("connecting again").count() == times);
        eventually("the client connects again", again).await;
    }

    /// Waits until the client has ended by itself.
    pub async fn ended(&self) -> ExitStatus {
        let ended = tokio::time::timeout(PATIENCE, self.client.exited()).await;
        ended.unwrap_or_else(|_| panic!("the client does not end; it said: {}", self.said())).unwrap()
    }

    /// The user closes the client. Returns the screen for the next one.
    pub async fn leave(self) -> Display {
        self.client.signal(Signal::SIGTERM);
        let status = self.ended().await;
        assert!(status.success(), "{status}: {}", self.said());
        self.screen
    }
}

/// The shade of the animation in a picture; `None` where it is not on the screen.
fn shade(picture: &Screenshot) -> Option<u8> {
    match picture.pixel(LOOKED_AT.0, LOOKED_AT.1) {
        Some(Rgb(200, green, 90)) => Some(green),
        _ => None,
    }
}
