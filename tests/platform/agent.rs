//! The agent as a process, where a container does not have what it would like.

use std::process::Command;

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
