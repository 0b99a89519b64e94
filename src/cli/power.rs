//! Starting and stopping VMs, and waiting until they are up or down: woken by the database, never by a clock.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::{Args, Subcommand};
use serde_json::json;
use tokio::time::timeout_at;

use crate::{
    admin::objects,
    db::{Acting, Listener, Outcome, Refused, Role, VmStanding},
    model::{VmCommand, VmState},
};

use super::act::{self, Those};

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

pub async fn run(command: Power) -> anyhow::Result<ExitCode> {
    match command {
        Power::Start(waiting) => turn(VmCommand::Start, &waiting).await,
        Power::Stop(waiting) => turn(VmCommand::Stop, &waiting).await,
        Power::Disconnect(those) => act::act(&objects::VM, "disconnect", &those.chosen, &those.how, json!({})).await,
    }
}

async fn turn(command: VmCommand, Waiting { those, wait, timeout }: &Waiting) -> anyhow::Result<ExitCode> {
    let connector = those.how.database.connector(Role::Admin)?;
    let acting = connector.acting().await?;
    let verb = command.as_str();
    let Some(ids) = act::ids(&acting, &objects::VM, verb, &those.chosen, &those.how).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    // Before they are told, or what follows at once would be missed.
    let mut listen = if *wait { Some(Listener::connect(&connector).await?) } else { None };
    if let Some(listen) = &listen {
        listen.listener.watch().await?;
    }
    let mut outcomes = acting.act("vm", verb, &ids, &json!({})).await?;
    if let Some(listen) = &mut listen {
        let deadline = Instant::now() + Duration::from_secs(*timeout);
        settle(&acting, command, &mut outcomes, &mut listen.notifications, deadline).await?;
    }
    Ok(act::tell(&objects::VM, &outcomes, those.how.json))
}

/// Waits for those that were told, and notes which of them failed.
async fn settle(
    acting: &Acting,
    command: VmCommand,
    outcomes: &mut [Outcome],
    changes: &mut tokio::sync::mpsc::UnboundedReceiver<crate::db::Notification>,
    deadline: Instant,
) -> anyhow::Result<()> {
    let mut waiting: Vec<i32> = outcomes.iter().filter(|told| told.refused.is_none()).map(|told| told.id).collect();
    loop {
        let mut left = Vec::new();
        for standing in acting.vm_standings(&waiting).await? {
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
        match timeout_at(deadline.into(), changes.recv()).await {
            Ok(Some(_)) => while changes.try_recv().is_ok() {},
            Ok(None) => anyhow::bail!("the connection to the database was lost; what was told is done all the same"),
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
