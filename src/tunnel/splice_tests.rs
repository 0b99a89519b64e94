use std::sync::Arc;

use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
};

use super::*;
use crate::tunnel::{
    pipe::kept,
    testing::{soon, tcp_pair},
};

/// One direction between two connections, on the thread of the test.
struct OneWay {
    source: TcpStream,
    sink: TcpStream,
    delivered: Arc<AtomicU64>,
    pumping: JoinHandle<Result<Stop, Broken>>,
}

async fn one_way() -> OneWay {
    let (source, from) = tcp_pair().await;
    let (to, sink) = tcp_pair().await;
    let delivered = Arc::new(AtomicU64::new(0));
    let count = delivered.clone();
    let pumping = tokio::spawn(async move { pump(&from, &to, &count).await });
    OneWay { source, sink, delivered, pumping }
}

#[tokio::test]
async fn an_idle_direction_holds_no_pipe_and_a_thread_shares_one_among_its_tunnels() {
    let mut ways = Vec::new();
    for _ in 0..20 {
        ways.push(one_way().await);
    }
    for _ in 0..3 {
        for way in &mut ways {
            way.source.write_all(b"key").await.unwrap();
            let mut heard = [0; 3];
            soon(way.sink.read_exact(&mut heard)).await.unwrap();
            assert_eq!(&heard, b"key");
        }
    }
    for way in ways {
        drop(way.source);
        assert!(matches!(soon(way.pumping).await.unwrap(), Ok(Stop::End)));
        assert_eq!(way.delivered.load(Ordering::Relaxed), 9);
    }
    assert_eq!(kept(), 1, "one pipe was enough for all");
}

#[tokio::test]
async fn a_direction_that_waits_for_its_sink_keeps_its_pipe_and_a_pipe_with_bytes_is_not_used_again() {
    let mut blocked = one_way().await;
    let block = vec![7; 64 * 1024];
    let patience = std::time::Duration::from_millis(300);
    while tokio::time::timeout(patience, blocked.source.write_all(&block)).await.is_ok() {}
    let mut other = one_way().await;
    other.source.write_all(b"free").await.unwrap();
    let mut heard = [0; 4];
    soon(other.sink.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"free");
    blocked.pumping.abort();
    assert!(soon(blocked.pumping).await.unwrap_err().is_cancelled());
    for _ in 0..3 {
        other.source.write_all(b"more").await.unwrap();
        soon(other.sink.read_exact(&mut heard)).await.unwrap();
        assert_eq!(&heard, b"more", "bytes of the dead tunnel came out of another");
    }
}

#[tokio::test]
async fn the_end_of_the_source_is_left_to_the_caller_to_pass_on() {
    let (mut source, from) = tcp_pair().await;
    let (to, mut sink) = tcp_pair().await;
    source.write_all(b"last").await.unwrap();
    source.shutdown().await.unwrap();
    let delivered = AtomicU64::new(0);
    assert!(matches!(soon(pump(&from, &to, &delivered)).await, Ok(Stop::End)));
    to.try_write(b" words").unwrap();
    drop(to);
    let mut heard = String::new();
    soon(sink.read_to_string(&mut heard)).await.unwrap();
    assert_eq!(heard, "last words");
}

#[tokio::test]
async fn it_is_said_which_side_failed() {
    let way = one_way().await;
    way.source.set_zero_linger().unwrap();
    drop(way.source);
    let failed = soon(way.pumping).await.unwrap();
    assert!(matches!(failed, Err(Broken::Source(_))), "{failed:?}");

    let mut way = one_way().await;
    way.sink.set_zero_linger().unwrap();
    drop(way.sink);
    // The end of the pump closes the source's other end, which may be seen before its result.
    let talking = async { while way.source.write_all(&[0; 1000]).await.is_ok() {} };
    let (failed, ()) = tokio::join!(soon(way.pumping), talking);
    let failed = failed.unwrap();
    assert!(matches!(failed, Err(Broken::Sink(_))), "{failed:?}");
}

/// A directory stands for a socket whose next TLS record is not data: neither can be spliced, with the same error.
#[test]
fn what_cannot_be_spliced_is_reported_and_its_pipe_goes_back() {
    let directory = std::fs::File::open("/").unwrap();
    let before = kept();
    let error = Load::take(&directory).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::EINVAL as i32));
    assert_eq!(kept(), before + 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Whatever the sizes in which bytes are said and heard, they arrive in order and are counted.
    #[test]
    fn bytes_arrive_unchanged_however_they_are_cut(
        said in proptest::collection::vec(1usize..200_000, 1..30),
        heard in proptest::collection::vec(1usize..200_000, 1..30),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let OneWay { mut source, mut sink, delivered, pumping } = one_way().await;
            let total: usize = said.iter().sum();
            let data: Vec<u8> = (0..total).map(|i| (i * 31 + i / 251) as u8).collect();
            let speak = async {
                let mut rest = data.as_slice();
                for size in said {
                    source.write_all(&rest[..size]).await.unwrap();
                    rest = &rest[size..];
                }
                source.shutdown().await.unwrap();
            };
            let listen = async {
                let mut got = Vec::new();
                for size in heard.iter().cycle() {
                    let mut part = vec![0; *size];
                    match sink.read(&mut part).await.unwrap() {
                        0 => break,
                        length => got.extend_from_slice(&part[..length]),
                    }
                    // Nobody passes the end on.
                    if got.len() == total {
                        break;
                    }
                }
                got
            };
            let ((), got) = soon(async { tokio::join!(speak, listen) }).await;
            assert!(got == data);
            assert!(matches!(soon(pumping).await.unwrap(), Ok(Stop::End)));
            assert_eq!(delivered.load(Ordering::Relaxed), total as u64);
        });
    }
}

#[tokio::test]
async fn what_comes_while_the_sink_takes_nothing_and_after_that_arrives_however_little_it_is() {
    let mut way = one_way().await;
    let block = vec![7; 64 * 1024];
    let patience = std::time::Duration::from_millis(300);
    let mut sent = 0;
    while let Ok(taken) = tokio::time::timeout(patience, way.source.write(&block)).await {
        sent += taken.unwrap();
    }
    let mut heard = vec![0; sent];
    soon(way.sink.read_exact(&mut heard)).await.unwrap();
    for _ in 0..3 {
        way.source.write_all(b"key").await.unwrap();
        let mut heard = [0; 3];
        soon(way.sink.read_exact(&mut heard)).await.unwrap();
        assert_eq!(&heard, b"key");
    }
}
