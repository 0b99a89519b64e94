//! What can be changed while a node runs, and what is set when it starts.

use std::fs;

use super::{database::Db, host::Host, patience::until};

#[tokio::test]
async fn polls_slots_and_the_log_follow_the_configuration_while_the_node_runs() {
    let db = Db::with_vms(1).await;
    let host = Host::new(&db, &[("internal.hkd.poll.relaxed", "600")]);
    let hkd = host.started_without_log_level().await;
    db.sql("select config_set('internal.hkd.poll.relaxed', '70'), config_set('log.level', 'debug')").await;
    let follows = async || host.status().filter(|status| status["poll_interval_s"] == 70.0).map(drop);
    until("polls follow", follows).await;
    hkd.says("logging at another level").await;
    assert!(!hkd.said().contains("DEBUG"), "{}", hkd.said());
    db.sql("select vm_start('alice/d1')").await;
    hkd.says("DEBUG").await;
    db.sql("select config_set('log.level', 'no,level=loud'), config_reset('internal.hkd.poll.relaxed')").await;
    hkd.says("no level of a log; it stays as it is").await;
    let follows = async || host.status().filter(|status| status["poll_interval_s"] == 600.0).map(drop);
    until("polls go back to what the file says", follows).await;
}

#[tokio::test]
async fn limits_of_the_process_are_set_at_the_start_and_bad_ones_are_refused() {
    let db = Db::with_vms(0).await;
    let limits = [
        ("hkd.process.limit.nofile", "500"),
        ("hkd.process.limit.hard.nofile", "1000"),
        ("hkd.process.limit.core", "0"),
    ];
    let host = Host::new(&db, &limits);
    let hkd = host.started().await;
    let limits = fs::read_to_string(format!("/proc/{}/limits", hkd.pid())).unwrap();
    let of = |name: &str| -> Vec<String> {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().take(2).map(str::to_owned).collect()
    };
    assert_eq!(of("Max open files"), ["500", "1000"]);
    assert_eq!(of("Max core file size")[0], "0");
    drop(hkd);
    for (settings, words) in [
        (
            [("hkd.process.limit.nofile", "500"), ("hkd.process.limit.hard.nofile", "5")],
            "is above hkd.process.limit.hard.nofile",
        ),
        ([("hkd.process.limit.stack", "big"), ("l7r.port", "9443")], "hkd.process.limit.stack = \"big\": expected"),
        ([("internal.hkd.hypervisor_list", "lxc"), ("l7r.port", "9443")], "vm.hypervisor = nothing is not in"),
    ] {
        let host = Host::new(&db, &settings);
        let mut hkd = host.start();
        assert_eq!(hkd.ended().await.code(), Some(1));
        assert!(hkd.said().contains(words), "{}", hkd.said());
    }
}

#[tokio::test]
async fn the_database_knows_which_changes_take_a_restart() {
    let db = Db::new().await;
    let query =
        "select string_agg(key, ' ' order by key) from config_keys where needs_restart and key like 'vm.network.%'";
    assert!(db.sql(query).await.unwrap().contains("vm.network.bridge"), "the bridge is made at the start");
    let live = "select needs_restart from config_keys where key = 'internal.hkd.max_heavy'";
    assert_eq!(db.sql(live).await.unwrap(), "f");
    let host = Host::new(&db, &[]);
    let list = host.qvd(&["config", "list", "max_heavy"]);
    assert!(String::from_utf8_lossy(&list.stdout).contains("live"), "{list:?}");
}
