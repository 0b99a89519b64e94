//! Keeps the VM network as it was made, though administrators and other programs flush the packet filter, remove the bridge
//! or take its address. That something changed the kernel tells, which is a hint; what counts is how things stand.

use std::{io, os::fd::AsRawFd, time::Duration};

use nix::sys::socket::{AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, socket};
use tokio::{
    net::UnixDatagram,
    time::{Instant, sleep, timeout_at},
};
use tracing::warn;

use super::{Network, NetworkError, links::Links};

/// How often it is looked without a hint: not every change is told.
const ROUND: Duration = Duration::from_secs(30);
/// Who changes something is about to change more.
const PAUSE: Duration = Duration::from_millis(100);

// From linux/rtnetlink.h and linux/netfilter/nfnetlink.h, as bits.
const RTMGRP_LINK: u32 = 0x1;
const RTMGRP_IPV4_IFADDR: u32 = 0x10;
const RTMGRP_IPV6_IFADDR: u32 = 0x100;
const NFNLGRP_NFTABLES: u32 = 1 << (7 - 1);
const RTM_DELLINK: u16 = 17;
const RTM_DELADDR: u16 = 21;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_NEWSETELEM: u16 = 12;
const NFT_MSG_NEWGEN: u16 = 15;

impl Network {
    /// Mends what `prepare` made, for ever.
    pub async fn guard(&self) {
        let hints = match Hints::open() {
            Ok(hints) => Some(hints),
            Err(error) => {
                warn!(%error, "the kernel does not tell of changes to the network; looking every {ROUND:?}");
                None
            }
        };
        let mut told = String::new();
        let mut extent = Extent::Everything;
        loop {
            let next = Instant::now() + ROUND;
            match self.mend(extent).await {
                Ok(mended) => {
                    told.clear();
                    for what in mended {
                        warn!(bridge = self.bridge, "somebody changed {what} of the VM network; made again");
                    }
                }
                Err(error) if told != error.to_string() => {
                    told = error.to_string();
                    warn!(bridge = self.bridge, %error, "the VM network cannot be mended");
                }
                Err(_) => {}
            }
            let hint = match &hints {
                Some(hints) => timeout_at(next, hints.next()).await.ok(),
                None => {
                    sleep(ROUND).await;
                    None
                }
            };
            if hint.is_some() {
                sleep(PAUSE).await;
            }
            extent = hint.unwrap_or(Extent::Everything);
        }
    }

    /// Mends what is not as `prepare` and `plug` made it; what that was.
    pub async fn heal(&self) -> Result<Vec<String>, NetworkError> {
        self.mend(Extent::Everything).await
    }

    async fn mend(&self, extent: Extent) -> Result<Vec<String>, NetworkError> {
        let mut state = self.state.lock().await;
        let mut mended = Vec::new();
        if !state.prepared {
            return Ok(mended);
        }
        if self.make_bridge().await? {
            mended.push("the bridge".to_owned());
        }
        if self.firewall_wanted && extent == Extent::Everything {
            // To put an element in that is there changes nothing.
            let mut stand = self.firewall.standing().await.is_ok_and(|standing| standing == state.rules);
            for plug in state.plugs.values() {
                stand = stand && self.firewall.believe(plug)?;
            }
            if !stand {
                self.filter(&mut state).await?;
                mended.push("the packet filter".to_owned());
            }
        }
        let links = Links::open()?;
        let loose = links.outside(&self.bridge, &self.port_prefix).await?;
        for plug in loose.iter().filter_map(|name| state.plugs.get(name)) {
            match links.attach(&self.bridge, plug).await {
                // Its VM has just ended.
                Err(NetworkError::Absent { .. }) => continue,
                attached => attached?,
            }
            self.announce(plug);
            mended.push(format!("port {}", plug.host_end));
        }
        Ok(mended)
    }
}

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// Bridge and ports. They go and come with every VM, and to look at rules means to run `nft`.
    Links,
    Everything,
}

/// What the kernel tells of changes to interfaces and packet filters, whoever made them.
struct Hints {
    links: UnixDatagram,
    filters: UnixDatagram,
}

impl Hints {
    fn open() -> io::Result<Self> {
        Ok(Self {
            links: listen(SockProtocol::NetlinkRoute, RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR)?,
            filters: listen(SockProtocol::NetlinkNetFilter, NFNLGRP_NFTABLES)?,
        })
    }

    /// Returns when something went, or some rule changed: what to look at. What comes with each VM is no reason.
    async fn next(&self) -> Extent {
        let went = |kind| kind == RTM_DELLINK || kind == RTM_DELADDR;
        let changed =
            |kind| ![NFT_MSG_NEWSETELEM, NFT_MSG_NEWGEN].map(|k| NFNL_SUBSYS_NFTABLES << 8 | k).contains(&kind);
        tokio::select! {
            () = hear(&self.links, went) => Extent::Links,
            () = hear(&self.filters, changed) => Extent::Everything,
        }
    }
}

fn listen(protocol: SockProtocol, groups: u32) -> io::Result<UnixDatagram> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    // Of another family, but to wait for a datagram and to receive it is the same for all.
    UnixDatagram::from_std(socket.into())
}

/// Returns when a message of such a kind came, or some were lost, which could have been of that kind.
async fn hear(socket: &UnixDatagram, matters: impl Fn(u16) -> bool) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length) = socket.recv(&mut buffer).await {
        if kinds(&buffer[..length]).any(&matters) {
            return;
        }
    }
}

/// The kinds of the messages in a datagram of netlink.
fn kinds(mut datagram: &[u8]) -> impl Iterator<Item = u16> {
    std::iter::from_fn(move || {
        let (head, _) = datagram.split_first_chunk::<6>()?;
        let [a, b, c, d, kind @ ..] = *head;
        let length = (u32::from_ne_bytes([a, b, c, d]) as usize).max(head.len()).next_multiple_of(4);
        datagram = datagram.get(length..).unwrap_or_default();
        Some(u16::from_ne_bytes(kind))
    })
}

#[cfg(test)]
mod tests {
    use std::{future::Future, thread};

    use nix::sched::{CloneFlags, unshare};

    use super::super::tests::{Lab, run};
    use super::*;

    /// Where no other test changes anything.
    fn in_a_network_of_its_own<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
        let within = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
        };
        thread::scope(|scope| scope.spawn(within).join().unwrap());
    }

    #[test]
    fn rules_are_looked_at_when_rules_changed_and_not_for_links_that_went() {
        in_a_network_of_its_own(|| async {
            let lab = Lab::new(33).await;
            let hints = Hints::open().unwrap();
            assert!(run("ip link add went type veth peer name other") && run("ip link del went"));
            assert_eq!(hints.next().await, Extent::Links);

            assert!(run("nft delete table inet qvd_hplbr33"));
            assert_eq!(lab.network.mend(Extent::Links).await.unwrap(), [""; 0]);
            // What is still told of the pair comes first.
            while hints.next().await != Extent::Everything {}
            assert_eq!(lab.network.mend(Extent::Everything).await.unwrap(), ["the packet filter"]);
        });
    }
}
