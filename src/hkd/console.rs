//! Sends what VMs say on their consoles to the database, for administrators who watch there. While nobody does, it sleeps
//! and reads nothing. What is sent is text: what terminals would obey is left out.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anstream::adapter::StripBytes;

use crate::{
    db::{DbError, WantedConsole},
    events::{Channel, Hub},
    model::{VmId, config::keys},
};

use super::fleet::Node;

/// Between two looks at a file that is watched; nobody tells when it grows.
const PAUSE: Duration = Duration::from_millis(250);
/// No more than the end of a file is sent, nor kept by the database.
const TAIL: u64 = 64 * 1024;
/// What is sent at once. Were it no text at all, it would become three times as long.
const PIECE: u64 = 16 * 1024;

/// Does so until the node stops.
pub async fn go_on(node: Arc<Node>, hub: Hub) {
    let mut watch = hub.watch(Channel::Node(node.host)).await;
    let mut followed: HashMap<VmId, Follower> = HashMap::new();
    let mut due = Some(Instant::now());
    loop {
        if due.is_some_and(|due| due <= Instant::now()) {
            due = match node.database.node_consoles(node.host, node.epoch).await {
                Ok(wanted) => {
                    let next = wanted.iter().map(|console| console.left).min();
                    followed.retain(|vm, _| wanted.iter().any(|console| console.vm == *vm));
                    for console in wanted {
                        followed.entry(console.vm).or_insert_with(|| Follower::new(&console));
                    }
                    // A moment more, so that it is over by the clock of the database, too.
                    next.map(|next| Instant::now() + next + PAUSE)
                }
                Err(DbError::Revoked(message)) => {
                    tracing::error!(host = %node.host, "{message}");
                    node.stop.cancel();
                    None
                }
                Err(error) => {
                    tracing::warn!(host = %node.host, %error, "cannot ask whose consoles are watched");
                    Some(Instant::now() + node.config.load().get(&keys::HKD_POLL_URGENT))
                }
            };
        }
        let mut look = PAUSE;
        match send(&node, &mut followed).await {
            Ok(true) => {}
            Ok(false) => due = Some(Instant::now()),
            Err(error) => {
                tracing::warn!(host = %node.host, %error, "what VMs say cannot be sent");
                look = node.config.load().get(&keys::HKD_POLL_URGENT);
                due = Some(Instant::now());
            }
        }
        let pause = match (followed.is_empty(), due) {
            (false, _) => Some(look),
            (true, due) => due.map(|due| due.saturating_duration_since(Instant::now())),
        };
        tokio::select! {
            _ = watch.changed() => due = Some(Instant::now()),
            () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
            () = node.stop.cancelled() => return,
        }
    }
}

/// Sends what is new; whether somebody still watches all of it.
async fn send(node: &Arc<Node>, followed: &mut HashMap<VmId, Follower>) -> Result<bool, DbError> {
    let mut all = Ok(true);
    let watched: Vec<VmId> = followed.keys().copied().collect();
    for vm in watched {
        let (Some(path), Some(mut follower)) = (node.hypervisor.console(vm), followed.remove(&vm)) else { continue };
        // One that speaks without end does not keep others waiting.
        for _ in 0..TAIL / PIECE {
            let read = tokio::task::spawn_blocking({
                let path = path.clone();
                move || {
                    let read = follower.read(&path);
                    (follower, read)
                }
            });
            let Ok((back, read)) = read.await else { return Ok(false) };
            follower = back;
            if let Err(error) = read {
                tracing::debug!(%vm, host = %node.host, %error, "its console cannot be read");
                break;
            }
            let Some((position, text)) = follower.unsent() else { break };
            match node.database.node_console((node.host, node.epoch), vm, position, text).await {
                Ok(true) => follower.sent(),
                Ok(false) => {
                    all = all.map(|_| false);
                    break;
                }
                Err(error) => {
                    all = Err(error);
                    break;
                }
            }
        }
        followed.insert(vm, follower);
    }
    all
}

/// Reads a file that grows, and the one that takes its place.
struct Follower {
    open: Option<Open>,
    /// Where to go on if it is the file of this number.
    known: Option<(u64, u64)>,
    /// What was sent last; `None`: nothing, so that even nothing is worth saying.
    sent: Option<(u64, u64)>,
    text: Text,
    unsent: String,
}

struct Open {
    file: File,
    number: u64,
    position: u64,
}

impl Follower {
    fn new(wanted: &WantedConsole) -> Self {
        Self { open: None, known: wanted.sent, sent: wanted.sent, text: Text::default(), unsent: String::new() }
    }

    /// Reads on, unless something waits to be sent.
    fn read(&mut self, path: &Path) -> io::Result<()> {
        if !self.unsent.is_empty() {
            return Ok(());
        }
        let now = match path.metadata() {
            Ok(now) => Some(now.ino()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if let Some(open) = &mut self.open {
            let read = open.read(&mut self.text, &mut self.unsent)?;
            // It was looked before whether this one is still added to, so it has been read to its end.
            if read > 0 || now.is_none_or(|now| now == open.number) {
                return Ok(());
            }
        }
        if now.is_none() {
            return Ok(());
        }
        let mut file = File::open(path)?;
        let found = file.metadata()?;
        let position = begin(self.known.take(), (found.ino(), found.len()));
        file.seek(SeekFrom::Start(position))?;
        let open = self.open.insert(Open { file, number: found.ino(), position });
        open.read(&mut self.text, &mut self.unsent)?;
        Ok(())
    }

    /// What is to be sent, and with which the database has how much of which file.
    fn unsent(&self) -> Option<((u64, u64), &str)> {
        let open = self.open.as_ref()?;
        let position = (open.number, open.position);
        (self.sent != Some(position)).then_some((position, self.unsent.as_str()))
    }

    fn sent(&mut self) {
        self.sent = self.open.as_ref().map(|open| (open.number, open.position));
        self.unsent.clear();
    }
}

impl Open {
    /// Reads a piece; returns its length. Who is too far behind is told what is left out.
    fn read(&mut self, text: &mut Text, into: &mut String) -> io::Result<u64> {
        let length = self.file.metadata()?.len();
        let behind = length.saturating_sub(self.position);
        if behind > TAIL {
            self.position = length - TAIL;
            self.file.seek(SeekFrom::Start(self.position))?;
            *text = Text::default();
            into.push_str(&format!("\n[{} bytes are left out]\n", behind - TAIL));
        }
        let mut bytes = Vec::new();
        let read = (&mut self.file).take(PIECE).read_to_end(&mut bytes)? as u64;
        self.position += read;
        into.push_str(&text.next(&bytes));
        Ok(read)
    }
}

/// Where to begin in a file of this number and length: where it was left, else near its end.
fn begin(known: Option<(u64, u64)>, (number, length): (u64, u64)) -> u64 {
    match known {
        Some((known, position)) if known == number && position <= length => position,
        _ => length.saturating_sub(TAIL),
    }
}

/// Makes text of what terminals are sent, piece by piece: without what they obey, and with what they cannot read replaced.
#[derive(Default)]
struct Text {
    strip: StripBytes,
    /// The beginning of a character.
    rest: Vec<u8>,
}

impl Text {
    fn next(&mut self, bytes: &[u8]) -> String {
        let mut all = std::mem::take(&mut self.rest);
        self.strip.strip_next(bytes).for_each(|part| all.extend_from_slice(part));
        let mut text = String::with_capacity(all.len());
        let mut chunks = all.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            let unfinished = |bytes| std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none());
            match chunk.invalid() {
                [] => {}
                invalid if chunks.peek().is_none() && unfinished(invalid) => self.rest = invalid.to_vec(),
                _ => text.push(char::REPLACEMENT_CHARACTER),
            }
        }
        text.retain(|char| matches!(char, '\n' | '\t') || !char.is_control());
        text
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use super::*;

    fn said(follower: &mut Follower, path: &Path) -> String {
        let mut all = String::new();
        loop {
            follower.read(path).unwrap();
            match follower.unsent() {
                Some((_, text)) => all.push_str(text),
                None => return all,
            }
            follower.sent();
        }
    }

    fn wanted(sent: Option<(u64, u64)>) -> WantedConsole {
        WantedConsole { vm: VmId(1), left: Duration::ZERO, sent }
    }

    #[test]
    fn what_terminals_obey_is_left_out_however_it_is_cut() {
        let raw = b"\x1b[1;31mred\x1b[0m\r\n\x1b]0;title\x07caf\xc3\xa9 \x00\x08\xc2\x9b31m\ttab\n";
        for cut in 0..raw.len() {
            let mut text = Text::default();
            let both = text.next(&raw[..cut]) + &text.next(&raw[cut..]);
            assert_eq!(both, "red\ncaf\u{e9} 31m\ttab\n", "cut after {cut}");
        }
    }

    #[test]
    fn a_file_is_followed_through_its_rotation_and_its_removal_and_nothing_is_sent_twice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("output.log");
        let mut follower = Follower::new(&wanted(None));
        assert_eq!(said(&mut follower, &path), "");
        let mut file = File::create(&path).unwrap();
        file.write_all(b"one\n").unwrap();
        assert_eq!(said(&mut follower, &path), "one\n");
        // More than is read at once.
        let long = "two".repeat(10_000) + "\n";
        file.write_all(long.as_bytes()).unwrap();
        fs::rename(&path, dir.path().join("output.log.old")).unwrap();
        fs::write(&path, "three\n").unwrap();
        assert_eq!(said(&mut follower, &path), format!("{long}three\n"));
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"the last\n").unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(said(&mut follower, &path), "the last\n");
        fs::write(&path, "of the next run\n").unwrap();
        assert_eq!(said(&mut follower, &path), "of the next run\n");
        let mut successor = Follower::new(&wanted(follower.sent));
        assert_eq!(said(&mut successor, &path), "");
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"more\n").unwrap();
        let mut successor = Follower::new(&wanted(follower.sent));
        assert_eq!(said(&mut successor, &path), "more\n");
    }

    #[test]
    fn of_a_long_file_the_end_is_sent_and_of_what_comes_too_fast_what_is_left_out_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("output.log");
        fs::write(&path, vec![b'x'; 100_000]).unwrap();
        let mut follower = Follower::new(&wanted(None));
        assert_eq!(said(&mut follower, &path).len(), usize::try_from(TAIL).unwrap());
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(&vec![b'y'; 100_000]).unwrap();
        assert!(said(&mut follower, &path).starts_with("\n[34464 bytes are left out]\ny"));
    }

    #[test]
    fn even_that_nothing_was_said_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("output.log");
        fs::write(&path, "").unwrap();
        let mut follower = Follower::new(&wanted(None));
        follower.read(&path).unwrap();
        assert!(follower.unsent().is_some_and(|(_, text)| text.is_empty()));
        follower.sent();
        assert!(follower.unsent().is_none());
    }
}
