//! A VM network that the node has for itself, and the machines of the network that nodes have their addresses in.

use std::{net::UdpSocket, process::Command, time::Duration};

use super::{
    Network, NetworkError,
    tests::{Lab, Protocol, printed, run},
};
use crate::model::{
    VmId,
    config::{Config, keys},
};

const SETTINGS: &[(&str, &str)] = &[("vm.network.mode", "routed"), ("vm.network.firewall.nat.iface", "hplrway")];

/// A machine beside the node, which routes to its VM network through it.
struct Outside;

impl Outside {
    fn new() -> Self {
        run("ip netns del hplrout");
        for command in [
            "ip netns add hplrout",
            "ip link add hplrway type veth peer name eth0 netns hplrout",
            "ip addr add 198.51.100.31/24 dev hplrway",
            "ip link set hplrway up",
            "ip -n hplrout addr add 198.51.100.2/24 dev eth0",
            "ip -n hplrout link set eth0 up",
            "ip -n hplrout route add 10.202.31.0/24 via 198.51.100.31",
        ] {
            assert!(run(command), "{command}");
        }
        Self
    }

    fn connects(&self, to: &str) -> bool {
        run(&format!("ip netns exec hplrout socat -u OPEN:/dev/null TCP:{to},connect-timeout=0.4"))
    }

    fn says(&self, what: &str, to: &str) {
        let shell = format!("echo -n {what} | ip netns exec hplrout socat -u - UDP:{to}");
        assert!(Command::new("sh").args(["-c", &shell]).status().unwrap().success());
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        run("ip netns del hplrout");
    }
}

#[tokio::test]
async fn a_network_that_a_node_has_for_itself_is_reached_from_nowhere_else() {
    let outside = Outside::new();
    let mut lab = Lab::with(31, Protocol::V4, SETTINGS).await;
    let vm = VmId(1);
    lab.boot(vm).await;
    let (_agent, _other) = (lab.listen(vm, 3030), lab.listen(vm, 80));
    for port in [3030, 80] {
        let at = format!("10.202.31.101:{port}");
        lab.reaches(None, &at).await;
        assert!(!outside.connects(&at), "{port}");
    }
    assert_eq!(lab.network.heal().await.unwrap(), [""; 0], "it stands as it was made");

    // Other machines are reached by a VM, but no node is, which could take it for this one.
    let mut server = Command::new("ip")
        .args(["netns", "exec", "hplrout", "socat", "-u", "TCP-LISTEN:80,fork", "OPEN:/dev/null"])
        .spawn()
        .unwrap();
    while !printed("ip netns exec hplrout ss -Hltn").contains(":80 ") {
        std::thread::yield_now();
    }
    lab.reaches(Some(vm), "198.51.100.2:80").await;
    let node = UdpSocket::bind("0.0.0.0:8449").unwrap();
    node.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    outside.says("stranger", "198.51.100.31:8449");
    lab.network.know_nodes(vec!["198.51.100.2".parse().unwrap(), "2001:db8::2".parse().unwrap()]).await.unwrap();
    let reached = lab.connects(Some(vm), "198.51.100.2:80");
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(!reached);

    outside.says("node", "198.51.100.31:8449");
    let mut heard = [0; 16];
    let length = node.recv(&mut heard).unwrap();
    assert_eq!(&heard[..length], b"node", "who is no node does not come to the port for nodes");
    assert_eq!(lab.network.heal().await.unwrap(), [""; 0]);
}

#[test]
fn a_node_is_itself_the_gateway_of_a_network_of_its_own_and_has_its_address_elsewhere() {
    let mut config = Config::default();
    config.set("vm.network.mode", "routed").unwrap();
    let here = "192.0.2.7".parse().unwrap();
    let network = Network::new(&config, here).unwrap();
    let plug = network.plan(VmId(1), config.get(&keys::VM_IP_START)).unwrap();
    assert_eq!(plug.addresses[0].gateway.to_string(), "10.0.0.1");
    assert_eq!(
        plug,
        Network::new(&config, "192.0.2.8".parse().unwrap()).unwrap().plan(VmId(1), plug.addresses[0].ip).unwrap()
    );
    let inside = Network::new(&config, "10.0.3.7".parse().unwrap());
    assert!(matches!(inside, Err(error @ NetworkError::InOwn { .. }) if error.hint().is_some()));
    config.set("vm.network.gateway", "10.0.0.2").unwrap();
    assert!(matches!(Network::new(&config, here), Err(error @ NetworkError::RoutedGateway) if error.hint().is_some()));
}
