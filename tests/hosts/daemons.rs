//! What happens to single daemons, which hold no desktop.

use nix::sys::signal::Signal;

use super::stage::Stage;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_desktop_notices_that_a_daemon_was_killed() {
    let stage = Stage::open().await;
    let epochs = stage.epochs().await;
    let victim = stage.nodes()[0];
    let before = stage.lives();
    for daemon in ["keeper", "hkd", "l7r"] {
        let old = victim.daemons(daemon);
        let cuts = stage.cuts();
        let through = stage.users_of_router(victim);
        stage.tell(&format!("{daemon} of {} is killed", victim.name()));
        assert!(victim.signal(daemon, Signal::SIGKILL));
        stage
            .until("there is another", async || {
                let now = victim.daemons(daemon);
                if !now.is_empty() && now != old { Ok(()) } else { Err(format!("{now:?}")) }
            })
            .await;
        stage.hosts.wait_node(victim).await.unwrap();
        stage.everybody_works().await;
        for (user, (before, now)) in cuts.into_iter().zip(stage.cuts()).enumerate() {
            let expected = before + u32::from(daemon == "l7r" && through.contains(&user));
            assert_eq!(now, expected, "user {user} when {daemon} was killed");
        }
    }
    stage.tell(&format!("the process that keeps the others on {} is killed", victim.name()));
    assert!(victim.signal("node", Signal::SIGKILL));
    stage.host_state(victim, "stopped").await;
    stage
        .until("its daemons end with it", async || {
            let left = ["keeper", "hkd", "l7r"].map(|daemon| victim.daemons(daemon)).concat();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await;
    victim.start().unwrap();
    stage.hosts.wait_node(victim).await.unwrap();
    stage.everybody_works().await;
    assert_eq!(stage.lives(), before);
    assert_eq!(stage.epochs().await, epochs);
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_of_a_router_that_died_are_free_at_once_though_nobody_starts_another() {
    let stage = Stage::open().await;
    let before = stage.lives();
    let victim = stage.node_of_router(&stage.users[0]);
    let died = "select count(*) > 0 from user_sessions s join hosts h on h.id = s.l7r_host_id
                where s.end_reason = 'its router died' and s.ended_at > now() - interval '1 minute'";
    let died = format!("{died} and h.name = '{}'", victim.name());
    // Nobody starts another one.
    victim.signal("node", Signal::SIGSTOP);
    stage.tell(&format!("the router of {} is killed", victim.name()));
    victim.signal("l7r", Signal::SIGKILL);
    stage.hosts.wait_for("the sessions did not end", &died, "t").await.unwrap();
    stage.tell("its sessions are ended");
    stage.everybody_works().await;
    stage.tell("every user works again");
    victim.signal("node", Signal::SIGCONT);
    stage.hosts.wait_node(victim).await.unwrap();
    assert_eq!(stage.lives(), before);
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_desktop_notices_that_a_daemon_was_frozen() {
    let stage = Stage::open().await;
    let epochs = stage.epochs().await;
    let nodes = stage.nodes();
    let before = stage.lives();
    for (node, daemon) in nodes.iter().zip(["keeper", "hkd", "l7r"]) {
        stage.tell(&format!("{daemon} of {} is frozen", node.name()));
        assert!(node.signal(daemon, Signal::SIGSTOP));
    }
    stage.renewals(&[nodes[2]], 2.0).await;
    for (node, daemon) in nodes.iter().zip(["keeper", "hkd", "l7r"]) {
        node.signal(daemon, Signal::SIGCONT);
    }
    stage.tell("they go on");
    stage.renewals(&nodes, 0.5).await;
    stage.everybody_works().await;
    assert_eq!(stage.lives(), before);
    assert_eq!(stage.epochs().await, epochs);
    stage.close().await;
}
