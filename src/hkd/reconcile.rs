//! Turns what the database wants into orders. One function, called by wake-ups, polls and at start; it neither knows
//! nor cares who called. Claiming is one atomic statement, so calling it too often costs a query and nothing else.

use std::sync::Arc;

use crate::{
    db::{Claim, DbError},
    model::{VmCommand, VmState},
};

use super::{
    fleet::Node,
    supervisor::{Begin, Order},
};

/// Claims every command that waits for the node and hands it to the VM's supervisor. Returns how many there were.
pub async fn reconcile(node: &Arc<Node>) -> Result<usize, DbError> {
    let claims = node.database.node_claim(node.host, node.epoch).await?;
    let count = claims.len();
    for claim in claims {
        deliver(node, claim);
    }
    Ok(count)
}

fn deliver(node: &Arc<Node>, Claim { command, vm }: Claim) {
    tracing::info!(vm = %vm.vm, host = %node.host, %command, "claimed");
    let (id, spec) = (vm.vm, vm.spec.map(Box::new));
    let begin = match (command, spec) {
        (VmCommand::Start, Some(spec)) => match node.fleet.order(id, Order::Start(spec)) {
            Ok(()) => return,
            Err(Order::Start(spec)) => Begin::Start(spec),
            Err(Order::Stop) => return,
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
}

async fn refuse(node: &Node, vm: crate::model::VmId, tag: &str) {
    let reason = format!("its OSF has no disk image tagged {tag} that is published and not blocked");
    tracing::warn!(%vm, reason, "cannot start");
    node.retrying("publish that a VM cannot start", || {
        node.database.node_vm_state((node.host, node.epoch), vm, &[VmState::Starting], VmState::Stopped, Some(&reason))
    })
    .await;
}
