//! Several clients want one desktop, or somebody wants a client to go.

use std::{
    fs,
    process::Stdio,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use qvd::demo::site::free_port;
use tokio::{io::AsyncWriteExt, net::TcpStream, process::Command, time::interval};

use super::{
    client::Client,
    stage::{Desktop, PATIENCE, Tunnel, calm, rough, rough_alone},
};

/// What the client of a session is told about its end.
async fn told_why(desktop: &Desktop, tunnel: &Tunnel) -> String {
    let mut client = desktop.stage.client().await;
    client.ask(desktop.get(&format!("/qvd/session_end?id={}", tunnel.session))).await.text()
}

#[tokio::test]
async fn a_second_client_takes_the_desktop_over_and_the_first_can_ask_why_it_ended() {
    let stage = calm().await;
    let mut desktop = stage.running().await;
    let mut first = desktop.connected().await;
    assert_eq!(told_why(&desktop, &first).await, r#"{"reason":null}"#);
    let mut second = desktop.ask().await;
    let (texts, answer) = second.conclusion().await;
    assert_eq!(answer.status, 101);
    assert_eq!(texts[0], format!("Aborting contending session for VM_ID: {}", desktop.id));
    assert!(texts.contains(&format!("Session acquired for VM_ID: {}", desktop.id)), "{texts:?}");
    assert!(first.client.ended().await && first.client.goodbye);
    assert_eq!(told_why(&desktop, &first).await, r#"{"reason":"taken over by a client at 127.0.0.1"}"#);
    desktop.vm.nx().await;
    // The late end of the first has not touched the second.
    assert_eq!(desktop.user_state().await, "connected");
    assert_eq!(desktop.end_reason().await, "");
}

#[tokio::test]
async fn a_client_that_is_still_connecting_is_told_that_another_took_its_place() {
    let stage = calm().await;
    let mut desktop = stage.running().await;
    desktop.vm.x("starting");
    let mut first = desktop.ask().await;
    first.told("Waiting for X session").await;
    let mut second = desktop.ask().await;
    let (_, answer) = first.conclusion().await;
    assert_eq!(answer.status, 503);
    assert_eq!(
        answer.text(),
        "The requested virtual machine is not available: Aborted by contending session, retry later."
    );
    second.told("Waiting for X session").await;
    desktop.vm.x("listening");
    assert_eq!(second.conclusion().await.1.status, 101);
    desktop.vm.nx().await;
    // The first may try again on its connection, and then is the one that contends.
    assert_eq!(first.ask(desktop.connect_request("")).await.status, 101);
    assert!(second.ended().await);
}

#[tokio::test]
async fn of_many_clients_at_once_one_has_the_desktop_in_the_end() {
    let stage = calm().await;
    let desktop = stage.running().await;
    let (mut clients, mut open) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        clients.push(desktop.ask().await);
    }
    for mut client in clients {
        let (_, answer) = client.conclusion().await;
        match answer.status {
            101 => open.push(client),
            status => assert_eq!((status, answer.text().contains("contending")), (503, true), "{}", answer.text()),
        }
    }
    let last = format!("select count(*) from user_sessions where vm_id = {} and ended_at is null", desktop.id);
    stage.until(&last, "1").await;
    assert_eq!(desktop.user_state().await, "connected");
    stage.sql(&format!("select vm_disconnect({})", desktop.id)).await;
    for mut client in open {
        assert!(client.ended().await);
    }
    stage.until(&last, "0").await;
    assert_eq!(desktop.user_state().await, "disconnected");
}

#[tokio::test]
async fn an_administrator_disconnects_a_client_at_once_and_the_desktop_goes_on() {
    let stage = calm().await;
    let mut desktop = stage.running().await;
    let mut tunnel = desktop.connected().await;
    let began = Instant::now();
    stage.sql(&format!("select vm_disconnect('{}')", desktop.name())).await;
    assert!(tunnel.client.ended().await && tunnel.client.goodbye);
    assert!(began.elapsed().as_secs() < 2, "nobody was woken: {:?}", began.elapsed());
    desktop.freed().await;
    assert_eq!(desktop.end_reason().await, "disconnected by an administrator");
    assert_eq!(told_why(&desktop, &tunnel).await, r#"{"reason":"disconnected by an administrator"}"#);
    stage.site.wait_vm(&desktop.name(), "running").await.unwrap();
    desktop.connected().await;
}

#[tokio::test]
async fn a_client_that_is_still_connecting_is_told_that_an_administrator_does_not_want_it() {
    let stage = calm().await;
    let desktop = stage.running().await;
    desktop.vm.x("starting");
    let mut client = desktop.ask().await;
    client.told("Waiting for X session").await;
    stage.sql(&format!("select vm_disconnect('{}')", desktop.name())).await;
    let (_, answer) = client.conclusion().await;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (503, "The requested virtual machine is not available: disconnected by an administrator, retry later.")
    );
    assert_eq!(desktop.end_reason().await, "disconnected by an administrator");
}

#[tokio::test]
async fn a_desktop_that_another_router_does_not_let_go_cannot_be_had() {
    let (stage, _turn) = rough().await;
    let desktop = stage.running().await;
    let id = desktop.id;
    // A router of this host that lives, as far as anybody can see, and does not listen.
    stage
        .sql(&format!(
            "with i as (insert into l7r_instances (host_id, boot_id, pid, pid_start, ended_at)
                 select host_id, boot_id, 1, 1, null from host_runtimes returning *),
             s as (insert into user_sessions
                     (vm_id, vm_name, user_id, login, tenant_id, l7r_host_id, l7r_instance, client_address)
                 select {id}, 'desk', v.user_id, 'x', 1, i.host_id, i.id, '127.0.0.1' from i, vms v where v.id = {id}
                 returning *)
             update vm_runtimes r set user_state = 'connecting', session_id = s.id, l7r_host_id = s.l7r_host_id,
                 l7r_instance = s.l7r_instance from s where r.vm_id = {id}"
        ))
        .await;
    let mut client = desktop.ask().await;
    let (texts, answer) = client.conclusion().await;
    assert!(texts.len() > 1 && texts.iter().all(|text| text.starts_with("Aborting contending session")), "{texts:?}");
    assert_eq!(
        answer.text(),
        "The requested virtual machine is not available: Unable to acquire VM, close other clients, retry later."
    );
    assert_eq!(desktop.user_state().await, "connecting");
    stage
        .sql(&format!(
            "update l7r_instances set ended_at = now() where id = (select l7r_instance from vm_runtimes where vm_id = {id})"
        ))
        .await;
    // Now it is known to be gone.
    assert_eq!(client.ask(desktop.connect_request("")).await.status, 101);
}

/// A process that does nothing until this is dropped.
struct Frozen(Pid);

impl Frozen {
    fn new(pid: &str) -> Self {
        let pid = Pid::from_raw(pid.parse().unwrap());
        kill(pid, Signal::SIGSTOP).unwrap();
        Self(pid)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

#[tokio::test]
async fn a_user_whose_router_does_not_answer_gets_the_session_through_another_at_once() {
    let (stage, _alone) = rough_alone().await;
    let mut desktop = stage.running().await;
    let mut first = desktop.connected().await;
    let port = free_port().unwrap();
    let directory = tempfile::tempdir().unwrap();
    // With a run directory of its own it does not take the port of the first over.
    let run = directory.path().display();
    let config = fs::read_to_string(stage.site.config_file()).unwrap();
    fs::write(
        directory.path().join("node.conf"),
        format!("{config}path.run = {run}\nl7r.port = {port}\ninternal.l7r.timeout.takeover = 20\n"),
    )
    .unwrap();
    let mut second = Command::new(env!("CARGO_BIN_EXE_qvd"))
        .args(["l7r", "--config"])
        .arg(directory.path().join("node.conf"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (began, mut looks) = (Instant::now(), interval(Duration::from_millis(20)));
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        assert!(began.elapsed() < PATIENCE, "the second router does not listen");
        looks.tick().await;
    }

    let router = "select pid from l7r_instances i join vm_runtimes r on r.l7r_instance = i.id where r.vm_id =";
    let frozen = Frozen::new(&stage.sql(&format!("{router} {}", desktop.id)).await);
    let began = Instant::now();
    let mut client = Client::connect(port).await;
    client.send(desktop.connect_request("")).await;
    let (_, answer) = client.conclusion().await;
    assert_eq!(answer.status, 101, "{}", answer.text());
    assert!(began.elapsed() < Duration::from_secs(8), "it took {:?}", began.elapsed());
    let _nx = desktop.vm.nx().await;

    drop(frozen);
    first.nx.shutdown().await.unwrap();
    assert!(first.client.ended().await);
    assert_eq!(desktop.user_state().await, "connected", "the late end of the first changes nothing");
    assert_eq!(desktop.end_reason().await, "");
    kill(Pid::from_raw(second.id().unwrap().cast_signed()), Signal::SIGTERM).unwrap();
    assert!(second.wait().await.unwrap().success());
    desktop.freed().await;
}
