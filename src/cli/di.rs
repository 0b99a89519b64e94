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
    admin::objects,
    db::{Connector, ImageStanding, Listener, NewImage, Role},
};

use super::{
    admin,
    settings::DatabaseArg,
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

pub async fn run(command: Command) -> anyhow::Result<ExitCode> {
    let (one, done) = match command {
        Command::Only(command) => return verbs::only(&objects::DI, command).await,
        Command::Staging { database, json } => {
            return staging(&database, json).await.map(|()| ExitCode::SUCCESS);
        }
        Command::Create(create) => return make(create).await.map(|()| ExitCode::SUCCESS),
        Command::Delete(one) => {
            let di = connector(&one)?.di_delete(&one.di).await?;
            match one.json {
                true => println!("{}", json!({ "di": di, "deleted": true })),
                false => println!("{} is deleted.", one.di),
            }
            return Ok(ExitCode::SUCCESS);
        }
        Command::Publish(one) => {
            let di = connector(&one)?.di_publish(&one.di).await?;
            (one, di)
        }
        Command::Tag(Tagged { one, tag }) => {
            let di = connector(&one)?.di_tag(&one.di, &tag).await?;
            (one, di)
        }
        Command::Untag(Tagged { one, tag }) => {
            let di = connector(&one)?.di_untag(&one.di, &tag).await?;
            (one, di)
        }
        Command::Block { one, undo } => {
            let di = connector(&one)?.di_block(&one.di, !undo).await?;
            (one, di)
        }
    };
    let Some(standing) = connector(&one)?.di_standing(done).await? else { bail!("{} was just deleted", one.di) };
    tell(&standing, one.json);
    Ok(ExitCode::SUCCESS)
}

fn connector(one: &One) -> anyhow::Result<Connector> {
    one.database.connector(Role::Admin)
}

async fn staging(database: &DatabaseArg, json: bool) -> anyhow::Result<()> {
    let connector = database.connector(Role::Admin)?;
    connector.staging_refresh().await?;
    let fresh = async {
        while !connector.staging_is_fresh().await? {
            tokio::time::sleep(LIST_POLL).await;
        }
        anyhow::Ok(())
    };
    match tokio::time::timeout(LIST_LIMIT, fresh).await {
        Ok(fresh) => fresh?,
        Err(_) => eprintln!("not every storage has a node that answers; this is what was seen last"),
    }
    admin::print(connector.staging().await?, json)
}

async fn make(create: Create) -> anyhow::Result<()> {
    let connector = create.database.connector(Role::Admin)?;
    let mut listen = Listener::connect(&connector).await?;
    listen.listener.watch().await?;
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
    let di = connector.di_import(&new).await?;
    let mut progress = Progress::default();
    loop {
        let Some(standing) = connector.di_standing(di).await? else { bail!("image {di} was deleted meanwhile") };
        if !create.wait || !standing.is_on_its_way() {
            progress.end();
            tell(&standing, create.json);
            if standing.state == "fail" {
                bail!("no image can be made of {}", new.file);
            }
            return Ok(());
        }
        progress.show(&standing);
        if listen.notifications.recv().await.is_none() {
            bail!("the connection to the database was lost; the work goes on");
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
