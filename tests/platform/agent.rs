//! The agent as a process, where a container does not have what it would like.

use std::{fs, path::Path, process::Command};

use super::{read, wait_until};

/// Starts the agent as its arguments say in a machine that may have no instance of inotify, and asks it.
const WITHOUT_INOTIFY: &str = r#"
ip link set lo up
mount -t tmpfs none /run
mount -t tmpfs none /var/lib
echo 0 >/proc/sys/user/max_inotify_instances
"$1" agent & trap "kill $!" EXIT
for _ in $(seq 1000); do
    { exec 3<>/dev/tcp/127.0.0.1/3030; } 2>/dev/null && break
    kill -0 $! || exit 1
    sleep 0.02
done
printf 'GET /vma/x_state HTTP/1.0\r\n\r\n' >&3
cat <&3
"#;

#[test]
fn an_agent_serves_where_all_instances_of_inotify_are_taken() {
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"])
        .args(["bash", "-c", WITHOUT_INOTIFY, "agent", env!("CARGO_BIN_EXE_qvd-vma")])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("stopped"), "{said}\n{log}");
    assert!(log.contains("looking twice a second"), "{log}");
}

/// Becomes the first process of a machine where everything is mounted but `/proc`.
const WITHOUT_PROC: &str = r#"
umount --recursive --lazy /proc
mount -t tmpfs none /srv
cp "$1" /srv/agent
cp -a /etc /srv/etc
mount --bind /srv/etc /etc
mount -t tmpfs none /tmp
exec /srv/agent init
"#;

#[tokio::test]
async fn the_first_process_of_a_vm_mounts_what_is_missing_once() {
    let outside = tokio::process::Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child"])
        .args(["bash", "-c", WITHOUT_PROC, "init", env!("CARGO_BIN_EXE_qvd-vma")])
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let child = |of: &str| read(format!("/proc/{of}/task/{of}/children")).trim().to_owned();
    let mut first = String::new();
    wait_until("the first process is there", || {
        first = child(&outside.id().unwrap().to_string());
        fs::read_link(format!("/proc/{first}/exe")).is_ok_and(|program| program == Path::new("/srv/agent"))
    });
    wait_until("it has started the agent", || !child(&first).is_empty());

    let mounted = |process: &str, point: &str| {
        let mounts = read(format!("/proc/{process}/mountinfo"));
        mounts.lines().filter(|line| line.split(' ').nth(4) == Some(point)).count()
    };
    assert_eq!(mounted(&first, "/proc"), 1);
    for point in ["/sys", "/dev", "/dev/pts", "/dev/shm"] {
        assert_eq!(mounted(&first, point), mounted("self", point).max(1), "{point}");
    }
}
