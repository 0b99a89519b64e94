//! What the router says about a session is said about one VM, however many there are.

use std::path::PathBuf;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use qvd::{
    db::{Connector, Database, DbError},
    model::{SessionId, UserId},
};
use tokio::{
    io::copy_bidirectional,
    net::{UnixListener, UnixStream},
    sync::watch,
};

use tokio_postgres::NoTls;

use super::{
    database::{Db, open_directory},
    patience::until,
};

#[tokio::test]
async fn statements_about_a_session_find_its_vm_by_key() {
    let db = Db::with_vms(2).await;
    let node = db.node_runs().await;
    let vm = db.sql("select id || ', ' || user_id from vms where name = 'd1'").await.unwrap();
    let l7r = db.session("qvd_l7r").await;
    // A table is then read from end to end only where there is no other way, however small it is.
    l7r.sql("set enable_seqscan = off").await;
    let instance = l7r.sql("select instance from l7r_start('n1', gen_random_uuid(), 1, 1)").await.unwrap();
    let before = scans(&db).await;

    let session = 7;
    let acquire = format!("l7r_acquire({session}, {instance}, {vm}, '10.1.1.1', repeat('t', 60), '{{}}')");
    assert_eq!(l7r.sql(&format!("select state from {acquire}")).await.as_deref(), Some("stopped"));
    l7r.sql(&format!("select l7r_vm_start({session})")).await;
    let hkd = db.session("qvd_node").await;
    hkd.sql("set enable_seqscan = off").await;
    let claimed = hkd.sql(&format!("select vm_id from node_claim({node}, 3030, 4100)")).await.unwrap();
    hkd.sql(&format!("select node_vm_state({node}, {claimed}, '{{starting}}', 'running')")).await;
    let connected = l7r.sql(&format!("select l7r_connected({session}, 'user')")).await;
    assert_eq!(connected.as_deref(), Some("t"));
    l7r.sql(&format!("select l7r_end({session}, 'done', 1, 1)")).await;
    for session in [&l7r, &hkd] {
        session.sql("select pg_stat_force_next_flush()").await;
    }
    assert_eq!(scans(&db).await, before);
    assert_eq!(db.sql("select end_reason from user_sessions").await.as_deref(), Some("done"));
}

/// How often the table of VMs was read from end to end.
async fn scans(db: &Db) -> String {
    db.sql("select seq_scan from pg_stat_user_tables where relname = 'vm_runtimes'").await.unwrap()
}

/// Lets connections through to a server while it is open.
async fn guard(door: UnixListener, server: PathBuf, open: watch::Receiver<bool>) {
    while let Ok((mut client, _)) = door.accept().await {
        let (server, mut open) = (server.clone(), open.clone());
        tokio::spawn(async move {
            open.wait_for(|open| *open).await.unwrap();
            let mut server = UnixStream::connect(server).await.unwrap();
            let _ = copy_bidirectional(&mut client, &mut server).await;
        });
    }
}

#[tokio::test]
async fn a_session_is_not_said_to_be_on_record_when_its_server_crashed_before_it_was() {
    const SOCKET: &str = ".s.PGSQL.5432";
    let db = Db::alone(&[]).await;
    db.connector().migrate().await.unwrap();
    let directory = open_directory();
    let door = UnixListener::bind(directory.path().join(SOCKET)).unwrap();
    let (open, opened) = watch::channel(true);
    tokio::spawn(guard(door, PathBuf::from(db.socket()).join(SOCKET), opened));
    let url = db.url("postgres").replace(&db.socket(), &directory.path().display().to_string());
    let database = Database::new(&Connector::from_url(&url, "test").unwrap(), 4).unwrap();
    let end = |session| {
        let database = database.clone();
        tokio::spawn(async move { database.l7r_end(SessionId(session), "done", 0, 0, false).await })
    };

    // What waits for the disk waits for a standby as well, and there is none.
    db.sql("alter system set synchronous_standby_names = 'nobody'").await;
    db.sql("select pg_reload_conf()").await;
    db.wait_for("show synchronous_standby_names", "nobody").await;
    let first = end(1);
    db.wait_for("select count(*) from pg_stat_activity where wait_event = 'SyncRep'", "1").await;
    let second = end(2);
    // It is idle a moment before it says so, and waits for its client once it did.
    let committed = "select pid from pg_stat_activity
                      where state = 'idle' and wait_event = 'ClientRead' and query like '%l7r_end%'";
    let (process, _) = until("the second has committed", async || db.sql(committed).await).await;
    // Its answer has come when its connection is used for something else, and all that are free are used for this.
    let used = format!("select pid from pg_stat_activity where pid = {process} and query like '%l7r_session_end%'");
    let answered = async || {
        let ask = || database.l7r_session_end(SessionId(2), UserId(1));
        let _ = tokio::join!(ask(), ask(), ask());
        db.sql(&used).await
    };
    until("the second has its answer", answered).await;
    let run = "select backend_start::text from pg_stat_activity where backend_type = 'checkpointer'";
    let before = db.sql(run).await.unwrap();

    // The server ends all of its processes when one of them was killed, and starts over.
    open.send(false).unwrap();
    kill(Pid::from_raw(process.parse().unwrap()), Signal::SIGKILL).unwrap();
    assert!(matches!(first.await.unwrap(), Err(DbError::Unreachable(_))));
    let started_over = async || {
        let (client, connection) = tokio_postgres::connect(&db.url("postgres"), NoTls).await.ok()?;
        tokio::spawn(connection);
        (client.query_one(run, &[]).await.ok()?.get::<_, String>(0) != before).then_some(())
    };
    until("the server has started over", started_over).await;
    let db = db.again().await;
    db.sql("alter system reset synchronous_standby_names").await;
    db.sql("select pg_reload_conf()").await;
    db.wait_for("select current_setting('synchronous_standby_names') = ''", "t").await;
    open.send(true).unwrap();
    let said = second.await.unwrap().unwrap_err().to_string();
    assert!(said.contains("went down before all was on disk"), "{said}");
    end(3).await.unwrap().unwrap();
}
