//! `qvd admin di`: disk images, from a file in the staging directory to what VMs start from. The database is told; a node that
//! has the storage does the work.

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::json;

use crate::{
    admin::{access::Administration, objects},
    db::{ImageStanding, NewImage},
};

use super::{
    admin,
    settings::{DatabaseArg, WebTool},
    verbs::{self, Only},
};

/// For a node to list its staging directory. What does not answer is shown as it was last seen.
const LIST_LIMIT: Duration = Duration::from_secs(3);
const LIST_POLL: Duration = Duration::from_millis(50);

#[derive(Subcommand)]
pub enum Command {
    #[command(flatten)]
    Only(Only),
    /// List the files in the staging directory of the storage
    Staging {
        #[command(flatten)]
        database: DatabaseArg,
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Make a file of the staging directory a version of an OSF
    Create(Create),
    /// Let VMs start from an image that is ready
    Publish(One),
    /// Give an image a tag; one that is published takes it from the other
    Tag(Tagged),
    /// Take a tag away from an image
    Untag(Tagged),
    /// Let no VM start from an image
    Block {
        #[command(flatten)]
        one: One,
        /// Let VMs start from it again
        #[arg(long)]
        undo: bool,
    },
    /// Delete an image and its file; refused while a VM needs it
    Delete(One),
}

#[derive(Args)]
pub struct One {
    /// The image: its id, or osf[@tenant]/version, or osf[@tenant]/tag
    #[arg(value_name = "IMAGE")]
    di: String,
    #[command(flatten)]
    database: DatabaseArg,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct Tagged {
    #[command(flatten)]
    one: One,
    /// The tag
    tag: String,
}

#[derive(Args)]
pub struct Create {
    /// The OSF: name or name@tenant
    osf: String,
    /// Name of the file in the staging directory
    file: String,
    /// Version; without it today's date and the first free number
    #[arg(long)]
    version: Option<String>,
    /// Take the file out of the staging directory
    #[arg(long = "move")]
    moves: bool,
    /// A tag beside the version and head; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Leave it at ready
    #[arg(long)]
    no_publish: bool,
    /// How long after its publication users of older versions are asked to log out (2 hours)
    #[arg(long, value_name = "INTERVAL")]
    expire_soft: Option<String>,
    /// How long after it their VMs are stopped, likewise
    #[arg(long, value_name = "INTERVAL")]
    expire_hard: Option<String>,
    /// Wait until it can be used or has failed
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    database: DatabaseArg,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub async fn run(command: Command, web: &WebTool) -> anyhow::Result<ExitCode> {
    let (one, change) = match command {
        Command::Only(command) => return verbs::only(&objects::DI, command, web).await,
        Command::Staging { database, json } => {
            let administration = web.administration(&database).await?;
            return staging(&administration, json).await.map(|()| ExitCode::SUCCESS);
        }
        Command::Create(create) => return make(create, web).await.map(|()| ExitCode::SUCCESS),
        Command::Delete(one) => {
            let di = web.administration(&one.database).await?.di_delete(&one.di).await?;
            match one.json {
                true => println!("{}", json!({ "di": di, "deleted": true })),
                false => println!("{} is deleted.", one.di),
            }
            return Ok(ExitCode::SUCCESS);
        }
        Command::Publish(one) => (one, Change::Publish),
        Command::Tag(Tagged { one, tag }) => (one, Change::Mark(tag, true)),
        Command::Untag(Tagged { one, tag }) => (one, Change::Mark(tag, false)),
        Command::Block { one, undo } => (one, Change::Block(!undo)),
    };
    let administration = web.administration(&one.database).await?;
    let di = match change {
        Change::Publish => administration.di_publish(&one.di).await?,
        Change::Mark(tag, give) => administration.di_mark(&one.di, &tag, give).await?,
        Change::Block(blocked) => administration.di_block(&one.di, blocked).await?,
    };
    let Some(standing) = administration.di_standing(di).await? else { bail!("{} was just deleted", one.di) };
    tell(&standing, one.json);
    Ok(ExitCode::SUCCESS)
}

/// What becomes of an image that goes on to be there.
enum Change {
    Publish,
    Mark(String, bool),
    Block(bool),
}

async fn staging(administration: &Administration, json: bool) -> anyhow::Result<()> {
    administration.staging_refresh().await?;
    let fresh = async {
        while !administration.staging_is_fresh().await? {
            tokio::time::sleep(LIST_POLL).await;
        }
        anyhow::Ok(())
    };
    match tokio::time::timeout(LIST_LIMIT, fresh).await {
        Ok(fresh) => fresh?,
        Err(_) => eprintln!("not every storage has a node that answers; this is what was seen last"),
    }
    admin::print(administration.staging().await?, json)
}

async fn make(create: Create, web: &WebTool) -> anyhow::Result<()> {
    let administration = web.administration(&create.database).await?;
    let mut changes = administration.changes().await?;
    let new = NewImage {
        osf: create.osf,
        file: create.file,
        version: create.version,
        moves: create.moves,
        tags: create.tags,
        publish: !create.no_publish,
        soft: create.expire_soft,
        hard: create.expire_hard,
    };
    let di = administration.di_import(&new).await?;
    let mut progress = Progress::default();
    loop {
        let Some(standing) = administration.di_standing(di).await? else { bail!("image {di} was deleted meanwhile") };
        if !create.wait || !standing.is_on_its_way() {
            progress.end();
            tell(&standing, create.json);
            if standing.state == "fail" {
                bail!("no image can be made of {}", new.file);
            }
            return Ok(());
        }
        progress.show(&standing);
        if changes.next().await.is_none() {
            bail!("the connection was lost; the work goes on");
        }
    }
}

fn tell(standing: &ImageStanding, json: bool) {
    let ImageStanding { di, version, state, percent, message, tags, blocked } = standing;
    if json {
        let told = json!({
            "di": di, "version": version, "state": state, "percentage": percent, "message": message, "tags": tags,
            "blocked": blocked,
        });
        println!("{told}");
        return;
    }
    let blocked = if *blocked { ", blocked" } else { "" };
    let message = message.as_deref().map(|message| format!(": {message}")).unwrap_or_default();
    println!("Image {di}, version {version} ({}), is {state}{blocked}{message}.", tags.join(", "));
}

/// One line that is written over where somebody looks; elsewhere a line for each state.
#[derive(Default)]
struct Progress {
    shown: Option<(String, u8)>,
}

impl Progress {
    fn show(&mut self, standing: &ImageStanding) {
        let now = (standing.state.clone(), standing.percent as u8);
        let told = match std::io::stderr().is_terminal() {
            true if self.shown.as_ref() != Some(&now) => format!("\r{:<12} {:3} %", now.0, now.1),
            false if self.shown.as_ref().is_none_or(|(state, _)| *state != now.0) => format!("{}\n", now.0),
            _ => return,
        };
        eprint!("{told}");
        let _ = std::io::stderr().flush();
        self.shown = Some(now);
    }

    fn end(&self) {
        if self.shown.is_some() && std::io::stderr().is_terminal() {
            eprintln!();
        }
    }
}
