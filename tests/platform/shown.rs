//! The agent shows a desktop: a real X server, which stands for nxagent, and a real x11vnc, in namespaces of their own.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;
use qvd::vma::client::{AgentClient, Connect, Connection, Desktop, VncError};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

use crate::cluster::patience::{PATIENCE, until};

/// `$1` is a directory that is seen from outside, `$2` the agent, `$3` its settings, `$4` the state of the X session. The first
/// process stands for the session's monitor, too. It ends with its input, and everything with it.
const INSIDE: &str = r#"
set -e
ip link set lo up
mount --bind "$1" /srv
cp "$2" /srv/agent
cp -a /etc /srv/etc
mount --bind /srv/etc /etc
mkdir -p /etc/qvd
printf '%s\n' "$3" >/etc/qvd/vma.conf
for place in /run /tmp /var/log; do mount -t tmpfs none $place; done
chmod 1777 /tmp
mkdir -p /run/qvd /var/log/qvd
mkdir -m 1777 /tmp/.X11-unix
exec 9>/run/qvd/monitor.pid
echo $$ >&9
flock 9
WHOSE=desktop setpriv --reuid=65534 --regid=65534 --clear-groups \
    Xvfb :100 -screen 0 320x200x24 -wr -ac -nolisten tcp 9>&- &
echo $! >/run/qvd/nxagent.pid
until [ -S /tmp/.X11-unix/X100 ]; do sleep 0.02; done
echo "$4:1" >/run/qvd/nxagent.state
/srv/agent agent 9>&- &
socat UNIX-LISTEN:/srv/socket,fork TCP:127.0.0.1:3030 9>&- &
exec cat
"#;

/// An agent with something to show.
struct Agent {
    inside: Child,
    directory: tempfile::TempDir,
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.inside.stdin.take());
        let _ = self.inside.wait();
    }
}

#[derive(Debug)]
struct Door(PathBuf);

impl Connect for Door {
    fn connect(&self) -> BoxFuture<'_, io::Result<Box<dyn Connection>>> {
        Box::pin(async { Ok(Box::new(UnixStream::connect(&self.0).await?) as Box<dyn Connection>) })
    }
}

impl Agent {
    /// With these settings; the session is in this state. What asks the user is `consent`.
    async fn start(settings: &str, state: &str, consent: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("consent");
        fs::write(&file, format!("#!/bin/sh\n{consent}\n")).unwrap();
        for path in [directory.path(), file.as_path()] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
        }
        let inside = Command::new("unshare")
            .args([
                "--net",
                "--mount",
                "--pid",
                "--fork",
                "--mount-proc",
                "--kill-child",
                "bash",
                "-c",
                INSIDE,
                "inside",
            ])
            .arg(directory.path())
            .args([env!("CARGO_BIN_EXE_qvd-vma"), settings, state])
            .stdin(Stdio::piped())
            .stderr(fs::File::create(directory.path().join("said")).unwrap())
            .spawn()
            .unwrap();
        let agent = Self { inside, directory };
        until("the agent answers", async || agent.client().ping().await.ok()).await;
        agent
    }

    fn client(&self) -> AgentClient {
        let door = Door(self.directory.path().join("socket"));
        AgentClient::through(Arc::new(door), ([127, 0, 0, 1], 3030).into(), None, Duration::from_secs(5))
    }

    fn read(&self, file: impl AsRef<Path>) -> String {
        fs::read_to_string(self.directory.path().join(file)).unwrap_or_default()
    }
}

/// Reads so much of what a desktop says.
async fn hear(desktop: &mut Desktop, length: usize) -> Option<Vec<u8>> {
    while desktop.said.len() < length {
        let read = timeout(PATIENCE, desktop.stream.read_buf(&mut desktop.said)).await.expect("it says something");
        if read.unwrap_or(0) == 0 {
            return None;
        }
    }
    let rest = desktop.said.split_off(length);
    Some(std::mem::replace(&mut desktop.said, rest))
}

/// Says what it takes to be shown pictures; width and height, unless the desktop ends it.
async fn meet(desktop: &mut Desktop) -> Option<(u16, u16)> {
    assert_eq!(hear(desktop, 12).await?, b"RFB 003.008\n");
    desktop.stream.write_all(b"RFB 003.008\n").await.ok()?;
    let kinds = hear(desktop, 1).await?[0];
    assert!(hear(desktop, kinds.into()).await?.contains(&1), "no password is asked for");
    desktop.stream.write_all(&[1]).await.ok()?;
    assert_eq!(hear(desktop, 4).await?, [0; 4]);
    desktop.stream.write_all(&[1]).await.ok()?;
    let about = hear(desktop, 24).await?;
    let name = u32::from_be_bytes(about[20..].try_into().unwrap());
    hear(desktop, name as usize).await?;
    Some((u16::from_be_bytes([about[0], about[1]]), u16::from_be_bytes([about[2], about[3]])))
}

/// The pixels of a square of this size, far from the mouse pointer.
async fn square(desktop: &mut Desktop, size: u8) -> Vec<u8> {
    desktop.stream.write_all(&[2, 0, 0, 1, 0, 0, 0, 0]).await.unwrap();
    desktop.stream.write_all(&[3, 0, 0, 40, 0, 40, 0, size, 0, size]).await.unwrap();
    let head = hear(desktop, 4).await.unwrap();
    let mut pixels = Vec::new();
    for _ in 0..u16::from_be_bytes([head[2], head[3]]) {
        let part = hear(desktop, 12).await.unwrap();
        let side = |at: usize| usize::from(u16::from_be_bytes([part[at], part[at + 1]]));
        pixels.extend(hear(desktop, side(4) * side(6) * 4).await.unwrap());
    }
    pixels
}

#[tokio::test]
async fn a_desktop_is_shown_as_it_is_with_the_rights_of_its_user_who_was_asked() {
    let consent = r#"echo "$(id -u) $WHOSE $(tr '\0' ' ' </proc/$RFB_X11VNC_PID/cmdline)" >/srv/asked"#;
    let agent = Agent::start("vma.x11vnc.confirm.command = /srv/consent", "started", consent).await;
    let mut desktop = agent.client().vnc(true).await.unwrap();
    assert_eq!(meet(&mut desktop).await, Some((320, 200)), "{}", agent.read("said"));
    let asked = agent.read("asked");
    assert!(asked.starts_with("65534 desktop ") && asked.contains("-viewonly"), "{asked}");
    let pixels = square(&mut desktop, 8).await;
    assert_eq!(pixels.len(), 8 * 8 * 4);
    assert!(pixels.chunks(4).all(|pixel| pixel[..3] == [255; 3]), "the screen is white: {pixels:?}");
    // Another one at the same time; who leaves is not waited for.
    let mut second = agent.client().vnc(false).await.unwrap();
    assert_eq!(meet(&mut second).await, Some((320, 200)));
    assert!(!agent.read("asked").contains("-viewonly"));
    drop(desktop);
    assert_eq!(square(&mut second, 4).await.len(), 4 * 4 * 4);
    agent.client().ping().await.unwrap();
}

#[tokio::test]
async fn nothing_is_shown_to_whom_the_user_refuses() {
    let agent = Agent::start("vma.x11vnc.confirm.command = /srv/consent", "resumed", "exit 1").await;
    let mut desktop = agent.client().vnc(true).await.unwrap();
    assert_eq!(meet(&mut desktop).await, None);
}

#[tokio::test]
async fn why_nothing_is_shown_is_told_apart() {
    let suspended = Agent::start("", "suspended", "").await;
    assert!(matches!(suspended.client().vnc(true).await, Err(VncError::Absent)));
    let starting = Agent::start("", "initiating", "").await;
    assert!(matches!(starting.client().vnc(true).await, Err(VncError::NoSession)));
    let without = Agent::start("command.x11vnc = /nowhere/x11vnc", "started", "").await;
    assert!(matches!(without.client().vnc(true).await, Err(VncError::Missing)));
    let unasked = Agent::start("vma.x11vnc.confirm.enabled = 0", "suspended", "exit 1").await;
    assert_eq!(meet(&mut unasked.client().vnc(true).await.unwrap()).await, Some((320, 200)));

    let mut plain = UnixStream::connect(unasked.directory.path().join("socket")).await.unwrap();
    plain.write_all(b"GET /vma/vnc_connect HTTP/1.1\r\n\r\n").await.unwrap();
    let mut said = String::new();
    timeout(PATIENCE, plain.read_to_string(&mut said)).await.expect("it is hung up on").unwrap();
    assert!(said.starts_with("HTTP/1.1 426 Upgrade Required\r\n"), "{said}");
}
