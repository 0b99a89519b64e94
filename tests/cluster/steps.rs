//! Steps of a VM's life that never report, and the slots of a node.

use std::time::Duration;

use qvd::hypervisor::{Nothing, Step};

use super::{database::Db, host::Host, inside::Inside};

fn vms() -> Nothing {
    Nothing::with_delays(Duration::ZERO, Duration::ZERO)
}

fn reason(vm: &str) -> String {
    format!("select state || ': ' || coalesce(reason, '') from vm_list where vm = 'alice@default/{vm}'")
}

#[tokio::test]
async fn an_image_that_is_never_ready_ends_the_start_and_holds_no_slot() {
    let db = Db::with_vms(2).await;
    let host = Host::new(&db, &[("internal.hkd.timeout.prepare", "1"), ("internal.hkd.max_heavy", "1")]);
    let vms = vms();
    let node = Inside::start(&db, &host, &vms).await;
    vms.hang(Step::Prepare, 1);
    db.sql("select vm_start('alice/d1')").await;
    db.wait_for(&reason("d1"), "stopped: its disk image was not ready within 1 s").await;
    db.sql("select vm_start('alice/d2')").await;
    db.wait_vm("d2", "running").await;
    node.end().await;
}

#[tokio::test]
async fn a_launch_that_never_ends_is_given_up_and_its_vm_can_start_again() {
    let db = Db::with_vms(1).await;
    let host = Host::new(&db, &[("internal.hkd.timeout.launch", "1")]);
    let vms = vms();
    let node = Inside::start(&db, &host, &vms).await;
    vms.hang(Step::Start, 1);
    db.sql("select vm_start('alice/d1')").await;
    db.wait_for(&reason("d1"), "stopped: it could not be launched within 1 s").await;
    db.sql("select vm_start('alice/d1')").await;
    db.wait_vm("d1", "running").await;
    assert_eq!(vms.starts(), 1);
    node.end().await;
}

#[tokio::test]
async fn a_cleaning_that_never_ends_makes_a_zombie_that_is_tried_again_and_holds_no_slot() {
    let db = Db::with_vms(2).await;
    let settings = [
        ("internal.hkd.timeout.clean", "1"),
        ("internal.hkd.max_heavy", "1"),
        ("internal.hkd.lxc.timeout.on_state.zombie.reap.delaying", "10"),
    ];
    let host = Host::new(&db, &settings);
    let vms = vms();
    let node = Inside::start(&db, &host, &vms).await;
    db.sql("select vm_start('alice/d1')").await;
    db.wait_vm("d1", "running").await;
    vms.hang(Step::Clean, 1);
    db.sql("select vm_stop('alice/d1')").await;
    db.wait_for(&reason("d1"), "zombie: it cannot be cleaned up: that was not done within 1 s").await;
    db.sql("select vm_start('alice/d2')").await;
    db.wait_vm("d2", "running").await;
    db.wait_vm("d1", "stopped").await;
    node.end().await;
}

#[tokio::test]
async fn who_waits_for_a_slot_can_be_stopped_and_more_slots_take_effect_at_once() {
    let db = Db::with_vms(3).await;
    let host = Host::new(&db, &[("internal.hkd.max_heavy", "1"), ("internal.hkd.timeout.prepare", "600")]);
    let vms = vms();
    let node = Inside::start(&db, &host, &vms).await;
    vms.hang(Step::Prepare, 1);
    db.sql("select vm_start('alice/d1')").await;
    db.wait_vm("d1", "starting").await;
    db.sql("select vm_start('alice/d2'), vm_start('alice/d3')").await;
    db.wait_vm("d3", "starting").await;
    db.sql("select vm_stop('alice/d2')").await;
    db.wait_vm("d2", "stopped").await;
    assert_eq!(db.sql("select vm_state from vm_runtimes where vm_id = vm_id('alice/d3')").await.unwrap(), "starting");
    db.sql("select config_set('internal.hkd.max_heavy', '2')").await;
    db.wait_vm("d3", "running").await;
    // What is being prepared is given up when it is to stop.
    db.sql("select vm_stop('alice/d1')").await;
    db.wait_vm("d1", "stopped").await;
    node.end().await;
}
