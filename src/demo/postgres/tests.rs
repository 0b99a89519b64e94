//! Against a real server: the distribution's package must be installed.

use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::kill;

use super::*;

/// A directory that the server's account can reach.
fn scratch() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("qvd-pg-").tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

fn options(dir: &Path, access: Access) -> ClusterOptions {
    ClusterOptions {
        data_dir: dir.join("data"),
        socket_dir: dir.join("run"),
        durability: Durability::Volatile,
        access,
        settings: Vec::new(),
    }
}

/// Runs one query as `user` of the operating system with role `role`.
async fn psql(cluster: &Cluster, user: &str, role: &str, database: &str, query: &str) -> Result<String, ProcessError> {
    let account = Account::named(user).unwrap().unwrap();
    let mut command = attached_command(cluster.binaries.path("psql"), &account, Signal::SIGKILL);
    command.args(["--no-psqlrc", "-At", "-c", query]).arg(cluster.connection_string(database, role));
    Program::from(command).run().await.map(|output| output.stdout.trim().to_owned())
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart_and_in_the_next_run() {
    let dir = scratch();
    let cluster = Cluster::open(options(dir.path(), Access::Trust)).await.unwrap();
    cluster.create_database("qvd").await.unwrap();
    cluster.create_database("qvd").await.unwrap();
    psql(&cluster, "root", "postgres", "qvd", "create table kept as select 42 as answer").await.unwrap();
    cluster.restart().await.unwrap();
    assert_eq!(psql(&cluster, "root", "postgres", "qvd", "table kept").await.unwrap(), "42");
    cluster.stop().await;
    drop(cluster);
    let cluster = Cluster::open(options(dir.path(), Access::Trust)).await.unwrap();
    assert_eq!(psql(&cluster, "root", "postgres", "qvd", "table kept").await.unwrap(), "42");
    cluster.copy_database("copy of \"qvd\"", "qvd").await.unwrap();
    assert_eq!(psql(&cluster, "root", "postgres", "copy of \"qvd\"", "table kept").await.unwrap(), "42");
    cluster.drop_database("copy of \"qvd\"").await.unwrap();
    cluster.drop_database("copy of \"qvd\"").await.unwrap();
    assert!(psql(&cluster, "root", "postgres", "copy of \"qvd\"", "table kept").await.is_err());
}

#[tokio::test]
async fn users_of_the_machine_have_the_roles_they_need_and_no_other() {
    let dir = scratch();
    let cluster = Cluster::open(options(dir.path(), Access::Peer)).await.unwrap();
    for role in ["qvd_node", "qvd_l7r", "qvd_admin", "qvd_readonly", "qvd_wat"] {
        psql(&cluster, "root", "postgres", "postgres", &format!("create role {role} login")).await.unwrap();
    }
    let as_role = async |user, role| psql(&cluster, user, role, "postgres", "select current_user").await;
    for role in ["postgres", "qvd_node", "qvd_l7r", "qvd_admin", "qvd_readonly", "qvd_wat"] {
        assert_eq!(as_role("root", role).await.unwrap(), role);
    }
    assert_eq!(as_role("nobody", "qvd_l7r").await.unwrap(), "qvd_l7r");
    for role in ["postgres", "qvd_node", "qvd_admin", "qvd_readonly", "qvd_wat"] {
        let error = as_role("nobody", role).await.unwrap_err().to_string();
        assert!(error.contains("Peer authentication failed"), "{error}");
    }
}

#[tokio::test]
async fn a_directory_belongs_to_one_process_at_a_time() {
    let dir = scratch();
    let first = Cluster::open(options(dir.path(), Access::Trust)).await.unwrap();
    let second = Cluster::open(options(dir.path(), Access::Trust)).await;
    assert!(matches!(second, Err(ClusterError::InUse { .. })), "{second:?}");
    drop(first);
    Cluster::open(options(dir.path(), Access::Trust)).await.unwrap();
}

#[tokio::test]
async fn what_a_killed_run_left_is_ended_and_its_process_id_file_ignored() {
    let dir = scratch();
    let cluster = Cluster::open(options(dir.path(), Access::Trust)).await.unwrap();
    let server = cluster.server.lock().await.take().unwrap();
    let (old, data_dir) = (server.pid().unwrap(), dir.path().join("data"));
    // As if we had been killed so hard that not even the parent-death signal came.
    drop(cluster);
    assert!(kill(old, None).is_ok());
    let cluster = Cluster::open(options(dir.path(), Access::Trust)).await.unwrap();
    assert!(server.exited().await.is_some_and(|status| status.success()));
    // And as if its process id had come to belong to somebody else, of the same account.
    cluster.kill().await;
    let mut stranger = attached_command("sleep", &cluster.account, Signal::SIGKILL);
    stranger.arg("600");
    let stranger = Attached::start(stranger, Signal::SIGKILL).unwrap();
    let file = data_dir.join("postmaster.pid");
    let text = fs::read_to_string(&file).unwrap();
    let (_, rest) = text.split_once('\n').unwrap();
    fs::write(&file, format!("{}\n{rest}", stranger.pid().unwrap())).unwrap();
    cluster.start().await.unwrap();
    assert_eq!(psql(&cluster, "root", "postgres", "postgres", "select 1").await.unwrap(), "1");
    assert!(stranger.pid().is_some());
}

#[tokio::test]
async fn a_socket_path_that_is_too_long_is_refused_with_its_path() {
    let dir = scratch();
    let mut options = options(dir.path(), Access::Trust);
    options.socket_dir = dir.path().join("x".repeat(100));
    let error = Cluster::open(options).await.unwrap_err();
    assert!(matches!(error, ClusterError::SocketPath { .. }), "{error}");
    assert!(!dir.path().join("data").exists());
}

#[tokio::test]
async fn a_closed_directory_above_is_named() {
    let dir = scratch();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let error = Cluster::open(options(dir.path(), Access::Trust)).await.unwrap_err();
    assert!(matches!(&error, ClusterError::Unreachable { path, .. } if path == dir.path()), "{error}");
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why() {
    let dir = scratch();
    let cluster = Cluster::open(options(dir.path(), Access::Trust)).await.unwrap();
    cluster.stop().await;
    fs::write(dir.path().join("data/pg_hba.conf"), "nonsense\n").unwrap();
    let error = cluster.start().await.unwrap_err();
    assert!(matches!(&error, ClusterError::NotReady { said, .. } if said.contains("pg_hba.conf")), "{error}");
}

#[test]
fn words_of_a_connection_string_are_quoted_when_they_have_to_be() {
    assert_eq!(quoted("/run/qvd"), "/run/qvd");
    assert_eq!(quoted("it's a \\"), r"'it\'s a \\'");
    assert_eq!(quoted(""), "''");
}
