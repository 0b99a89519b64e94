//! Two nodes that share a storage, and what becomes of the VMs of one that dies, freezes, loses the database or the
//! storage, or only seems to.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use super::{
    database::{Db, open_directory},
    host::{Hkd, Host, Keeper},
    patience::until,
};

/// Of the nodes here, in seconds. The machine is busy with other tests.
const PATIENCE: u64 = 4;

/// A database with the nodes `n1` and `n2`, and the storage that they share.
struct Cluster {
    db: Db,
    storage: TempDir,
}

/// The processes of a node.
struct Node<'a> {
    hkd: Hkd,
    keeper: Keeper,
    host: Host<'a>,
}

impl Cluster {
    async fn with_vms(vms: u32) -> Self {
        let db = Db::with_vms(vms).await;
        db.sql("select host_create('n2', '10.9.0.2')").await;
        Self { db, storage: open_directory() }
    }

    fn host<'a>(&'a self, name: &'a str) -> Host<'a> {
        self.host_with(name, &[])
    }

    fn host_with<'a>(&'a self, name: &'a str, further: &[(&str, &str)]) -> Host<'a> {
        let storage = self.storage.path().display().to_string();
        let patience = PATIENCE.to_string();
        let settings = [
            ("path.storage.root", storage.as_str()),
            ("storage.local", "0"),
            ("internal.hkd.lease.lapse", patience.as_str()),
            ("fence.margin", "1"),
            ("internal.hkd.poll.urgent", "0.3"),
        ];
        Host::named(&self.db, name, &[&settings[..], further].concat())
    }

    async fn node<'a>(&'a self, name: &'a str) -> Node<'a> {
        let host = self.host(name);
        let keeper = host.start_keeper(self.storage.path());
        Node { hkd: host.started().await, keeper, host }
    }

    /// `n1` and `n2` run and know each other; the VMs of alice run on `n1`.
    async fn nodes(&self) -> (Node<'_>, Node<'_>) {
        let (first, second) = (self.node("n1").await, self.node("n2").await);
        self.db.sql("select host_block('n2')").await;
        self.db.sql("select vm_start(id) from vms").await;
        self.db.wait_for("select count(*) from vm_list where state <> 'running' or host <> 'n1'", "0").await;
        self.db.sql("select host_block('n2', false)").await;
        self.watched(2).await;
        (first, second)
    }

    /// Waits until every node that lives has looked about `times` its patience long.
    async fn watched(&self, times: u64) {
        let renewals = PATIENCE * times * 5;
        self.db
            .sql("create temp table if not exists seen as select host_id, lease from host_runtimes where false")
            .await;
        self.db
            .sql("truncate seen; insert into seen select host_id, lease from host_runtimes where state = 'running'")
            .await;
        let query =
            format!("select bool_or(r.lease >= s.lease + {renewals}) from seen s join host_runtimes r using (host_id)");
        self.db.wait_for(&query, "t").await;
    }

    async fn epochs(&self) -> Vec<Vec<String>> {
        self.db.rows("select host, epoch, state from host_list").await
    }
}

impl Node<'_> {
    /// As when its machine loses power. Its simulated VMs die with it.
    fn dies(&mut self) {
        self.keeper.kill();
        self.hkd.kill();
    }

    fn freeze(&self, frozen: bool) {
        self.keeper.freeze(frozen);
        self.hkd.freeze(frozen);
    }
}

#[tokio::test]
async fn the_vms_of_a_dead_node_are_free_and_those_that_are_to_run_run_elsewhere() {
    let cluster = Cluster::with_vms(3).await;
    let db = &cluster.db;
    db.sql("update vms set keep_running = true where name = 'd1'").await;
    let (mut first, _second) = cluster.nodes().await;
    first.dies();
    let took = db.wait_for("select state from host_list where host = 'n1'", "lost").await;
    assert!(took > Duration::from_secs(PATIENCE - 1), "too early: {took:?}");
    assert!(took < Duration::from_secs(PATIENCE + 4), "late: {took:?}");
    db.wait_for("select state || ' on ' || host from vm_list where vm like '%/d1'", "running on n2").await;
    let others = "select state, reason from vm_list where vm not like '%/d1'";
    let expected = ["stopped", "its node gave no more signs of life"];
    assert_eq!(db.rows(others).await, [expected, expected]);
    db.sql("select vm_start('alice/d2')").await;
    db.wait_for("select state || ' on ' || host from vm_list where vm like '%/d2'", "running on n2").await;
    let taken = "select count(*) from log where action = 'take over' and object_name = 'n1'";
    assert_eq!(db.sql(taken).await.unwrap(), "1");
}

#[tokio::test]
async fn a_node_that_was_frozen_finds_its_epoch_gone_and_ends_its_vms() {
    let cluster = Cluster::with_vms(1).await;
    let db = &cluster.db;
    let (mut first, _second) = cluster.nodes().await;
    first.freeze(true);
    db.wait_for("select state from host_list where host = 'n1'", "lost").await;
    db.sql("select vm_start('alice/d1')").await;
    db.wait_for("select state || ' on ' || host from vm_list", "running on n2").await;
    first.freeze(false);
    assert_eq!(first.hkd.ended().await.code(), Some(1));
    let said = first.hkd.said();
    assert!(said.contains("ended, since it is another node's"), "{said}");
    assert!(said.contains("qvd: hkd ends: another process has taken this node over\n"), "{said}");
    assert_eq!(db.sql("select state || ' on ' || host from vm_list").await.unwrap(), "running on n2");

    let epoch = db.sql("select epoch from host_list where host = 'n1'").await;
    let _again = first.host.started().await;
    assert_eq!(db.sql("select epoch from host_list where host = 'n1'").await, epoch, "it goes on in the new epoch");
    assert_eq!(db.sql("select state || ' on ' || host from vm_list").await.unwrap(), "running on n2");
}

#[tokio::test]
async fn a_node_that_gives_one_sign_of_life_keeps_its_vms() {
    let cluster = Cluster::with_vms(1).await;
    let (mut first, _second) = cluster.nodes().await;
    let before = cluster.epochs().await;
    first.hkd.kill();
    cluster.watched(2).await;
    assert_eq!(cluster.epochs().await, before, "its heart beats");
    let _hkd = first.host.start();
    cluster.watched(1).await;
    first.keeper.kill();
    cluster.watched(2).await;
    assert_eq!(cluster.epochs().await, before, "its lease lives");
}

#[tokio::test]
async fn nobody_is_taken_over_because_of_a_database_that_was_away() {
    let cluster = Cluster::with_vms(2).await;
    let db = &cluster.db;
    let (first, second) = cluster.nodes().await;
    let before = cluster.epochs().await;
    db.sql(&format!("alter database {} connection limit 0", db.name())).await;
    let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity
               where datname = current_database() and usename = 'qvd_node'";
    let beats = |node: &str| beats(cluster.storage.path(), node);
    let (n1, n2) = (beats("n1"), beats("n2"));
    let outage = PATIENCE * 5 * 3;
    let passed = async || {
        db.sql(cut).await;
        (beats("n1") > n1 + outage && beats("n2") > n2 + outage).then_some(())
    };
    until("three times the patience has passed without a database", passed).await;
    db.sql(&format!("alter database {} connection limit -1", db.name())).await;
    cluster.watched(2).await;
    assert_eq!(cluster.epochs().await, before);
    assert_eq!(db.rows("select state, host from vm_list order by vm").await, [["running", "n1"], ["running", "n1"]]);
    for hkd in [&first.hkd, &second.hkd] {
        assert!(!hkd.said().contains("taking its VMs over"), "{}", hkd.said());
    }
}

/// A file system whose writers hang while it is frozen, as those of a share whose server is gone. It goes with this value.
struct Share(PathBuf);

impl Share {
    fn mounted_at(path: &Path, file: &Path) -> Self {
        std::fs::File::create(file).unwrap().set_len(64 << 20).unwrap();
        run(&format!("mkfs.ext4 -q {}", file.display()));
        run(&format!("mount -o loop {} {}", file.display(), path.display()));
        Self(path.to_owned())
    }

    fn freeze(&self, frozen: bool) {
        run(&format!("fsfreeze {} {}", if frozen { "-f" } else { "-u" }, self.0.display()));
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let quietly = |command: &str| {
            let mut words = command.split_whitespace();
            drop(Command::new(words.next().unwrap()).args(words).stderr(Stdio::null()).status());
        };
        quietly(&format!("fsfreeze -u {}", self.0.display()));
        // Whoever hung in it may be about to end.
        quietly(&format!("umount -l {}", self.0.display()));
    }
}

fn run(command: &str) {
    let mut words = command.split_whitespace();
    let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
    assert!(status.success(), "{command}");
}

#[tokio::test]
async fn a_node_whose_storage_hangs_takes_no_new_vms_and_says_so_until_it_answers_again() {
    let cluster = Cluster::with_vms(2).await;
    let db = &cluster.db;
    let file = tempfile::NamedTempFile::new().unwrap();
    let share = Share::mounted_at(cluster.storage.path(), file.path());
    let _node = cluster.node("n1").await;
    db.sql("select vm_start('alice/d2')").await;
    db.wait_vm("d2", "running").await;
    share.freeze(true);
    let reason = "select storage_degraded_reason from host_list where host = 'n1'";
    db.wait_for(reason, "the storage does not take this node's sign of life").await;
    assert_eq!(db.refused("select vm_start('alice/d1')").await.code, "QV030");
    assert_eq!(db.sql("select vm_state from vm_runtimes where vm_id = vm_id('alice/d2')").await.unwrap(), "running");
    share.freeze(false);
    db.wait_for(&format!("select ({reason}) is null"), "t").await;
    db.sql("select vm_start('alice/d1')").await;
    db.wait_vm("d1", "running").await;
    assert_eq!(db.sql("select epoch from host_list where host = 'n1'").await.unwrap(), "1");
}

#[tokio::test]
async fn storage_that_vms_had_to_leave_is_mounted_anew_before_it_is_used_again() {
    let cluster = Cluster::with_vms(1).await;
    let db = &cluster.db;
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let (unready, ready) = (cluster.host("n1"), open_directory());
    let mark = unready.run().join(format!("fenced.{}", boot.trim()));
    std::fs::create_dir_all(unready.run()).unwrap();
    std::fs::write(&mark, "").unwrap();
    let mut hkd = unready.start();
    assert_eq!(hkd.ended().await.code(), Some(1));
    let said = hkd.said();
    assert!(said.contains("this node may not use its storage"), "{said}");
    assert!(said.contains(&format!("mount the storage anew and remove {}", mark.display())), "{said}");

    // As soon as it can be mounted.
    let share = ready.path().join("share");
    let host = cluster.host_with("n1", &[("fence.remount", &format!("test -e {}", share.display()))]);
    let mark = host.run().join(format!("fenced.{}", boot.trim()));
    let _keeper = host.start_keeper(cluster.storage.path());
    let _hkd = host.started().await;
    db.sql("select vm_start('alice/d1')").await;
    db.wait_vm("d1", "running").await;
    std::fs::write(&mark, "").unwrap();
    let reason =
        "select storage_degraded_reason like 'the storage cannot be mounted anew%' from host_list where host = 'n1'";
    db.wait_for(reason, "t").await;
    db.sql("select vm_stop('alice/d1')").await;
    let beats_before = beats(cluster.storage.path(), "n1");
    cluster.watched(1).await;
    let beats_after = beats(cluster.storage.path(), "n1");
    assert!(beats_after <= beats_before + 1, "it gives no sign there: {beats_before} signs, then {beats_after}");
    assert_eq!(db.sql("select command from vm_list").await.unwrap(), "stop", "commands wait");
    std::fs::write(&share, "").unwrap();
    db.wait_vm("d1", "stopped").await;
    assert!(!mark.exists());
    db.wait_for("select storage_degraded_reason is null from host_list where host = 'n1'", "t").await;
}

#[tokio::test]
async fn a_node_without_its_storage_starts_nothing_and_gives_no_sign_of_life() {
    let cluster = Cluster::with_vms(1).await;
    let db = &cluster.db;
    let mut node = cluster.node("n1").await;
    node.hkd.tell_to_end();
    node.hkd.ended().await;
    db.wait_for("select state from host_list where host = 'n1'", "stopped").await;
    // As where a share is not mounted.
    let away = cluster.storage.path().join("storage.id");
    let id = std::fs::read(&away).unwrap();
    std::fs::remove_file(&away).unwrap();
    let before = beats(cluster.storage.path(), "n1");
    let mut hkd = node.host.start();
    assert_eq!(hkd.ended().await.code(), Some(1));
    assert!(hkd.said().contains("does not carry the identity"), "{}", hkd.said());
    assert!(hkd.said().contains("mount it"), "{}", hkd.said());
    assert!(!away.exists(), "it was not given another one");
    assert!(beats(cluster.storage.path(), "n1") <= before + 1, "one may have been under way");
    assert_eq!(db.sql("select state from host_list where host = 'n1'").await.unwrap(), "stopped");
    std::fs::write(&away, id).unwrap();
    let _hkd = node.host.started().await;
}

/// Makes the record name another machine and another boot than this one as the node `n1`.
const MOVED: &str = "update host_runtimes set machine_id = repeat('0', 32), boot_id = gen_random_uuid()";

#[tokio::test]
async fn another_machine_of_the_same_name_waits_until_the_first_one_is_certainly_dead() {
    let cluster = Cluster::with_vms(1).await;
    let db = &cluster.db;
    let mut first = cluster.node("n1").await;
    db.sql("select vm_start('alice/d1')").await;
    db.wait_vm("d1", "running").await;
    db.sql(MOVED).await;
    let second = cluster.host("n1");
    let hkd = second.start();
    hkd.says("another machine is this node; waiting until it is certainly dead").await;
    hkd.says("the other machine lives; give this one a name of its own").await;
    cluster.watched(2).await;
    assert_eq!(db.sql("select epoch || ' ' || state from host_list where host = 'n1'").await.unwrap(), "1 running");
    first.dies();
    let took = db.wait_for("select epoch || ' ' || state from host_list where host = 'n1'", "2 running").await;
    assert!(took > Duration::from_secs(PATIENCE - 1), "too early: {took:?}");
    assert_eq!(db.rows("select state, reason from vm_list").await, [["stopped", "its node was restarted"]]);
    assert!(
        !std::fs::read_dir(cluster.storage.path().join("hosts"))
            .unwrap()
            .any(|entry| { entry.unwrap().file_name().to_string_lossy().len() > "n1.beat".len() }),
        "it left no heartbeat of its own"
    );
}

#[tokio::test]
async fn another_boot_of_the_same_machine_finds_its_vms_dead_at_once() {
    let cluster = Cluster::with_vms(1).await;
    let db = &cluster.db;
    let mut node = cluster.node("n1").await;
    db.sql("select vm_start('alice/d1')").await;
    db.wait_vm("d1", "running").await;
    node.dies();
    db.sql("update host_runtimes set boot_id = gen_random_uuid()").await;
    let hkd = node.host.started().await;
    assert!(!hkd.said().contains("waiting until it is certainly dead"), "{}", hkd.said());
    assert_eq!(db.sql("select epoch from host_list").await.unwrap(), "2");
    assert_eq!(db.rows("select state, reason from vm_list").await, [["stopped", "its node was restarted"]]);
}

fn beats(storage: &Path, node: &str) -> u64 {
    let beat = std::fs::read_to_string(storage.join(format!("hosts/{node}.beat"))).unwrap_or_default();
    beat.split(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn only_a_node_that_stands_as_it_was_seen_is_taken_over() {
    let db = Db::with_vms(1).await;
    db.sql("select host_create('n2', '10.9.0.2'), host_create('n3', '10.9.0.3')").await;
    let start = async |name: &str, storage: &str| {
        let node = format!(
            "select node || ', ' || node_epoch from node_start('{name}', gen_random_uuid(), 1, '{storage}', 10)"
        );
        let node = db.sql(&node).await.unwrap();
        db.sql(&format!("select node_state({node}, 'running')")).await;
        node
    };
    let (ours, theirs) = ("00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002");
    let n1 = start("n1", ours).await;
    db.sql("select vm_start('alice/d1')").await;
    db.sql(&format!("select node_claim({n1}, 3030, 4100)")).await;
    let (n2, stranger) = (start("n2", ours).await, start("n3", theirs).await);
    let seen = format!("select {n1}, lease from host_runtimes r join hosts h on h.id = r.host_id where name = 'n1'");
    let lease = db.rows(&seen).await[0][2].clone();
    let node = db.session("qvd_node").await;
    let peers = async |of: &str| node.rows(&format!("select name from node_peers({of})")).await;
    assert_eq!(peers(&n2).await, [["n1"]]);
    assert!(peers(&stranger).await.is_empty());

    let take_over =
        async |who: &str, lease: &str| node.sql(&format!("select node_take_over({who}, {n1}, {lease})")).await;
    assert_eq!(take_over(&stranger, &lease).await, None, "it cannot see the other's heart");
    db.sql(&format!("select node_lease({n1}, 1, 1, null)")).await;
    assert_eq!(take_over(&n2, &lease).await, None, "it gave a sign meanwhile");
    let lease = (lease.parse::<i64>().unwrap() + 1).to_string();
    let vm = db.sql("select vm_id('alice/d1')").await.unwrap();
    assert_eq!(take_over(&n2, &lease).await.unwrap(), format!("{{{vm}}}"));
    assert_eq!(take_over(&n2, &lease).await, None, "once");
    for call in [
        format!("select node_lease({n1}, 1, 1, null)"),
        format!("select node_state({n1}, 'running')"),
        format!("select node_vm_state({n1}, {vm}, '{{starting,stopped}}', 'running')"),
        format!("select node_take_over({n1}, {n2}, 0)"),
    ] {
        assert_eq!(node.refused(&call).await.code, "QV001", "{call}");
    }
    let wrong = db.refused(&format!("select node_start('n2', gen_random_uuid(), 1, '{theirs}', 10)")).await;
    assert_eq!(wrong.code, "QV003");
}

#[tokio::test]
async fn vms_that_are_to_run_wait_for_a_node_that_can_take_them() {
    let db = Db::with_vms(3).await;
    db.sql("update vms set keep_running = true where name <> 'd3'").await;
    let n1 = db.node_runs().await;
    db.sql("select vm_start('alice/d1'), vm_start('alice/d2'), vm_start('alice/d3')").await;
    db.sql(&format!("select node_claim({n1}, 3030, 4100)")).await;
    assert_eq!(db.refused("select host_release('n1')").await.code, "QV022", "it lives");
    db.sql("update host_runtimes set ok_ts = now() - interval '1 minute'").await;
    let admin = db.session("qvd_admin").await;
    admin.sql("select host_release('n1')").await;
    let vms = "select state, command, host from vm_list order by vm";
    assert_eq!(db.rows(vms).await, [["stopped", "", ""]; 3], "nobody can take them yet");
    db.sql("select vm_stop('alice/d2')").await;
    let _n1 = db.node_runs().await;
    let node = db.session("qvd_node").await;
    assert_eq!(node.sql("select vms_restart()").await.unwrap(), "1");
    assert_eq!(db.rows(vms).await, [["stopped", "start", "n1"], ["stopped", "", ""], ["stopped", "", ""]]);
    assert_eq!(node.sql("select vms_restart()").await.unwrap(), "0");
}

#[tokio::test]
async fn a_session_of_a_router_that_does_not_answer_is_given_to_another_router() {
    let db = Db::with_vms(1).await;
    db.sql("select host_create('n2', '10.9.0.2')").await;
    db.node_runs().await;
    db.sql("update host_runtimes set ok_ts = now()").await;
    let l7r = db.session("qvd_l7r").await;
    let router = async |node: &str| {
        l7r.sql(&format!("select instance from l7r_start('{node}', gen_random_uuid(), 1, 1)")).await.unwrap()
    };
    let (first, second) = (router("n1").await, router("n2").await);
    let ids = db.rows("select id, user_id from vms").await;
    let acquire = async |router: &str, session: u32| {
        let token = format!("'{}'", "t".repeat(60));
        let (vm, user) = (&ids[0][0], &ids[0][1]);
        let call = format!("l7r_acquire({session}, {router}, {vm}, {user}, '10.1.1.1', {token}, '{{}}')");
        l7r.sql(&format!("select {session} from {call} where state is not null")).await
    };
    db.sql("delete from user_tokens").await;
    let session = acquire(&first, 1).await.unwrap();
    db.sql("delete from user_tokens").await;
    assert_eq!(acquire(&second, 2).await, None, "the other is told to end it");
    assert_eq!(db.sql("select user_cmd from vm_runtimes").await.unwrap(), "abort");
    assert_eq!(acquire(&second, 3).await, None, "and has some time to do so");
    db.sql("alter table vm_runtimes disable trigger guard; update vm_runtimes set user_cmd_ts = now() - interval '4 s'; alter table vm_runtimes enable trigger guard").await;
    let taken = acquire(&second, 4).await.unwrap();
    l7r.sql(&format!("select l7r_end({session}, 'late', 1, 1)")).await;
    let ended = format!("select end_reason from user_sessions where id = {session}");
    assert_eq!(db.sql(&ended).await.unwrap(), "its router is gone");
    let now = db.rows("select user_state, session_id, user_cmd from vm_runtimes").await;
    assert_eq!(
        now,
        [["connecting".to_owned(), taken.clone(), String::new()]],
        "a late word of the first changes nothing"
    );

    db.sql("select host_forget(id, 'its node is lost') from hosts where name = 'n2'").await;
    assert_eq!(db.sql("select user_state from vm_runtimes").await.unwrap(), "disconnected");
    let ended = format!("select end_reason from user_sessions where id = {taken}");
    assert_eq!(db.sql(&ended).await.unwrap(), "its node is lost");
    db.sql("delete from user_tokens").await;
    assert!(acquire(&second, 5).await.is_some(), "a router that lives all the same goes on");
}
