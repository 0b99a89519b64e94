//! What the web tool and the nodes tell Prometheus.

use std::collections::BTreeSet;

use serde_json::Value;

use super::stage::{Wat, administrator};
use crate::cluster::{database::Db, host::Host, patience::until};

/// Names in the text format.
fn names(text: &str) -> BTreeSet<&str> {
    text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect()
}

#[tokio::test]
async fn all_that_the_dashboard_shows_is_told_by_the_web_tool_or_by_nodes() {
    let db = Db::with_vms(1).await;
    let host = Host::new(&db, &[("internal.hkd.beat", "0.2")]);
    let _hkd = host.started().await;
    administrator(&db, "root", "*", "Root").await;
    db.sql("insert into end_counters (host_id, reason, sessions) select id, 'client left', 3 from hosts").await;
    db.sql("insert into tunnel_counters (host_id, tunnel, tunnels) select id, 'ktls', 2 from hosts").await;
    db.sql("select vm_start('alice/d1')").await;
    db.wait_vm("d1", "running").await;
    until("a beat was late or early", async || host.status().filter(|status| status["beat_delay_s"].is_f64())).await;

    let wat = Wat::start(&db).await;
    let answer = wat.get("root", "/metrics").await;
    assert_eq!((answer.status, answer.header("Content-Type")), (200, Some("text/plain; version=0.0.4; charset=utf-8")));
    let node = db.sql("select name from hosts").await.unwrap();
    for line in [
        format!("qvd_node_running{{node=\"{node}\"}} 1"),
        format!("qvd_vms{{node=\"{node}\",state=\"running\"}} 1"),
        format!("qvd_session_ends_total{{node=\"{node}\",reason=\"client left\"}} 3"),
        "qvd_wat_logins_total{outcome=\"accepted\"} 1".to_owned(),
        "qvd_wat_listening 1".to_owned(),
    ] {
        assert!(answer.body.lines().any(|found| found == line), "{line} in\n{}", answer.body);
    }

    let told = String::from_utf8(host.qvd(&["status", "--prometheus"]).stdout).unwrap();
    let told: BTreeSet<_> = names(&told).union(&names(&answer.body)).copied().collect();
    let dashboard: Value = serde_json::from_str(include_str!("../../docs/grafana.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let queries: Vec<_> = panels
        .flat_map(|panel| panel["targets"].as_array().into_iter().flatten())
        .map(|target| target["expr"].as_str().unwrap())
        .collect();
    assert!(queries.len() > 30, "{queries:?}");
    let word = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    let shown: BTreeSet<_> =
        queries.iter().flat_map(|query| query.split(word)).filter(|word| word.starts_with("qvd_")).collect();
    let unknown: Vec<_> = shown.difference(&told).collect();
    assert!(unknown.is_empty(), "nobody tells {unknown:?}, only {told:?}");
}

#[tokio::test]
async fn metrics_are_for_administrators_above_all_tenants_who_may_see_nodes() {
    let db = Db::with_vms(1).await;
    administrator(&db, "nodes", "*", "Operator L3").await;
    administrator(&db, "users", "*", "Operator L1").await;
    administrator(&db, "school", "default", "Root").await;
    let wat = Wat::start(&db).await;
    assert_eq!(wat.get("nodes", "/metrics").await.status, 200);
    for who in ["users", "school"] {
        let refused = wat.get(who, "/metrics").await;
        assert!(refused.status == 403 && !refused.body.contains("qvd_node"), "{who}: {refused:?}");
    }
    assert_eq!(wat.ask("GET", "/metrics", "", "").await.status, 401);
}
