//! What is kept for a while and then forgotten.

use super::{database::Db, host::Host};

#[tokio::test]
async fn a_node_deletes_what_has_been_kept_long_enough_and_nothing_else() {
    let db = Db::with_vms(1).await;
    db.sql("select config_set('retention.log', '86400'), config_set('retention.sessions', '86400')").await;
    db.sql(
        "insert into log (time, action, qvd_object) select now() - interval '2 days', 'old', 'vm' from generate_series(1, 2500);
         insert into l7r_instances (host_id, boot_id, pid, pid_start, ended_at)
             select id, gen_random_uuid(), 1, 1, at from hosts, (values (now() - interval '2 days'), (null)) t (at);
         insert into user_sessions (vm_id, vm_name, user_id, login, tenant_id, l7r_host_id, l7r_instance,
             client_address, started_at, ended_at, end_reason)
             select v.id, v.name, v.user_id, 'alice', 1, h.id, 1, '10.1.1.1', now() - interval '3 days', at,
                 case when at is not null then 'done' end
             from vms v, hosts h,
                 (values (now() - interval '2 days'), (now() - interval '1 hour'), (null)) t (at);
         insert into user_tokens (token, user_id, expiration)
             select repeat(name, 50), id, at from users,
                 (values ('a', now() - interval '1 hour'), ('b', now() + interval '1 hour')) t (name, at);
         insert into session_resumes select id, 'digest', '{}' from user_sessions",
    )
    .await;
    let young = db.sql("select max(id) from log where action <> 'old'").await.unwrap();

    let host = Host::new(&db, &[("internal.hkd.retention.interval", "0.1")]);
    let _hkd = host.started().await;
    db.wait_for("select count(*) from log where action = 'old'", "0").await;
    db.wait_for("select count(*) from user_sessions", "2").await;
    db.wait_for("select string_agg(left(token, 1), '') from user_tokens", "b").await;
    let resumed =
        "select string_agg((ended_at is null)::text, ' ') from session_resumes join user_sessions on id = session_id";
    db.wait_for(resumed, "true").await;
    db.wait_for("select count(*) from l7r_instances", "1").await;
    let left = db.sql("select bool_and(coalesce(ended_at > now() - interval '1 day', true)) from user_sessions").await;
    assert_eq!(left.as_deref(), Some("t"));
    assert_eq!(db.sql(&format!("select count(*) from log where id = {young}")).await.as_deref(), Some("1"));
}

#[tokio::test]
async fn zero_keeps_for_ever() {
    let db = Db::with_vms(1).await;
    db.sql("select config_set('retention.log', '0'), config_set('retention.sessions', '0')").await;
    db.sql("insert into log (time, action, qvd_object) values ('-infinity', 'old', 'vm')").await;
    assert_eq!(db.session("qvd_node").await.sql("select retention_apply()").await.as_deref(), Some("0"));
    assert_eq!(db.sql("select count(*) from log where action = 'old'").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn one_node_at_a_time_deletes() {
    let db = Db::with_vms(1).await;
    db.sql("insert into log (time, action, qvd_object) values ('-infinity', 'old', 'vm')").await;
    let (first, second) = (db.session("qvd_node").await, db.session("qvd_node").await);
    first.sql("begin; select retention_apply()").await;
    assert_eq!(second.sql("select retention_apply()").await.as_deref(), Some("0"), "it does not wait either");
    first.sql("rollback").await;
    assert_eq!(second.sql("select retention_apply()").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn what_authentication_learnt_goes_with_the_last_token_that_it_is_for() {
    let db = Db::with_vms(1).await;
    db.sql("select l7r_token_create(user_id, repeat('v', 60), '{}', id) from vms").await;
    db.sql("select l7r_token_create(id, repeat('u', 60), '{\"of\": \"the user\"}', null) from users").await;
    db.sql("select l7r_auth_parameters_keep(id, '{\"kept\": \"a while\"}') from users").await;
    let left = "select coalesce(string_agg(k, ' ' order by k), 'none') from user_auth_parameters, jsonb_object_keys(parameters) k";
    db.sql("delete from vms").await;
    assert_eq!(db.sql("select count(*) from user_auth_parameters").await.as_deref(), Some("2"), "the VM's is gone");
    assert_eq!(db.sql(left).await.as_deref(), Some("kept of"));
    db.sql("update user_tokens set expiration = now() - interval '1 minute'; select tokens_expire(id) from users")
        .await;
    assert_eq!(db.sql(left).await.as_deref(), Some("kept"));
}
