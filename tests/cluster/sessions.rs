//! What the router says about a session is said about one VM, however many there are.

use super::database::Db;

#[tokio::test]
async fn statements_about_a_session_find_its_vm_by_key() {
    let db = Db::with_vms(2).await;
    let node = db.node_runs().await;
    let vm = db.sql("select id || ', ' || user_id from vms where name = 'd1'").await.unwrap();
    let l7r = db.session("qvd_l7r").await;
    // A table is then read from end to end only where there is no other way, however small it is.
    l7r.sql("set enable_seqscan = off").await;
    let instance = l7r.sql("select instance from l7r_start('n1', gen_random_uuid(), 1, 1)").await.unwrap();
    let before = scans(&db).await;

    let session = 7;
    let acquire = format!("l7r_acquire({session}, {instance}, {vm}, '10.1.1.1', repeat('t', 60), '{{}}')");
    assert_eq!(l7r.sql(&format!("select state from {acquire}")).await.as_deref(), Some("stopped"));
    l7r.sql(&format!("select l7r_vm_start({session})")).await;
    let hkd = db.session("qvd_node").await;
    hkd.sql("set enable_seqscan = off").await;
    let claimed = hkd.sql(&format!("select vm_id from node_claim({node}, 3030, 4100)")).await.unwrap();
    hkd.sql(&format!("select node_vm_state({node}, {claimed}, '{{starting}}', 'running')")).await;
    let connected = l7r.sql(&format!("select connected from l7r_connected({session}, 'user')")).await;
    assert_eq!(connected.as_deref(), Some("t"));
    l7r.sql(&format!("select l7r_end({session}, 'done', 1, 1)")).await;
    for session in [&l7r, &hkd] {
        session.sql("select pg_stat_force_next_flush()").await;
    }
    assert_eq!(scans(&db).await, before);
    assert_eq!(db.sql("select end_reason from user_sessions").await.as_deref(), Some("done"));
}

/// How often the table of VMs was read from end to end.
async fn scans(db: &Db) -> String {
    db.sql("select seq_scan from pg_stat_user_tables where relname = 'vm_runtimes'").await.unwrap()
}
