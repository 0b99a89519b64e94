//! Starting and stopping VMs, and waiting until they are up or down: woken by the database, never by a clock.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::{Args, Subcommand};
use serde_json::json;
use tokio::time::timeout_at;

use crate::{
    admin::{
        access::{Administration, Changes},
        objects,
    },
    db::{Outcome, Refused, VmStanding},
    model::{VmCommand, VmState},
};

use super::{
    act::{self, Those},
    settings::WebTool,
};

#[derive(Subcommand)]
pub enum Power {
    /// Start
    Start(Waiting),
    /// Stop
    Stop(Waiting),
    /// Disconnect the users; the desktops go on
    Disconnect(Those),
}

#[derive(Args)]
pub struct Waiting {
    #[command(flatten)]
    those: Those,
    /// Return when each is there, or has failed
    #[arg(long, short)]
    wait: bool,
    /// Wait no longer than so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300, requires = "wait")]
    timeout: u64,
}

pub async fn run(command: Power, web: &WebTool) -> anyhow::Result<ExitCode> {
    match command {
        Power::Start(waiting) => turn(VmCommand::Start, &waiting, web).await,
        Power::Stop(waiting) => turn(VmCommand::Stop, &waiting, web).await,
        Power::Disconnect(those) => {
            act::act(&objects::VM, "disconnect", &those.chosen, &those.how, json!({}), web).await
        }
    }
}

async fn turn(
    command: VmCommand,
    Waiting { those, wait, timeout }: &Waiting,
    web: &WebTool,
) -> anyhow::Result<ExitCode> {
    let administration = web.administration(&those.how.database).await?;
    let verb = command.as_str();
    let Some(ids) = act::ids(&administration, &objects::VM, verb, &those.chosen, &those.how).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    // Before they are told, or what follows at once would be missed.
    let mut changes = if *wait { Some(administration.changes().await?) } else { None };
    let mut outcomes = administration.act("vm", verb, &ids, &json!({})).await?;
    if let Some(changes) = &mut changes {
        let deadline = Instant::now() + Duration::from_secs(*timeout);
        settle(&administration, command, &mut outcomes, changes, deadline).await?;
    }
    Ok(act::tell(&objects::VM, &outcomes, those.how.json))
}

/// Waits for those that were told, and notes which of them failed.
async fn settle(
    administration: &Administration,
    command: VmCommand,
    outcomes: &mut [Outcome],
    changes: &mut Changes,
    deadline: Instant,
) -> anyhow::Result<()> {
    let mut waiting: Vec<i32> = outcomes.iter().filter(|told| told.refused.is_none()).map(|told| told.id).collect();
    loop {
        let mut left = Vec::new();
        for standing in administration.vm_standings(&waiting).await? {
            match reached(command, &standing) {
                Some(Ok(())) => {}
                Some(Err(why)) => note(outcomes, standing.id, why),
                None => left.push(standing),
            }
        }
        waiting = left.iter().map(|standing| standing.id).collect();
        if waiting.is_empty() {
            return Ok(());
        }
        match timeout_at(deadline.into(), changes.next()).await {
            Ok(Some(_)) => changes.skip(),
            Ok(None) => anyhow::bail!("the connection was lost; what was told is done all the same"),
            Err(_) => {
                for standing in left {
                    let why = format!("it is {} when the time is over", standing.state);
                    note(outcomes, standing.id, why);
                }
                return Ok(());
            }
        }
    }
}

/// Whether a VM is where it was told to be; or why it will not get there; `None`: it is on its way.
fn reached(command: VmCommand, standing: &VmStanding) -> Option<Result<(), String>> {
    let pending = standing.command == Some(command);
    match (command, standing.state) {
        (VmCommand::Start, VmState::Running) | (VmCommand::Stop, VmState::Stopped) if !pending => Some(Ok(())),
        (VmCommand::Start, VmState::Stopped) if !pending => {
            Some(Err(standing.reason.clone().unwrap_or_else(|| "it was stopped meanwhile".to_owned())))
        }
        _ => None,
    }
}

fn note(outcomes: &mut [Outcome], id: i32, message: String) {
    if let Some(outcome) = outcomes.iter_mut().find(|outcome| outcome.id == id) {
        outcome.refused = Some(Refused {
            code: "unreached".to_owned(),
            message,
            hint: Some("`qvd admin vm why` says more".to_owned()),
        });
    }
}
