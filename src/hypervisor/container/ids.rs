//! Ids of containers outside of them: a range for each VM, so that the root user of one is nobody on the node and to the
//! others. What lies on the storage keeps its owners; the kernel translates, where it and the file systems can.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tracing::warn;

use crate::{
    keeper::Ids,
    model::{
        VmId,
        config::{Config, keys},
        in_one_line,
    },
    process::Program,
};

/// Ids of one container, as many as a system takes for granted.
const COUNT: u32 = 1 << 16;
/// Higher ones are negative to some programs.
const END: u32 = 1 << 31;
/// For the kernel to try it once.
const LIMIT: Duration = Duration::from_secs(5);

/// Whether the kernel can mount these directories with other owners, tried by the program `keeper`; why not. In the kernel
/// since 5.12, as a layer of overlayfs since 5.19.
pub async fn may_map(keeper: &Path, dirs: &[PathBuf]) -> Result<(), String> {
    let tried = Program::new(keeper).args(["may-map"]).args(dirs).limit(LIMIT).run().await;
    tried.map(drop).map_err(|error| match error.stderr() {
        "" => in_one_line(&error),
        said => said.to_owned(),
    })
}

/// The ranges of a node's containers.
#[derive(Clone, Debug)]
pub struct IdRanges {
    /// Of all ranges; 0: containers have the node's ids.
    first: u32,
    can_be_mapped: Arc<AtomicBool>,
}

impl IdRanges {
    /// As configured.
    pub fn new(config: &Config) -> Self {
        Self { first: config.get(&keys::VM_LXC_IDS), can_be_mapped: Arc::new(AtomicBool::new(true)) }
    }

    /// Finds out whether the kernel can mount these directories with other owners. Where it cannot, containers have the
    /// node's ids from now on.
    pub async fn examine(&self, keeper: &Path, dirs: &[PathBuf]) {
        if self.first == 0 {
            return;
        }
        let tried = may_map(keeper, dirs).await;
        if let Err(why) = &tried {
            warn!(
                why,
                "containers have the ids of the node: the root user of one that breaks out is root here; put the storage on \
                 a file system that takes idmapped mounts (ext4, xfs, btrfs), or vm.lxc.ids = 0 if this is meant"
            );
        }
        self.can_be_mapped.store(tried.is_ok(), Relaxed);
    }

    /// The ids of a VM; `None`: those of the node. Two VMs have the same only when there are more than ranges.
    pub fn of(&self, vm: VmId) -> Option<Ids> {
        let ranges = END.checked_sub(self.first)? / COUNT;
        let number = u32::try_from(vm.0).ok()?.checked_rem(ranges)?;
        let are_own = self.first > 0 && self.can_be_mapped.load(Relaxed);
        are_own.then(|| Ids { first: self.first + number * COUNT, count: COUNT })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(first: u32) -> IdRanges {
        IdRanges { first, can_be_mapped: Arc::new(AtomicBool::new(true)) }
    }

    #[test]
    fn every_vm_has_a_range_of_its_own_below_the_end_of_ids() {
        let ranges = ranges(1_000_000_000);
        let of = |vm| ranges.of(VmId(vm)).unwrap();
        assert_eq!(of(1).first, of(0).first + COUNT);
        for vm in [0, 1, 17_000, i32::MAX] {
            let ids = of(vm);
            assert!(ids.first >= 1_000_000_000 && ids.first.checked_add(ids.count).unwrap() <= END, "{vm}");
        }
    }

    #[test]
    fn without_ranges_containers_have_the_ids_of_the_node() {
        assert_eq!(ranges(0).of(VmId(1)), None);
        assert_eq!(ranges(END - 1).of(VmId(1)), None, "there is no room");
        let unable = ranges(1_000_000_000);
        unable.can_be_mapped.store(false, Relaxed);
        assert_eq!(unable.of(VmId(1)), None);
    }
}
