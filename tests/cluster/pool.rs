//! The pool of connections as its borrowers see it.

use std::time::Duration;

use qvd::{
    db::Database,
    model::{SessionId, UserId},
};
use tokio::time::timeout;

use super::database::Db;

#[tokio::test]
async fn a_question_that_is_dropped_half_way_keeps_nobody_waiting_and_is_carried_out() {
    let db = Db::with_vms(1).await;
    let database = Database::new(&db.connector(), 2).unwrap();
    db.sql("update users set password = 'was' where login = 'alice'").await;
    let locker = db.session("postgres").await;
    locker.sql("begin; select from qvd.users where login = 'alice' for update").await;
    let alice = UserId(db.sql("select id from users where login = 'alice'").await.unwrap().parse().unwrap());

    let asking = database.clone();
    let asking = tokio::spawn(async move { asking.l7r_password_upgrade(alice, "was", "becomes").await });
    db.wait_for("select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query ~ 'upgrade'", "1")
        .await;
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());

    // The pool hands out first what came back last.
    for _ in 0..10 {
        let answered = timeout(Duration::from_secs(5), database.l7r_session_end(SessionId(1), alice)).await;
        assert_eq!(answered.expect("this waits for a lock of somebody else").unwrap(), None);
    }
    locker.sql("commit").await;
    db.wait_for("select password from users where login = 'alice'", "becomes").await;
    // Both connections are there again.
    let ask = || database.l7r_session_end(SessionId(1), alice);
    let (one, other) = tokio::join!(ask(), ask());
    assert!(one.is_ok() && other.is_ok());
}
