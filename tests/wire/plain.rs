//! The router without TLS, for set-ups in which something else terminates it: the same dialogue, and a tunnel that no
//! byte leaves the kernel on.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{
    besieged::{SOON, fill},
    stage::{Desktop, PATIENCE, plain},
};

/// A client that reads to the end of the last head, and not beyond it.
async fn switched(desktop: &Desktop, sent_behind: &[u8]) -> TcpStream {
    let mut tcp = TcpStream::connect(("127.0.0.1", desktop.stage.site.port())).await.unwrap();
    tcp.write_all(desktop.connect_request("").as_bytes()).await.unwrap();
    tcp.write_all(sent_behind).await.unwrap();
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(PATIENCE, tcp.read_u8()).await.expect("the router says nothing").unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        match head.split(' ').nth(1) {
            Some("102") => {}
            Some("101") => return tcp,
            _ => panic!("{head}"),
        }
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 + i / 251) as u8).collect()
}

#[tokio::test]
async fn bytes_pass_unchanged_both_ways_each_end_is_passed_on_and_the_record_names_the_way() {
    let stage = plain().await;
    let mut desktop = stage.running().await;
    let (up, down) = (pattern(3_000_003), pattern(5_000_001));
    let tcp = switched(&desktop, &up[..1000]).await;
    let session = format!(
        "select concat_ws(' ', tunnel, ended_at is null) from session_list where vm = '{}@default/desk'",
        desktop.login
    );
    assert_eq!(stage.sql(&session).await, "splice t");
    let (mut client_in, mut client_out) = tcp.into_split();
    let (mut nx_in, mut nx_out) = desktop.vm.nx().await.into_split();
    let send_up = async {
        client_out.write_all(&up[1000..]).await.unwrap();
        client_out.shutdown().await.unwrap();
    };
    let send_down = async {
        nx_out.write_all(&down[..1_000_000]).await.unwrap();
        nx_out
    };
    let (mut got_up, mut got_down) = (Vec::new(), vec![0; 1_000_000]);
    let receive_up = async { nx_in.read_to_end(&mut got_up).await.unwrap() };
    let receive_down = async { client_in.read_exact(&mut got_down).await.unwrap() };
    let all = async { tokio::join!(send_up, send_down, receive_up, receive_down) };
    let (_, mut nx_out, ..) = timeout(PATIENCE, all).await.expect("the bytes do not pass");
    assert!(got_up == up && got_down == down[..1_000_000]);
    // The client has said everything; the desktop has not.
    let rest = async {
        nx_out.write_all(&down[1_000_000..]).await.unwrap();
        drop(nx_out);
    };
    let hear = async { client_in.read_to_end(&mut got_down).await.unwrap() };
    timeout(PATIENCE, async { tokio::join!(rest, hear) }).await.expect("the bytes do not pass");
    assert!(got_down == down);
    desktop.freed().await;
    let end = format!(
        "select concat_ws(' ', bytes_up, bytes_down, end_reason) from session_list where vm = '{}@default/desk'",
        desktop.login
    );
    assert_eq!(stage.sql(&end).await, "3000003 5000001 the client left");
}

#[tokio::test]
async fn a_client_that_vanishes_while_its_vm_reads_nothing_is_missed_soon() {
    let stage = plain().await;
    let mut desktop = stage.running().await;
    let mut tcp = switched(&desktop, b"").await;
    let _nx = desktop.vm.nx().await;
    fill(&mut tcp).await;
    tcp.set_zero_linger().unwrap();
    drop(tcp);
    let took = desktop.freed().await;
    assert!(took < SOON, "the desktop was freed only after {took:?}");
    assert_eq!(desktop.end_reason().await, "the client left");
}

#[tokio::test]
async fn an_abort_and_a_limit_end_a_tunnel_that_is_blocked() {
    let stage = plain().await;
    let mut aborted = stage.running().await;
    let mut limited = stage.running_in_tenant(&[("l7r.session.limit", "1")]).await;
    for (desktop, reason) in
        [(&mut aborted, "disconnected by an administrator"), (&mut limited, "it lasted 1 s, the limit")]
    {
        let mut tcp = switched(desktop, b"").await;
        let mut nx = desktop.vm.nx().await;
        let id = desktop.id;
        // Nobody reads there.
        let fill = async { while tcp.write_all(&[7; 65536]).await.is_ok() {} };
        let end = async {
            if reason.starts_with("disconnected") {
                stage.sql(&format!("select vm_disconnect({id})")).await;
            }
            desktop.freed().await
        };
        tokio::select! {
            _ = async { tokio::join!(fill, std::future::pending::<()>()) } => {}
            _ = end => {}
        }
        assert_eq!(desktop.end_reason().await, reason);
        let mut heard = Vec::new();
        let _ = timeout(PATIENCE, nx.read_to_end(&mut heard)).await.expect("the desktop is not told");
    }
}

#[tokio::test]
async fn a_client_or_a_desktop_that_dies_ends_the_session_with_the_reason() {
    let stage = plain().await;
    let mut desktop = stage.running().await;
    let tcp = switched(&desktop, b"").await;
    let _nx = desktop.vm.nx().await;
    tcp.set_zero_linger().unwrap();
    drop(tcp);
    desktop.freed().await;
    assert!(desktop.end_reason().await.starts_with("the connection to the client failed"));

    let mut tcp = switched(&desktop, b"").await;
    let nx = desktop.vm.nx().await;
    nx.set_zero_linger().unwrap();
    drop(nx);
    assert_eq!(timeout(PATIENCE, tcp.read(&mut [0])).await.expect("the client is not told").unwrap(), 0);
    desktop.freed().await;
    assert!(desktop.end_reason().await.starts_with("the connection to the desktop failed"));
}

#[tokio::test]
async fn a_client_that_closes_behind_more_than_its_vm_takes_is_missed_soon() {
    let stage = plain().await;
    let mut desktop = stage.running().await;
    let mut tcp = switched(&desktop, b"").await;
    let _nx = desktop.vm.nx().await;
    fill(&mut tcp).await;
    drop(tcp);
    let took = desktop.freed().await;
    assert!(took < SOON, "the desktop was freed only after {took:?}");
    assert_eq!(desktop.end_reason().await, "the client left");
}
