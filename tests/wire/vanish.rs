//! Clients that leave at each step of the way. The desktop must be free again at once, not when some limit passes.

use std::time::Duration;

use tokio_postgres::NoTls;

use super::{
    client::Client,
    stage::{Desktop, calm},
    vm::Reply,
};

/// Well below the limits of the calm installation, which are 4 s and more.
const AT_ONCE: Duration = Duration::from_secs(2);

/// The desktop can be used as if nothing had happened.
async fn usable(desktop: &mut Desktop) {
    let tunnel = desktop.connected().await;
    drop(tunnel);
    desktop.freed().await;
}

async fn vanishes(desktop: &mut Desktop, mut client: Client, politely: bool) {
    if politely {
        client.finish().await;
    } else {
        client.cut();
    }
    let took = desktop.freed().await;
    assert!(took < AT_ONCE, "the desktop was freed only after {took:?}");
    desktop
        .stage
        .until(&format!("select count(*) from user_sessions where vm_id = {} and ended_at is null", desktop.id), "0")
        .await;
}

#[tokio::test]
async fn a_client_that_leaves_before_it_has_read_anything_leaves_the_desktop_free() {
    let stage = calm().await;
    let mut desktop = stage.running().await;
    for politely in [true, false] {
        let client = desktop.ask().await;
        vanishes(&mut desktop, client, politely).await;
        usable(&mut desktop).await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_while_its_desktop_is_waited_for_frees_it_at_once() {
    let stage = calm().await;
    let mut desktop = stage.desktop().await;
    let id = desktop.id;
    // A host whose daemon never comes.
    let ghost = format!("ghost{id}");
    stage.sql(&format!("select host_create('{ghost}', '10.99.{}.{}')", id / 256 % 256, id % 256)).await;
    for politely in [true, false] {
        stage
            .sql(&format!(
                "update vm_runtimes set host_id = (select id from hosts where name = '{ghost}'), vm_cmd = 'start'
                 where vm_id = {id}"
            ))
            .await;
        let mut client = desktop.ask().await;
        client.told("Waiting for VM to reach state 'running'").await;
        vanishes(&mut desktop, client, politely).await;
        assert_eq!(desktop.end_reason().await, "the client left while it was connecting");
        stage.sql(&format!("select vm_stop({id})")).await;
    }
    usable(&mut desktop).await;
}

#[tokio::test]
async fn a_client_that_leaves_while_the_x_session_comes_up_frees_its_desktop_at_once() {
    let stage = calm().await;
    let mut desktop = stage.running().await;
    for (step, text) in ["Starting X session", "Waiting for X session", "Connecting X session"].iter().enumerate() {
        for politely in [true, false] {
            match step {
                0 => desktop.vm.reply("x_start", Some(Reply::Silence)),
                1 => desktop.vm.x("starting"),
                _ => desktop.vm.close_nx().await,
            }
            let mut client = desktop.ask().await;
            client.told(text).await;
            vanishes(&mut desktop, client, politely).await;
            assert_eq!(desktop.end_reason().await, "the client left while it was connecting", "{text}");
            match step {
                0 => desktop.vm.reply("x_start", None),
                1 => desktop.vm.x("listening"),
                _ => desktop.vm.open_nx().await,
            }
            usable(&mut desktop).await;
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_just_before_or_after_the_101_frees_its_desktop_at_once() {
    let stage = calm().await;
    let mut desktop = stage.running().await;
    for politely in [true, false] {
        let mut client = desktop.ask().await;
        client.told("Connection established").await;
        desktop.vm.nx_follows().await;
        vanishes(&mut desktop, client, politely).await;
        usable(&mut desktop).await;

        let mut client = desktop.ask().await;
        assert_eq!(client.conclusion().await.1.status, 101);
        desktop.vm.nx_follows().await;
        vanishes(&mut desktop, client, politely).await;
        usable(&mut desktop).await;
    }
}

#[tokio::test]
async fn a_client_that_ends_without_the_goodbye_of_tls_frees_its_desktop_even_if_nxagent_does_not_notice() {
    let stage = calm().await;
    let mut desktop = stage.running().await;
    let mut tunnel = desktop.connected().await;
    tunnel.client.send("last words").await;
    drop(tunnel.client);
    let took = desktop.freed().await;
    assert!(took < AT_ONCE, "the desktop was freed only after {took:?}");
    assert_eq!(desktop.end_reason().await, "the client left");
    let mut heard = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut tunnel.nx, &mut heard).await.unwrap();
    assert_eq!(heard, "last words");
    usable(&mut desktop).await;
}

#[tokio::test]
async fn a_client_that_leaves_while_the_database_gives_it_the_desktop_does_not_keep_it_for_ever() {
    let stage = calm().await;
    let mut desktop = stage.running().await;
    let id = desktop.id;
    let text = stage.site.cluster().connection_string("qvd", "postgres");
    let (mut admin, connection) = tokio_postgres::connect(&text, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let lock = admin.transaction().await.unwrap();
    lock.execute("select from qvd.vm_runtimes where vm_id = $1 for update", &[&id]).await.unwrap();
    let client = desktop.ask().await;
    let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '%l7r_acquire%'";
    stage.until(waiting, "1").await;
    client.cut();
    // What comes from the network now is seen after the end of that client.
    for _ in 0..3 {
        assert_eq!(stage.client().await.ask(desktop.get("/qvd/list_of_vm")).await.status, 200);
    }
    lock.commit().await.unwrap();
    stage.until(waiting, "0").await;
    desktop.freed().await;
    usable(&mut desktop).await;
    connection.abort();
}
