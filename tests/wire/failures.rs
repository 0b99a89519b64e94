//! Desktops that cannot be had: each failure is a 503 with one sentence, leaves the desktop free and the connection
//! open.

use super::{
    client::Client,
    stage::{Desktop, rough, rough_alone},
    vm::Reply,
};

fn sentence(reason: &str) -> String {
    format!("The requested virtual machine is not available: {reason}, retry later.")
}

/// Asks, and checks what every failure has in common.
async fn refused(desktop: &Desktop) -> (Client, Vec<String>, String) {
    let mut client = desktop.ask().await;
    let (texts, answer) = client.conclusion().await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(desktop.user_state().await, "disconnected", "{}", answer.text());
    let reason = desktop.end_reason().await;
    assert_eq!(answer.text(), sentence(&reason));
    (client, texts, reason)
}

/// On the same connection, now that nothing is wrong any more.
async fn then_had(desktop: &mut Desktop, mut client: Client) {
    let answer = client.ask(desktop.connect_request("")).await;
    assert_eq!(answer.status, 101, "{}", answer.text());
    desktop.vm.nx().await;
}

#[tokio::test]
async fn an_agent_that_cannot_start_the_x_session_is_asked_again_and_then_believed() {
    let (stage, _turn) = rough().await;
    let mut desktop = stage.running().await;
    for (reply, reason) in [
        (Reply::Refuse("no home"), "Unable to start X session: no home"),
        (Reply::Raw("SSH-2.0-OpenSSH_9.2\r\n"), "Unable to start X session: the agent of the VM answered nonsense"),
        (
            Reply::Raw("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwhat"),
            "Unable to start X session: the agent of the VM answered nonsense",
        ),
        (
            Reply::Raw("HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops"),
            "Unable to start X session: the agent of the VM answered nonsense",
        ),
        (
            Reply::Raw("HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno"),
            "Unable to start X session: the agent of the VM does not accept our secret",
        ),
        (Reply::Silence, "Unable to start X session: the agent of the VM did not answer in time"),
    ] {
        let before = desktop.vm.calls("x_start");
        desktop.vm.reply("x_start", Some(reply));
        let (client, texts, why) = refused(&desktop).await;
        assert!(why.starts_with(reason), "{why}");
        assert_eq!(desktop.vm.calls("x_start") - before, 2, "{reason}");
        let told = texts.iter().filter(|text| text.starts_with("Starting X session")).count();
        assert!(told >= 2, "the client was told nothing while it waited: {texts:?}");
        desktop.vm.reply("x_start", None);
        then_had(&mut desktop, client).await;
    }
}

#[tokio::test]
async fn an_x_session_that_does_not_come_up_is_given_up_after_its_limit() {
    let (stage, _turn) = rough().await;
    let mut desktop = stage.running().await;
    for classic in [false, true] {
        if classic {
            desktop.vm.classic();
        }
        desktop.vm.x("starting");
        let (client, _, why) = refused(&desktop).await;
        assert_eq!(why, "X session did not come up. Timeout");
        desktop.vm.x("listening");
        then_had(&mut desktop, client).await;

        desktop.vm.x("stopped");
        let (_, _, why) = refused(&desktop).await;
        assert_eq!(why, "Unable to start X session: it is stopped");

        for reply in [Reply::Raw("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n\"bogus\""), Reply::Silence] {
            desktop.vm.reply("x_state", Some(reply));
            let (_, _, why) = refused(&desktop).await;
            assert!(why.starts_with("X session did not come up: "), "{why}");
        }
        desktop.vm.reply("x_state", None);
        desktop.vm.x("listening");
    }
}

#[tokio::test]
async fn provisioning_takes_as_long_as_it_takes() {
    let (stage, _turn) = rough().await;
    for classic in [false, true] {
        let mut desktop = stage.running().await;
        if classic {
            desktop.vm.classic();
        }
        desktop.vm.x("provisioning");
        let mut client = desktop.ask().await;
        // The limit is 0.7 s; the client is told every 0.3 s at the most.
        for _ in 0..4 {
            client.told("Waiting for X session").await;
        }
        desktop.vm.x("starting");
        let method = if classic { "x_state" } else { "x_wait" };
        desktop.vm.called(method, desktop.vm.calls(method) + 1).await;
        desktop.vm.x("listening");
        assert_eq!(client.conclusion().await.1.status, 101);
        desktop.vm.nx().await;
    }
}

#[tokio::test]
async fn an_nxagent_that_does_not_listen_is_waited_for_and_then_given_up() {
    let (stage, _turn) = rough().await;
    let mut desktop = stage.running().await;
    desktop.vm.close_nx().await;
    let (_, _, why) = refused(&desktop).await;
    assert_eq!(why, "Unable to connect X session: nxagent does not answer");
    // Classic agents announce it a moment too early.
    let mut client = desktop.ask().await;
    client.told("Connecting X session").await;
    desktop.vm.open_nx().await;
    assert_eq!(client.conclusion().await.1.status, 101);
    desktop.vm.nx().await;
}

#[tokio::test]
async fn a_desktop_without_a_disk_image_is_refused_and_the_administrator_sees_why() {
    let (stage, _turn) = rough().await;
    let desktop = stage.desktop_without_image().await;
    let (_, _, why) = refused(&desktop).await;
    assert_eq!(why, format!("Failed to start virtual machine {}", desktop.id));
    let reason = stage.sql(&format!("select reason from vm_list where id = {}", desktop.id)).await;
    assert!(reason.contains("has no disk image"), "{reason}");
    assert_eq!(stage.sql(&format!("select state from vm_list where id = {}", desktop.id)).await, "stopped");
}

#[tokio::test]
async fn a_desktop_that_no_host_can_take_is_refused_until_one_can() {
    let (stage, _alone) = rough_alone().await;
    let mut desktop = stage.desktop().await;
    stage.sql("update hosts set backend = false").await;
    let (client, _, why) = refused(&desktop).await;
    assert_eq!(why, "no host available");
    stage.sql("update hosts set backend = true").await;
    then_had(&mut desktop, client).await;
}

#[tokio::test]
async fn a_desktop_that_stops_while_it_starts_is_refused_and_the_administrator_sees_why() {
    let (stage, _turn) = rough().await;
    let desktop = stage.desktop().await;
    let mut client = desktop.ask().await;
    client.told("Starting virtual machine").await;
    stage.site.wait_vm(&desktop.name(), "starting").await.unwrap();
    stage.sql(&format!("select vm_stop({})", desktop.id)).await;
    let (_, answer) = client.conclusion().await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.text(), sentence(&format!("Failed to start virtual machine {}", desktop.id)));
    let reason = stage.sql(&format!("select reason from vm_list where id = {}", desktop.id)).await;
    assert_eq!(reason, "it was stopped while it was starting");
    desktop.freed().await;
}

#[tokio::test]
async fn a_desktop_that_does_not_start_in_time_is_refused() {
    let (stage, _turn) = rough().await;
    let desktop = stage.desktop().await;
    let id = desktop.id;
    stage
        .sql(&format!(
            "select host_create('ghost{id}', '10.99.0.{}');
             update vm_runtimes set host_id = (select id from hosts where name = 'ghost{id}'), vm_cmd = 'start'
             where vm_id = {id}",
            id % 256
        ))
        .await;
    let (_, texts, why) = refused(&desktop).await;
    assert_eq!(why, "VM didn't reach state 'running'. Timeout");
    let told = texts.iter().filter(|text| *text == "Waiting for VM to reach state 'running'").count();
    assert!(told > 3, "{texts:?}");
    stage.sql(&format!("select vm_stop({id}); delete from hosts where name = 'ghost{id}'")).await;
}
