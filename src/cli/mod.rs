//! The `qvd` command line: what people and service managers type. Each command is a file that parses its arguments
//! and calls the room that does the work; nothing is decided here.

mod act;
mod admin;
mod config;
mod console;
mod daemons;
mod db;
mod demo;
mod di;
mod doctor;
mod grid;
mod host;
mod image;
mod list;
mod node;
mod pages;
mod power;
mod settings;
mod storage;
mod tenant;
mod top;
mod user;
mod verbs;
mod vm;
mod wat;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::{client, l7r, logging, node::OUTDATED};

/// Virtual Linux desktops: nodes, routers, clients and their administration.
#[derive(Parser)]
#[command(name = "qvd", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show a desktop: everything on this machine, from nothing to a screenshot
    Demo(demo::Demo),
    /// Connect to a desktop
    Client(Box<client::ClientArgs>),
    /// Run a node: keeper, hkd and l7r, each restarted when it dies; or make this machine one
    Node(node::Node),
    /// Say whether this machine can be a node, and what mends it; exits with 1 if it cannot
    Doctor(doctor::Doctor),
    /// Run the house keeping daemon alone
    Hkd(daemons::Daemon),
    /// Run the router alone
    L7r(daemons::Daemon),
    /// Run the web administration tool
    Wat(wat::Wat),
    /// Print the counters of this node's event plane as JSON
    Status(daemons::Status),
    /// Administer: users, VMs, nodes, images and the rest
    Admin(admin::Admin),
    /// Prepare the database and see how it stands
    #[command(subcommand)]
    Db(db::Command),
    /// Check the file of a disk image, or build one
    #[command(subcommand)]
    Image(image::Command),
    /// Look at the configuration, store certificates
    #[command(subcommand)]
    Config(config::Command),
    /// Print what makes a shell complete these commands
    Completion(pages::Completion),
    /// Write manual pages of all commands
    Man(pages::Manual),
}

/// Parses the command line and runs it. Errors are printed with their causes.
pub fn main() -> ExitCode {
    let words = verbs::verb_first(std::env::args_os().collect(), &Arguments::command());
    let arguments = Arguments::parse_from(words);
    logging::begin();
    let prepared = match arguments.command {
        Command::L7r(_) => l7r::forgo_new_privileges(),
        _ => Ok(()),
    };
    let runtime = match prepared.and_then(|()| tokio::runtime::Builder::new_multi_thread().enable_all().build()) {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("qvd: the runtime cannot be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(run(arguments.command));
    // A blocking task that never ends (a read of a terminal) must not keep the process.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("qvd: {error:#}");
            match daemons::is_outdated(&error) {
                true => ExitCode::from(OUTDATED),
                false => ExitCode::FAILURE,
            }
        }
    }
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Client(arguments) => return Ok(client::run(*arguments).await),
        Command::Demo(arguments) => demo::run(arguments).await?,
        Command::Node(arguments) => node::run(arguments).await?,
        Command::Doctor(arguments) => return doctor::run(arguments).await,
        Command::Hkd(arguments) => return daemons::hkd(arguments).await,
        Command::L7r(arguments) => daemons::l7r(arguments).await?,
        Command::Wat(arguments) => wat::run(arguments).await?,
        Command::Status(arguments) => daemons::status(arguments).await?,
        Command::Admin(arguments) => return admin::run(arguments).await,
        Command::Db(command) => db::run(command).await?,
        Command::Image(command) => return image::run(command).await,
        Command::Config(command) => config::run(command).await?,
        Command::Completion(arguments) => pages::completion(&arguments, Arguments::command())?,
        Command::Man(arguments) => pages::manual(&arguments, Arguments::command())?,
    }
    Ok(ExitCode::SUCCESS)
}
