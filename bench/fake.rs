//! VMs that this program plays, for scenarios in which only the router is meant: an agent that says yes to everything,
//! and an nxagent that gives back what it gets.

use std::net::Ipv4Addr;

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Plays a VM at an address of this machine for as long as `tasks` lives.
pub async fn play(address: Ipv4Addr, tasks: &mut JoinSet<()>) -> anyhow::Result<()> {
    let listen = async |port: u16| {
        TcpListener::bind((address, port)).await.with_context(|| format!("cannot play a VM at {address}:{port}"))
    };
    let (agent, nxagent) = (listen(3030).await?, listen(4100).await?);
    tasks.spawn(async move {
        while let Ok((stream, _)) = agent.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    tasks.spawn(async move {
        while let Ok((stream, _)) = nxagent.accept().await {
            tokio::spawn(echo(stream));
        }
    });
    Ok(())
}

async fn answer(mut stream: TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if !matches!(stream.read_buf(&mut head).await, Ok(read) if read > 0) {
            return;
        }
    }
    let json = if head.starts_with(b"GET /vma/ping") { "1" } else { r#""listening""# };
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{json}\r\n", json.len() + 2);
    let _ = stream.write_all(answer.as_bytes()).await;
}

async fn echo(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut space = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut space).await {
        if stream.write_all(&space[..read]).await.is_err() {
            return;
        }
    }
}
