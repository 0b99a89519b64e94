//! What keeps a container from the node, whoever is root in it: other ids, few capabilities, few devices, system calls that are
//! refused, and parts of `/proc` and `/sys` that are hidden. How much it may use of the node is not said here.

use crate::keeper::Ids;

/// What its root user cannot do to the node.
const DROPPED_CAPABILITIES: &str = "sys_module sys_time sys_rawio mac_admin mac_override syslog wake_alarm";

/// Character devices that it may use: null, zero, full, random, urandom, tty, console, ptmx, pts, tun, fuse.
const DEVICES: [&str; 11] = ["1:3", "1:5", "1:7", "1:8", "1:9", "5:0", "5:1", "5:2", "136:*", "10:200", "10:229"];

/// Those that LXC does not make by itself, which a container with ids of its own could not make either.
const SHOWN_DEVICES: [&str; 2] = ["fuse", "net/tun"];

/// What tells of the node, or of everybody on it, and is not the container's.
const HIDDEN_FILES: [&str; 5] =
    ["proc/kcore", "proc/keys", "proc/latency_stats", "proc/sched_debug", "proc/timer_list"];
const HIDDEN_DIRS: [&str; 5] =
    ["proc/acpi", "proc/asound", "proc/scsi", "sys/firmware", "sys/devices/virtual/powercap"];

/// System calls that no desktop needs, and that have led out of containers: loading code into the kernel, opening files
/// behind the back of mounts, tracing the whole machine. In the words of LXC (version 2 of its seccomp policies).
pub const FORBIDDEN: &str = "2
denylist
[all]
acct errno 1
add_key errno 1
bpf errno 1
delete_module errno 1
finit_module errno 1
init_module errno 1
ioperm errno 1
iopl errno 1
kexec_file_load errno 1
kexec_load errno 1
keyctl errno 1
lookup_dcookie errno 1
nfsservctl errno 1
open_by_handle_at errno 1
perf_event_open errno 1
quotactl errno 1
request_key errno 1
swapoff errno 1
swapon errno 1
userfaultfd errno 1
";

/// Settings of LXC. `no_new_privs`: nor do programs get more privileges than those that run them.
pub fn settings(ids: Option<Ids>, no_new_privs: bool) -> Vec<String> {
    let mut lines = vec![
        // Without a directory of the node's among them: sysfs is that of the container's network.
        "lxc.mount.auto = proc:mixed sys:ro".to_owned(),
        "lxc.apparmor.profile = unconfined".to_owned(),
        format!("lxc.cap.drop = {DROPPED_CAPABILITIES}"),
        format!("lxc.no_new_privs = {}", u8::from(no_new_privs)),
    ];
    if let Some(ids) = ids {
        lines.extend(["u", "g"].map(|kind| format!("lxc.idmap = {kind} 0 {} {}", ids.first, ids.count)));
        lines.extend(
            SHOWN_DEVICES
                .map(|device| bind(&format!("/dev/{device}"), &format!("dev/{device}"), "bind,optional,create=file")),
        );
    }
    lines.extend(HIDDEN_FILES.map(|file| bind("/dev/null", file, "bind,ro,optional")));
    lines.extend(
        HIDDEN_DIRS
            .map(|dir| format!("lxc.mount.entry = tmpfs {dir} tmpfs ro,nosuid,nodev,noexec,size=4k,optional 0 0")),
    );
    lines
}

/// Settings of its control group, without what begins their names: all devices may be made, few opened.
pub fn devices() -> impl Iterator<Item = String> {
    let made = ["deny = a", "allow = c *:* m", "allow = b *:* m"].map(str::to_owned);
    made.into_iter()
        .chain(DEVICES.map(|device| format!("allow = c {device} rwm")))
        .map(|rule| format!("devices.{rule}"))
}

fn bind(from: &str, to: &str, options: &str) -> String {
    format!("lxc.mount.entry = {from} {to} none {options} 0 0")
}
