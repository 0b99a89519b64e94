//! The node's sign of life in the database, with the figures that the balancer wants.

use std::{sync::Arc, time::Duration};

use crate::{db::DbError, events::Hub, model::config::keys};

use super::fleet::Node;

/// Renews the lease until the node stops. A failed renewal is repeated at the next beat of the clock.
pub async fn keep(node: Arc<Node>, hub: Hub) {
    let cpu = usable_cpu(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default());
    loop {
        let ram = usable_ram(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default());
        match node.database.node_lease(node.host, node.epoch, ram, cpu, hub.trouble().as_deref()).await {
            Ok(()) => {}
            Err(DbError::Revoked(message)) => {
                tracing::error!(host = %node.host, "{message}; stopping");
                node.stop.cancel();
                return;
            }
            Err(error) => tracing::warn!(host = %node.host, %error, "cannot renew the lease"),
        }
        let pause: Duration = node.config.load().get(&keys::HKD_LEASE_RENEW);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = node.stop.cancelled() => return,
        }
    }
}

/// Memory in MB: MemTotal/1000, as classic QVD counts.
fn usable_ram(meminfo: &str) -> f32 {
    meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<f32>().ok())
        .map_or(0.0, |kib| kib / 1000.0)
}

/// Four fifths of all bogomips, as classic QVD counts.
fn usable_cpu(cpuinfo: &str) -> f32 {
    let bogomips = cpuinfo.lines().filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim().eq_ignore_ascii_case("bogomips").then(|| value.trim().parse::<f32>().ok())?
    });
    bogomips.sum::<f32>() * 0.8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_processors_are_counted_as_classic_qvd_does() {
        assert_eq!(usable_ram("MemFree: 1 kB\nMemTotal:       24689412 kB\n"), 24689.412);
        assert_eq!(usable_cpu("bogomips\t: 5000.0\n\nbogomips\t: 5000.0\n"), 8000.0);
        assert_eq!(usable_cpu(""), 0.0);
    }
}
