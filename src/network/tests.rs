//! The network with real interfaces, a network namespace standing for each VM.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    process::{Command, Stdio},
};

use super::*;

/// Everything of one test; its names and addresses are its own, and all goes when it is dropped.
pub struct Lab {
    number: u8,
    protocol: Protocol,
    settings: &'static [(&'static str, &'static str)],
    pub network: Network,
    vms: Vec<VmId>,
}

/// Of which protocols its networks are.
#[derive(Clone, Copy, PartialEq)]
pub enum Protocol {
    V4,
    V6,
    Both,
}

pub fn run(command: &str) -> bool {
    let mut words = command.split_whitespace();
    let status = Command::new(words.next().unwrap()).args(words).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.unwrap().success()
}

pub fn printed(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn network(number: u8, protocol: Protocol, settings: &[(&str, &str)]) -> Network {
    let mut config = Config::default();
    for (key, value) in [
        ("vm.network.bridge", format!("hplbr{number}")),
        ("internal.vm.network.device.prefix", format!("hpl{number}v")),
        ("vm.network.ip.start", address(number, protocol, 100).to_string()),
        ("vm.network.netmask", if protocol == Protocol::V6 { "64".to_owned() } else { "24".to_owned() }),
        ("vm.network.ip6.prefix", second(number, protocol)),
    ] {
        config.set(key, value).unwrap();
    }
    for (key, value) in settings {
        config.set(key, *value).unwrap();
    }
    // Where the network is routed, the node has an address of another.
    let host = match config.get(&keys::VM_NETWORK_MODE) {
        NetworkMode::Flat => address(number, protocol, 1),
        NetworkMode::Routed => Ipv4Addr::new(198, 51, 100, number).into(),
    };
    Network::new(&config, host).unwrap()
}

fn second(number: u8, protocol: Protocol) -> String {
    if protocol == Protocol::Both { format!("fd00:203:{number}::/64") } else { String::new() }
}

fn address(number: u8, protocol: Protocol, last: u8) -> IpAddr {
    match protocol {
        Protocol::V4 | Protocol::Both => Ipv4Addr::new(10, 202, number, last).into(),
        Protocol::V6 => Ipv6Addr::new(0xfd00, 0x202, number.into(), 0, 0, 0, 0, last.into()).into(),
    }
}

impl Lab {
    pub async fn new(number: u8) -> Self {
        Self::of(number, Protocol::V4).await
    }

    pub async fn of(number: u8, protocol: Protocol) -> Self {
        Self::with(number, protocol, &[]).await
    }

    pub async fn with(number: u8, protocol: Protocol, settings: &'static [(&'static str, &'static str)]) -> Self {
        let network = network(number, protocol, settings);
        let lab = Self { number, protocol, settings, network, vms: Vec::new() };
        lab.sweep();
        lab.network.prepare(&[]).await.unwrap();
        lab
    }

    /// The same network as another daemon sees it.
    pub fn afresh(&self) -> Network {
        network(self.number, self.protocol, self.settings)
    }

    pub fn address(&self, vm: VmId) -> IpAddr {
        address(self.number, self.protocol, 100 + vm.0 as u8)
    }

    /// All that it has.
    pub fn addresses(&self, vm: VmId) -> Vec<IpAddr> {
        let plug = self.network.plan(vm, self.address(vm)).unwrap();
        plug.addresses.iter().map(|address| address.ip).collect()
    }

    pub fn namespace(&self, vm: VmId) -> String {
        format!("hpl{}ns{vm}", self.number)
    }

    pub async fn boot(&mut self, vm: VmId) {
        let (namespace, address) = (self.namespace(vm), self.address(vm));
        let plug = self.network.plan(vm, address).unwrap();
        self.vms.push(vm);
        let mac = plug.mac;
        let mut commands = vec![
            format!("ip netns add {namespace}"),
            format!("ip link add {} type veth peer name eth0 netns {namespace} address {mac}", plug.host_end),
        ];
        for Address { ip, prefix, .. } in &plug.addresses {
            let dad = if ip.is_ipv6() { "nodad" } else { "" };
            commands.push(format!("ip -n {namespace} addr add {ip}/{prefix} dev eth0 {dad}"));
        }
        commands.push(format!("ip -n {namespace} link set eth0 up"));
        for Address { gateway, .. } in &plug.addresses {
            commands.push(format!("ip -n {namespace} route add default via {gateway}"));
        }
        for command in commands {
            assert!(run(&command), "{command}");
        }
        self.network.plug(&plug).await.unwrap();
    }

    /// Whether a TCP connection from a VM, or from the node, is accepted.
    pub fn connects(&self, from: Option<VmId>, to: &str) -> bool {
        let socat = format!("socat -u OPEN:/dev/null TCP:{to},connect-timeout=0.4");
        match from {
            Some(vm) => run(&format!("ip netns exec {} {socat}", self.namespace(vm))),
            None => run(&socat),
        }
    }

    /// Waits until it is: a machine that is busy, or has lost a packet, takes longer than one attempt may.
    pub async fn reaches(&self, from: Option<VmId>, to: &str) {
        becomes(&format!("{from:?} reaches {to}"), || self.connects(from, to)).await;
    }

    pub fn listen(&self, vm: VmId, port: u16) -> Listener {
        let namespace = self.namespace(vm);
        let mut child = Command::new("ip")
            .args(["netns", "exec", &namespace, "socat", "-u"])
            .args([&format!("TCP6-LISTEN:{port},fork,reuseaddr,ipv6only=0"), "OPEN:/dev/null"])
            .spawn()
            .unwrap();
        while !printed(&format!("ip netns exec {namespace} ss -Hltn")).contains(&format!(":{port} ")) {
            assert_eq!(child.try_wait().unwrap(), None, "socat does not listen");
            std::thread::yield_now();
        }
        Listener(child)
    }

    fn sweep(&self) {
        let bridge = &self.network.bridge;
        for vm in &self.vms {
            run(&format!("ip netns del {}", self.namespace(*vm)));
            run(&format!("ip link del {}", self.network.host_end(*vm)));
        }
        run(&format!("ip link del {bridge}w"));
        run(&format!("ip link del {bridge}"));
        run(&format!("nft delete table inet qvd_{bridge}"));
        run(&format!("nft delete table bridge qvd_{bridge}"));
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.sweep();
    }
}

pub struct Listener(std::process::Child);

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A switch, a cable from it to the lab's bridge, and one to elsewhere, where there is a VM network as well.
struct Switch {
    name: String,
}

impl Switch {
    fn beside(lab: &Lab) -> Self {
        let switch = Self { name: format!("hpl{}s", lab.number) };
        let (name, bridge) = (&switch.name, &lab.network.bridge);
        for command in [
            format!("ip link add {name} type bridge"),
            format!("ip link set {name} up"),
            format!("ip link add {name}h type veth peer name {name}hp"),
            format!("ip link set {name}h up master {name}"),
            format!("ip link set {name}hp up master {bridge}"),
            format!("ip netns add {name}"),
            format!("ip link add {name}e type veth peer name eth0 netns {name}"),
            format!("ip link set {name}e up master {name}"),
            format!("ip -n {name} link set eth0 up"),
        ] {
            assert!(run(&command), "{command}");
        }
        switch
    }

    /// Lets it believe that it saw the hardware address last where that cable is: `h` for here, `e` for elsewhere.
    fn believe(&self, mac: Mac, cable: char) {
        let command = format!("bridge fdb replace {mac} dev {}{cable} master dynamic", self.name);
        assert!(run(&command), "{command}");
    }

    fn believes(&self, mac: Mac, cable: char) -> bool {
        printed(&format!("bridge fdb show br {}", self.name)).contains(&format!("{mac} dev {}{cable} ", self.name))
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let name = &self.name;
        run(&format!("ip netns del {name}"));
        for link in [format!("{name}h"), format!("{name}e"), name.clone()] {
            run(&format!("ip link del {link}"));
        }
    }
}

#[tokio::test]
async fn a_switch_that_knew_a_vm_behind_another_port_learns_where_it_is_plugged_in_now() {
    let mut lab = Lab::new(17).await;
    let mac = lab.network.plan(VmId(1), lab.address(VmId(1))).unwrap().mac;
    let switch = Switch::beside(&lab);
    switch.believe(mac, 'e');
    lab.boot(VmId(1)).await;
    becomes("the switch learns it", || switch.believes(mac, 'h')).await;
}

#[tokio::test]
async fn a_switch_that_heard_what_was_left_of_a_vm_learns_where_it_lives_once_that_is_gone() {
    for (number, protocol) in [(21, Protocol::V4), (22, Protocol::V6)] {
        let mut lab = Lab::of(number, protocol).await;
        let vm = VmId(1);
        lab.boot(vm).await;
        let plug = lab.network.plan(vm, lab.address(vm)).unwrap();
        let switch = Switch::beside(&lab);
        let Address { ip, prefix, .. } = plug.addresses[0];
        let dad = if ip.is_ipv6() { "nodad" } else { "" };
        for inside in [format!("link set eth0 address {}", plug.mac), format!("addr add {ip}/{prefix} dev eth0 {dad}")]
        {
            assert!(run(&format!("ip -n {} {inside}", switch.name)), "{inside}");
        }
        switch.believe(plug.mac, 'h');
        lab.network.unplug(vm, Some(ip)).await.unwrap();
        // Who is asked remembers who asked.
        let (node, known) = (address(number, protocol, 1), format!("ip -n {} neigh", switch.name));
        becomes("the VM is asked", || printed(&known).contains(&format!("{node} dev eth0 lladdr"))).await;
        becomes("the switch learns it", || switch.believes(plug.mac, 'e')).await;
    }
}

#[tokio::test]
async fn with_ipv6_alone_or_beside_ipv4_nodes_reach_vms_and_vms_reach_neither_nodes_nor_each_other() {
    for (number, protocol) in [(23, Protocol::V6), (24, Protocol::Both)] {
        let mut lab = Lab::of(number, protocol).await;
        let (a, b) = (VmId(1), VmId(2));
        lab.boot(a).await;
        lab.boot(b).await;
        let (_agent, _other) = (lab.listen(b, 3030), lab.listen(b, 8080));
        let listener = TcpListener::bind("[::]:0").unwrap();
        let on_node = listener.local_addr().unwrap().port();
        for ip in lab.addresses(b) {
            let at = |port| SocketAddr::new(ip, port).to_string();
            lab.reaches(None, &at(3030)).await;
            assert!(!lab.connects(Some(a), &at(3030)) && !lab.connects(Some(a), &at(8080)), "a neighbour reaches {ip}");
        }
        let nodes = lab.network.subnets.iter().map(|local| local.host);
        let nodes: Vec<_> = nodes.map(|host| SocketAddr::new(host, on_node).to_string()).collect();
        assert_eq!(nodes.iter().filter(|node| lab.connects(Some(a), node)).count(), 0);
        assert!(run(&format!("nft flush chain inet qvd_hplbr{number} input")));
        for node in &nodes {
            // The rules and nothing else kept it away.
            lab.reaches(Some(a), node).await;
        }
        lab.network.heal().await.unwrap();
        assert_eq!(nodes.iter().filter(|node| lab.connects(Some(a), node)).count(), 0);

        let neighbours = || printed(&format!("ip -6 neigh show dev hplbr{number} nud permanent"));
        assert!(neighbours().contains(&lab.addresses(b).last().unwrap().to_string()), "{}", neighbours());
        for vm in [a, b] {
            lab.network.unplug(vm, Some(lab.address(vm))).await.unwrap();
        }
        assert_eq!(neighbours(), "");
        assert!(!printed(&format!("nft list table bridge qvd_hplbr{number}")).contains(&format!("hpl{number}v1")));
    }
}

#[tokio::test]
async fn nodes_reach_vms_and_vms_reach_neither_nodes_nor_each_other() {
    let mut lab = Lab::new(11).await;
    let (a, b) = (VmId(1), VmId(2));
    lab.boot(a).await;
    lab.boot(b).await;
    let on_node = std::net::TcpListener::bind((lab.network.first().host, 0)).unwrap();
    let node_port = on_node.local_addr().unwrap();
    let _agent = lab.listen(b, 3030);
    let _other = lab.listen(b, 8080);

    lab.reaches(None, &format!("{}:3030", lab.address(b))).await;
    assert!(!lab.connects(Some(a), &node_port.to_string()), "a VM does not reach the node");
    assert!(!lab.connects(Some(a), &format!("{}:3030", lab.address(b))), "nor another VM's agent");
    assert!(!lab.connects(Some(a), &format!("{}:8080", lab.address(b))), "nor anything else of it");

    assert!(run("nft delete table inet qvd_hplbr11"));
    // The rules and nothing else kept it from the node.
    lab.reaches(Some(a), &node_port.to_string()).await;
    assert!(!lab.connects(Some(a), &format!("{}:8080", lab.address(b))), "isolation does not depend on rules");
}

#[tokio::test]
async fn a_vm_that_lies_about_its_address_is_not_heard() {
    let mut lab = Lab::new(12).await;
    let vm = VmId(1);
    lab.boot(vm).await;
    let namespace = lab.namespace(vm);
    let _agent = lab.listen(vm, 3030);
    let agent = format!("{}:3030", lab.address(vm));
    lab.reaches(None, &agent).await;

    assert!(run(&format!("ip -n {namespace} link set eth0 address 54:52:00:01:02:03")));
    assert!(!lab.connects(None, &agent), "a foreign hardware address is dropped by the port");
    let mac = Mac::of_vm("54:52:00", lab.address(vm)).unwrap();
    assert!(run(&format!("ip -n {namespace} link set eth0 address {mac}")));
    lab.reaches(None, &agent).await;

    assert!(run("nft flush chain inet qvd_hplbr12 input"));
    let on_node = std::net::TcpListener::bind((lab.network.first().host, 0)).unwrap();
    let target = on_node.local_addr().unwrap();
    // So that only the lie is tested below.
    lab.reaches(Some(vm), &target.to_string()).await;
    assert!(run(&format!("ip -n {namespace} addr flush dev eth0")));
    assert!(run(&format!("ip -n {namespace} addr add 10.202.12.7/24 dev eth0")));
    assert!(!lab.connects(Some(vm), &target.to_string()), "the address of a node is not believed from a VM");
}

#[tokio::test]
async fn a_vm_that_is_not_plugged_in_yet_is_not_heard() {
    let mut lab = Lab::new(16).await;
    let vm = VmId(1);
    lab.boot(vm).await;
    let port = lab.network.host_end(vm);
    assert!(run(&format!("ip link set {port} nomaster up")));
    assert!(run(&format!("ip addr add 10.202.16.50/32 dev {port}")), "so that the node would answer");
    assert!(run(&format!("ip route replace {}/32 dev {port}", lab.address(vm))));
    let on_node = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let target = format!("10.202.16.50:{}", on_node.local_addr().unwrap().port());
    assert!(!lab.connects(Some(vm), &target));
    assert!(run("nft flush chain inet qvd_hplbr16 input"));
    // The rules and nothing else kept it away.
    lab.reaches(Some(vm), &target).await;
}

#[tokio::test]
async fn the_bridge_is_mended_and_its_port_isolated_and_all_can_be_removed_again() {
    let mut lab = Lab::new(13).await;
    let mac = printed("cat /sys/class/net/hplbr13/address");
    assert!(run("ip addr flush dev hplbr13") && run("ip link set hplbr13 down"));
    lab.network.prepare(&[]).await.unwrap();
    assert!(printed("ip -4 addr show hplbr13").contains("10.202.13.1/24"));

    let vm = VmId(1);
    lab.boot(vm).await;
    let port = printed("ip -d link show hpl13v1");
    assert!(port.contains("isolated on") && port.contains("locked on") && port.contains("master hplbr13"), "{port}");
    assert_eq!(printed("cat /sys/class/net/hplbr13/address"), mac, "the bridge keeps its address");
    assert!(printed("ip neigh show dev hplbr13").contains("10.202.13.101 lladdr 54:52:00:ca:0d:65 PERMANENT"));
    assert_eq!(lab.network.plugged().await.unwrap(), [vm]);

    lab.network.remove().await.unwrap();
    assert!(run("ip link show hplbr13"), "a bridge in use stays");
    for _ in 0..2 {
        lab.network.unplug(vm, Some(lab.address(vm))).await.unwrap();
    }
    assert_eq!(printed("ip neigh show dev hplbr13 nud permanent"), "");
    lab.network.remove().await.unwrap();
    assert!(!run("ip link show hplbr13") && !run("ip link show hpl13v1"));
    assert!(!printed("nft list tables").contains("hplbr13"));
}

#[tokio::test]
async fn what_was_made_for_the_first_time_is_not_taken_for_changed() {
    let lab = Lab::of(32, Protocol::Both).await;
    assert_eq!(lab.network.heal().await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn a_bridge_of_the_administrator_is_used_and_left_alone() {
    let lab = Lab::new(14).await;
    lab.network.remove().await.unwrap();
    assert!(run("ip link add hplbr14 type bridge"));
    lab.network.prepare(&[]).await.unwrap();
    lab.network.remove().await.unwrap();
    assert!(run("ip link show hplbr14"));
    assert!(run("ip link del hplbr14") && run("ip link add hplbr14 type veth peer hplbr14p"));
    let error = lab.network.prepare(&[]).await.unwrap_err();
    assert_eq!(error.to_string(), "the interface hplbr14 exists and is no bridge");
}

#[tokio::test]
async fn plugging_can_be_repeated_and_makes_a_vanished_bridge_again() {
    let mut lab = Lab::new(15).await;
    let vm = VmId(1);
    lab.boot(vm).await;
    let plug = lab.network.plan(vm, lab.address(vm)).unwrap();
    lab.network.plug(&plug).await.unwrap();
    assert!(run("ip link del hplbr15"));
    lab.network.plug(&plug).await.unwrap();
    let _agent = lab.listen(vm, 3030);
    lab.reaches(None, &format!("{}:3030", lab.address(vm))).await;
    let absent = lab.network.plan(VmId(2), lab.address(VmId(2))).unwrap();
    let error = lab.network.plug(&absent).await.unwrap_err();
    assert_eq!(error.to_string(), "the network interface hpl15v2 does not exist");
}

#[test]
fn settings_that_no_network_can_have_are_refused_by_name() {
    let host = Ipv4Addr::new(10, 0, 0, 5).into();
    for (key, value) in [
        ("vm.network.bridge", "a name too long for it"),
        ("vm.network.bridge", "x;flush"),
        ("vm.network.netmask", "255.0.255.0"),
        ("vm.network.gateway", "gate"),
        ("vm.network.ip6.gateway", "10.0.0.1"),
        ("vm.network.ip6.prefix", "fd00::/100"),
        ("vm.network.mac.prefix", "1:2"),
        ("vm.network.firewall.nat.iface", "\""),
    ] {
        let mut config = Config::default();
        config.set("vm.network.ip6.prefix", "fd00:51::/64").unwrap();
        config.set(key, value).unwrap();
        let error = Network::new(&config, host).unwrap_err();
        assert!(error.hint().is_some(), "{key} = {value}: {error}");
    }
}

#[tokio::test]
async fn a_rehearsal_goes_through_all_of_it_and_leaves_the_machine_as_it_was() {
    let mut config = Config::default();
    config.set("vm.network.bridge", "hplbrtrial").unwrap();
    config.set("vm.network.firewall.nat.iface", "nowhere0").unwrap();
    let network = Network::new(&config, Ipv4Addr::new(10, 0, 0, 1).into()).unwrap();
    let forwards = || std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    let before = forwards();
    network.rehearse(std::time::Duration::from_secs(30)).await.unwrap();
    assert_eq!(network.bridge().await.unwrap(), Bridge::Absent);
    assert!(!printed("nft list tables").contains("hplbrtrial"));
    assert_eq!(forwards(), before);
}

/// Waits until something is so, and lets the tasks of this runtime go on.
pub async fn becomes(what: &str, so: impl Fn() -> bool) {
    let begin = std::time::Instant::now();
    while !so() {
        assert!(begin.elapsed().as_secs() < 25, "{what}: {}", printed("nft list ruleset") + &printed("ip addr"));
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_and_bridge_come_back_when_somebody_took_them_away() {
    let mut lab = Lab::new(20).await;
    let vm = VmId(1);
    lab.boot(vm).await;
    let _agent = lab.listen(vm, 3030);
    let on_node = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let node = format!("10.202.20.1:{}", on_node.local_addr().unwrap().port());
    let network = lab.network.clone();
    let guard = tokio::spawn(async move { network.guard().await });

    let rules = || printed("nft list table inet qvd_hplbr20") + &printed("nft list table bridge qvd_hplbr20");
    let as_made = rules();
    assert!(as_made.contains("hpl20v1"));
    for damage in [
        "nft delete table inet qvd_hplbr20",
        "nft delete table bridge qvd_hplbr20",
        "nft flush chain inet qvd_hplbr20 input",
        "nft insert rule bridge qvd_hplbr20 from_vm accept",
        "nft flush set bridge qvd_hplbr20 sources",
    ] {
        assert!(run(damage), "{damage}");
        becomes(damage, || rules() == as_made).await;
    }
    for damage in ["ip link del hplbr20", "ip addr flush dev hplbr20"] {
        assert!(run(damage), "{damage}");
        becomes(damage, || printed("ip -4 addr show hplbr20").contains("10.202.20.1/24")).await;
        becomes(damage, || lab.connects(None, &format!("{}:3030", lab.address(vm)))).await;
        becomes(damage, || rules() == as_made).await;
        assert!(printed("ip -d link show hpl20v1").contains("isolated on"), "{damage}");
        assert!(!lab.connects(Some(vm), &node), "{damage}");
    }
    assert!(lab.network.heal().await.unwrap().is_empty());

    guard.abort();
    lab.network.unplug(vm, Some(lab.address(vm))).await.unwrap();
    lab.network.remove().await.unwrap();
    assert!(
        lab.network.heal().await.unwrap().is_empty() && !run("ip link show hplbr20"),
        "what was taken away stays away"
    );
}

#[tokio::test]
async fn users_can_log_in_from_inside_a_vm_where_that_is_allowed() {
    let _router = TcpListener::bind("[::]:8443").unwrap();
    let listener = TcpListener::bind("[::]:0").unwrap();
    let other = listener.local_addr().unwrap().port();
    for (number, settings, allowed) in
        [(27, &[][..], false), (28, &[("internal.vm.network.firewall.allow_login_from_vm", "1")][..], true)]
    {
        let mut lab = Lab::with(number, Protocol::Both, settings).await;
        let (vm, neighbour) = (VmId(1), VmId(2));
        lab.boot(vm).await;
        lab.boot(neighbour).await;
        let _theirs = lab.listen(neighbour, 8443);
        for local in &lab.network.subnets {
            let at = |port| SocketAddr::new(local.host, port).to_string();
            if allowed {
                lab.reaches(Some(vm), &at(8443)).await;
            } else {
                assert!(!lab.connects(Some(vm), &at(8443)), "{}", at(8443));
            }
            assert!(!lab.connects(Some(vm), &at(other)));
        }
        assert!(!lab.connects(Some(vm), &SocketAddr::new(lab.address(neighbour), 8443).to_string()));
    }
}

#[tokio::test]
async fn vms_reach_other_networks_behind_the_address_of_the_node_where_there_is_a_way_out() {
    for command in [
        "ip netns add hplout",
        "ip link add hplway type veth peer name eth0 netns hplout",
        "ip addr add 198.51.100.1/24 dev hplway",
        "ip addr add 2001:db8:51::1/64 dev hplway nodad",
        "ip addr add 169.254.51.1/24 dev hplway",
        "ip link set hplway up",
        "ip -n hplout addr add 169.254.51.2/24 dev eth0",
        "ip -n hplout addr add 198.51.100.2/24 dev eth0",
        "ip -n hplout addr add 2001:db8:51::2/64 dev eth0 nodad",
        "ip -n hplout link set eth0 up",
    ] {
        assert!(run(command), "{command}");
    }
    let mut lab = Lab::with(29, Protocol::Both, &[("vm.network.firewall.nat.iface", "hplway")]).await;
    let vm = VmId(1);
    lab.boot(vm).await;
    let mut server = Command::new("ip")
        .args(["netns", "exec", "hplout", "socat", "-u", "TCP6-LISTEN:80,fork,ipv6only=0", "OPEN:/dev/null"])
        .spawn()
        .unwrap();
    while !printed("ip netns exec hplout ss -Hltn").contains(":80 ") {
        assert_eq!(server.try_wait().unwrap(), None, "socat does not listen");
        std::thread::yield_now();
    }
    // It has no way back to the network of VMs, only to the node.
    for outside in ["198.51.100.2:80", "[2001:db8:51::2]:80"] {
        lab.reaches(Some(vm), outside).await;
    }
    let metadata = "169.254.51.2:80";
    lab.reaches(None, metadata).await;
    assert!(!lab.connects(Some(vm), metadata), "what a cloud tells its machines");
    assert!(run("nft flush chain inet qvd_hplbr29 postrouting"));
    let reached = ["198.51.100.2:80", "[2001:db8:51::2]:80"].map(|outside| lab.connects(Some(vm), outside));
    server.kill().unwrap();
    server.wait().unwrap();
    run("ip netns del hplout");
    assert_eq!(reached, [false, false], "only behind the node's address");
}
