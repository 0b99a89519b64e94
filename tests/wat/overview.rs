//! The overview: what it draws, for whom, and that it says the same in words.

use super::stage::{Wat, administrator};
use crate::cluster::{database::Db, patience::until};

async fn stage() -> (Db, Wat) {
    let db = Db::with_vms(4).await;
    administrator(&db, "root", "*", "Root").await;
    db.sql("select tenant_create('school'); select user_create('bob', 'pw', 'school')").await;
    administrator(&db, "ann", "school", "Root").await;
    let wat = Wat::start(&db).await;
    (db, wat)
}

#[tokio::test]
async fn charts_draw_and_say_the_figures_and_lead_to_their_lists() {
    let (db, wat) = stage().await;
    db.sql(
        "set session_replication_role = replica;
         update host_runtimes set state = 'running', usable_ram = 1000, free_ram = 80, cpu_pressure = 0.25,
             events_degraded_reason = 'notifications do not arrive (no beat)';
         update vm_runtimes r set vm_state = 'running', host_id = (select id from hosts) from vms v
         where v.id = r.vm_id and v.name <> 'd4';
         insert into user_sessions (vm_id, vm_name, user_id, login, tenant_id, l7r_host_id, l7r_instance, client_address)
         select v.id, v.name, v.user_id, 'alice', v.tenant_id, 1, 1, '192.0.2.1' from vms v;
         set session_replication_role = origin;
         select * from vms_expire(array(select id from vms where name = 'd2'), '2099-01-31 10:00Z', '2099-02-01 11:30Z');
         select * from vms_block(array(select id from vms where name = 'd1'), true)",
    )
    .await;
    let page = wat.get("root", "/").await;
    assert_eq!(page.status, 200);
    for part in [
        // Three of four are three quarters of the ring.
        r#"<circle class="good" cx="21" cy="21" r="16" fill="none" stroke-width="7" pathLength="100" stroke-dasharray="75 25""#,
        r#"href="/vm?filter=state%3Drunning">3 running</a>"#,
        r#"href="/vm?filter=state%3Dstopped">1 not running</a>"#,
        r#"href="/vm?filter=blocked%3D1">1 blocked</a>"#,
        r#"href="/user?filter=blocked%3D0">2 not blocked</a>"#,
        "In the last hour: 4. At most: 4",
        "alice@default/d2",
        "2099-01-31 10:00",
        "2099-02-01 11:30",
        "92 %",
        "25 %",
        "notifications do not arrive (no beat)",
        r#"data-kinds="vm user host di session""#,
    ] {
        assert!(page.body.contains(part), "{part} in {}", page.body);
    }
    let (rect, labelled) = (page.body.matches("<rect").count(), page.body.matches("role=\"img\" aria-label=").count());
    assert!(rect >= 120 && labelled == 2, "two hours, minute by minute: {rect} {labelled}");
    assert!(!page.body.contains("style="), "browsers would refuse it: {}", page.body);
    for (list, found) in [
        ("/vm?filter=state%3Dstopped", 1),
        ("/vm?filter=expiration_soft!%3D;expiration_hard!%3D&order=expiration_hard", 1),
    ] {
        let list = wat.get("root", list).await.body;
        assert!(list.contains(&format!(r#"<span id="total">{found}</span> in all"#)), "{list}");
    }
}

#[tokio::test]
async fn a_tenants_administrator_has_charts_of_his_tenant_and_none_of_nodes() {
    let (_db, wat) = stage().await;
    let page = wat.get("ann@school", "/").await.body;
    assert!(page.contains("VMs by state") && page.contains("1 not blocked"), "bob is not blocked: {page}");
    assert!(
        !page.contains("Nodes by load") && !page.contains("changes are heard of") && !page.contains("alice"),
        "{page}"
    );
    let root = wat.get("root", "/").await.body;
    assert!(root.contains("Nodes by load") && root.contains("changes are heard of"), "{root}");
}

#[tokio::test]
async fn how_long_it_takes_until_changes_are_heard_of_is_measured() {
    let (_db, wat) = stage().await;
    let measured = async || wat.get("root", "/").await.body.contains("Last: ").then_some(());
    until("the first is measured", measured).await;
    let metrics = wat.get("root", "/metrics").await.body;
    let seconds = metrics.lines().find_map(|line| line.strip_prefix("qvd_wat_notification_delay_seconds "));
    let seconds: f64 = seconds.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap();
    assert!(seconds > 0.0 && seconds < 10.0, "{seconds}");
}
