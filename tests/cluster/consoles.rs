//! Consoles of VMs on their way through the database: who may watch, what is kept, and for how long.

use std::time::Duration;

use qvd::db::Listener;

use super::{
    database::Db,
    tenants::{Two, administrator},
};

/// A VM of ann's that is on its way up, and its node as an argument of the node's functions.
async fn started() -> (Two, String, String) {
    let two = Two::new(1, "Root").await;
    let node = two.db.node_runs().await;
    let vm = two.ann.sql("select id from vm_list").await.unwrap();
    two.db.sql(&format!("select vm_start({vm})")).await;
    (two, vm, node)
}

async fn kept(db: &Db) -> String {
    db.sql("select string_agg(said, '' order by id) from vm_console_pieces").await.unwrap_or_default()
}

#[tokio::test]
async fn a_console_is_watched_by_administrators_of_the_tenant_who_may_see_it() {
    let (two, vm, node) = started().await;
    assert_eq!(two.ann.sql(&format!("select vm_console_watch({vm})")).await.as_deref(), Some("f"), "nobody answered");
    let hkd = two.db.session("qvd_node").await;
    let sent = format!("select node_console({node}, {vm}, 7, 6, 'hello\n')");
    assert_eq!(hkd.sql(&sent).await.as_deref(), Some("t"));
    assert_eq!(two.ann.sql(&format!("select vm_console_watch({vm})")).await.as_deref(), Some("t"));
    assert_eq!(two.ann.sql(&format!("select said from vm_console({vm})")).await.as_deref(), Some("hello\n"));
    let carl = administrator(&two.db, "carl", "acme", "VMs Operator").await;
    for call in ["vm_console_watch", "vm_console"] {
        let call = format!("select {call}({vm})");
        assert_eq!(two.ben.refused(&call).await.code, "QV010", "another's looks as if it were not there: {call}");
        assert_eq!(two.ben.refused(&call.replace(&vm, "99999")).await.code, "QV010");
        assert_eq!(carl.refused(&call).await.code, "QV040", "it takes an ACL: {call}");
        for role in ["qvd_readonly", "qvd_l7r", "qvd_node"] {
            assert_eq!(two.db.session(role).await.refused(&call).await.code, "42501", "{role}: {call}");
        }
    }
    for session in [&two.ann, &hkd, &two.db.session("qvd_admin").await] {
        for table in ["vm_console_watches", "vm_console_pieces"] {
            assert_eq!(session.refused(&format!("select from {table}")).await.code, "42501");
        }
    }
    assert_eq!(two.ann.refused(&sent).await.code, "42501");
}

#[tokio::test]
async fn only_the_vms_own_node_sends_and_only_while_somebody_watches() {
    let (two, vm, node) = started().await;
    let db = &two.db;
    let sent = |node: &str| format!("select node_console({node}, {vm}, 7, 6, 'hello\n')");
    assert_eq!(db.sql(&sent(&node)).await.as_deref(), Some("f"), "nobody watches");
    assert_eq!(db.sql(&format!("select count(*) from node_consoles({node})")).await.as_deref(), Some("0"));
    two.ann.sql(&format!("select vm_console_watch({vm})")).await;
    let wanted = format!("select vm || ' ' || (seconds_left between 1 and 60) from node_consoles({node})");
    assert_eq!(db.sql(&wanted).await, Some(format!("{vm} true")));
    assert_eq!(db.sql(&sent(&node)).await.as_deref(), Some("t"));
    let (host, epoch) = node.split_once(", ").unwrap();
    let other = "select host_create('n2', '10.9.0.2'); select node || ', ' || node_epoch from node_start('n2', gen_random_uuid(), 1)";
    let (create, start) = other.split_once("; ").unwrap();
    db.sql(create).await;
    let other = db.sql(start).await.unwrap();
    assert_eq!(db.sql(&sent(&other)).await.as_deref(), Some("f"), "it is another's VM");
    let former = format!("{host}, {}", epoch.parse::<i64>().unwrap() - 1);
    assert_eq!(db.refused(&sent(&former)).await.code, "QV001");
    assert_eq!(kept(db).await, "hello\n");
    db.sql("update vm_console_watches set until = now() - interval '1 second'").await;
    assert_eq!(db.sql(&sent(&node)).await.as_deref(), Some("f"));
    assert_eq!(db.sql(&format!("select count(*) from node_consoles({node})")).await.as_deref(), Some("0"));
    assert_eq!(db.sql("select count(*) from vm_console_watches").await.as_deref(), Some("0"));
    assert_eq!(kept(db).await, "", "what was said went with the last who watched");
}

#[tokio::test]
async fn what_is_kept_of_a_console_is_the_end_and_never_more_than_64_kib() {
    let (two, vm, node) = started().await;
    two.ann.sql(&format!("select vm_console_watch({vm})")).await;
    for at in 1..=50 {
        let said = format!("select node_console({node}, {vm}, 7, {at}, repeat('é', 1000) || {at})");
        assert_eq!(two.db.sql(&said).await.as_deref(), Some("t"));
    }
    let kept = kept(&two.db).await;
    assert!(kept.len() <= 65536 && kept.len() > 62000 && kept.ends_with("é50"), "{}", kept.len());
    let last = two.ann.sql(&format!("select max(piece) from vm_console({vm})")).await.unwrap();
    assert_eq!(two.ann.sql(&format!("select count(*) from vm_console({vm}, {last} - 2)")).await.as_deref(), Some("2"));
    let much = format!("select node_console({node}, {vm}, 7, 99, repeat('x', 65537))");
    assert_eq!(two.db.refused(&much).await.code, "23514");
}

#[tokio::test]
async fn the_node_is_woken_when_somebody_begins_to_watch_and_who_watches_when_it_has_sent() {
    let (two, vm, node) = started().await;
    let host = node.split(',').next().unwrap();
    let mut listen = Listener::connect(&two.db.connector()).await.unwrap();
    let channel = format!("qvd_node_{host}");
    listen.listener.listen([channel.as_str(), "qvd_admin"]).await.unwrap();
    listen.listener.watch().await.unwrap();
    let mut heard = async |channel: &str| {
        let next = async {
            loop {
                let heard = listen.notifications.recv().await.unwrap();
                if heard.channel == channel && heard.payload.contains(r#""kind":"console""#) {
                    return heard.payload;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), next).await.unwrap_or_else(|_| panic!("nothing on {channel}"))
    };
    two.ann.sql(&format!("select vm_console_watch({vm})")).await;
    assert!(heard(&channel).await.contains(&format!("\"id\":{vm}")));
    two.db.sql(&format!("select node_console({node}, {vm}, 7, 0, '')")).await;
    let tenant = two.ann.sql("select my_tenant()").await.unwrap();
    assert!(heard("qvd_admin").await.contains(&format!("\"id\":{vm},\"tenant\":{tenant}")));
}
