//! `qvd admin tenant`: organisations that do not know of each other.

use std::process::ExitCode;

use clap::Subcommand;

use crate::admin::objects;

use super::{
    act::Those,
    settings::WebTool,
    verbs::{self, Common, Lock},
};

#[derive(Subcommand)]
pub enum Command {
    #[command(flatten)]
    Common(Common),
    #[command(flatten)]
    Lock(Lock),
    /// Delete with all that belongs to it: users, VMs, OSFs and images
    Purge(Those),
}

pub async fn run(command: Command, web: &WebTool) -> anyhow::Result<ExitCode> {
    match command {
        Command::Common(command) => verbs::common(&objects::TENANT, command, web).await,
        Command::Lock(command) => verbs::lock(&objects::TENANT, command, web).await,
        Command::Purge(those) => verbs::simply(&objects::TENANT, "purge", &those, web).await,
    }
}
