//! `qvd doctor`: whether this machine can be a node, and if not, what mends it.

use std::{env, io::IsTerminal, path::Path, process::ExitCode};

use anyhow::Context;
use clap::Args;
use serde_json::json;
use tracing::{instrument::WithSubscriber, subscriber::NoSubscriber};

use crate::doctor::{self, Grade, Style};

use super::settings::ConfigFile;

/// Columns where there is no terminal, and least and most where there is one.
const COLUMNS: usize = 80;
const LEAST: usize = 60;
const MOST: usize = 100;

#[derive(Args)]
pub struct Doctor {
    #[command(flatten)]
    file: ConfigFile,
    /// Say also of what is good why it matters
    #[arg(long)]
    explain: bool,
    /// Print a JSON object
    #[arg(long, conflicts_with = "explain")]
    json: bool,
}

/// Looks and prints. Bad lines make the exit status 1.
pub async fn run(arguments: Doctor) -> anyhow::Result<ExitCode> {
    let own = env::current_exe().context("this program cannot find itself")?;
    let bin = own.parent().unwrap_or(Path::new("/"));
    let examined = doctor::examine(&arguments.file.config, bin);
    // What is worth a warning to a daemon is a line of the page.
    let report = match env::var_os("QVD_LOG") {
        Some(_) => examined.await,
        None => examined.with_subscriber(NoSubscriber::default()).await,
    };
    if arguments.json {
        println!("{}", json!({ "node": report.node, "grade": report.grade(), "sections": report.sections }));
    } else {
        let terminal = std::io::stdout().is_terminal();
        let columns = rustix::termios::tcgetwinsize(std::io::stdout()).ok().map(|size| usize::from(size.ws_col));
        let style = Style {
            width: columns.filter(|_| terminal).map_or(COLUMNS, |columns| columns.clamp(LEAST, MOST)),
            colours: terminal && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            explain: arguments.explain,
        };
        print!("{}", doctor::page(&report, style));
    }
    Ok(if report.grade() == Grade::Bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
