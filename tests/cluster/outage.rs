//! A database that goes away, under load and at the wrong moment. The whole node runs, on a server of its own that
//! forgets nothing.

use std::{cell::Cell, collections::BTreeMap, path::Path};

use futures_util::future::join_all;
use qvd::demo::{
    postgres::Durability,
    site::{Site, SiteOptions},
};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::{
    database::{Db, open_directory},
    host::{Host, QVD},
    patience::until,
};

const VMS: usize = 20;
/// Commands between one blow and the next.
const ROUND: usize = 60;

async fn site(directory: &Path, node: &str, network: u8) -> Site {
    let settings = [
        ("internal.hkd.nothing.timeout.on_state.starting", "0.05"),
        ("internal.hkd.nothing.timeout.on_state.stopping", "0.05"),
        ("internal.hkd.lease.renew", "0.2"),
    ];
    let options = SiteOptions {
        directory: directory.to_owned(),
        program: QVD.into(),
        node: node.to_owned(),
        network: (87, network),
        hypervisor: "nothing",
        durability: Durability::Durable,
        port: None,
        settings: settings.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec(),
    };
    Site::open(options).await.unwrap()
}

/// Somebody who insists: asks again until the database has answered.
struct Insistent<'a> {
    site: &'a Site,
    client: Option<Client>,
}

impl Insistent<'_> {
    async fn ask(&mut self, query: &str) -> String {
        until(&format!("the database answers {query}"), async || self.attempt(query).await).await.0
    }

    async fn attempt(&mut self, query: &str) -> Option<String> {
        let client = match self.client.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => {
                let url = self.site.cluster().connection_string("qvd", "qvd_admin");
                let (client, connection) = tokio_postgres::connect(&url, NoTls).await.ok()?;
                tokio::spawn(connection);
                client
            }
        };
        match client.simple_query(query).await {
            Ok(messages) => {
                self.client = Some(client);
                messages.iter().find_map(|message| match message {
                    SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                    _ => None,
                })
            }
            Err(error) => {
                let code = error.code().map(|code| code.code().to_owned()).unwrap_or_default();
                // A node whose lease lapsed during the outage takes nothing until it has renewed it.
                assert!(!code.starts_with("QV") || code == "QV030", "{query}: {error}");
                None
            }
        }
    }

    async fn until_vm(&mut self, vm: &str, state: &str) {
        let query = format!("select vm_state from vm_runtimes where vm_id = vm_id('{vm}')");
        until(&format!("{vm} is {state}"), async || (self.ask(&query).await == state).then_some(())).await;
    }
}

#[tokio::test]
async fn nothing_is_lost_and_nothing_doubled_when_the_database_restarts_and_dies_under_load() {
    let directory = open_directory();
    let site = site(directory.path(), "tdb1", 1).await;
    site.sql("select osf_create('desk'), di_create('desk', 'desk.tar'), user_create('alice')").await.unwrap();
    site.sql(&format!("select vm_create('alice', 'd' || n, 'desk') from generate_series(1, {VMS}) n")).await.unwrap();
    site.start_node().await.unwrap();

    let (accepted, enough) = (Cell::new(0), Cell::new(false));
    let users = (1..=VMS).map(async |n| {
        let vm = format!("alice/d{n}");
        let mut user = Insistent { site: &site, client: None };
        while !enough.get() {
            for (command, state) in [("start", "running"), ("stop", "stopped")] {
                user.ask(&format!("select vm_{command}('{vm}')")).await;
                accepted.set(accepted.get() + 1);
                user.until_vm(&vm, state).await;
            }
        }
    });
    let blows = async {
        let more = async || {
            let so_far = accepted.get();
            until("commands are accepted", async || (accepted.get() >= so_far + ROUND).then_some(())).await;
        };
        more().await;
        site.cluster().restart().await.unwrap();
        more().await;
        site.cluster().kill().await;
        site.cluster().start().await.unwrap();
        more().await;
        enough.set(true);
    };
    tokio::join!(join_all(users), blows);

    let count = async |what: &str| -> usize {
        site.sql(&format!("select count(*) from {what}")).await.unwrap().unwrap().parse().unwrap()
    };
    for command in ["start", "stop"] {
        let by_vm = async |action: String| -> BTreeMap<String, String> {
            let query = format!(
                "select string_agg(n, ' ' order by n) from (select object_id || ':' || count(*) n from log where {action} group by object_id) c"
            );
            site.sql(&query)
                .await
                .unwrap()
                .unwrap()
                .split(' ')
                .map(|pair| pair.split_once(':').unwrap())
                .map(|(vm, n)| (vm.to_owned(), n.to_owned()))
                .collect()
        };
        let asked = by_vm(format!("action = '{command}'")).await;
        let claimed = by_vm(format!("action = 'claim' and arguments->>'command' = '{command}'")).await;
        assert_eq!(asked.len(), VMS);
        assert_eq!(asked, claimed, "every {command} is claimed once");
    }
    let starts = count("log where action = 'start'").await;
    assert!(starts + count("log where action = 'stop'").await >= accepted.get(), "what was accepted is remembered");
    assert_eq!(count("vm_counters where run_attempts <> run_ok").await, 0, "every start came to run");
    let log = std::fs::read_to_string(site.log()).unwrap();
    assert_eq!(log.lines().filter(|line| line.contains("state=running")).count(), starts, "no VM was started twice");
    site.close().await.unwrap();
}

#[tokio::test]
async fn a_node_that_starts_before_its_database_waits_for_it() {
    let directory = open_directory();
    let site = site(directory.path(), "tdb2", 2).await;
    site.cluster().stop().await;
    let waits = async {
        let said = async || std::fs::read_to_string(site.log()).ok()?.contains("trying until it answers").then_some(());
        until("hkd says that it waits", said).await;
        site.cluster().start().await.unwrap();
    };
    let (started, ()) = tokio::join!(site.start_node(), waits);
    started.unwrap();
    site.close().await.unwrap();
}

#[tokio::test]
async fn a_state_that_a_full_disk_of_the_database_refused_is_published_when_there_is_room() {
    let db = Db::with_vms(1).await;
    db.sql("select config_set('internal.hkd.poll.relaxed', '600')").await;
    let host = Host::new(&db, &[]);
    let _hkd = host.started().await;
    db.sql(
        "create sequence attempts;
         create function full_disk() returns trigger language plpgsql as
             $$ begin perform nextval('attempts'); raise 'No space left on device' using errcode = 'disk_full'; end $$;
         create trigger full_disk before update on vm_runtimes for each row when (new.vm_state = 'running')
             execute function full_disk()",
    )
    .await;
    db.sql("select vm_start('alice/d1')").await;
    db.wait_for("select last_value >= 3 from attempts", "t").await;
    assert_eq!(db.sql("select vm_state from vm_runtimes").await.as_deref(), Some("starting"));
    db.sql("drop trigger full_disk on vm_runtimes").await;
    db.wait_vm("d1", "running").await;
}
