//! Where a router gets the TCP port from that clients connect to: from the service manager, from the router that runs,
//! or bound here. This comes before rights are dropped.

use std::{
    net::{TcpListener as StdListener, UdpSocket},
    path::Path,
};

use listenfd::ListenFd;

use crate::{
    model::config::{Config, keys},
    tunnel::udp,
};

use super::{
    daemon::L7rError,
    handover::{Giver, Ports, Taken},
    listener,
};

/// The port that clients connect to, and whom it was taken over from.
pub(super) struct Port {
    pub(super) bound: StdListener,
    /// The UDP port that came with it.
    pub(super) udp: Option<UdpSocket>,
    pub(super) giver: Option<Giver>,
}

impl Port {
    fn own(bound: StdListener) -> Self {
        Self { bound, udp: None, giver: None }
    }

    /// What the service manager holds for us, in whatever order: `ListenStream` is TCP, `ListenDatagram` UDP.
    fn activated(passed: &mut ListenFd) -> Option<Self> {
        let (mut tcp, mut udp) = (None, None);
        for index in 0..passed.len() {
            match passed.take_tcp_listener(index) {
                Ok(Some(listener)) => tcp = tcp.or(Some(listener)),
                _ => udp = udp.or(passed.take_udp_socket(index).ok().flatten()),
            }
        }
        let udp = udp.filter(|udp| udp::prepare(udp).is_ok());
        Some(Self { udp, ..Self::own(tcp?) })
    }

    /// From the service manager, from the router that runs, or bound here.
    pub(super) fn get(config: &Config, path_run: &Path) -> Result<Self, L7rError> {
        if let Some(activated) = Self::activated(&mut ListenFd::from_env()) {
            return Ok(activated);
        }
        let (address, number) = (config.get(&keys::L7R_ADDRESS), config.get(&keys::L7R_PORT));
        match Taken::from_running(path_run) {
            Some(Taken { ports: Ports { tcp, udp }, giver })
                if tcp.local_addr().is_ok_and(|taken| listener::is_at(taken, &address, number)) =>
            {
                Ok(Self { bound: tcp, udp, giver: Some(giver) })
            }
            // It serves another port than is wanted now; it is told all the same, since this one follows it.
            Some(Taken { giver, .. }) => {
                Ok(Self { giver: Some(giver), ..Self::own(listener::bind(&address, number)?) })
            }
            None => Ok(Self::own(listener::bind(&address, number)?)),
        }
    }
}
