//! Homes that belong to users: which of their VMs may have one at a time, and what stays of it.

use std::{fs, path::Path, sync::Arc};

use futures_util::future::BoxFuture;
use qvd::{
    hypervisor::{Epochs, Hypervisor, HypervisorError},
    model::{Epoch, HostId, Owner, UserId, VmId, VmSpec},
};

use super::{
    node::{Node, VM},
    read, signal, wait_until,
};

/// Everybody lives.
struct All;

impl Epochs for All {
    fn is_over(&self, _: HostId, _: Epoch) -> BoxFuture<'_, Result<bool, HypervisorError>> {
        Box::pin(async { Ok(false) })
    }
}

async fn node(number: u8, root: &Path, settings: &[(&str, &str)]) -> Node {
    let owner = Owner { host: HostId(number.into()), epoch: 1, boot_id: "boot".to_owned() };
    let root = root.display().to_string();
    let settings: Vec<_> = [("path.storage.root", root.as_str()), ("vm.lxc.home.per.user", "1")]
        .into_iter()
        .chain(settings.iter().copied())
        .collect();
    Node::claiming(number, None, &settings, Some((owner, Arc::new(All)))).await
}

async fn write_and_read(node: &Node, writer: i32, reader: i32) {
    let script = format!("echo dear >/home/letter-{writer}");
    assert!(node.attach(VmId(writer), &["/bin/sh", "-c", &script]));
    let init = node.first_process(VmId(reader)).await;
    assert_eq!(read(format!("/proc/{init}/root/home/letter-{writer}")), "dear\n");
}

#[tokio::test]
async fn containers_of_a_user_share_a_home_on_one_node_and_on_no_other() {
    let shared = tempfile::tempdir().unwrap();
    let (here, there) = (node(43, shared.path(), &[]).await, node(44, shared.path(), &[]).await);
    let lock = shared.path().join("homefs/lock.user-1");
    let (first, second) = (here.spec(VmId(1)), here.spec(VmId(2)));
    // At once, as after a failure of another node.
    let (one, two) = tokio::join!(here.hypervisor.start(&first), here.hypervisor.start(&second));
    one.unwrap();
    two.unwrap();
    write_and_read(&here, 1, 2).await;
    write_and_read(&here, 2, 1).await;

    let elsewhere = there.spec(VmId(3));
    let refused = async || {
        let error = there.hypervisor.start(&elsewhere).await.unwrap_err().to_string();
        assert!(error.contains("the home of the user of VM 3 belongs to host 43"), "{error}");
        assert_eq!(there.traces(VmId(3)), [""; 0]);
    };
    refused().await;
    there.hypervisor.start(&VmSpec { user: UserId(2), ..there.spec(VmId(4)) }).await.unwrap();
    // One ends in order, the other's shim has no time to say anything.
    here.stop(VmId(1)).await;
    refused().await;
    here.hypervisor.start(&first).await.unwrap();
    let exited = here.hypervisor.exited(VmId(2));
    signal(here.status(VmId(2)).await.shim, "KILL");
    exited.await;
    here.hypervisor.clean(VmId(2)).await.unwrap();
    refused().await;
    assert!(here.status(VM).await.is_current());
    let exited = here.hypervisor.exited(VM);
    signal(here.status(VM).await.shim, "KILL");
    exited.await;
    assert!(read(&lock).contains("43"), "nobody knows yet that it is dead");
    here.hypervisor.clean(VM).await.unwrap();
    assert_eq!(read(&lock), "");

    there.hypervisor.start(&elsewhere).await.unwrap();
    let init = there.first_process(VmId(3)).await;
    assert_eq!(read(format!("/proc/{init}/root/home/letter-1")), "dear\n", "it outlives each VM");
    there.stop(VmId(3)).await;
    assert_eq!(read(&lock), "");
}

#[tokio::test]
async fn a_home_that_is_a_volume_is_had_by_one_vm_of_its_user_at_a_time() {
    let shared = tempfile::tempdir().unwrap();
    let here = node(45, shared.path(), &[("vm.lxc.home.limit", "1")]).await;
    let spec = |vm| VmSpec { user_storage_mb: 8, ..here.spec(VmId(vm)) };
    here.hypervisor.start(&spec(1)).await.unwrap();
    let error = here.hypervisor.start(&spec(2)).await.unwrap_err().to_string();
    assert!(
        error.contains("another VM has this home of their user") && error.contains("stop that one first"),
        "{error}"
    );
    assert!(here.attach(VM, &["/bin/sh", "-c", "echo dear >/home/letter"]));
    here.stop(VM).await;
    wait_until("it is unmounted", || {
        fs::File::open(shared.path().join("homefs/user-1-fs.ext4")).unwrap().try_lock().is_ok()
    });
    here.hypervisor.start(&spec(2)).await.unwrap();
    let init = here.first_process(VmId(2)).await;
    assert_eq!(read(format!("/proc/{init}/root/home/letter")), "dear\n");
    here.stop(VmId(2)).await;

    // One with files in it stays a directory, whatever the limits, so it can be shared.
    fs::create_dir(shared.path().join("homefs/user-7-fs")).unwrap();
    fs::write(shared.path().join("homefs/user-7-fs/letter"), "dear").unwrap();
    for vm in [1, 2] {
        here.hypervisor.start(&VmSpec { user: UserId(7), ..spec(vm) }).await.unwrap();
    }
    write_and_read(&here, 1, 2).await;
    for vm in [1, 2] {
        here.stop(VmId(vm)).await;
    }
}
