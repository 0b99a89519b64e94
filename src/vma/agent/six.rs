//! nxagent listens only on IPv4. In a VM that has no address but those of IPv6, what comes there for its port is passed on to it.
//! That belongs to the X session and not to the agent, which may be started again while somebody works.

use std::{
    io,
    net::{Ipv4Addr, Shutdown, SocketAddrV6, TcpListener, TcpStream},
    os::fd::AsRawFd,
    thread,
};

use nix::{
    ifaddrs::getifaddrs,
    libc,
    sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrIn6, bind, listen, setsockopt, socket,
        sockopt::{Ipv6V6Only, Linger, ReuseAddr},
    },
};

/// Whether the machine is reached only by IPv6.
pub fn is_alone() -> io::Result<bool> {
    let (mut v4, mut v6) = (false, false);
    for address in getifaddrs()?.filter_map(|interface| interface.address) {
        v4 |= address.as_sockaddr_in().is_some_and(|address| !address.ip().is_loopback());
        v6 |= address.as_sockaddr_in6().is_some_and(|address| {
            let ip = address.ip();
            !ip.is_loopback() && !ip.is_unicast_link_local()
        });
    }
    Ok(v6 && !v4)
}

/// Passes connections to this port of IPv6 on to that of IPv4, as long as the process lives.
pub fn pass_on(port: u16) -> io::Result<()> {
    let socket = socket(AddressFamily::Inet6, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, Ipv6V6Only, &true)?;
    setsockopt(&socket, ReuseAddr, &true)?;
    bind(socket.as_raw_fd(), &SockaddrIn6::from(SocketAddrV6::new([0; 8].into(), port, 0, 0)))?;
    listen(&socket, Backlog::new(16)?)?;
    let listener = TcpListener::from(socket);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                if let Err(error) = relay(&stream, port) {
                    tracing::debug!(%error, port, "a connection of IPv6 ended");
                    // Whoever comes shall be refused as by the one who is not there.
                    let _ = setsockopt(&stream, Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
                }
            });
        }
    });
    Ok(())
}

fn relay(outside: &TcpStream, port: u16) -> io::Result<()> {
    let inside = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    outside.set_nodelay(true)?;
    inside.set_nodelay(true)?;
    thread::scope(|scope| {
        let back = scope.spawn(|| copy(&inside, outside));
        let there = copy(outside, &inside);
        let back = back.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));
        there.and(back)
    })
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
    let copied = io::copy(&mut from, &mut to);
    // One half has ended; when it broke, the other has nobody to talk to.
    let how = if copied.is_ok() { Shutdown::Write } else { Shutdown::Both };
    let _ = to.shutdown(how);
    if copied.is_err() {
        let _ = from.shutdown(how);
    }
    copied.map(drop)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::Ipv6Addr,
    };

    use super::*;

    #[test]
    fn what_comes_over_ipv6_is_passed_on_both_ways_until_both_have_ended() {
        let nxagent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = nxagent.local_addr().unwrap().port();
        pass_on(port).unwrap();
        let mut client = TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
        client.write_all(b"NXPROXY").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let (mut server, _) = nxagent.accept().unwrap();
        let (mut heard, mut answer) = (String::new(), String::new());
        server.read_to_string(&mut heard).unwrap();
        server.write_all(b"after the end of the other half").unwrap();
        drop(server);
        client.read_to_string(&mut answer).unwrap();
        assert_eq!((heard.as_str(), answer.as_str()), ("NXPROXY", "after the end of the other half"));

        drop(nxagent);
        let mut refused = TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
        assert_eq!(refused.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
