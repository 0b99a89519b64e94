//! An hkd that cannot do its work says so in a sentence and ends with a failure.

use super::{database::Db, host::Host};

async fn refused(host: &Host<'_>, sentence: &str) {
    let mut hkd = host.start();
    assert_eq!(hkd.ended().await.code(), Some(1));
    let said = hkd.said();
    let last = said.trim_end().lines().last().unwrap();
    assert!(last.starts_with("qvd: ") && last.contains(sentence), "{said}");
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_is_named_with_its_place() {
    let db = Db::with_vms(0).await;
    let bad = Host::new(&db, &[("internal.hkd.beat", "often")]);
    let lines = std::fs::read_to_string(bad.config()).unwrap().lines().count();
    let place = format!("node.conf:{lines}: internal.hkd.beat = \"often\": expected a number of seconds");
    refused(&bad, &place).await;
    refused(&Host::new(&db, &[("nodename", "")]), "does not set nodename").await;
    let modes = "database.sslmode = maybe: disable, prefer, verify-ca, verify-full or require";
    refused(&Host::new(&db, &[("database.sslmode", "maybe")]), modes).await;
    let gone = Host::new(&db, &[]);
    std::fs::remove_file(gone.config()).unwrap();
    refused(&gone, "node.conf cannot be read: No such file or directory").await;
}

#[tokio::test]
async fn a_node_that_the_database_does_not_know_is_told_how_to_make_it_known() {
    let db = Db::with_vms(0).await;
    let host = Host::new(&db, &[("nodename", "ghost")]);
    refused(&host, "no host is named ghost (select host_create('ghost', '<address of this node in the VM network>');)")
        .await;
}

#[tokio::test]
async fn a_kind_of_vm_that_nobody_knows_is_refused() {
    let db = Db::with_vms(0).await;
    let host = Host::new(&db, &[("vm.hypervisor", "xen")]);
    refused(
        &host,
        "vm.hypervisor = xen is not in internal.hkd.hypervisor_list; use one of lxc, kvm, nothing, or add it there",
    )
    .await;
    assert_ne!(db.sql("select state from host_list").await.unwrap(), "running");
}

#[tokio::test]
async fn a_schema_of_another_version_is_refused() {
    let db = Db::with_vms(0).await;
    let known = db.sql("select version from versions where component = 'schema'").await.unwrap();
    db.sql("update versions set version = '0' where component = 'schema'").await;
    let sentence = format!(
        "the schema of the database has version 0, this program needs {known}; run `qvd db migrate`, or the program that made it"
    );
    refused(&Host::new(&db, &[]), &sentence).await;
    assert_eq!(db.sql("select state from host_list").await.unwrap(), "stopped", "nothing was touched");
    let empty = Db::empty().await;
    refused(&Host::new(&empty, &[]), &sentence).await;
}

#[tokio::test]
async fn a_second_hkd_of_a_node_is_refused_and_the_first_goes_on() {
    let db = Db::with_vms(1).await;
    let host = Host::new(&db, &[]);
    let _first = host.started().await;
    refused(&host, "hkd ends: another hkd holds").await;
    db.sql("select vm_start('alice/d1')").await;
    db.wait_vm("d1", "running").await;
}

#[tokio::test]
async fn a_second_machine_of_the_same_name_is_refused_unless_it_saw_the_first_one_dead() {
    let db = Db::with_vms(0).await;
    let host = Host::new(&db, &[]);
    let _first = host.started().await;
    let other = db.refused("select node_start('n1', gen_random_uuid(), 1)").await;
    assert_eq!(other.code, "QV002");
    assert_eq!(other.message, "host n1 is another machine, and nobody has seen that it is off");
    assert_ne!(other.hint, "");
}

#[tokio::test]
async fn an_hkd_whose_node_was_taken_over_ends() {
    let db = Db::with_vms(1).await;
    let host = Host::new(&db, &[("internal.hkd.lease.renew", "60")]);
    let mut hkd = host.started().await;
    db.sql("select vm_start('alice/d1')").await;
    db.wait_vm("d1", "running").await;
    let seen = "select s.* from host_runtimes r,
        node_start('n1', gen_random_uuid(), 1, seen_epoch => r.epoch, seen_lease => r.lease) s";
    let life = db.sql(&format!("select node || ', ' || node_epoch from ({seen}) started")).await.unwrap();
    assert_eq!(hkd.ended().await.code(), Some(1));
    assert!(hkd.said().contains("qvd: hkd ends: another process has taken this node over\n"), "{}", hkd.said());
    assert_eq!(db.rows("select state, reason from vm_list").await, [["stopped", "its node was restarted"]]);
    db.sql(&format!("select node_state({life}, 'running')")).await;
}
