//! Network namespaces: machines of their own with one network interface, on which clients may lose their address or all
//! that they send and hear.

use std::{
    fs::File,
    net::{Ipv4Addr, TcpStream as StdTcpStream},
    thread,
};

use nix::sched::{CloneFlags, setns};
use tokio::{net::TcpStream, process::Command};

/// Drops every packet, so that not even a reset is sent.
const DARK: &str = "add table inet dark
    add chain inet dark in { type filter hook input priority 0; policy drop; }
    add chain inet dark out { type filter hook output priority 0; policy drop; }";

/// A machine.
pub struct Elsewhere {
    name: String,
    number: u8,
}

impl Elsewhere {
    /// Each has another number.
    pub async fn new(number: u8) -> Self {
        let elsewhere = Self { name: format!("qvdm{}{number}", std::process::id()), number };
        let (name, link) = (&elsewhere.name, format!("{}v", elsewhere.name));
        ip(&["netns", "add", name]).await;
        ip(&["link", "add", &link, "type", "veth", "peer", "name", "wlan", "netns", name]).await;
        ip(&["address", "add", &format!("{}/24", elsewhere.router()), "dev", &link]).await;
        ip(&["link", "set", &link, "up"]).await;
        ip(&["-n", name, "link", "set", "lo", "up"]).await;
        ip(&["-n", name, "link", "set", "wlan", "up"]).await;
        elsewhere.arrive(2).await;
        elsewhere
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the router is from there.
    pub fn router(&self) -> Ipv4Addr {
        self.address(1)
    }

    fn address(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, 200 + self.number, host)
    }

    /// Gets an address.
    pub async fn arrive(&self, host: u8) {
        let address = format!("{}/24", self.address(host));
        ip(&["-n", &self.name, "address", "add", &address, "dev", "wlan"]).await;
    }

    /// Loses all addresses.
    pub async fn leave(&self) {
        ip(&["-n", &self.name, "address", "flush", "dev", "wlan", "scope", "global"]).await;
    }

    /// Connections from there to a port of the router.
    pub fn connections(&self, port: u16, number: usize) -> Vec<TcpStream> {
        let (namespace, router) = (format!("/run/netns/{}", self.name), self.router());
        // A socket stays where it was made; only the thread that makes it has to go there.
        let made = thread::spawn(move || {
            setns(File::open(namespace).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            (0..number).map(|_| StdTcpStream::connect((router, port)).unwrap()).collect::<Vec<_>>()
        });
        let usable = |tcp: StdTcpStream| {
            tcp.set_nonblocking(true).unwrap();
            TcpStream::from_std(tcp).unwrap()
        };
        made.join().unwrap().into_iter().map(usable).collect()
    }

    /// Has no power any more, for all that others see: no packet comes or goes.
    pub async fn go_dark(&self) {
        ip(&["netns", "exec", &self.name, "nft", DARK]).await;
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        // The interface goes with it.
        let _ = std::process::Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

async fn ip(args: &[&str]) {
    assert!(Command::new("ip").args(args).status().await.unwrap().success(), "ip {args:?}");
}
