//! Statements that meet others: undone by the server and asked again, or given up in time.

use qvd::{
    db::{Connector, Database, DbError, Role},
    model::{UserId, config::Config},
};

use super::{database::Db, host::Host};

async fn alice(db: &Db) -> UserId {
    UserId(db.sql("select id from users where login = 'alice'").await.unwrap().parse().unwrap())
}

fn database(url: &str) -> Database {
    Database::new(&Connector::from_url(url, "test").unwrap(), 4).unwrap()
}

/// Waits until so many sessions of the test wait for a lock.
async fn blocked(db: &Db, sessions: u32) {
    let waiting =
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    db.wait_for(waiting, &sessions.to_string()).await;
}

#[tokio::test]
async fn a_statement_that_is_undone_by_a_deadlock_is_asked_again() {
    let db = Db::with_vms(0).await;
    db.sql("select user_create('bob')").await;
    db.sql("update users set password = 'was'").await;
    // Whoever upgrades alice waits at a gate and goes on to bob.
    db.sql(
        "create function meet() returns trigger language plpgsql security definer set search_path = qvd as $$
         begin
             perform pg_advisory_xact_lock(7);
             perform from users where login = 'bob' for update;
             return new;
         end $$;
         create trigger meet before update of password on users for each row when (new.login = 'alice')
             execute function meet();
         select pg_advisory_lock(7)",
    )
    .await;
    let url = format!("{} options='-c deadlock_timeout=50ms'", db.url("postgres"));
    let (database, alice) = (database(&url), alice(&db).await);
    let other = db.session("postgres").await;
    other.sql("begin; set local deadlock_timeout = '1min'; select from qvd.users where login = 'bob' for update").await;
    let asking = tokio::spawn(async move { database.l7r_password_upgrade(alice, "was", "becomes").await });
    blocked(&db, 1).await;
    let block = async { other.sql("update qvd.users set blocked = true where login = 'alice'").await };
    let open = async {
        blocked(&db, 2).await;
        db.sql("select pg_advisory_unlock(7)").await;
    };
    // The circle is closed by our statement, which finds it and is undone.
    tokio::join!(block, open);
    other.sql("commit").await;
    assert!(asking.await.unwrap().unwrap());
    let done = "select string_agg(password || blocked, ' ' order by login) from users where login in ('alice', 'bob')";
    assert_eq!(db.sql(done).await.unwrap(), "becomestrue wasfalse");
}

#[tokio::test]
async fn a_statement_that_cannot_be_serialized_is_asked_again() {
    let db = Db::with_vms(0).await;
    db.sql("update users set password = 'was'").await;
    let url = format!("{} options='-c default_transaction_isolation=serializable'", db.url("postgres"));
    let (database, alice) = (database(&url), alice(&db).await);
    let other = db.session("postgres").await;
    other.sql("begin; update qvd.users set blocked = true where login = 'alice'").await;
    let asking = tokio::spawn(async move { database.l7r_password_upgrade(alice, "was", "becomes").await });
    blocked(&db, 1).await;
    other.sql("commit").await;
    assert!(asking.await.unwrap().unwrap(), "the first attempt could not see what was committed meanwhile");
    assert_eq!(db.sql("select password from users where login = 'alice'").await.unwrap(), "becomes");
}

/// As the databases of classic QVD have it.
#[tokio::test]
async fn a_database_whose_transactions_are_serializable_is_served() {
    let db = Db::with_vms(4).await;
    db.sql(&format!("alter database {} set default_transaction_isolation = serializable", db.name())).await;
    let host = Host::new(&db, &[]);
    let hkd = host.started().await;
    for command in ["start", "stop"] {
        db.sql(&format!("select vm_{command}(id) from vms order by id")).await;
        let state = if command == "start" { "running" } else { "stopped" };
        db.wait_for(&format!("select count(*) from vm_runtimes where vm_state <> '{state}'"), "0").await;
    }
    let runs = hkd.said().lines().filter(|line| line.contains("state=running")).count();
    assert_eq!(runs, 4, "{}", hkd.said());
}

#[tokio::test]
async fn a_statement_that_waits_too_long_for_a_lock_says_which_limit_that_was() {
    let db = Db::with_vms(0).await;
    db.sql("update users set password = 'was'").await;
    let alice = alice(&db).await;
    let other = db.session("postgres").await;
    other.sql("begin; select from qvd.users where login = 'alice' for update").await;
    for (setting, key) in [
        ("lock_timeout", "internal.database.lock.timeout"),
        ("statement_timeout", "internal.database.statement.timeout"),
    ] {
        let database = database(&format!("{} options='-c {setting}=50ms'", db.url("postgres")));
        let late = database.l7r_password_upgrade(alice, "was", "becomes").await.unwrap_err();
        assert!(matches!(late, DbError::Late { .. }) && late.is_passing(), "{late}");
        assert!(late.to_string().contains(&format!("; the limit is {key}")), "{late}");
    }
    other.sql("commit").await;
    assert_eq!(db.sql("select password from users where login = 'alice'").await.unwrap(), "was");
}

#[tokio::test]
async fn every_connection_of_a_daemon_has_its_limits() {
    let db = Db::with_vms(0).await;
    let keys = [
        ("internal.database.statement.timeout", "7"),
        ("internal.database.lock.timeout", "3"),
        ("internal.database.transaction.idle.timeout", "5"),
    ];
    let host = Host::new(&db, &keys);
    let mut config = Config::default();
    config.add_file("node.conf", &std::fs::read_to_string(host.config()).unwrap()).unwrap();
    for role in [Role::Node, Role::L7r] {
        let connector = Connector::from_config(&config, role).unwrap();
        let show = async |setting: &str| connector.value(&format!("show {setting}")).await.unwrap().unwrap();
        assert_eq!(show("statement_timeout").await, "7s");
        assert_eq!(show("lock_timeout").await, "3s");
        assert_eq!(show("idle_in_transaction_session_timeout").await, "5s");
        assert_eq!(show("default_transaction_isolation").await, "read committed");
    }
}
