//! Nodes that are told to stop, with all their VMs.

use std::time::Duration;

use qvd::{
    demo::{
        postgres::Durability,
        site::{Site, SiteOptions},
    },
    hypervisor::{Nothing, Step},
};
use serde_json::json;

use super::{
    database::{Db, open_directory},
    host::{Host, QVD},
    inside::Inside,
};

const NEVER: (&str, &str) = ("internal.hkd.poll.relaxed", "600");
const NODE: &str = "select state || ' ' || coalesce(cmd::text, '') from host_runtimes";

#[tokio::test]
async fn a_node_that_is_told_to_stop_stops_its_vms_and_ends() {
    let db = Db::with_vms(2).await;
    let host = Host::new(&db, &[NEVER]);
    let mut hkd = host.started().await;
    db.sql("select vm_start('alice/d1'), vm_start('alice/d2')").await;
    db.wait_vm("d1", "running").await;
    db.wait_vm("d2", "running").await;
    let stop = host.qvd(&["admin", "host", "stop", "n1", "--wait", "--json"]);
    assert_eq!(
        serde_json::from_slice::<serde_json::Value>(&stop.stdout).unwrap(),
        json!({"host": "n1", "state": "stopped"})
    );
    assert_eq!(hkd.ended().await.code(), Some(10), "{}", hkd.said());
    let vm = ["stopped", "", "its node was told to stop"];
    assert_eq!(db.rows("select state, host, reason from vm_list").await, [vm, vm]);
    assert_eq!(db.sql(NODE).await.unwrap(), "stopped ");
    assert_eq!(db.refused("select host_stop('n1')").await.code, "QV021", "it has");
    assert_eq!(db.refused("select host_stop('n9')").await.code, "QV010");
    let _again = host.started().await;
    db.sql("select vm_start('alice/d1')").await;
    db.wait_vm("d1", "running").await;
}

#[tokio::test]
async fn a_node_whose_daemon_dies_while_it_stops_goes_on_to_stop() {
    let db = Db::with_vms(1).await;
    let host = Host::new(&db, &[NEVER, ("internal.hkd.nothing.timeout.on_state.stopping", "600")]);
    let mut hkd = host.started().await;
    db.sql("select vm_start('alice/d1')").await;
    db.wait_vm("d1", "running").await;
    db.sql("select host_stop('n1')").await;
    db.wait_vm("d1", "stopping").await;
    assert_eq!(db.sql(NODE).await.unwrap(), "stopping stop");
    hkd.kill();
    let mut hkd = host.start();
    assert_eq!(hkd.ended().await.code(), Some(10), "{}", hkd.said());
    assert_eq!(db.sql(NODE).await.unwrap(), "stopped ");
    db.wait_vm("d1", "stopped").await;
}

#[tokio::test]
async fn what_does_not_stop_in_time_is_killed_and_what_races_does_not_start() {
    let db = Db::with_vms(2).await;
    let host = Host::new(&db, &[NEVER, ("internal.hkd.stopping.vms.timeout", "1")]);
    let vms = Nothing::with_delays(Duration::ZERO, Duration::ZERO);
    let node = Inside::start(&db, &host, &vms).await;
    vms.hang(Step::Start, 1);
    db.sql("select vm_start('alice/d1')").await;
    db.wait_vm("d1", "starting").await;
    db.sql("select host_stop('n1')").await;
    db.wait_vm("d1", "stopping").await;
    // As if it had been placed at the same moment.
    db.sql("update vm_runtimes set host_id = (select id from hosts), vm_cmd = 'start' where vm_id = vm_id('alice/d2')")
        .await;
    node.stopped().await;
    assert_eq!(db.rows("select distinct state, command from vm_list").await, [["stopped", ""]]);
    assert_eq!(vms.starts(), 0);
    assert_eq!(db.sql(NODE).await.unwrap(), "stopped ");
}

#[tokio::test]
async fn sessions_of_its_router_end_before_its_vms_and_do_not_hold_it_up_for_ever() {
    let db = Db::with_vms(2).await;
    let host = Host::new(&db, &[NEVER, ("internal.hkd.stopping.l7rs.timeout", "2")]);
    let mut hkd = host.started().await;
    db.sql("select vm_start('alice/d1'), vm_start('alice/d2')").await;
    db.wait_vm("d1", "running").await;
    db.wait_vm("d2", "running").await;
    let router = db.sql("select instance from l7r_start('n1', gen_random_uuid(), 1, 1)").await.unwrap();
    for vm in ["d1", "d2"] {
        let token = vm.repeat(30);
        db.sql(&format!(
            "select l7r_acquire(id, {router}, id, user_id, '10.1.1.1', '{token}', '{{}}') from vms where name = '{vm}'"
        ))
        .await;
    }
    db.sql("select host_stop('n1')").await;
    let aborted = "select count(*) from vm_runtimes where user_cmd = 'abort' and vm_state = 'running'";
    db.wait_for(aborted, "2").await;
    // One obeys, the other is of a router that hangs.
    db.sql("select l7r_end(session_id, 'aborted', 0, 0) from vm_runtimes where vm_id = vm_id('alice/d1')").await;
    assert_eq!(hkd.ended().await.code(), Some(10), "{}", hkd.said());
    hkd.says("a router does not end its sessions").await;
}

#[tokio::test]
async fn qvd_node_ends_when_its_node_is_told_to_stop() {
    let directory = open_directory();
    let options = SiteOptions {
        directory: directory.path().to_owned(),
        program: QVD.into(),
        node: "tst1".to_owned(),
        network: (87, 9),
        hypervisor: "nothing",
        durability: Durability::Volatile,
        port: None,
        settings: vec![],
    };
    let site = Site::open(options).await.unwrap();
    site.start_node().await.unwrap();
    site.sql("select host_stop('tst1')").await.unwrap();
    site.node_ended().await;
    let said = std::fs::read_to_string(site.log()).unwrap();
    assert!(said.contains("the node has stopped") && said.contains("the node was told to stop"), "{said}");
    assert!(!said.contains("starting it again"), "{said}");
    site.close().await.unwrap();
}
