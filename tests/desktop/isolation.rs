//! Two users at the same time, and what the VM of one can reach of the other's and of the node.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::Command,
    time::Duration,
};

use super::{desk::Desk, installation::Installation, viewer::Viewer};

/// A dropped packet has no answer; one that is let through has it within a millisecond.
const LIMIT: Duration = Duration::from_millis(700);

#[tokio::test]
async fn two_users_work_side_by_side_and_cannot_reach_each_other() {
    let at = Installation::shared().await;
    let (nina, oscar) = tokio::join!(Desk::animated(&at, "nina"), Desk::animated(&at, "oscar"));
    let (of_nina, of_oscar) = tokio::join!(nina.start(), oscar.start());
    let viewers = tokio::join!(Viewer::connect(&nina), Viewer::connect(&oscar));
    tokio::join!(viewers.0.sees_motion("one of two clients"), viewers.1.sees_motion("one of two clients"));
    let (session, other) = tokio::join!(of_nina.session(), of_oscar.session());
    assert_ne!(session, other);

    let (x_port, agent_port, user_port) = (4100, 3030, 5555);
    // nxagent has one client and listens for no other, so a listener stands in for it.
    let stand_in = || [x_port, user_port].map(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
    let _listeners = of_oscar.in_network(stand_in);
    let elsewhere = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let node = at.host_address().unwrap();
    let neighbour: Ipv4Addr = oscar.column("host(ip)").await.unwrap().parse().unwrap();
    let own: Ipv4Addr = nina.column("host(ip)").await.unwrap().parse().unwrap();

    let targets = [x_port, agent_port, user_port].map(|port| (neighbour.into(), port));
    let of_node = [(node, at.port()), (node, elsewhere.local_addr().unwrap().port())];
    let targets: Vec<SocketAddr> = targets.into_iter().chain(of_node).map(SocketAddr::from).collect();
    let reach = |target: &SocketAddr| TcpStream::connect_timeout(target, LIMIT).is_ok();
    for target in targets.iter().filter(|target| target.port() != user_port) {
        assert!(reach(target), "the node does not reach {target}, so it says nothing that a VM does not");
    }
    let reached = of_nina.in_network(|| {
        std::thread::scope(|scope| {
            let attempts: Vec<_> =
                targets.iter().map(|target| scope.spawn(|| reach(target).then_some(*target))).collect();
            attempts.into_iter().filter_map(|attempt| attempt.join().unwrap()).collect::<Vec<_>>()
        })
    });
    assert_eq!(reached, []);
    assert!(of_nina.in_network(|| reach(&(own, agent_port).into())), "nothing at all can be reached");
    tokio::join!(viewers.0.sees_motion("still there"), viewers.1.sees_motion("still there"));

    // Whoever speaks to the neighbour after it has stopped shall not be answered by somebody who took its address.
    oscar.stop().await;
    let take = || {
        let take = ["address", "add", &format!("{neighbour}/16"), "dev", "eth0"];
        assert!(Command::new("ip").args(take).status().unwrap().success());
    };
    of_nina.in_network(take);
    assert!(of_nina.in_network(|| reach(&(neighbour, agent_port).into())), "the address was not taken");
    assert!(!reach(&(neighbour, agent_port).into()));
    assert!(reach(&(own, agent_port).into()), "nothing at all is heard");
    nina.stop().await;
}
