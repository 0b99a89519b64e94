//! What must hold of tunnels whose keys the kernel has.

use std::{process::Stdio, time::Instant};

use qvd::tunnel::{Reason, Way};
use rustls::{
    CipherSuiteCommon, SupportedCipherSuite, Tls13CipherSuite,
    crypto::aws_lc_rs::cipher_suite::{
        TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384,
        TLS13_CHACHA20_POLY1305_SHA256,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
};

use super::stage::{Served, Stage, Tunnel, soon};

/// Says how many MiB go there and back.
pub const MIB: &str = "QVD_GUEST_MIB";
/// Says how many connections are opened and closed.
pub const CONNECTIONS: &str = "QVD_GUEST_CONNECTIONS";

/// All of them, in order.
pub async fn all() {
    let began = Instant::now();
    sizes().await;
    said("odd sizes, six cipher suites", began);
    let began = Instant::now();
    goodbyes().await;
    said("goodbyes, both ways, and none", began);
    let began = Instant::now();
    closed_behind_more().await;
    said("a client that closes behind more than its VM takes", began);
    let began = Instant::now();
    answer_left().await;
    said("an answer to a key update that is left", began);
    let (began, taken) = (Instant::now(), worn_out().await);
    said(&format!("worn-out keys ({taken})"), began);
    let (mib, connections) = (set(MIB), set(CONNECTIONS));
    let began = Instant::now();
    bulk(mib << 20).await;
    said(&format!("{mib} MiB there and back"), began);
    let began = Instant::now();
    many(connections).await;
    said(&format!("{connections} connections"), began);
    let (began, taken) = (Instant::now(), key_update().await);
    said(&format!("key update from s_client ({taken})"), began);
}

/// What is set outside.
fn set(name: &str) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name} is not set"))
}

fn said(what: &str, began: Instant) {
    println!("guest: {what}: {} ms", began.elapsed().as_millis());
}

/// A counter of the kernel's TLS.
fn counter(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/net/tls_stat").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in {text}"));
    line.trim().parse().unwrap()
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 + i / 251) as u8).collect()
}

async fn sizes() {
    for suite in [
        TLS13_AES_128_GCM_SHA256,
        TLS13_AES_256_GCM_SHA384,
        TLS13_CHACHA20_POLY1305_SHA256,
        TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ] {
        let stage = Stage::open(Some(suite)).await;
        let before = (counter("TlsTxSw"), counter("TlsRxSw"));
        let mut tunnel = stage.tunnel().await;
        assert_eq!(tunnel.ways, [Way::Ktls; 2]);
        for size in [1, 2, 4095, 16383, 16384, 16385, 16640, 32767, 32768, 32769, 33000, 65537] {
            let bytes = pattern(size);
            let mut heard = vec![0; size];
            let what = format!("{size} bytes with {:?}", suite.suite());
            soon(&what, async {
                let (wrote, read) = tokio::join!(tunnel.client.write_all(&bytes), tunnel.vm.read_exact(&mut heard));
                wrote.unwrap();
                read.unwrap();
                assert!(heard == bytes, "{what}, up");
                heard.fill(0);
                let (wrote, read) = tokio::join!(tunnel.vm.write_all(&bytes), tunnel.client.read_exact(&mut heard));
                wrote.unwrap();
                read.unwrap();
                assert!(heard == bytes, "{what}, down");
            })
            .await;
        }
        assert_eq!((counter("TlsTxSw"), counter("TlsRxSw")), (before.0 + 1, before.1 + 1), "{:?}", suite.suite());
    }
    assert_eq!(counter("TlsDecryptError"), 0);
}

async fn goodbyes() {
    let stage = Stage::open(None).await;
    // The client is the first to have said everything.
    let mut tunnel = stage.tunnel().await;
    tunnel.client.write_all(b"last words").await.unwrap();
    tunnel.client.shutdown().await.unwrap();
    let mut heard = Vec::new();
    soon("the end of the client's words", tunnel.vm.read_to_end(&mut heard)).await.unwrap();
    assert_eq!(heard, b"last words");
    tunnel.vm.write_all(b"an answer").await.unwrap();
    tunnel.vm.shutdown().await.unwrap();
    heard.clear();
    // Without a goodbye this would be an error.
    soon("the end of the answer", tunnel.client.read_to_end(&mut heard)).await.unwrap();
    assert_eq!(heard, b"an answer");
    let ended = soon("the end", tunnel.ended).await.unwrap();
    assert!(matches!(ended.reason, Reason::OuterClosed), "{:?}", ended.reason);
    assert_eq!((ended.up, ended.down), (10, 9));

    // The VM is.
    let mut tunnel = stage.tunnel().await;
    tunnel.vm.write_all(b"good bye").await.unwrap();
    tunnel.vm.shutdown().await.unwrap();
    heard.clear();
    soon("the VM's goodbye", tunnel.client.read_to_end(&mut heard)).await.unwrap();
    assert_eq!(heard, b"good bye");
    tunnel.client.write_all(b"and to you").await.unwrap();
    tunnel.client.shutdown().await.unwrap();
    heard.clear();
    soon("the client's goodbye", tunnel.vm.read_to_end(&mut heard)).await.unwrap();
    assert_eq!(heard, b"and to you");
    let ended = soon("the end", tunnel.ended).await.unwrap();
    assert!(matches!(ended.reason, Reason::InnerClosed), "{:?}", ended.reason);

    // Neither says a word.
    let mut tunnel = stage.tunnel().await;
    drop(tunnel.client.into_inner().0);
    heard.clear();
    soon("the cut", tunnel.vm.read_to_end(&mut heard)).await.unwrap();
    drop(tunnel.vm);
    let ended = soon("the end", tunnel.ended).await.unwrap();
    assert!(matches!(ended.reason, Reason::OuterCut), "{:?}", ended.reason);
    assert!(stage.kernel.is_on(), "none of this is a failure of the kernel");
}

/// The kernel holds its end back until there is room for what comes before it.
async fn closed_behind_more() {
    let stage = Stage::open(Some(TLS13_AES_128_GCM_SHA256)).await;
    let mut tunnel = stage.tunnel().await;
    let piece = vec![7; 64 * 1024];
    let blocked = std::time::Duration::from_secs(1);
    while tokio::time::timeout(blocked, tunnel.client.write_all(&piece)).await.is_ok() {}
    drop(tunnel.client.into_inner().0);
    let ended = soon("the end", tunnel.ended).await.unwrap();
    assert!(matches!(ended.reason, Reason::OuterCut), "{:?}", ended.reason);
    assert!(stage.kernel.is_on(), "this is no failure of the kernel");
}

async fn bulk(size: usize) {
    let stage = Stage::open(Some(TLS13_AES_128_GCM_SHA256)).await;
    let tunnel = stage.tunnel().await;
    let sent = pattern(size);
    let (mut from_client, mut to_client) = tokio::io::split(tunnel.client);
    let (mut from_router, mut to_router) = tunnel.vm.into_split();
    let echo = tokio::spawn(async move {
        tokio::io::copy(&mut from_router, &mut to_router).await.unwrap();
        to_router.shutdown().await.unwrap();
    });
    let mut heard = Vec::with_capacity(size);
    let (wrote, read) = tokio::join!(
        async {
            to_client.write_all(&sent).await?;
            to_client.shutdown().await
        },
        from_client.read_to_end(&mut heard)
    );
    wrote.unwrap();
    read.unwrap();
    assert!(heard == sent, "every byte is as it was");
    echo.await.unwrap();
    let ended = soon("the end", tunnel.ended).await.unwrap();
    assert_eq!((ended.up, ended.down), (size as u64, size as u64));
}

/// Most of them resume a session: emulated, a full handshake takes long, and it is the end that matters here.
async fn many(count: usize) {
    open_and_close(Stage::open(Some(TLS13_AES_128_GCM_SHA256)).await, count / 20).await;
    open_and_close(Stage::open(Some(TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256)).await, count - count / 20).await;
}

async fn open_and_close(stage: Stage, count: usize) {
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let mut before = 0;
    for round in 0..count {
        let mut tunnel = stage.tunnel().await;
        tunnel.client.write_all(b"hello").await.unwrap();
        let mut heard = [0; 5];
        soon("five bytes", tunnel.vm.read_exact(&mut heard)).await.unwrap();
        drop(tunnel.vm);
        soon("a goodbye", tunnel.client.read_to_end(&mut Vec::new())).await.unwrap();
        tunnel.client.shutdown().await.unwrap();
        drop(tunnel.client);
        let ended = soon("the end", tunnel.ended).await.unwrap();
        assert_eq!(ended.up, 5, "{:?}", ended.reason);
        if round == count / 10 {
            before = open();
        }
    }
    assert!(open() <= before + 4, "descriptors: {before} before, {} after", open());
    assert!(stage.kernel.is_on());
    // The kernel lets go of a connection a moment after the last byte.
    soon("the kernel lets go", async {
        while counter("TlsCurrTxSw") > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// The client changes its keys and asks for others before the switch, and hears nothing until after it: the library keeps
/// the answer, which would be lost, so the connection stays where it is, and is known to.
async fn answer_left() {
    let stage = Stage::open(Some(TLS13_AES_128_GCM_SHA256)).await;
    let client = async {
        let mut client = stage.client().await;
        client.get_mut().1.refresh_traffic_keys().unwrap();
        client.write_all(b"first").await.unwrap();
        client
    };
    let (mut client, Served { ways, mut vm, ended }) =
        soon("a tunnel", async { tokio::join!(client, stage.serve(5)) }).await;
    assert_eq!(ways, [Way::Ktls, Way::User]);
    let mut heard = [0; 5];
    soon("the first word", vm.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"first");
    vm.write_all(b"after").await.unwrap();
    soon("a word under new keys", client.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"after");
    drop(vm);
    soon("a goodbye", client.read_to_end(&mut Vec::new())).await.unwrap();
    client.shutdown().await.unwrap();
    soon("the end", ended).await.unwrap();
    assert!(stage.kernel.is_on(), "nothing of this is a failure of the kernel");
}

/// Either the kernel takes others in their place and the tunnel goes on, or it ends in good order and says why.
async fn worn_out() -> &'static str {
    const BYTES: usize = 4 << 20;
    let suite = TLS13_AES_128_GCM_SHA256.tls13().unwrap();
    let frail: &'static Tls13CipherSuite = Box::leak(Box::new(Tls13CipherSuite {
        common: CipherSuiteCommon { confidentiality_limit: 64, ..suite.common },
        ..*suite
    }));
    let stage = Stage::open(Some(SupportedCipherSuite::Tls13(frail))).await;
    let Tunnel { mut client, ways, mut vm, ended } = stage.tunnel().await;
    assert_eq!(ways, [Way::Ktls; 2]);
    let sent = pattern(BYTES);
    let bytes = sent.clone();
    let sending = tokio::spawn(async move {
        // The tunnel may end before it has all.
        let _ = vm.write_all(&bytes).await;
        let _ = vm.shutdown().await;
        vm
    });
    let mut heard = Vec::new();
    soon("a goodbye", client.read_to_end(&mut heard)).await.unwrap();
    assert!(sent.starts_with(&heard), "every byte is as it was");
    client.shutdown().await.unwrap();
    drop(soon("the VM", sending).await);
    let ended = soon("the end", ended).await.unwrap();
    assert!(stage.kernel.is_on(), "it was not asked for what it cannot do");
    if stage.kernel.follows_key_updates() {
        assert_eq!(heard.len(), BYTES);
        return "changed by this kernel";
    }
    assert!((BYTES / 8..BYTES * 3 / 4).contains(&heard.len()), "{}", heard.len());
    let Reason::OuterFailed(error) = ended.reason else { panic!("{:?}", ended.reason) };
    assert!(error.to_string().contains("encrypted as much as they may"), "{error}");
    "the end in good order, with this kernel"
}

/// Either the kernel takes the new keys and the tunnel goes on, or it ends in good order and the next one is in user
/// space, where keys may change.
async fn key_update() -> &'static str {
    let stage = Stage::open(Some(TLS13_AES_128_GCM_SHA256)).await;
    for _ in 0..2 {
        let in_kernel = stage.kernel.is_on();
        let mut openssl = Command::new("openssl")
            .args(["s_client", "-tls1_3", "-connect", &stage.address().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut input = openssl.stdin.take().unwrap();
        let Served { ways, mut vm, ended } = soon("s_client", stage.serve(0)).await;
        assert_eq!(ways, [if in_kernel { Way::Ktls } else { Way::User }; 2]);
        let mut line = [0; 6];
        input.write_all(b"first\n").await.unwrap();
        soon("the first line", vm.read_exact(&mut line)).await.unwrap();
        // A line "K" makes s_client change its keys and ask for a change of ours.
        input.write_all(b"K\n").await.unwrap();
        // It takes what it reads at once for one line; when this comes too early, it is lost.
        let more = async {
            while input.write_all(b"after\n").await.is_ok() {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
            // It leaves when the tunnel ends, perhaps before the VM has heard of that.
            std::future::pending::<()>().await
        };
        tokio::select! {
            () = more => unreachable!("it has no end"),
            read = soon("a line with new keys, or the end", vm.read_exact(&mut line)) => match read {
                Ok(_) => {
                    assert_eq!(&line, b"after\n");
                    assert_eq!(in_kernel, stage.kernel.follows_key_updates(), "it does what it said");
                    return if in_kernel { "followed by this kernel" } else { "not by this kernel; then in user space" };
                }
                Err(error) => assert!(in_kernel, "user space follows every change: {error}"),
            },
        }
        let Reason::OuterFailed(error) = soon("the end", ended).await.unwrap().reason else { panic!("a good end") };
        assert!(error.to_string().contains("changed its keys"), "{error}");
        soon("s_client hears the goodbye", openssl.wait()).await.unwrap();
        assert!(!stage.kernel.is_on(), "the next one is not to meet the same");
    }
    panic!("nobody follows a change of keys");
}
