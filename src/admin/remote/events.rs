//! What the web tool tells as it happens: server-sent events. While it does not hear of changes itself, it says so, and then somebody
//! who waits is woken by the clock.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::{sync::mpsc, time::sleep};

/// While nobody tells.
const POLL: Duration = Duration::from_secs(2);
/// What is said in place of what may have been missed.
pub const GAP: &str = r#"{"kind":"gap"}"#;

/// Events out of pieces of their stream.
#[derive(Default)]
struct Reader {
    text: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
enum Event {
    Change(String),
    /// Something may have been missed.
    Gap,
    /// Whether changes are heard of.
    Live(bool),
}

impl Reader {
    /// The events that are whole with this.
    fn take(&mut self, piece: &[u8]) -> Vec<Event> {
        self.text.extend_from_slice(piece);
        let mut events = Vec::new();
        while let Some(end) = self.text.windows(2).position(|two| two == b"\n\n") {
            let block: Vec<u8> = self.text.drain(..end + 2).collect();
            let block = String::from_utf8_lossy(&block);
            let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::trim_start);
            match (field("event:"), field("data:")) {
                (Some("change"), Some(change)) => events.push(Event::Change(change.to_owned())),
                (Some("gap"), _) => events.push(Event::Gap),
                (Some("state"), Some(state)) => events.push(Event::Live(state == "live")),
                _ => {}
            }
        }
        events
    }
}

/// Passes on what is told, until the connection ends or nobody hears it.
pub async fn pass_on(mut body: Incoming, to: mpsc::UnboundedSender<String>) {
    let (mut reader, mut live) = (Reader::default(), true);
    loop {
        tokio::select! {
            frame = body.frame() => {
                let Some(Ok(frame)) = frame else { return };
                let Ok(piece) = frame.into_data() else { continue };
                for event in reader.take(&piece) {
                    let told = match event {
                        Event::Change(change) => to.send(change),
                        Event::Gap => to.send(GAP.to_owned()),
                        Event::Live(is) => {
                            live = is;
                            continue;
                        }
                    };
                    if told.is_err() {
                        return;
                    }
                }
            }
            () = to.closed() => return,
            () = sleep(POLL), if !live => {
                if to.send(GAP.to_owned()).is_err() {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_however_their_stream_is_cut() {
        let stream = b"event: state\ndata: live\n\n:\n\nevent: change\ndata: {\"kind\":\"vm\"}\n\nevent: gap\ndata: missed\n\nevent: sta";
        let wanted = [Event::Live(true), Event::Change(r#"{"kind":"vm"}"#.to_owned()), Event::Gap];
        for size in 1..stream.len() {
            let mut reader = Reader::default();
            let events: Vec<_> = stream.chunks(size).flat_map(|piece| reader.take(piece)).collect();
            assert_eq!(events, wanted, "pieces of {size}");
        }
    }
}
