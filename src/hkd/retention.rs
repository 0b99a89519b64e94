//! Forgets what has been kept long enough: entries of the log, sessions that have ended, tokens. Every node asks for it
//! now and then, and one at a time does it for all; a node that dies leaves the rest to the next. How long what is
//! kept is the database's to know.

use std::sync::Arc;

use crate::{db::DbError, model::config::keys};

use super::fleet::Node;

/// Asks until the node stops. Nodes that began together do not ask together.
pub async fn go_on(node: Arc<Node>) {
    let mut share = rand::random::<f64>();
    loop {
        let interval = node.config.load().get(&keys::RETENTION_INTERVAL);
        tokio::select! {
            () = tokio::time::sleep(interval.mul_f64(share)) => {}
            () = node.stop.cancelled() => return,
        }
        share = 1.0;
        match forget(&node).await {
            Ok(0) => {}
            Ok(rows) => tracing::info!(host = %node.host, rows, "what was kept long enough is gone"),
            Err(error) => tracing::warn!(host = %node.host, %error, "cannot delete what was kept long enough"),
        }
    }
}

/// In small transactions, so that nobody waits for them. Returns how many rows went.
async fn forget(node: &Node) -> Result<i64, DbError> {
    let mut total = 0;
    while !node.stop.is_cancelled() {
        match node.database.retention_apply().await? {
            0 => break,
            rows => total += rows,
        }
    }
    Ok(total)
}
