//! What happens to whole nodes.

use super::stage::Stage;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_are_killed_with_everything_on_them_are_replaced_by_others() {
    let stage = Stage::open().await;
    for _ in 0..3 {
        let before = stage.lives();
        let victim = stage.fail_over().await;
        stage.everybody_works().await;
        stage.tell("every user works again");
        let kept = format!("select count(*) from pg_stat_activity where client_addr = '{}'", victim.address());
        stage.hosts.wait_for("the database keeps the connections of a machine that is off", &kept, "0").await.unwrap();
        victim.start().unwrap();
        stage.hosts.wait_node(victim).await.unwrap();
        stage.tell("it is back");
        stage.only_those_of(victim, &before);
        // Others know it only when they saw its heart beat.
        stage.renewals(&stage.nodes(), 0.5).await;
    }
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_freezes_loses_its_desktops_and_none_of_them_runs_twice() {
    let stage = Stage::open().await;
    let [victim, others @ ..] = &stage.nodes()[..] else { unreachable!() };
    let before = stage.lives();
    stage.tell(&format!("{} freezes", victim.name()));
    victim.freeze(true);
    stage.host_state(victim, "lost").await;
    stage.tell("others have taken it over, and try to start what it still holds");
    stage.renewals(others, 1.0).await;
    victim.freeze(false);
    stage.tell("it goes on");
    stage.everybody_works().await;
    stage.tell("every user works again");
    stage.hosts.wait_node(victim).await.unwrap();
    stage.only_those_of(victim, &before);
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_the_database_keeps_its_desktops_and_its_users() {
    let stage = Stage::open().await;
    let epochs = stage.epochs().await;
    let nodes = stage.nodes();
    let victim = nodes[0];
    let (before, cuts) = (stage.lives(), stage.cuts());
    stage.tell(&format!("{} loses the database, and only that", victim.name()));
    victim.cut_off(true).unwrap();
    stage.heartbeats(&[victim], 1.5).await;
    stage.renewals(&nodes[1..2], 1.0).await;
    assert_eq!((stage.lives(), stage.cuts()), (before.clone(), cuts.clone()), "longer than any lease");
    victim.cut_off(false).unwrap();
    stage.tell("it has it back");
    stage.renewals(&[victim], 0.5).await;
    stage.everybody_works().await;
    assert_eq!((stage.lives(), stage.cuts()), (before, cuts));
    assert_eq!(stage.epochs().await, epochs);
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_desktop_and_no_user_notices_that_the_database_was_away() {
    let stage = Stage::open().await;
    let epochs = stage.epochs().await;
    let nodes = stage.nodes();
    let (before, cuts) = (stage.lives(), stage.cuts());
    stage.tell("the database stops");
    stage.hosts.cluster().stop().await;
    stage.heartbeats(&nodes[..1], 2.0).await;
    assert_eq!((stage.lives(), stage.cuts()), (before.clone(), cuts.clone()), "longer than any lease");
    stage.hosts.cluster().start().await.unwrap();
    stage.tell("it is back");
    stage.renewals(&nodes, 0.5).await;
    for kill in [false, true] {
        stage.tell(if kill { "it is killed and starts again" } else { "it is restarted" });
        if kill {
            stage.hosts.cluster().kill().await;
            stage.hosts.cluster().start().await.unwrap();
        } else {
            stage.hosts.cluster().restart().await.unwrap();
        }
        stage.renewals(&nodes, 0.5).await;
    }
    stage.everybody_works().await;
    assert_eq!((stage.lives(), stage.cuts()), (before, cuts));
    assert_eq!(stage.epochs().await, epochs);
    stage.close().await;
}
