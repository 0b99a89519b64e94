//! Backup and restore, as `docs/backup.md` tells administrators.

use std::{fs, path::Path, process::Command};

use super::{
    database::{Db, open_directory},
    host::{Host, QVD},
    patience::until,
};

/// The commands of the document, in its order.
fn steps() -> Vec<String> {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/backup.md")).unwrap();
    let blocks = text.split("```sh\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

fn follow(step: &str, server: &Db, new: &Db, backup: &Path) {
    let bin = Path::new(QVD).parent().unwrap().display();
    let path = format!("{bin}:{}", std::env::var("PATH").unwrap());
    let output = Command::new("sh")
        .args(["-ec", step])
        .env("PATH", path)
        .env("SERVER", server.socket())
        .env("NEW", new.socket())
        .env("BACKUP", backup)
        .output()
        .unwrap();
    assert!(output.status.success(), "{step}\n{output:?}");
}

#[tokio::test]
async fn a_restored_database_is_used_only_when_that_was_said_and_nothing_lives_from_before() {
    let old = Db::alone(&[]).await;
    old.connector().migrate().await.unwrap();
    old.sql("set search_path = qvd, public").await;
    old.fill(3).await;
    let new = Db::fresh().await;
    let host = Host::new(&old, &[]);
    let hkd = host.started().await;
    let [backup, restore, restored] = steps().try_into().unwrap();
    let directory = open_directory();
    old.sql("select vm_start('alice/d1'), vm_start('alice/d2')").await;
    old.wait_vm("d1", "running").await;
    old.wait_vm("d2", "running").await;
    old.sql("select l7r_token_create(id, repeat('t', 60), '{}', null) from users").await;
    old.sql("update vms set keep_running = true where name = 'd2'").await;
    follow(&backup, &old, &new, directory.path());
    // What happens now is not in the backup.
    old.sql("select vm_create('alice', 'd4', 'desk'), vm_stop('alice/d1'), vm_start('alice/d3')").await;
    old.wait_vm("d3", "running").await;
    old.wait_vm("d1", "stopped").await;
    let given = old.sql("select max(id) from vms").await.unwrap();
    let epoch: i64 = old.sql("select epoch from host_runtimes").await.unwrap().parse().unwrap();

    old.cluster().stop().await;
    follow(&restore, &old, &new, directory.path());
    let new = new.again().await;
    new.sql("set search_path = qvd, public").await;
    // The new server at the place of the old one.
    let text = fs::read_to_string(host.config()).unwrap().replace(&old.socket(), &new.socket());
    fs::write(host.config(), text).unwrap();
    drop(hkd);
    let hkd = host.start();
    hkd.says("this database was restored from a backup or copied; run `qvd db restored`").await;
    let touched = "select state || ' ' || epoch from host_runtimes";
    assert_eq!(new.sql(touched).await.unwrap(), format!("running {epoch}"), "as it was in the backup");

    follow(&restored, &old, &new, directory.path());
    new.wait_for("select state from host_list", "running").await;
    let lives = async || hkd.said().contains("hkd runs").then_some(());
    until("the node lives", lives).await;
    assert!(new.sql("select epoch from host_runtimes").await.unwrap().parse::<i64>().unwrap() > epoch + 1_000_000);
    let reason = "select reason from vm_list where vm like '%/d1'";
    assert_eq!(new.sql(reason).await.unwrap(), "the database was restored from a backup");
    new.wait_vm("d2", "running").await;
    assert_eq!(new.sql("select vm_state from vm_runtimes where vm_id = vm_id('alice/d3')").await.unwrap(), "stopped");
    for gone in ["user_tokens", "user_auth_parameters", "session_resumes"] {
        assert_eq!(new.sql(&format!("select count(*) from {gone}")).await.unwrap(), "0", "{gone}");
    }
    let next = new.sql("select vm_create('alice', 'd5', 'desk')").await.unwrap();
    assert!(next.parse::<i32>().unwrap() > given.parse::<i32>().unwrap(), "{next} may name another's home");
}

#[tokio::test]
async fn a_daemon_that_runs_does_not_follow_to_a_restored_database_and_ends_what_it_ran_when_it_may() {
    let db = Db::with_vms(1).await;
    let host = Host::new(&db, &[("internal.hkd.poll.urgent", "0.3")]);
    let mut hkd = host.started().await;
    db.sql("select vm_start('alice/d1')").await;
    db.wait_vm("d1", "running").await;
    db.sql("update versions set version = 'another' where component = 'server'").await;
    // A daemon that comes now waits.
    let other = Host::named(&db, "n2", &[]);
    other.start().says("this database was restored").await;
    db.sql("select database_restored()").await;
    assert_eq!(hkd.ended().await.code(), Some(1));
    hkd.says("lives in another epoch").await;
    assert_eq!(db.sql("select state from vm_list").await.unwrap(), "stopped");
    assert_eq!(db.sql("select state from host_list").await.unwrap(), "lost");
    let _hkd = host.started().await;
    for role in ["qvd_node", "qvd_l7r", "qvd_admin", "qvd_readonly"] {
        assert_eq!(db.session(role).await.refused("select database_restored()").await.code, "42501", "{role}");
    }
}
