//! Turns what the database wants into orders. One function, called by wake-ups, polls and at start; it neither knows
//! nor cares who called. Claiming is one atomic statement, so calling it too often costs a query and nothing else.

use std::sync::Arc;

use crate::{
    db::{Claim, DbError, NodeVm},
    model::{VmCommand, VmPorts, VmState},
};

use super::{
    fleet::Node,
    supervisor::{Begin, Order},
};

/// Claims every command that waits for the node and hands it to the VM's supervisor. Returns how many there were.
pub async fn reconcile(node: &Arc<Node>) -> Result<usize, DbError> {
    let claims = node.database.node_claim(node.host, node.epoch, VmPorts::of(&node.config.load())).await?;
    let count = claims.len();
    for claim in claims {
        deliver(node, claim);
    }
    Ok(count)
}

/// Makes the database and this node agree that it serves and who is here. Takes up what was claimed by a statement whose
/// answer never came: the database has it as begun, and nobody acts. Puts on record what lives here and was forgotten with
/// commits that a server lost. Not for use while `reconcile` runs, which could be about to do the same.
pub async fn recover(node: &Arc<Node>) -> Result<(), DbError> {
    if node.database.node_serves(node.host, node.epoch).await? {
        tracing::warn!(host = %node.host, "the database did not know that this node serves");
    }
    // Asked first, so that a supervisor that ends meanwhile is not followed by one for a state that is history.
    let mut supervised = node.fleet.supervised();
    for record in node.database.node_vms(node.host, node.epoch).await? {
        let NodeVm { vm, state, spec, .. } = record;
        if !supervised.contains(&vm) {
            tracing::warn!(%vm, host = %node.host, %state, "on record here and nobody acts on it; taking it up");
            // What lives here has had a supervisor since this daemon adopted or started it.
            node.fleet.begin(node, vm, Begin::Adopt { spec: spec.map(Box::new), published: state, alive: false });
        }
        supervised.remove(&vm);
        // What is so already does not mind, and what has ended has been told.
        let _ = match state {
            VmState::Stopping | VmState::Zombie => node.fleet.order(vm, Order::Stop),
            VmState::Starting => node.fleet.order(vm, Order::Forgotten),
            _ => continue,
        };
    }
    for vm in supervised {
        let _ = node.fleet.order(vm, Order::Forgotten);
    }
    Ok(())
}

fn deliver(node: &Arc<Node>, Claim { command, vm }: Claim) {
    tracing::info!(vm = %vm.vm, host = %node.host, %command, "claimed");
    let (id, spec) = (vm.vm, vm.spec.map(Box::new));
    let begin = match (command, spec) {
        (VmCommand::Start, Some(spec)) => match node.fleet.order(id, Order::Start(spec)) {
            Err(Order::Start(spec)) => Begin::Start(spec),
            _ => return,
        },
        (VmCommand::Start, None) => {
            let node = node.clone();
            tokio::spawn(async move { refuse(&node, id, &vm.tag).await });
            return;
        }
        (VmCommand::Stop, spec) => match node.fleet.order(id, Order::Stop) {
            Ok(()) => return,
            Err(_) => Begin::Adopt { spec, published: VmState::Stopping, alive: false },
        },
    };
    node.fleet.begin(node, id, begin);
    if node.told_to_stop.is_cancelled() {
        // A start that raced with the order to the node.
        let _ = node.fleet.order(id, Order::Stop);
    }
}

async fn refuse(node: &Node, vm: crate::model::VmId, tag: &str) {
    let reason = format!("its OSF has no disk image tagged {tag} that is published and not blocked");
    tracing::warn!(%vm, reason, "cannot start");
    node.retrying("publish that a VM cannot start", || {
        node.database.node_vm_state((node.host, node.epoch), vm, &[VmState::Starting], VmState::Stopped, Some(&reason))
    })
    .await;
}
