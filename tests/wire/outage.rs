//! The router dies, or its database does.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::stage::{Stage, Tunnel, rough_alone};

/// Kills the router and waits for the next one.
pub async fn kill_router(stage: &Stage) {
    let pid = stage.l7r_pid().await;
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    stage.until(&format!("select count(*) from l7r_instances where ended_at is null and pid <> {pid}"), "1").await;
    stage.until(&format!("select count(*) from l7r_instances where ended_at is null and pid = {pid}"), "0").await;
    stage.site.wait_node().await.unwrap();
}

async fn carries(tunnel: &mut Tunnel) {
    tunnel.client.send("up").await;
    let mut heard = [0; 2];
    tunnel.nx.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"up");
    tunnel.nx.write_all(b"down").await.unwrap();
    assert_eq!(tunnel.client.read(4).await, b"down");
}

#[tokio::test]
async fn the_next_router_ends_what_a_killed_one_left_and_clients_connect_again() {
    let (stage, _alone) = rough_alone().await;
    let (mut connected, connecting) = (stage.running().await, stage.running().await);
    connecting.vm.x("starting");
    let mut tunnel = connected.connected().await;
    let mut waiting = connecting.ask().await;
    waiting.told("Waiting for X session").await;
    kill_router(stage).await;
    assert!(tunnel.client.ended().await && !tunnel.client.goodbye);
    for desktop in [&connected, &connecting] {
        assert_eq!(desktop.user_state().await, "disconnected");
        assert_eq!(desktop.end_reason().await, "its router died");
    }
    assert_eq!(stage.sql(&format!("select vm_state from vm_runtimes where vm_id = {}", connected.id)).await, "running");
    carries(&mut connected.connected().await).await;
    connecting.vm.x("listening");
    assert_eq!(connecting.ask().await.conclusion().await.1.status, 101);
}

#[tokio::test]
async fn tunnels_outlive_the_database_and_everything_else_says_that_it_is_away() {
    let (stage, _alone) = rough_alone().await;
    let (mut stays, mut leaves) = (stage.running().await, stage.running().await);
    let (mut staying, leaving) = (stays.connected().await, leaves.connected().await);
    let mut known = stage.client().await;
    assert_eq!(known.ask(stays.get("/qvd/list_of_vm")).await.status, 200);

    stage.site.cluster().stop().await;
    carries(&mut staying).await;
    let mut stranger = stage.client().await;
    for client in [&mut known, &mut stranger] {
        for request in ["GET /qvd/ping HTTP/1.1\r\n\r\n", &stays.get("/qvd/list_of_vm"), &stays.connect_request("")] {
            let answer = client.ask(request).await;
            assert_eq!(answer.status, 503, "{request}");
            assert_eq!(answer.text(), "The service is not available at the moment, retry later.");
        }
    }
    drop(leaving);

    stage.site.cluster().start().await.unwrap();
    // What ended meanwhile is written, what lives goes on, and what was refused is served.
    leaves.freed().await;
    stage.site.wait_node().await.unwrap();
    carries(&mut staying).await;
    assert_eq!(stays.user_state().await, "connected");
    for client in [&mut known, &mut stranger] {
        assert_eq!(client.ask(stays.get("/qvd/list_of_vm")).await.status, 200);
    }
    carries(&mut leaves.connected().await).await;
    let ended = stage.client().await.ask(leaves.get(&format!("/qvd/session_end?id={}", staying.session))).await;
    assert_eq!(ended.text(), r#"{"reason":null}"#);
}

#[tokio::test]
async fn a_desktop_is_not_lost_when_the_connection_breaks_in_the_moment_it_is_given() {
    let (stage, _alone) = rough_alone().await;
    let mut desktop = stage.running().await;
    // Commits wait for a standby that does not exist, so the router's statement is done but not answered. Those that make
    // a session wait for nothing, unless a trigger wants it.
    stage
        .sql(
            "create function public.patient() returns trigger language plpgsql as
                 $$ begin perform set_config('synchronous_commit', 'on', true); return null; end $$;
             create trigger patient after insert on user_sessions for each row execute function public.patient()",
        )
        .await;
    let hold = "alter system set synchronous_standby_names = 'nobody'";
    let release = "alter system reset synchronous_standby_names";
    stage.sql(hold).await;
    stage.sql("select pg_reload_conf()").await;
    stage.until("show synchronous_standby_names", "nobody").await;
    let mut client = desktop.ask().await;
    let stuck = "select count(*) from pg_stat_activity where wait_event = 'SyncRep' and query like '%l7r_acquire%'";
    stage.until(stuck, "1").await;
    stage.sql("select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'").await;
    stage.sql(release).await;
    stage.sql("select pg_reload_conf()").await;
    stage.until("show synchronous_standby_names", "").await;
    stage.sql("drop function public.patient cascade").await;
    let (_, answer) = client.conclusion().await;
    assert_eq!(answer.status, 503);
    let given = format!("select count(*) from user_sessions where vm_id = {}", desktop.id);
    assert_eq!(stage.sql(&given).await, "1", "the statement was not carried out, this tests nothing");
    // Nobody else has to want it.
    desktop.freed().await;
    assert_eq!(desktop.end_reason().await, "its client never got it");
    carries(&mut desktop.connected().await).await;
}

#[tokio::test]
async fn a_router_goes_on_serving_after_a_restore() {
    let (stage, _alone) = rough_alone().await;
    let mut desktop = stage.running().await;
    let router = stage.l7r_pid().await;
    drop(desktop.connected().await);
    desktop.freed().await;
    stage.sql("select database_restored()").await;
    // With a router.
    stage.site.wait_node().await.unwrap();
    desktop.start().await;
    let mut tunnel = desktop.connected().await;
    carries(&mut tunnel).await;
    assert_eq!(stage.l7r_pid().await, router);
    let by = "select l7r_instance = (select id from l7r_instances where ended_at is null) from vm_runtimes where vm_id";
    assert_eq!(stage.sql(&format!("{by} = {}", desktop.id)).await, "t");
}

/// As when a server has taken over that did not hear of the router.
#[tokio::test]
async fn a_router_that_the_database_has_forgotten_serves_the_next_client() {
    let (stage, _alone) = rough_alone().await;
    let mut desktop = stage.running().await;
    let router = stage.l7r_pid().await;
    stage.sql("update l7r_instances set ended_at = now() where ended_at is null").await;
    carries(&mut desktop.connected().await).await;
    assert_eq!(stage.l7r_pid().await, router);
}

/// As when a server has taken over that did not hear of the end.
#[tokio::test]
async fn a_session_that_is_on_record_again_after_its_end_is_ended_once_more() {
    let (stage, _alone) = rough_alone().await;
    let mut desktop = stage.running().await;
    drop(desktop.connected().await);
    desktop.freed().await;
    stage
        .sql(&format!(
            "with session as (
                 update user_sessions set ended_at = null, end_reason = null where vm_id = {0}
                 returning id, l7r_host_id, l7r_instance)
             update vm_runtimes r set user_state = 'connecting', session_id = s.id, l7r_host_id = s.l7r_host_id,
                 l7r_instance = s.l7r_instance
             from session s where r.vm_id = {0}",
            desktop.id
        ))
        .await;
    desktop.freed().await;
    assert_eq!(desktop.end_reason().await, "its client never got it");
}
