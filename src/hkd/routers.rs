//! Routers of this node that died. Whoever shares the machine with them can prove it, so their users need not wait until a
//! router that does not answer is given up.

use crate::{
    db::{Database, DbError, Instance},
    model::InstanceId,
    process::is_gone,
};

use super::fleet::Node;

/// Ends the sessions of all routers of this node that are gone.
pub async fn end_sessions_of_dead(node: &Node, database: &Database) -> Result<(), DbError> {
    let routers = database.node_routers(node.host, node.epoch).await?;
    let gone = |router: &Instance| is_gone(&router.boot_id, router.pid, router.pid_start);
    let gone: Vec<InstanceId> = routers.iter().filter(|router| gone(router)).map(|router| router.instance).collect();
    if gone.is_empty() {
        return Ok(());
    }
    let sessions = database.node_routers_gone(node.host, node.epoch, &gone).await?;
    tracing::warn!(host = %node.host, routers = gone.len(), sessions, "ended what dead routers left");
    Ok(())
}
