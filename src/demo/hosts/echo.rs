//! A tiny disk image for tests of everything around a desktop: our real agent finds a user, an `xinit` and an `nxagent` in
//! it, all scripts for busybox. What a client sends through the tunnel comes back. And the client's side of it.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{Node, PORT};
use crate::{
    client::session::{Credentials, Server, Session},
    model::VmId,
    tunnel::Conn,
};

/// Its name among the images.
pub const ECHO_IMAGE: &str = "echo.tar";

/// Bytes at a time of what is sent in bulk.
const BLOCK: usize = 64 * 1024;

/// Where Debian has it.
const BUSYBOX: &str = "/bin/busybox";

/// Names under which the image has busybox.
const APPLETS: [&str; 10] = ["sh", "cat", "nc", "kill", "sleep", "id", "chown", "cp", "echo", "tail"];

const ADD_USER: &str = r#"#!/bin/sh
for name in "$@"; do :; done
echo "$name:x:1000:1000::/home/$name:/bin/sh" >> /etc/passwd
"#;

const ADD_GROUP: &str = r#"#!/bin/sh
for name in "$@"; do :; done
echo "$name:x:1000:" >> /etc/group
"#;

const XINIT: &str = r#"#!/bin/sh
while [ "$1" != -- ]; do shift; done
shift
exec "$@"
"#;

/// Says what nxagent says, and suspends and resumes as it does. Whoever waits for a process and a signal does so for the process
/// alone, which the signal ends: else one that comes just before the wait is lost.
const NXAGENT: &str = r#"#!/bin/sh
say() { echo "Session: $1 at 'now'."; }
link=
sleeper=
trap 'if [ "$link" ]; then kill "$link"; else woken=1; [ "$sleeper" ] && kill "$sleeper"; fi' HUP
trap 'say "Terminating session"; [ "$link" ] && kill "$link"; exit 0' TERM
echo "Info: Agent running with pid '$$'."
say "Starting session"
beginning="Session started"
while :; do
    nc -l -p 4100 -e /usr/bin/link "$beginning" &
    link=$!
    echo "Info: Waiting for connection from any host on socket 'tcp:*:4100'."
    while kill -0 $link 2>/dev/null; do wait $link; done
    woken=
    link=
    say "Session suspended"
    sleep 1000000 &
    sleeper=$!
    while [ ! "$woken" ]; do wait $sleeper; done
    kill $sleeper 2>/dev/null
    sleeper=
    say "Resuming session"
    beginning="Session resumed"
done
"#;

const LINK: &str = r#"#!/bin/sh
echo "Session: $1 at 'now'." >&2
exec cat
"#;

/// Packs the image into `archive`.
pub fn pack(archive: &Path) -> io::Result<()> {
    let tree = tempfile::tempdir()?;
    let root = tree.path();
    for directory in ["bin", "dev", "etc/X11", "home", "proc", "run", "sys", "tmp", "usr/bin", "usr/sbin", "var/log"] {
        fs::create_dir_all(root.join(directory))?;
    }
    fs::copy(BUSYBOX, root.join("bin/busybox"))
        .map_err(|error| io::Error::new(error.kind(), format!("{BUSYBOX} (install busybox-static): {error}")))?;
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    for (path, text) in [
        ("usr/sbin/useradd", ADD_USER),
        ("usr/sbin/groupadd", ADD_GROUP),
        ("usr/bin/xinit", XINIT),
        ("usr/bin/nxagent", NXAGENT),
        ("usr/bin/link", LINK),
        ("etc/X11/Xsession", ""),
    ] {
        fs::write(root.join(path), text)?;
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(0o755))?;
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\n")?;
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n")?;
    if let Some(parent) = archive.parent() {
        fs::create_dir_all(parent)?;
    }
    let status = Command::new("tar").arg("-cf").arg(archive).arg("-C").arg(root).arg(".").status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("tar: {status}"))) }
}

/// A user's connection to such a desktop.
pub struct Tunnel {
    conn: Conn,
    counter: u64,
}

impl Tunnel {
    /// Through the router of `node`; the desktop is started if need be.
    pub async fn open(node: &Node, token: String, vm: VmId) -> io::Result<Self> {
        let server = Server { host: node.address().to_string(), port: PORT };
        let session = Session::open(&server, Credentials::Token(token), None).await.map_err(io::Error::other)?;
        let link = session.connect(vm, &[], &mut |_| {}).await.map_err(io::Error::other)?;
        Ok(Self { conn: link.conn, counter: 0 })
    }

    /// Sends so many bytes and takes them when they come back; how long that takes.
    pub async fn carry(&mut self, bytes: usize) -> io::Result<Duration> {
        let begin = Instant::now();
        let (mut reader, mut writer) = tokio::io::split(&mut self.conn);
        let sending = async {
            let block = [0; BLOCK];
            let mut left = bytes;
            while left > 0 {
                writer.write_all(&block[..left.min(BLOCK)]).await?;
                left -= left.min(BLOCK);
            }
            writer.flush().await
        };
        let taking = async {
            let mut block = vec![0; BLOCK];
            let mut left = bytes;
            while left > 0 {
                match reader.read(&mut block[..left.min(BLOCK)]).await? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    read => left -= read,
                }
            }
            Ok(())
        };
        tokio::try_join!(sending, taking)?;
        Ok(begin.elapsed())
    }

    /// Sends something that was not sent before and waits for it to come back.
    pub async fn ping(&mut self, limit: Duration) -> io::Result<()> {
        self.counter += 1;
        let sent = self.counter.to_be_bytes();
        let exchange = async {
            self.conn.write_all(&sent).await?;
            self.conn.flush().await?;
            let mut received = [0; 8];
            self.conn.read_exact(&mut received).await?;
            if received == sent { Ok(()) } else { Err(io::Error::from(io::ErrorKind::InvalidData)) }
        };
        timeout(limit, exchange).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}
