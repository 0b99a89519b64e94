//! What a client sees on the wire, TLS records included.

use std::sync::Arc;

use futures_util::FutureExt;
use rustls::{ClientConnection, pki_types::ServerName};
use tokio::net::TcpStream;

use super::{super::Status, *};
use crate::tunnel::{
    testing::{PATIENCE, soon, tcp_pair, tls_configs},
    tls::{self, TlsStream},
};

/// A client that sees TLS records one by one.
struct RecordClient {
    tcp: TcpStream,
    tls: ClientConnection,
}

impl RecordClient {
    /// Reads one TLS record from the network and returns its clear text.
    async fn record(&mut self) -> Vec<u8> {
        let mut record = vec![0; 5];
        soon(self.tcp.read_exact(&mut record)).await.unwrap();
        let length = usize::from(u16::from_be_bytes([record[3], record[4]]));
        record.resize(5 + length, 0);
        soon(self.tcp.read_exact(&mut record[5..])).await.unwrap();
        let mut rest = record.as_slice();
        while !rest.is_empty() {
            self.tls.read_tls(&mut rest).unwrap();
            self.tls.process_new_packets().unwrap();
        }
        let mut clear = Vec::new();
        match io::Read::read_to_end(&mut self.tls.reader(), &mut clear) {
            Ok(_) => clear,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => clear,
            Err(error) => panic!("{error}"),
        }
    }

    async fn send(&mut self, text: &str) {
        io::Write::write_all(&mut self.tls.writer(), text.as_bytes()).unwrap();
        self.flush().await;
    }

    async fn flush(&mut self) {
        let mut out = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut out).unwrap();
        }
        self.tcp.write_all(&out).await.unwrap();
    }
}

async fn pair() -> (RecordClient, Dialogue<TlsStream>) {
    let (server, client) = tls_configs();
    let (near, far) = tcp_pair().await;
    let mut client = RecordClient {
        tcp: near,
        tls: ClientConnection::new(Arc::clone(&client), ServerName::try_from("localhost").unwrap()).unwrap(),
    };
    let accept = tokio::spawn(async move { tls::accept(far, server, PATIENCE).await });
    client.flush().await;
    while client.tls.is_handshaking() {
        client.record().await;
        client.flush().await;
    }
    (client, Dialogue::new(accept.await.unwrap().unwrap(), 4096))
}

#[tokio::test]
async fn every_interim_answer_is_one_record_and_101_stands_alone() {
    let (mut client, mut dialogue) = pair().await;
    client.send("GET /qvd/connect_to_vm?id=1 HTTP/1.1\nConnection: Upgrade\nUpgrade: QVD/1.0\n\nNXPROXY-").await;
    let request = soon(dialogue.next_request()).await.unwrap().unwrap();
    assert!(request.wants_tunnel());
    dialogue.interim("Starting virtual machine").await.unwrap();
    dialogue.interim("Connection established").await.unwrap();
    let (mut stream, leftover) = dialogue.switch(&[("X-QVD-Slave-Key", "KEY")]).await.unwrap();
    assert_eq!(leftover, b"NXPROXY-");
    stream.write_all(b"tunnel").await.unwrap();
    stream.flush().await.unwrap();
    for expected in [
        "HTTP/1.1 102 Processing\r\nX-QVD-VM-Info: Starting virtual machine\r\n\r\n",
        "HTTP/1.1 102 Processing\r\nX-QVD-VM-Info: Connection established\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nX-QVD-Slave-Key: KEY\r\n\r\n",
        "tunnel",
    ] {
        assert_eq!(String::from_utf8(client.record().await).unwrap(), expected);
    }
}

#[tokio::test]
async fn head_and_body_of_an_error_are_two_records() {
    let (mut client, mut dialogue) = pair().await;
    client.send("GET /nowhere HTTP/1.1\r\n\r\n").await;
    soon(dialogue.next_request()).await.unwrap().unwrap();
    dialogue.answer(&Answer::text(Status::NotFound, "no such VM")).await.unwrap();
    let head = String::from_utf8(client.record().await).unwrap();
    assert_eq!(head, "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\n");
    assert_eq!(client.record().await, b"no such VM");
    client.send("GET /next HTTP/1.1\r\n\r\n").await;
    assert_eq!(soon(dialogue.next_request()).await.unwrap().unwrap().path, "/next", "the connection stays open");
}

#[tokio::test]
async fn a_request_that_comes_byte_by_byte_is_given_up_and_a_silent_client_only_when_it_must_hurry() {
    let (mut near, far) = tcp_pair().await;
    let mut dialogue = Dialogue::new(far, 4096);
    let head = Duration::from_millis(200);
    dialogue.limit_time(Patience { head, before: false });
    let patient = tokio::time::timeout(head * 2, dialogue.next_request()).await;
    assert!(patient.is_err(), "a client that has logged in may be silent");
    let drip = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        let mut heard = Vec::new();
        near.write_all(b"GET / HTTP/1.1\r\nX: ").await.unwrap();
        while !heard.ends_with(b"long.") {
            tokio::select! {
                _ = ticks.tick() => near.write_all(b"a").await.unwrap(),
                read = near.read_buf(&mut heard) => assert!(read.unwrap() > 0),
            }
        }
        String::from_utf8(heard).unwrap()
    });
    let given_up = soon(dialogue.next_request()).await;
    assert!(matches!(given_up, Err(DialogueError::TooSlow)), "{given_up:?}");
    assert!(soon(drip).await.unwrap().starts_with("HTTP/1.1 408 Request Timeout\r\n"));

    let (_near, far) = tcp_pair().await;
    let mut dialogue = Dialogue::new(far, 4096);
    dialogue.limit_time(Patience { head, before: true });
    assert!(matches!(soon(dialogue.next_request()).await, Err(DialogueError::TooSlow)));
}

#[tokio::test]
async fn pipelined_requests_are_answered_one_after_the_other() {
    let (mut near, far) = tcp_pair().await;
    let mut dialogue = Dialogue::new(far, 4096);
    near.write_all(b"GET /a HTTP/1.1\n\nGET /b HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(soon(dialogue.next_request()).await.unwrap().unwrap().path, "/a");
    assert_eq!(soon(dialogue.next_request()).await.unwrap().unwrap().path, "/b");
    near.shutdown().await.unwrap();
    assert!(soon(dialogue.next_request()).await.unwrap().is_none());
}

#[tokio::test]
async fn what_is_no_request_is_answered_and_closed_even_when_more_was_sent() {
    for (sent, status) in [
        ("nonsense\r\n".to_owned(), "400 Bad Request"),
        ("GET / HTTP/1.0\r\n\r\n".to_owned(), "505 HTTP Version Not Supported"),
        (format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(9000)), "431 Request Header Fields Too Large"),
    ] {
        let (mut near, far) = tcp_pair().await;
        let mut dialogue = Dialogue::new(far, 4096);
        near.write_all(sent.as_bytes()).await.unwrap();
        near.write_all(&[b'y'; 20_000]).await.unwrap();
        let client = tokio::spawn(async move {
            let mut heard = Vec::new();
            near.read_to_end(&mut heard).await.unwrap();
            String::from_utf8(heard).unwrap()
        });
        let refused = soon(dialogue.next_request()).await;
        assert!(matches!(refused, Err(DialogueError::Rejected(_))), "{refused:?}");
        drop(dialogue);
        let heard = soon(client).await.unwrap();
        assert!(heard.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{heard}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_a_request_is_an_error() {
    let (mut near, far) = tcp_pair().await;
    let mut dialogue = Dialogue::new(far, 4096);
    near.write_all(b"GET /a HTT").await.unwrap();
    drop(near);
    assert!(matches!(soon(dialogue.next_request()).await, Err(DialogueError::Vanished)));
}

#[tokio::test]
async fn a_client_that_leaves_while_it_waits_is_noticed() {
    let (mut near, far) = tcp_pair().await;
    let mut dialogue = Dialogue::new(far, 4096);
    near.write_all(b"GET /a HTTP/1.1\n\n").await.unwrap();
    soon(dialogue.next_request()).await.unwrap().unwrap();
    drop(near);
    soon(dialogue.closed()).await;
    soon(dialogue.closed()).await;
    assert!(soon(dialogue.next_request()).await.unwrap().is_none());
}

#[tokio::test]
async fn bytes_that_arrive_while_the_client_is_watched_reach_the_tunnel() {
    let (mut near, far) = tokio::io::duplex(4096);
    let mut dialogue = Dialogue::new(far, 4096);
    near.write_all(b"GET /a HTTP/1.1\n\n").await.unwrap();
    soon(dialogue.next_request()).await.unwrap().unwrap();
    near.write_all(b"early ").await.unwrap();
    assert!(dialogue.closed().now_or_never().is_none());
    near.write_all(b"bytes").await.unwrap();
    near.shutdown().await.unwrap();
    soon(dialogue.closed()).await;
    let (_, leftover) = dialogue.switch(&[("X-QVD-Slave-Key", "KEY")]).await.unwrap();
    assert_eq!(leftover, b"early bytes");
}

#[tokio::test]
async fn a_client_that_floods_while_it_is_watched_is_not_read_without_end() {
    let (mut near, far) = tokio::io::duplex(1 << 20);
    let mut dialogue = Dialogue::new(far, 4096);
    near.write_all(&[b'z'; 1 << 20]).await.unwrap();
    assert!(dialogue.closed().now_or_never().is_none());
    assert!((4096..16384).contains(&dialogue.buffer.len()), "{}", dialogue.buffer.len());
}

#[tokio::test]
async fn a_request_may_arrive_byte_by_byte() {
    let (mut near, far) = tcp_pair().await;
    let mut dialogue = Dialogue::new(far, 4096);
    let client = tokio::spawn(async move {
        for byte in b"\r\nGET /slow?a=b HTTP/1.1\r\nX: y\n\r\n" {
            near.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        near
    });
    let request = soon(dialogue.next_request()).await.unwrap().unwrap();
    assert_eq!((request.path.as_str(), request.query.get("a"), request.header("x")), ("/slow", Some("b"), Some("y")));
    drop(client.await.unwrap());
}
