//! What VMs reach, and how they are reached.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use qvd::{
    hypervisor::{Container, Hypervisor},
    keeper::{ShimDir, client},
    model::VmId,
};

use super::{
    node::{Node, VM, address},
    printed, read, signal, wait_until,
};
#[tokio::test]
async fn a_vm_reaches_neither_its_neighbour_nor_the_node() {
    let node = Node::new(23).await;
    let (a, b) = (VmId(1), VmId(2));
    for vm in [a, b] {
        node.hypervisor.start(&node.spec(vm)).await.unwrap();
    }
    let (from, to) = (node.first_process(a).await, node.first_process(b).await);
    let _agent = listen(to);
    let on_node = std::net::TcpListener::bind("10.202.23.1:0").unwrap();
    assert!(connects(None, "10.202.23.102:3030"));
    assert!(!connects(Some(from), "10.202.23.102:3030"));
    assert!(!connects(Some(from), &on_node.local_addr().unwrap().to_string()));
}

#[tokio::test]
async fn a_vm_is_reached_by_ipv6_alone_and_beside_ipv4_at_once() {
    let alone = [("vm.network.ip.start", "fd00:202:40::64"), ("vm.network.netmask", "64")];
    let beside = [("vm.network.ip6.prefix", "fd00:202:41::/64")];
    for (number, settings, addresses) in [
        (40, &alone[..], &["[fd00:202:40::65]:3030"][..]),
        (41, &beside, &["[fd00:202:41::aca:2965]:3030", "10.202.41.101:3030"]),
    ] {
        let node = Node::with(number, None, settings).await;
        node.hypervisor.start(&node.spec(VM)).await.unwrap();
        let first_process = node.first_process(VM).await;
        let _agent = listen(first_process);
        for address in addresses {
            assert!(connects(None, address), "{address}: {}", inside(first_process, "ip address"));
        }
        let routes = inside(first_process, "ip -6 route");
        assert!(routes.contains("default via fd00:202:4") && routes.contains("dev eth0"), "{routes}");
        node.stop(VM).await;
    }
}

#[tokio::test]
async fn a_vm_that_asks_by_dhcp_is_told_its_own_address_also_after_the_server_died() {
    let node = Node::with(42, None, &[("vm.network.use_dhcp", "1"), ("vm.network.domain", "desks.example")]).await;
    node.hypervisor.start(&node.spec(VM)).await.unwrap();
    let first_process = node.first_process(VM).await;
    let tell = node.dir.path().join("tell");
    fs::write(
        &tell,
        "#!/bin/sh\nprintf 'ip=%s\\nrouter=%s\\nsubnet=%s\\ndomain=%s\\ndns=%s\\n' $ip $router $subnet $domain $dns\n",
    )
    .unwrap();
    fs::set_permissions(&tell, fs::Permissions::from_mode(0o755)).unwrap();
    let ask = || inside(first_process, &format!("busybox udhcpc -i eth0 -f -q -n -t 20 -T 1 -s {}", tell.display()));
    let told = ask();
    for line in
        ["ip=10.202.42.101", "router=10.202.42.1", "subnet=255.255.255.0", "domain=desks.example", "dns=192.0.2.53"]
    {
        let log = || read(node.dir.path().join("run/dhcp/dnsmasq.log"));
        assert!(told.lines().any(|told| told == line), "{line}: {told}{}", log());
    }

    let server = ShimDir::new(node.dir.path().join("run/dhcp"));
    let dead = client::status(&server).await.unwrap().unwrap();
    let guarded = node.hypervisor.clone();
    let guard = tokio::spawn(async move { guarded.guard_node().await });
    signal(dead.pid, "KILL");
    loop {
        let status = client::status(&server).await.unwrap();
        if status.is_some_and(|status| status.is_current() && status.pid != dead.pid) {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert!(ask().lines().any(|told| told == "ip=10.202.42.101"));

    let lives = client::status(&server).await.unwrap().unwrap();
    let next = Container::new(&node.config, &Node::name(42), address(&node.config, 1)).unwrap();
    next.prepare_node().await.unwrap();
    assert_eq!(client::status(&server).await.unwrap(), Some(lives), "the next daemon uses the one that runs");
    node.stop(VM).await;
    node.hypervisor.release_node().await.unwrap();
    assert_eq!(client::status(&server).await.unwrap(), None);
    guard.abort();
    next.release_node().await.unwrap();
}

#[tokio::test]
async fn a_vm_of_ipv6_is_told_its_own_address_by_dhcp_and_that_its_node_is_its_gateway() {
    let alone = [("vm.network.ip.start", "fd00:202:48::64"), ("vm.network.netmask", "64")];
    let beside = [("vm.network.ip6.prefix", "fd00:202:49::/64")];
    for (number, settings, address) in [(48, &alone[..], "fd00:202:48::65"), (49, &beside, "fd00:202:49::aca:3165")] {
        let common = [
            ("vm.network.use_dhcp", "1"),
            ("vm.network.domain", "desks.example"),
            ("vm.network.dns", "192.0.2.53,2001:db8::53"),
        ];
        let node = Node::with(number, None, &[settings, &common].concat()).await;
        node.hypervisor.start(&node.spec(VM)).await.unwrap();
        let first_process = node.first_process(VM).await;
        let log = || read(node.dir.path().join("run/dhcp/dnsmasq.log"));
        let routes = || inside(first_process, "ip -6 route show default");
        assert!(!routes().contains("proto ra"), "a container needs no router that tells it: {}", routes());

        // As an image of a machine does it, that knows nothing but what it is told.
        for command in ["sysctl -qw net.ipv6.conf.eth0.accept_ra=1", "ip link set eth0 down", "ip link set eth0 up"] {
            assert_eq!(inside(first_process, command), "", "{command}");
        }
        wait_until("it hears of its gateway", || routes().contains("proto ra"));
        let bridge = printed(&format!("ip -brief -6 address show dev hplbr{number} scope link"));
        let gateway = bridge.split_whitespace().nth(2).unwrap().trim_end_matches("/64").to_owned();
        assert!(routes().contains(&format!("via {gateway} ")), "{} is not {gateway}", routes());
        let own = inside(first_process, "ip -brief -6 address show dev eth0 scope global");
        assert_eq!(own, "", "none that it makes up is let through");

        let file = |name: &str| node.dir.path().join(name).display().to_string();
        fs::write(file("tell"), format!("#!/bin/sh\nenv >>{}\n", file("told"))).unwrap();
        fs::set_permissions(file("tell"), fs::Permissions::from_mode(0o755)).unwrap();
        let [tell, lease, pid] = ["tell", "lease", "pid"].map(file);
        inside(first_process, &format!("dhclient -6 -1 -sf {tell} -lf {lease} -pf {pid} eth0"));
        let told = read(file("told"));
        for line in [
            &format!("new_ip6_address={address}"),
            "new_dhcp6_name_servers=2001:db8::53",
            "new_dhcp6_domain_search=desks.example.",
        ] {
            assert!(told.lines().any(|told| told == line), "{line}: {told}{}", log());
        }
        // It writes who it is when it has gone to the background.
        wait_until("dhclient is known", || read(&pid).ends_with('\n'));
        signal(read(&pid).trim().parse().unwrap(), "TERM");
        node.stop(VM).await;
    }
}

/// What a program prints in the network of a VM.
fn inside(first_process: i32, command: &str) -> String {
    printed(&format!("nsenter -t {first_process} -n {command}"))
}

/// Listens on the agent's port of a VM until it is dropped.
fn listen(first_process: i32) -> Listening {
    let socat = ["socat", "-u", "TCP6-LISTEN:3030,fork,reuseaddr,ipv6only=0", "OPEN:/dev/null"];
    let listening =
        Listening(Command::new("nsenter").args(["-t", &first_process.to_string(), "-n"]).args(socat).spawn().unwrap());
    wait_until("it listens", || inside(first_process, "ss -Hltn").contains(":3030"));
    listening
}

struct Listening(std::process::Child);

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether a connection from a VM, or from the node, is accepted.
fn connects(from: Option<i32>, to: &str) -> bool {
    let enter: Vec<String> =
        from.map(|pid| vec!["nsenter".into(), "-t".into(), pid.to_string(), "-n".into()]).unwrap_or_default();
    let socat = ["socat".into(), "-u".into(), "OPEN:/dev/null".into(), format!("TCP:{to},connect-timeout=0.4")];
    let words: Vec<String> = enter.into_iter().chain(socat).collect();
    Command::new(&words[0]).args(&words[1..]).output().unwrap().status.success()
}

#[tokio::test]
async fn a_bridge_that_vanished_is_made_again() {
    let node = Node::new(32).await;
    assert!(printed("ip link del hplbr32").is_empty());
    node.hypervisor.start(&node.spec(VM)).await.unwrap();
    assert!(printed("ip -d link show hpl32v1").contains("master hplbr32"));
}
