//! Whether the model of the database and PostgreSQL do the same: random calls are made to both, which must answer alike,
//! refuse alike and then hold the same rows. A round is one transaction that is rolled back, in which the server's clock
//! stands still; time passes by moving what is on record into the past.

use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner},
};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::{Answer, Call, Database, Instance, Refused, Seen, Session, Vm, router::address};
use crate::{
    db::{AbortCause, Connector, Peer},
    demo::postgres::{Access, Cluster, ClusterOptions, Durability},
    hkd::machine::published_from,
    model::{HostId, HostState, InstanceId, SessionId, VmId, VmState},
    simulation::rules::Rules,
};

const HOSTS: i32 = 3;
const VMS: i32 = 3;
const STORAGE: &str = "00000000-0000-4000-8000-00000000000a";

/// One step: which call, with what, and whether what it names is as it should be.
type Step = (u8, u8, u8, u8);

/// PostgreSQL, with the same hosts and VMs as the model.
struct Real {
    client: Client,
    vms: Vec<i32>,
    user: i32,
    /// What lies between the model's numbers and those that the sequence gave.
    instances: i64,
    tokens: u64,
}

impl Real {
    async fn open(cluster: &Cluster) -> Self {
        cluster.create_database("agreement").await.unwrap();
        let url = cluster.connection_string("agreement", "postgres");
        Connector::from_url(&url, "test").unwrap().migrate().await.unwrap();
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        tokio::spawn(connection);
        let mut real = Self { client, vms: Vec::new(), user: 0, instances: 0, tokens: 0 };
        real.rows(
            "set search_path = qvd, public;
             create function qvd.place_fewest(vm integer) returns integer language sql as $$
                 select h.host_id from qvd.host_runtimes h, qvd.balancer b
                 where not h.blocked and h.state = 'running' and h.ok_ts > now() - b.lapse
                     and h.storage_degraded_since is null
                 order by (select count(*) from qvd.vm_runtimes v where v.host_id = h.host_id), h.host_id limit 1 $$;
             select osf_create('desk'), di_create('desk', 'desk.tar'), user_create('alice');
             select config_set('l7r.loadbalancer.plugin', 'fewest')",
        )
        .await
        .unwrap();
        for host in 0..HOSTS {
            let sql =
                format!("insert into hosts (id, name, address) values ({host}, 'n{host}', '10.9.0.{}')", host + 1);
            real.rows(&sql).await.unwrap();
        }
        for vm in 0..VMS {
            let created = real.rows(&format!("select vm_create('alice', 'd{vm}', 'desk')")).await.unwrap();
            real.vms.push(created[0][0].parse().unwrap());
        }
        let keep = format!("update vms set keep_running = true where id = {}", real.vms[0]);
        real.rows(&keep).await.unwrap();
        real.user = real.rows("select id from users where login = 'alice'").await.unwrap()[0][0].parse().unwrap();
        real
    }

    /// Every row of every statement; the SQLSTATE where the server refuses.
    async fn rows(&self, sql: &str) -> Result<Vec<Vec<String>>, String> {
        let messages = self.client.simple_query(sql).await.map_err(|error| match error.as_db_error() {
            Some(refusal) if refusal.code().code().starts_with("QV") => refusal.code().code().to_owned(),
            other => panic!("{sql}: {error}: {other:?}"),
        })?;
        let text = |row: &tokio_postgres::SimpleQueryRow| {
            (0..row.len()).map(|column| row.get(column).unwrap_or_default().to_owned()).collect()
        };
        Ok(messages
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(text(row)),
                _ => None,
            })
            .collect())
    }

    async fn begin(&mut self) {
        self.rows("begin; update beat set at = now()").await.unwrap();
        self.instances = self.last("l7r_instances_id_seq").await;
    }

    /// The number that a sequence gave out last.
    async fn last(&self, sequence: &str) -> i64 {
        let sql = format!("select case when is_called then last_value else 0 end from qvd.{sequence}");
        self.rows(&sql).await.unwrap()[0][0].parse().unwrap()
    }

    fn vm(&self, vm: VmId) -> i32 {
        self.vms[vm.0 as usize]
    }

    fn vm_of(&self, text: &str) -> VmId {
        let id: i32 = text.parse().unwrap();
        VmId(self.vms.iter().position(|vm| *vm == id).unwrap() as i32)
    }

    fn instance_of(&self, text: &str) -> Option<InstanceId> {
        text.parse::<i64>().ok().map(|id| InstanceId(id - self.instances))
    }

    fn numbers(&self, instances: &[InstanceId]) -> String {
        let numbers: Vec<String> = instances.iter().map(|id| (id.0 + self.instances).to_string()).collect();
        numbers.join(",")
    }

    fn vms_of(&self, array: &str) -> Vec<VmId> {
        let inner = array.trim_matches(['{', '}']);
        inner.split(',').filter(|id| !id.is_empty()).map(|id| self.vm_of(id)).collect()
    }

    /// Makes a call as one that may be refused.
    async fn call(&mut self, call: &Call) -> Result<Answer, String> {
        let sql = self.sql(call);
        self.rows("savepoint before").await.unwrap();
        match self.rows(&sql).await {
            Ok(rows) => Ok(self.answer(call, &rows)),
            Err(state) => {
                self.rows("rollback to before").await.unwrap();
                Err(state)
            }
        }
    }

    fn sql(&mut self, call: &Call) -> String {
        let boot = |boot: u64| format!("'00000000-0000-4000-8000-{boot:012}'");
        match call {
            Call::NodeStart { node, boot: id, machine, dead, patience } => {
                let (boot, patience) = (boot(*id), *patience as f64 / 1000.0);
                let (epoch, lease) = dead.map_or(("null".to_owned(), "null".to_owned()), |(epoch, lease)| {
                    (epoch.to_string(), lease.to_string())
                });
                format!(
                    "select node_epoch, state, released from node_start(
                         'n{node}', {boot}, 1, '{STORAGE}', {patience}, '{machine}', {epoch}, {lease})"
                )
            }
            Call::NodeState { node, epoch, becomes } => format!("select node_state({node}, {epoch}, '{becomes}')"),
            Call::NodeServes { node, epoch } => format!("select node_serves({node}, {epoch})"),
            Call::NodeLease { node, epoch, storage_degraded } => {
                let degraded = if *storage_degraded { "'hangs'" } else { "null" };
                format!("select node_lease({node}, {epoch}, 1, 1, null, {degraded})")
            }
            Call::NodePeers { node, epoch } => {
                format!("select host, name, epoch, lease, patience from node_peers({node}, {epoch})")
            }
            Call::NodeTakeOver { node, epoch, silent, silent_epoch, lease } => {
                format!("select node_take_over({node}, {epoch}, {silent}, {silent_epoch}, {lease})")
            }
            Call::NodeClaim { node, epoch } => {
                format!("select vm_id, command from node_claim({node}, {epoch}, 3030, 4100) order by vm_id")
            }
            Call::NodeVms { node, epoch } => {
                format!("select vm_id, vm_state from node_vms({node}, {epoch}) order by vm_id")
            }
            Call::NodeVmState { node, epoch, vm, expected, becomes, reason } => {
                let expected: Vec<&str> = expected.iter().map(|state| state.as_str()).collect();
                let reason = reason.as_ref().map_or("null".to_owned(), |reason| format!("'{reason}'"));
                let (vm, expected) = (self.vm(*vm), expected.join(","));
                format!("select node_vm_state({node}, {epoch}, {vm}, '{{{expected}}}', '{becomes}', {reason})")
            }
            Call::NodeAdopt { node, epoch, vm } => {
                format!("select node_adopt({node}, {epoch}, {}, 3030, 4100)", self.vm(*vm))
            }
            Call::NodeRouters { node, epoch } => format!(
                "select instance, right(boot_id::text, 12), pid from node_routers({node}, {epoch}) order by instance"
            ),
            Call::NodeRoutersGone { node, epoch, instances } => {
                format!("select node_routers_gone({node}, {epoch}, '{{{}}}')", self.numbers(instances))
            }
            Call::EpochIsOver { node, epoch } => format!("select epoch_is_over({node}, {epoch})"),
            Call::VmsRestart => "select vms_restart()".to_owned(),
            Call::BeatTry { age } => format!("select beat_try({age} * interval '1 ms')"),
            Call::Echo { node } => format!("select wake('qvd_host_{node}', 'echo', {node})"),
            Call::VmStart { vm } => format!("select vm_start({})", self.vm(*vm)),
            Call::VmStop { vm } => format!("select vm_stop({})", self.vm(*vm)),
            Call::VmDisconnect { vm } => format!("select vm_disconnect({})", self.vm(*vm)),
            Call::HostBlock { node, blocked } => format!("select host_block('n{node}', {blocked})"),
            Call::HostRelease { node } => format!("select host_release('n{node}')"),
            Call::L7rStart { node, boot: id, process } => {
                format!("select instance from l7r_start('n{node}', {}, {process}, 1)", boot(*id))
            }
            Call::L7rInstances { node } => format!(
                "select instance, right(boot_id::text, 12), pid from l7r_instances_of({node}) order by instance"
            ),
            Call::L7rGone { instances, reason } => {
                format!("select l7r_gone('{{{}}}', '{reason}')", self.numbers(instances))
            }
            Call::L7rAcquire { session, instance, vm, client } => {
                self.tokens += 1;
                let (instance, vm, user, token) = (instance.0 + self.instances, self.vm(*vm), self.user, self.tokens);
                let client = address(*client);
                format!(
                    "select state, commanded, 'f', null, placed
                     from l7r_acquire({session}, {instance}, {vm}, {user}, '{client}', '{token:060}', '{{}}')"
                )
            }
            Call::L7rSession { session } => {
                format!("select state, commanded, aborted, host(contender), placed from l7r_session({session})")
            }
            Call::L7rVmStart { session } => format!("select l7r_vm_start({session})"),
            Call::L7rConnected { session } => format!("select l7r_connected({session}, 'user')"),
            Call::L7rAborted { instance } => format!(
                "select session, host(contender), stopped from l7r_aborted({}) order by session",
                instance.0 + self.instances
            ),
            Call::L7rSessions { instance } => {
                format!("select * from l7r_sessions({}) order by 1", instance.0 + self.instances)
            }
            Call::L7rEnd { session, reason } => format!("select l7r_end({session}, '{reason}', 1, 1)"),
        }
    }

    fn answer(&self, call: &Call, rows: &[Vec<String>]) -> Answer {
        let first = |column: usize| rows.first().map_or("", |row| row[column].as_str());
        let client = |text: &str| text.rsplit('.').next().and_then(|last| last.parse::<u8>().ok());
        let seen = || {
            (!first(0).is_empty()).then(|| Seen {
                state: first(0).parse().unwrap(),
                commanded: first(1) == "t",
                aborted: first(2) == "t",
                contender: client(first(3)),
                placed: first(4) == "t",
            })
        };
        match call {
            Call::NodeStart { .. } => Answer::Life {
                epoch: first(0).parse().unwrap(),
                state: first(1).parse().unwrap(),
                released: self.vms_of(first(2)),
            },
            Call::NodePeers { .. } => Answer::Peers(
                rows.iter()
                    .map(|row| Peer {
                        host: HostId(row[0].parse().unwrap()),
                        name: row[1].clone(),
                        epoch: row[2].parse().unwrap(),
                        lease: row[3].parse().unwrap(),
                        patience: std::time::Duration::from_secs_f64(row[4].parse().unwrap()),
                    })
                    .collect(),
            ),
            Call::NodeTakeOver { .. } | Call::HostRelease { .. } => {
                Answer::Released((!first(0).is_empty()).then(|| self.vms_of(first(0))))
            }
            Call::NodeClaim { .. } => {
                Answer::Claimed(rows.iter().map(|row| (self.vm_of(&row[0]), row[1].parse().unwrap())).collect())
            }
            Call::NodeVms { .. } => {
                Answer::OnRecord(rows.iter().map(|row| (self.vm_of(&row[0]), row[1].parse().unwrap())).collect())
            }
            Call::NodeServes { .. }
            | Call::NodeVmState { .. }
            | Call::EpochIsOver { .. }
            | Call::BeatTry { .. }
            | Call::L7rConnected { .. } => Answer::Flag(first(0) == "t"),
            Call::VmsRestart | Call::L7rGone { .. } | Call::NodeRoutersGone { .. } => {
                Answer::Count(first(0).parse().unwrap())
            }
            Call::L7rStart { .. } => Answer::Instance(self.instance_of(first(0)).unwrap()),
            Call::L7rInstances { .. } | Call::NodeRouters { .. } => Answer::Instances(
                rows.iter()
                    .map(|row| {
                        let instance = self.instance_of(&row[0]).unwrap();
                        (instance, row[1].parse().unwrap(), row[2].parse().unwrap())
                    })
                    .collect(),
            ),
            Call::NodeAdopt { .. } => Answer::Adopted(first(0).parse().ok()),
            Call::L7rAcquire { .. } => Answer::Acquired(seen()),
            Call::L7rSession { .. } => Answer::Seen(seen()),
            Call::L7rVmStart { .. } => Answer::Asked(match first(0) {
                "" => None,
                "QV030" => Some("QV030"),
                other => panic!("a start is refused with {other}"),
            }),
            Call::L7rSessions { .. } => {
                Answer::Sessions(rows.iter().map(|row| SessionId(row[0].parse().unwrap())).collect())
            }
            Call::L7rAborted { .. } => Answer::Aborted(
                rows.iter()
                    .map(|row| {
                        let cause = match (row[2].as_str(), client(&row[1])) {
                            ("t", _) => AbortCause::Stopped,
                            (_, Some(contender)) => AbortCause::Contender(address(contender)),
                            (_, None) => AbortCause::Administrator,
                        };
                        (SessionId(row[0].parse().unwrap()), cause)
                    })
                    .collect(),
            ),
            _ => Answer::Done,
        }
    }

    /// Moves everything that bears a time into the past; the beat further, which goes by the clock while everything else goes by
    /// the beginning of the transaction, so that a slow machine makes no difference.
    async fn pass(&self, seconds: u8) {
        let sql = format!(
            "set local session_replication_role = replica;
             update host_runtimes set ok_ts = ok_ts - {seconds} * interval '1 s';
             update vm_runtimes set user_cmd_ts = user_cmd_ts - {seconds} * interval '1 s';
             update beat set at = at - {seconds} * interval '1 min';
             set local session_replication_role = origin"
        );
        self.rows(&sql).await.unwrap();
    }

    /// The rows as the model writes them.
    async fn held(&self) -> Vec<String> {
        let hosts = self.rows(
            "select host_id, state, blocked, epoch, right(boot_id::text, 12)::bigint, machine_id, lease,
                 round(extract(epoch from now() - ok_ts)), patience * 1000, storage_degraded_since is not null
             from host_runtimes order by host_id",
        );
        let vms = self.rows(
            "select vm_id, vm_state, vm_cmd, host_id, restart_due,
                 case when vm_reason like 'no host can take VM %' then 'no host can take it' else vm_reason end,
                 user_state, user_cmd is not null, round(extract(epoch from now() - user_cmd_ts)),
                 split_part(host(contender), '.', 4), session_id, l7r_host_id, l7r_instance
             from vm_runtimes order by vm_id",
        );
        let sessions = self.rows(
            "select id, vm_id, l7r_host_id, l7r_instance, connected_at is not null, end_reason from user_sessions
             order by id",
        );
        let instances = self.rows("select id, host_id, ended_at is not null from l7r_instances order by id");
        let mut held = Vec::new();
        for row in hosts.await.unwrap() {
            held.push(format!("host {}", row.join(" ")));
        }
        let instance = |id: &str| self.instance_of(id).map(|id| id.to_string()).unwrap_or_default();
        for mut row in vms.await.unwrap() {
            (row[0], row[12]) = (self.vm_of(&row[0]).to_string(), instance(&row[12]));
            held.push(format!("vm {}", row.join(" ")));
        }
        for mut row in sessions.await.unwrap() {
            (row[1], row[3]) = (self.vm_of(&row[1]).to_string(), instance(&row[3]));
            held.push(format!("session {}", row.join(" ")));
        }
        for mut row in instances.await.unwrap() {
            row[0] = instance(&row[0]);
            held.push(format!("instance {}", row.join(" ")));
        }
        held
    }
}

/// The rows of the model as PostgreSQL shows its own.
fn held(model: &Database) -> Vec<String> {
    fn text(value: Option<impl ToString>) -> String {
        value.map(|value| value.to_string()).unwrap_or_default()
    }
    let flag = |value: bool| if value { "t" } else { "f" };
    let age = |at: Option<i64>| text(at.map(|at| (model.clock - at) / 1000));
    let mut held = Vec::new();
    for (id, host) in &model.hosts {
        let (blocked, degraded) = (flag(host.blocked), flag(host.storage_degraded));
        let (boot, machine) = (text(host.boot), text(host.machine));
        let (ok, patience) = (age(host.ok_at), text(host.patience));
        let (state, epoch, lease) = (host.state, host.epoch, host.lease);
        held.push(format!("host {id} {state} {blocked} {epoch} {boot} {machine} {lease} {ok} {patience} {degraded}"));
    }
    for (id, vm) in &model.vms {
        let Vm { state, user_state, aborted, restart_due, .. } = vm;
        let row = [
            id.to_string(),
            state.to_string(),
            text(vm.command),
            text(vm.host),
            flag(*restart_due).to_owned(),
            text(vm.reason.as_ref()),
            user_state.to_string(),
            flag(*aborted).to_owned(),
            age(vm.aborted_at),
            text(vm.contender),
            text(vm.session),
            text(vm.router_host),
            text(vm.instance),
        ];
        held.push(format!("vm {}", row.join(" ")));
    }
    for (id, Session { vm, router_host, instance, connected, ended }) in &model.sessions {
        let (connected, ended) = (flag(*connected), text(ended.as_ref()));
        held.push(format!("session {id} {vm} {router_host} {instance} {connected} {ended}"));
    }
    for (id, Instance { host, ended, .. }) in &model.instances {
        held.push(format!("instance {id} {host} {}", flag(*ended)));
    }
    held
}

/// The call that a step stands for in the present state; mostly one that makes sense.
fn call_of(model: &Database, (kind, a, b, c): Step) -> Call {
    let node = HostId(i32::from(a) % HOSTS);
    let vm = VmId(i32::from(b) % VMS);
    let host = &model.hosts[&node];
    // Now and then an epoch that is over.
    let epoch = if c % 8 == 0 { host.epoch - 1 } else { host.epoch };
    let pick = |ids: Vec<i64>| ids.get(usize::from(c) % ids.len().max(1)).copied().unwrap_or(1);
    let session = SessionId(pick(model.sessions.keys().rev().take(4).map(|id| id.0).collect()));
    let instance = InstanceId(pick(model.instances.keys().rev().take(4).map(|id| id.0).collect()));
    match kind % 28 {
        0 => {
            let dead = (c % 3 == 0).then_some((host.epoch, host.lease - i64::from(c % 4 == 1)));
            Call::NodeStart { node, boot: u64::from(c % 2) + 1, machine: b % 2, dead, patience: 10_000 }
        }
        1 => Call::NodeState { node, epoch, becomes: HostState::ALL[usize::from(b) % HostState::ALL.len()] },
        2 => Call::NodeServes { node, epoch },
        3 => Call::NodeLease { node, epoch, storage_degraded: b % 8 == 0 },
        4 => Call::NodePeers { node, epoch },
        5 | 6 => {
            let silent = HostId(i32::from(b) % HOSTS);
            let row = &model.hosts[&silent];
            let lease = row.lease - i64::from(c % 4 == 1);
            Call::NodeTakeOver { node, epoch, silent, silent_epoch: row.epoch - i64::from(c % 5 == 1), lease }
        }
        7 | 8 => Call::NodeClaim { node, epoch },
        9 => Call::NodeVms { node, epoch },
        10..=12 => {
            let node = model.vms[&vm].host.unwrap_or(node);
            let epoch = model.hosts[&node].epoch - i64::from(c % 16 == 0);
            let becomes = VmState::ALL[usize::from(c / 4) % VmState::ALL.len()];
            let reason = (c % 3 == 0).then(|| "it fell".to_owned());
            Call::NodeVmState { node, epoch, vm, expected: published_from(becomes), becomes, reason }
        }
        13 => Call::EpochIsOver { node: HostId(i32::from(a) % (HOSTS + 1)), epoch },
        14 => Call::VmsRestart,
        15 => Call::BeatTry { age: 270_000 },
        16 => Call::VmStart { vm },
        17 => Call::VmStop { vm },
        18 => Call::VmDisconnect { vm },
        19 if c % 2 == 0 => Call::HostBlock { node, blocked: c % 4 == 0 },
        19 => Call::HostRelease { node },
        20 if c % 2 == 0 => Call::L7rInstances { node },
        20 if c % 3 == 0 => Call::L7rGone { instances: vec![instance], reason: "its router died" },
        20 => Call::L7rStart { node, boot: 1, process: u32::from(b) + 1 },
        21 => {
            let session = SessionId(model.sessions.len() as i64 + 1);
            Call::L7rAcquire { session, instance, vm, client: b % 4 + 1 }
        }
        22 if c % 2 == 0 => Call::L7rSession { session },
        22 => Call::L7rVmStart { session },
        23 => Call::L7rConnected { session },
        24 if c % 2 == 0 => Call::L7rAborted { instance },
        24 => Call::L7rSessions { instance },
        25 if c % 2 == 0 => Call::NodeRouters { node, epoch },
        25 => Call::NodeRoutersGone { node, epoch, instances: vec![instance] },
        26 => Call::NodeAdopt { node, epoch, vm },
        _ => Call::L7rEnd { session, reason: "the client left" },
    }
}

async fn agree(real: &mut Real, steps: &[Step]) -> Result<(), TestCaseError> {
    let hosts: Vec<HostId> = (0..HOSTS).map(HostId).collect();
    let vms: Vec<(VmId, bool)> = (0..VMS).map(|vm| (VmId(vm), vm == 0)).collect();
    let mut model = Database::new(&hosts, &vms, Rules::ALL);
    // Everything begins with nodes and routers that run.
    let begin = (0..HOSTS as u8).flat_map(|node| [(0, node, 0, 0), (2, node, 0, 1), (20, node, 0, 1)]);
    real.begin().await;
    for step in begin.chain(steps.iter().copied()) {
        // Times on record are compared with limits; none is to lie on its edge.
        if step.0 % 13 == 6 {
            let seconds = step.1 % 7;
            real.pass(seconds).await;
            model.pass(i64::from(seconds) * 1000);
        }
        let call = call_of(&model, step);
        let modelled = model.call(&call).map(|(answer, _)| answer).map_err(|Refused(state)| state.to_owned());
        prop_assert_eq!(real.call(&call).await, modelled, "{:?}", call);
        prop_assert_eq!(real.held().await, held(&model), "{:?}", call);
    }
    Ok(())
}

impl Database {
    /// Moves everything that bears a time into the past.
    fn pass(&mut self, by: i64) {
        for host in self.hosts.values_mut() {
            host.ok_at = host.ok_at.map(|at| at - by);
        }
        for vm in self.vms.values_mut() {
            vm.aborted_at = vm.aborted_at.map(|at| at - by);
        }
        self.beat_at -= 60 * by;
    }
}

#[test]
fn the_model_of_the_database_and_postgresql_answer_and_refuse_alike() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let directory = tempfile::Builder::new().prefix("qvd").tempdir().unwrap();
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(directory.path(), readable).unwrap();
    let options = ClusterOptions {
        data_dir: directory.path().join("data"),
        socket_dir: directory.path().join("socket"),
        durability: Durability::Volatile,
        access: Access::Trust,
        settings: Vec::new(),
    };
    let cluster = runtime.block_on(Cluster::open(options)).unwrap();
    let real = runtime.block_on(Real::open(&cluster));
    let real = std::cell::RefCell::new(real);
    let config = Config { cases: 40, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let steps = proptest::collection::vec((any::<u8>(), any::<u8>(), any::<u8>(), any::<u8>()), 20..100);
    let outcome = runner.run(&steps, |steps| {
        let real = &mut *real.borrow_mut();
        let outcome = runtime.block_on(agree(real, &steps));
        runtime.block_on(real.rows("rollback")).unwrap();
        outcome
    });
    runtime.block_on(cluster.stop());
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}
