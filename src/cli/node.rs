//! `qvd node`: runs the processes of a node, makes a machine one, and takes it off the record again.

use std::{net::IpAddr, path::PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::json;

use crate::{
    db::Connector,
    model::config::keys,
    node::join::{self, Plan, Sharing},
};

use super::daemons::{self, Daemon};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Node {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    daemon: Daemon,
}

#[derive(Subcommand)]
enum Command {
    /// Make this machine a node: on record, with logins, storage, configuration and certificate of its own
    Join(Join),
    /// Take a stopped node off the record, with its logins
    Leave {
        /// Name of the node
        name: String,
        #[command(flatten)]
        owner: Owner,
    },
}

/// Who may make nodes and roles.
#[derive(Args)]
struct Owner {
    /// Connection string of the owner of the database: host=… dbname=… user=… or postgresql://…
    #[arg(long, env = "QVD_DATABASE", value_name = "STRING", hide_env_values = true)]
    database: String,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Join {
    #[command(flatten)]
    owner: Owner,
    /// Address of the node: in the VM network, below those of the VMs, or outside of it where vm.network.mode is routed
    #[arg(long)]
    address: IpAddr,
    /// Name of the node; without it the machine's own
    #[arg(long)]
    name: Option<String>,
    /// Root of the storage with images and homes
    #[arg(long, value_name = "DIR", default_value = keys::PATH_STORAGE_ROOT.default)]
    storage: PathBuf,
    /// Begin another storage than the other nodes have
    #[arg(long, conflicts_with = "local_storage")]
    new_storage: bool,
    /// The storage is this node's alone: nobody takes its VMs over
    #[arg(long)]
    local_storage: bool,
    /// A further line of the configuration; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
    /// The configuration file to write
    #[arg(long, value_name = "FILE", default_value = "/etc/qvd/node.conf")]
    config: PathBuf,
}

pub async fn run(arguments: Node) -> anyhow::Result<()> {
    match arguments.command {
        None => daemons::node(arguments.daemon).await,
        Some(Command::Join(arguments)) => join(arguments).await,
        Some(Command::Leave { name, owner }) => {
            Connector::from_url(&owner.database, "qvd node leave")?.node_leave(&name).await?;
            match owner.json {
                true => println!("{}", json!({ "name": name, "left": true })),
                false => println!("{name} is no node any more; what is stored for it on its own disk is left there."),
            }
            Ok(())
        }
    }
}

async fn join(arguments: Join) -> anyhow::Result<()> {
    let connector = Connector::from_url(&arguments.owner.database, "qvd node join")?;
    let name = match arguments.name {
        Some(name) => name,
        None => {
            let own = nix::unistd::gethostname().context("this machine does not tell its name; say --name")?;
            own.to_string_lossy().split('.').next().unwrap_or_default().to_owned()
        }
    };
    let mut settings = vec![(keys::PATH_STORAGE_ROOT.name.to_owned(), arguments.storage.display().to_string())];
    settings.extend(arguments.settings);
    let plan = Plan {
        name,
        address: arguments.address,
        sharing: match (arguments.new_storage, arguments.local_storage) {
            (_, true) => Sharing::Alone,
            (true, false) => Sharing::Begin,
            (false, false) => Sharing::Others,
        },
        settings,
        file: arguments.config,
    };
    let report = join::join(&connector, &plan).await?;
    let storage = report.storage.as_ref().map(ToString::to_string);
    if arguments.owner.json {
        println!(
            "{}",
            json!({
                "name": plan.name, "host": report.host.0, "config": plan.file, "storage": storage,
                "roles": report.roles, "fingerprint": report.fingerprint,
                "certificate_of_all_nodes": report.certificate_of_all,
            })
        );
        return Ok(());
    }
    println!("{} is node {} and logs in as {}", plan.name, report.host, report.roles.join(" and "));
    match storage {
        Some(storage) => println!("storage      {} ({storage})", arguments.storage.display()),
        None => println!("storage      {}, its own", arguments.storage.display()),
    }
    println!(
        "certificate  {}{}",
        report.fingerprint,
        if report.certificate_of_all { ", that of all nodes" } else { "" }
    );
    println!("written      {}", plan.file.display());
    println!("Start it: qvd node --config {}", plan.file.display());
    Ok(())
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}
