//! `qvd admin top`: nodes, VMs and sessions in one table, drawn anew when something changes. What is in it is decided here; a
//! frame is a pure function of what was read and of the size of the terminal.

use std::{
    io::{self, IsTerminal, Read, Write},
    time::Duration,
};

use anyhow::Context;
use clap::Args;
use futures_util::TryStreamExt;
use rustix::termios::{self, LocalModes, OptionalActions, Termios};
use serde_json::{Map, Value};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{Instant, sleep_until},
};

use crate::{
    admin::{
        access::{Administration, Row},
        objects::{HOST, Object, SESSION, VM},
        words,
    },
    db::Query,
};

use super::{
    grid::Grid,
    settings::{DatabaseArg, WebTool},
};

/// So that a node that starts a hundred VMs does not make the screen flicker.
const CALM: Duration = Duration::from_millis(250);
/// What has an age looks older by itself.
const AGEING: Duration = Duration::from_secs(2);
/// Rows of each part where no terminal says how many.
const ROWS: usize = 50;

const PARTS: [Part; 3] = [
    Part {
        name: "hosts",
        object: &HOST,
        filter: &[],
        columns: &["name", "state", "blocked", "vms", "sessions", "last_sign_of_life", "events_degraded_reason"],
        order: ("vms", true),
    },
    Part {
        name: "vms",
        object: &VM,
        filter: &["state!=stopped"],
        columns: &["vm", "state", "command", "user_state", "host", "since", "reason"],
        order: ("since", true),
    },
    Part {
        name: "sessions",
        object: &SESSION,
        filter: &["ended_at="],
        columns: &["vm", "client", "router", "tunnel", "duration", "bytes_up", "bytes_down"],
        order: ("started_at", true),
    },
];

#[derive(Args)]
pub struct Arguments {
    /// Print it once and end; so it is when the output is no terminal
    #[arg(long)]
    once: bool,
    /// Print it once, as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    database: DatabaseArg,
}

/// A list with what is shown of it.
struct Part {
    name: &'static str,
    object: &'static Object,
    filter: &'static [&'static str],
    columns: &'static [&'static str],
    /// The column that it is ordered by, and whether from the last to the first.
    order: (&'static str, bool),
}

/// A part as it was read.
struct Rows {
    name: &'static str,
    columns: &'static [&'static str],
    /// How many there are, of which these are the first.
    count: i64,
    rows: Vec<Vec<String>>,
}

pub async fn run(arguments: Arguments, web: &WebTool) -> anyhow::Result<()> {
    let administration = web.administration(&arguments.database).await?;
    if arguments.json {
        let mut parts = Map::new();
        for part in &PARTS {
            parts.insert(part.name.to_owned(), part.objects(&administration).await?);
        }
        println!("{}", serde_json::to_string_pretty(&parts)?);
        return Ok(());
    }
    if arguments.once || !io::stdout().is_terminal() {
        print!("{}", frame(&read(&administration, ROWS).await?, None));
        return Ok(());
    }

    let mut changes = administration.changes().await?;
    let screen = Screen::take()?;
    let mut keys = keys();
    let mut resized = signal(SignalKind::window_change())?;
    let mut ended = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    loop {
        let size = termios::tcgetwinsize(io::stdout()).context("the terminal does not say how large it is")?;
        let (width, height) = (usize::from(size.ws_col), usize::from(size.ws_row));
        screen.show(&frame(&read(&administration, height).await?, Some((width, height))))?;
        let drawn = Instant::now();
        tokio::select! {
            heard = changes.next() => {
                heard.context("the connection was lost")?;
                sleep_until(drawn + CALM).await;
                changes.skip();
            }
            key = keys.recv() => if matches!(key, None | Some(b'q')) { return Ok(()) },
            _ = resized.recv() => {}
            _ = ended.0.recv() => return Ok(()),
            _ = ended.1.recv() => return Ok(()),
            () = sleep_until(drawn + AGEING) => {}
        }
    }
}

impl Part {
    fn query(&self, limit: Option<usize>) -> anyhow::Result<Query> {
        Ok(Query {
            filter: words::filters(self.filter)?,
            columns: self.columns.iter().map(|&column| column.to_owned()).collect(),
            order: vec![(self.order.0.to_owned(), self.order.1)],
            limit: limit.map(|limit| limit as i64),
            offset: 0,
        })
    }

    async fn rows(&self, administration: &Administration, limit: usize) -> anyhow::Result<Rows> {
        let (list, query) = (administration.list(self.object).await?, self.query(Some(limit))?);
        let read: Vec<Row> = list.rows(&query).await?.try_collect().await?;
        let cells = |row: &Row| (0..self.columns.len()).map(|at| row.cell(at).to_owned()).collect();
        let rows = read.iter().map(cells).collect();
        Ok(Rows { name: self.name, columns: self.columns, count: list.count(&query.filter).await?, rows })
    }

    async fn objects(&self, administration: &Administration) -> anyhow::Result<Value> {
        let list = administration.list(self.object).await?;
        let read: Vec<Row> = list.objects(&self.query(None)?).await?.try_collect().await?;
        Ok(read.iter().map(|row| serde_json::from_str::<Value>(row.json())).collect::<Result<_, _>>()?)
    }
}

async fn read(administration: &Administration, limit: usize) -> anyhow::Result<Vec<Rows>> {
    let mut parts = Vec::new();
    for part in &PARTS {
        parts.push(part.rows(administration, limit).await?);
    }
    Ok(parts)
}

/// What is shown on a terminal of this width and height, or as much as was read where there is none.
fn frame(parts: &[Rows], size: Option<(usize, usize)>) -> String {
    let wanted: Vec<_> = parts.iter().map(|part| part.rows.len()).collect();
    // A title and a heading for each, and a blank line between two.
    let around = 3 * parts.len() - 1;
    let shown = size.map_or_else(|| wanted.clone(), |(_, height)| shares(&wanted, height.saturating_sub(around)));
    let mut text = Vec::new();
    for (at, (part, shown)) in parts.iter().zip(shown).enumerate() {
        let more = usize::try_from(part.count).unwrap_or_default().saturating_sub(shown);
        let rest = if more > 0 { format!(", {more} not shown") } else { String::new() };
        let blank = if at > 0 { "\n" } else { "" };
        let mut grid = Grid::new(part.columns);
        part.rows.iter().take(shown).flatten().for_each(|cell| grid.cell(cell));
        // Into memory, which takes everything.
        let _ = writeln!(text, "{blank}{}: {}{rest}", part.name, part.count);
        let _ = grid.write(&mut text, size.map(|(width, _)| width));
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// How many rows each part gets: whoever wants less than an equal share leaves the rest to the others.
fn shares(wanted: &[usize], room: usize) -> Vec<usize> {
    let mut given = vec![0; wanted.len()];
    let mut left = room;
    while let Some(at) = (0..wanted.len()).filter(|&at| given[at] < wanted[at]).min_by_key(|&at| given[at]) {
        if left == 0 {
            break;
        }
        given[at] += 1;
        left -= 1;
    }
    given
}

/// Keys that are pressed. The thread that reads them ends with the process.
fn keys() -> mpsc::UnboundedReceiver<u8> {
    let (pressed, keys) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let mut key = [0];
        while let Ok(1) = io::stdin().read(&mut key) {
            if pressed.send(key[0]).is_err() {
                return;
            }
        }
    });
    keys
}

/// The terminal, which looks as before when this is dropped.
struct Screen {
    before: Option<Termios>,
}

impl Screen {
    /// Shows another page, without a cursor, and takes keys as they are pressed.
    fn take() -> anyhow::Result<Self> {
        let before = termios::tcgetattr(io::stdin()).ok();
        if let Some(mut now) = before.clone() {
            now.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
            termios::tcsetattr(io::stdin(), OptionalActions::Now, &now)?;
        }
        let screen = Self { before };
        write!(io::stdout(), "\x1b[?1049h\x1b[?25l")?;
        Ok(screen)
    }

    fn show(&self, frame: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        // Line over line, so that nothing flickers; the last one has no end, which would scroll.
        let lines = frame.trim_end_matches('\n').replace('\n', "\x1b[K\r\n");
        write!(out, "\x1b[H{lines}\x1b[K\x1b[J")?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = write!(io::stdout(), "\x1b[?25h\x1b[?1049l");
        let _ = io::stdout().flush();
        if let Some(before) = &self.before {
            let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_go_to_whoever_wants_some_in_equal_shares() {
        assert_eq!(shares(&[2, 50, 50], 12), [2, 5, 5]);
        assert_eq!(shares(&[1, 0, 3], 12), [1, 0, 3]);
        assert_eq!(shares(&[9, 9, 9], 2), [1, 1, 0]);
        assert_eq!(shares(&[5, 5], 0), [0, 0]);
    }

    #[test]
    fn a_frame_has_no_more_lines_and_columns_than_the_terminal() {
        let rows = |count: usize| Rows {
            name: "vms",
            columns: &["vm", "state"],
            count: count as i64,
            rows: vec![vec!["somebody@somewhere/desktop".to_owned(), "running".to_owned()]; count],
        };
        let shown = frame(&[rows(1), rows(40), rows(40)], Some((24, 20)));
        assert!(shown.lines().count() <= 20 && shown.lines().all(|line| line.chars().count() <= 24), "{shown}");
        assert!(shown.contains("vms: 40, 34 not shown"), "{shown}");
        let whole = frame(&[rows(1), rows(40)], None);
        assert_eq!(whole.lines().count(), 5 + 41, "{whole}");
    }
}
