//! Desktops where there is nothing but IPv6: users, nodes, their database and VMs have no other addresses. Only nxproxy and nxagent,
//! which know no other protocol, listen on IPv4, each on its own machine's loopback interface.

use std::{fs, process};

use qvd::{
    demo::{
        display::{Display, shows_desktop},
        hosts::{Hosts, HostsOptions, Node, PORT},
        image::{CACHE, desktop_image},
        postgres::Durability,
    },
    model::config::NetworkMode,
    network::Family,
};

use crate::desktop::{PASSWORD, Viewer};

#[tokio::test]
async fn a_user_of_ipv6_sees_the_desktop_through_each_node_whether_nodes_share_its_network_or_not() {
    for (name, mode) in [('v', NetworkMode::Flat), ('w', NetworkMode::Routed)] {
        let directory = tempfile::Builder::new().prefix("qvd-ipv6-").tempdir().unwrap();
        let number = process::id();
        let options = HostsOptions {
            directory: directory.path().to_owned(),
            program: env!("CARGO_BIN_EXE_qvd").into(),
            name: format!("{name}{:03}", number % 1000),
            network: (150 + u8::try_from(number / 100 % 40).unwrap(), u8::try_from(number % 100).unwrap() + name as u8),
            family: Family::V6,
            mode,
            count: 2,
            durability: Durability::Volatile,
            settings: vec![("l7r.use_ssl".to_owned(), "1".to_owned())],
        };
        let hosts = Hosts::open(options).await.unwrap();
        through_each_node(&hosts, mode).await;
    }
}

async fn through_each_node(hosts: &Hosts, mode: NetworkMode) {
    let image = desktop_image(CACHE.as_ref(), |_| {}).await.unwrap();
    let target = hosts.storage("images").join("desktop.tar.zst");
    fs::hard_link(&image, &target).or_else(|_| fs::copy(&image, &target).map(drop)).unwrap();
    let sql = async |statement: &str| hosts.sql(statement).await.unwrap().unwrap_or_default();
    sql("select osf_create('desktop', memory => 512), di_create('desktop', 'desktop.tar.zst')").await;
    sql(&format!("select user_create('sixtus', '{PASSWORD}')")).await;
    let vm = sql("select vm_create('sixtus', 'desktop', 'desktop')").await;
    let address = sql(&format!("select host(ip) from vms where id = {vm}")).await;
    assert!(address.starts_with("fd00:"), "{address}");

    for (node, transport) in hosts.nodes().iter().zip(["tls", "quic"]) {
        let host = node.address().to_string();
        let screen = Display::start(1280, 800).await.unwrap();
        let viewer = Viewer::at(screen, (&host, PORT), "sixtus", transport);
        viewer.sees(&format!("{mode:?}: from login to desktop over IPv6, {transport}"), shows_desktop).await;
        let session = "select family(client_address) from user_sessions where ended_at is null";
        assert_eq!(sql(session).await, "6");
        viewer.leave().await;
        let sessions = "select count(*) from user_sessions where ended_at is null";
        hosts.wait_for("the session did not end", sessions, "0").await.unwrap();
    }

    for node in hosts.nodes() {
        assert_eq!(addresses(node, "-4"), ["127.0.0.1/8"]);
        let of_ipv6 = addresses(node, "-6");
        assert!(of_ipv6.iter().any(|own| own.starts_with(&format!("{}/", node.address()))), "{of_ipv6:?}");
    }
    let strangers =
        "select count(*) from pg_stat_activity where application_name like 'qvd%' and family(client_addr) = 4";
    assert_eq!(sql(strangers).await, "0");
}

fn addresses(node: &Node, family: &str) -> Vec<String> {
    let printed = node.run("ip", &[family, "-oneline", "address", "show"]).unwrap();
    let lines = String::from_utf8(printed.stdout).unwrap();
    lines.lines().filter_map(|line| line.split_whitespace().nth(3).map(str::to_owned)).collect()
}
