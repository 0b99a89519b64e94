//! Stops a VM because its user asked and may, and tells the user when it has stopped.

use std::time::Instant;

use crate::{
    db::DbError,
    events::Channel,
    model::{VmId, VmState, config::keys},
    tunnel::Conn,
};

use super::{
    http::{Answer, Dialogue, DialogueError, Status},
    requests::{Connection, Served, unavailable},
};

/// Has the VM stopped and waits for it.
pub async fn stop(connection: &Connection, mut dialogue: Dialogue<Conn>, vm: VmId) -> Result<Served, DialogueError> {
    let router = &connection.router;
    let (limit, tell) = {
        let config = router.config.load();
        (config.get(&keys::L7R_TIMEOUT_VM_STOP), config.get(&keys::L7R_POLL_VM))
    };
    let deadline = Instant::now() + limit;
    let mut watch = router.hub.watch(Channel::Vm(vm)).await;
    let mut asked = false;
    let answer = loop {
        let state = match router.database.l7r_vm(router.host, Some(vm)).await {
            Ok(Some((_, Some(check)))) => check.state,
            Ok(_) => VmState::Stopped,
            Err(error) => break unavailable(error),
        };
        match state {
            VmState::Stopped => break Answer::text(Status::Ok, "Machine stopped\r\n"),
            VmState::Starting | VmState::Running | VmState::Debugging if !asked => {
                asked = true;
                dialogue.interim("Stopping virtual machine").await?;
                match router.database.l7r_vm_stop(vm).await {
                    Ok(()) => {}
                    Err(DbError::Refused { message, .. }) => break Answer::text(Status::Unavailable, message),
                    Err(error) => break unavailable(error),
                }
            }
            VmState::Zombie => {
                break Answer::text(
                    Status::Unavailable,
                    format!("The requested virtual machine is in an unstoppable state ({state})"),
                );
            }
            _ => dialogue.interim("Waiting for VM to reach state 'stopped'").await?,
        }
        if Instant::now() >= deadline {
            break Answer::text(Status::RequestTimeout, "VM didn't reach state 'stopped'. Timeout");
        }
        tokio::select! {
            _ = watch.changed() => {}
            () = tokio::time::sleep(tell) => {}
            () = dialogue.closed() => return Ok(Served::Closed),
        }
    };
    dialogue.answer(&answer).await?;
    Ok(Served::Open(dialogue))
}
