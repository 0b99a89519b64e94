//! The state machines are held by the database, and it holds the same ones as the model.

use std::{fmt::Debug, str::FromStr};

use qvd::model::{HostState, UserState, VmCommand, VmState};

use super::database::Db;

/// A transaction that puts a row into a state past the guard, then does as anybody would, and is forgotten.
fn from_then(place: &str, then: &str) -> String {
    format!(
        "begin; set local session_replication_role = replica; {place};
         set local session_replication_role = origin; {then}; rollback"
    )
}

/// What a function says of every pair of words, in the order of their types.
async fn judged<A, B>(db: &Db, function: &str, (first, second): (&str, &str)) -> Vec<(A, B, bool)>
where
    A: FromStr<Err: Debug>,
    B: FromStr<Err: Debug>,
{
    let query = format!(
        "select a, b, {function}(a, b) from unnest(enum_range(null::{first})) a, unnest(enum_range(null::{second})) b
         order by a, b"
    );
    let rows = db.rows(&query).await;
    rows.iter().map(|row| (row[0].parse().unwrap(), row[1].parse().unwrap(), row[2] == "t")).collect()
}

fn pairs<A: Copy, B: Copy>(a: &[A], b: &[B], allowed: impl Fn(A, B) -> bool) -> Vec<(A, B, bool)> {
    a.iter().flat_map(|x| b.iter().map(|y| (*x, *y, allowed(*x, *y)))).collect()
}

#[tokio::test]
async fn model_and_database_allow_the_same_transitions_and_commands() {
    let db = Db::new().await;
    let vm = pairs(VmState::ALL, VmState::ALL, VmState::may_become);
    assert_eq!(judged(&db, "vm_transition_allowed", ("vm_state", "vm_state")).await, vm);
    let command = pairs(VmState::ALL, VmCommand::ALL, VmState::accepts);
    assert_eq!(judged(&db, "vm_command_allowed", ("vm_state", "vm_cmd")).await, command);
    let user = pairs(UserState::ALL, UserState::ALL, UserState::may_become);
    assert_eq!(judged(&db, "user_transition_allowed", ("user_state", "user_state")).await, user);
    let host = pairs(HostState::ALL, HostState::ALL, HostState::may_become);
    assert_eq!(judged(&db, "host_transition_allowed", ("host_state", "host_state")).await, host);
}

#[tokio::test]
async fn updates_of_vms_are_judged_by_the_tables_even_when_the_owner_makes_them() {
    let db = Db::with_vms(1).await;
    let owner = db.session("postgres").await;
    let place = |state: VmState| {
        format!("update vm_runtimes set vm_state = '{state}', host_id = (select id from hosts), vm_cmd = null")
    };
    for (from, to, allowed) in pairs(VmState::ALL, VmState::ALL, VmState::may_become) {
        let outcome =
            owner.attempt(&from_then(&place(from), &format!("update vm_runtimes set vm_state = '{to}'"))).await;
        let code = outcome.as_ref().err().map(|refusal| refusal.code.as_str());
        assert_eq!(code, (!allowed).then_some("QV020"), "{from} to {to}: {outcome:?}");
    }
    for (state, command, allowed) in pairs(VmState::ALL, VmCommand::ALL, VmState::accepts) {
        let then = format!("update vm_runtimes set vm_cmd = '{command}'");
        let outcome = owner.attempt(&from_then(&place(state), &then)).await;
        let code = outcome.as_ref().err().map(|refusal| refusal.code.as_str());
        assert_eq!(code, (!allowed).then_some("QV021"), "{command} when {state}: {outcome:?}");
    }
}

#[tokio::test]
async fn updates_of_sessions_and_hosts_are_judged_by_the_tables_even_when_the_owner_makes_them() {
    let db = Db::with_vms(1).await;
    db.sql(
        "insert into l7r_instances (host_id, boot_id, pid, pid_start) select id, gen_random_uuid(), 1, 1 from hosts;
         insert into user_sessions (vm_id, vm_name, user_id, login, tenant_id, l7r_host_id, l7r_instance, client_address)
         select v.id, v.name, v.user_id, 'alice', 1, i.host_id, i.id, '192.0.2.1' from vms v, l7r_instances i",
    )
    .await;
    let owner = db.session("postgres").await;
    let used = |state: UserState| {
        let of = |column: &str, table: &str| match state {
            UserState::Disconnected => format!("{column} = null"),
            _ => format!("{column} = (select id from {table})"),
        };
        let (session, instance) = (of("session_id", "user_sessions"), of("l7r_instance", "l7r_instances"));
        format!("update vm_runtimes set user_state = '{state}', {session}, {instance}")
    };
    for (from, to, allowed) in pairs(UserState::ALL, UserState::ALL, UserState::may_become) {
        let outcome = owner.attempt(&from_then(&used(from), &used(to))).await;
        let code = outcome.as_ref().err().map(|refusal| refusal.code.as_str());
        assert_eq!(code, (!allowed).then_some("QV020"), "session from {from} to {to}: {outcome:?}");
    }
    let host = |state: HostState| format!("update host_runtimes set state = '{state}'");
    for (from, to, allowed) in pairs(HostState::ALL, HostState::ALL, HostState::may_become) {
        let outcome = owner.attempt(&from_then(&host(from), &host(to))).await;
        let code = outcome.as_ref().err().map(|refusal| refusal.code.as_str());
        assert_eq!(code, (!allowed).then_some("QV020"), "host from {from} to {to}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_refusal_says_what_is_wrong_and_what_to_do() {
    let db = Db::with_vms(2).await;
    let node = db.node_runs().await;
    db.sql(&format!("select vm_start('alice/d1'); select node_claim({node}, 3030, 4100)")).await;

    let refusal = db.refused("update vm_runtimes set vm_state = 'zombie' where vm_id = vm_id('alice/d2')").await;
    assert_eq!(refusal.code, "QV020");
    assert_eq!(refusal.message, "VM alice@default/d2 cannot go from stopped to zombie");
    assert_ne!(refusal.hint, "");

    let refusal = db.refused("update vm_runtimes set host_id = null where vm_id = vm_id('alice/d1')").await;
    assert_eq!((refusal.code.as_str(), refusal.hint.as_str()), ("QV020", "Stop it first."));
    assert_eq!(refusal.message, "VM alice@default/d1 is starting and cannot change its host");

    let refusal = db.refused("update host_runtimes set epoch = epoch - 1").await;
    assert_eq!(refusal.code, "QV020");

    // An administrator may write commands by hand, within the same rules.
    let admin = db.session("qvd_admin").await;
    let refusal = admin.refused("update vm_runtimes set vm_cmd = 'stop' where vm_id = vm_id('alice/d2')").await;
    assert_eq!(refusal.code, "QV021");
    assert_eq!(refusal.message, "VM alice@default/d2 is stopped and cannot be told to stop");
    assert!(refusal.hint.contains("can be stopped"), "{refusal:?}");

    let refusal = admin.refused("update vm_runtimes set vm_cmd = 'start' where vm_id = vm_id('alice/d1')").await;
    assert_eq!((refusal.code.as_str(), refusal.hint.as_str()), ("QV021", "Only a stopped VM can be started."));

    let refusal = admin.refused("update vm_runtimes set vm_cmd = 'start' where vm_id = vm_id('alice/d2')").await;
    assert_eq!(refusal.code, "23514");
    assert!(refusal.message.contains("a_start_needs_a_host"), "{refusal:?}");

    let refusal = admin.refused("update vm_runtimes set user_cmd = 'abort' where vm_id = vm_id('alice/d1')").await;
    assert_eq!((refusal.code.as_str(), refusal.message.as_str()), ("QV021", "nobody uses VM alice@default/d1"));
    assert!(refusal.hint.contains("can be aborted"), "{refusal:?}");
}
