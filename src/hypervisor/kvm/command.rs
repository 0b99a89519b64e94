//! The words that QEMU understands: the command line of one guest. Nothing here touches the machine.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::acceleration::Acceleration;
use crate::{
    keeper::{Access, FIRST_FILE, Open},
    network::Plug,
    storage::Disk,
};

/// How the names of our things begin among the files that QEMU's firmware interface shows to a guest. See
/// <https://www.qemu.org/docs/master/specs/fw_cfg.html>
const FIRMWARE: &str = "opt/com.theqvd";

/// One guest, ready to be started.
#[derive(Clone, Debug)]
pub struct GuestConfig {
    /// What QEMU calls it, for whoever lists processes.
    pub name: String,
    /// Its directory below `path.run`.
    pub dir: PathBuf,
    /// What executes it.
    pub acceleration: Acceleration,
    /// Its processors.
    pub cpus: u32,
    /// Its memory in MB.
    pub memory_mb: u32,
    /// Whether unused memory is given back.
    pub ballooning: bool,
    /// The image, never written to.
    pub image: Disk,
    /// The layer over it.
    pub layer: Disk,
    /// The disk with the home.
    pub home: Option<Disk>,
    /// Whether layer and home go past the page cache: nothing of a guest that was killed may be written later.
    pub direct: bool,
    /// Its interface.
    pub plug: Plug,
    /// The pipe that its serial port is, where that is listened to.
    pub console: Option<PathBuf>,
    /// Whether the screen can be seen, and with which options.
    pub vnc: Option<String>,
    /// Whether it has a secret.
    pub secret: bool,
}

/// What QEMU finds open, so that it need not be able to open it.
#[derive(Default)]
struct Handed(Vec<Open>);

impl Handed {
    /// Its number in the process.
    fn descriptor(&mut self, what: Open) -> i32 {
        self.0.push(what);
        FIRST_FILE - 1 + self.0.len() as i32
    }

    /// A file, by the name that QEMU has for what it was handed: the set with the number of the descriptor.
    fn file(&mut self, path: &Path, access: Access) -> String {
        let set = self.descriptor(Open::File { path: path.to_owned(), access });
        format!("/dev/fdset/{set}")
    }

    /// Makes sets of the files among it.
    fn sets(&self) -> impl Iterator<Item = String> {
        let files = (FIRST_FILE..).zip(&self.0).filter(|(_, what)| matches!(what, Open::File { .. }));
        files.map(|(number, _)| format!("fd={number},set={number}"))
    }
}

impl GuestConfig {
    /// What QEMU makes itself is in here, below the directory of the guest; it can write nowhere else.
    pub fn of_qemu(dir: &Path) -> PathBuf {
        dir.join("qemu")
    }

    /// Where QEMU takes commands.
    pub fn monitor(dir: &Path) -> PathBuf {
        Self::of_qemu(dir).join("qmp.sock")
    }

    /// Where QEMU writes which process it is.
    pub fn pid_file(dir: &Path) -> PathBuf {
        Self::of_qemu(dir).join("qemu.pid")
    }

    /// The command line, and what it finds open. The guest waits to be let run.
    pub fn command(&self, qemu: &Path) -> (Vec<String>, Vec<Open>) {
        let dir = &self.dir;
        let mut handed = Handed::default();
        let accelerator = self.acceleration.to_string();
        let mut words = vec![qemu.display().to_string()];
        let mut add = |option: &str, value: String| words.extend([format!("-{option}"), value]);
        add("name", escaped(&self.name));
        add("machine", "q35".to_owned());
        add("accel", accelerator);
        add("cpu", self.acceleration.cpu().to_owned());
        add("smp", self.cpus.to_string());
        add("m", self.memory_mb.to_string());
        add("display", "none".to_owned());
        add("sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".to_owned());
        add("pidfile", Self::pid_file(dir).display().to_string());
        add("qmp", format!("unix:{},server=on,wait=off", escaped(&Self::monitor(dir).display().to_string())));
        add("boot", "strict=on".to_owned());
        // A guest that reports its own death is not left lying about.
        add("action", "panic=exit-failure".to_owned());
        add("device", "pvpanic".to_owned());

        add("blockdev", self.system(&mut handed).to_string());
        add("device", "virtio-blk-pci,drive=system,bootindex=1,rerror=report,werror=report".to_owned());
        if let Some(home) = &self.home {
            add("blockdev", self.disk("home", home, None, &mut handed).to_string());
            add("device", "virtio-blk-pci,drive=home,rerror=report,werror=report".to_owned());
        }
        let Plug { host_end, mac, .. } = &self.plug;
        let cable = handed.descriptor(Open::Tap { name: host_end.clone() });
        add("netdev", format!("tap,id=net,fd={cable}"));
        // Without the ROM, from which nobody boots.
        add("device", format!("virtio-net-pci,netdev=net,mac={mac},romfile="));
        add("device", "virtio-rng-pci".to_owned());
        if self.ballooning {
            add("device", "virtio-balloon-pci,id=balloon,free-page-reporting=on".to_owned());
        }
        // Boot loaders want a screen even where nobody looks.
        add("device", "VGA".to_owned());
        let console = match &self.console {
            // A pipe cannot be emptied, which QEMU does with what it does not append to.
            Some(pipe) => format!("file,id=console,append=on,path={}", handed.file(pipe, Access::Write)),
            None => "null,id=console".to_owned(),
        };
        add("chardev", console);
        add("serial", "chardev:console".to_owned());
        if let Some(options) = &self.vnc {
            let options = if options.is_empty() { String::new() } else { format!(",{options}") };
            let socket = Self::of_qemu(dir).join("vnc.sock").display().to_string();
            add("vnc", format!("unix:{}{options}", escaped(&socket)));
        }
        for file in self.secret.then_some("secret").into_iter().chain(["vma.conf"]) {
            let path = dir.join("guest").join(file);
            add("fw_cfg", format!("name={FIRMWARE}/{file},file={}", escaped(&path.display().to_string())));
        }
        for set in handed.sets() {
            add("add-fd", set);
        }
        words.extend(["-nodefaults", "-no-user-config", "-S"].map(str::to_owned));
        (words, handed.0)
    }

    fn system(&self, handed: &mut Handed) -> Value {
        // The image never changes, and guests share what the node has read of it.
        let mut image = json!({
            "driver": self.image.format,
            "read-only": true,
            "cache": { "direct": false },
            "file": {
                "driver": "file",
                "filename": handed.file(&self.image.path, Access::Read),
                "read-only": true,
                "locking": "on",
            },
        });
        if self.image.format == "qcow2" {
            // Whatever it says itself.
            image["backing"] = Value::Null;
        }
        self.disk("system", &self.layer, Some(image), handed)
    }

    fn disk(&self, name: &str, disk: &Disk, backing: Option<Value>, handed: &mut Handed) -> Value {
        json!({
            "driver": "qcow2",
            "node-name": name,
            "discard": "unmap",
            "cache": { "direct": self.direct && disk.takes_direct_io },
            "backing": backing,
            // Two QEMUs must never write one disk, whatever else failed to keep them apart.
            "file": {
                "driver": "file",
                "filename": handed.file(&disk.path, Access::Both),
                "discard": "unmap",
                "locking": "on",
            },
        })
    }
}

/// Why QEMU did not start, out of what it printed.
pub fn complaint(output: &str) -> Option<String> {
    let begins = |line: &str| line.split_once(": ").is_some_and(|(who, _)| who.starts_with("qemu-system-"));
    let is_why = |line: &&str| begins(line) && !line.contains(": warning: ");
    let mut lines = output.lines().skip_while(|line| !is_why(line));
    let (_, said) = lines.next()?.split_once(": ")?;
    // A disk is described at length, with two files; how it is called here says enough.
    let disk = said.rsplit_once("}: ").and_then(|(disk, why)| {
        let (_, name) = disk.split_once("\"node-name\":\"")?;
        Some(format!("disk {}: {why}", name.split('"').next()?))
    });
    let more = lines.take_while(|line| !begins(line) && !line.starts_with("shim: "));
    Some(
        std::iter::once(disk.unwrap_or_else(|| said.to_owned()))
            .chain(more.map(str::to_owned))
            .collect::<Vec<_>>()
            .join(". "),
    )
}

/// QEMU parts its options at commas, and takes two for one that is meant.
fn escaped(text: &str) -> String {
    text.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Mac;

    fn guest() -> GuestConfig {
        let disk = |path: &str, takes_direct_io| Disk { path: path.into(), format: "qcow2", takes_direct_io };
        GuestConfig {
            name: "qvd/7/desk".into(),
            dir: "/run/q,vd/vm/7".into(),
            acceleration: Acceleration::Tcg,
            cpus: 2,
            memory_mb: 512,
            ballooning: true,
            image: disk("/s/images/desk.qcow2", true),
            layer: disk("/s/overlays/1-7-overlay.qcow2", true),
            home: Some(disk("/s/homes/7-data.qcow2", false)),
            direct: true,
            plug: Plug { host_end: "qvd7".into(), mac: Mac([0x54, 0x52, 0, 0, 0, 200]), addresses: vec![] },
            console: Some("/run/q,vd/vm/7/console".into()),
            vnc: Some("lossy=on".into()),
            secret: true,
        }
    }

    /// What follows an option, each time it is there.
    fn values(guest: &GuestConfig, option: &str) -> Vec<String> {
        let (words, _) = guest.command(Path::new("/usr/bin/qemu-system-x86_64"));
        words.windows(2).filter(|pair| pair[0] == option).map(|pair| pair[1].clone()).collect()
    }

    #[test]
    fn only_what_a_guest_writes_goes_past_the_page_cache_and_only_where_it_can() {
        let disks = |guest: &GuestConfig| -> Vec<Value> {
            values(guest, "-blockdev").iter().map(|disk| serde_json::from_str(disk).unwrap()).collect()
        };
        let [system, home] = &disks(&guest())[..] else { panic!("two disks") };
        assert_eq!(system["cache"]["direct"], true);
        assert_eq!(system["backing"]["cache"]["direct"], false);
        assert_eq!(system["backing"]["read-only"], true);
        assert_eq!(home["cache"]["direct"], false, "where it does not work");
        let local = GuestConfig { direct: false, home: None, ..guest() };
        let [system] = &disks(&local)[..] else { panic!("one disk") };
        assert_eq!(system["cache"]["direct"], false);
        assert_eq!(system["backing"]["backing"], Value::Null, "an image has no other below it, whatever it says");
    }

    #[test]
    fn disks_cable_and_console_are_handed_to_qemu_and_not_named() {
        let (words, handed) = guest().command(Path::new("/usr/bin/qemu-system-x86_64"));
        let file = |path: &str, access| Open::File { path: path.into(), access };
        assert_eq!(
            handed,
            [
                file("/s/images/desk.qcow2", Access::Read),
                file("/s/overlays/1-7-overlay.qcow2", Access::Both),
                file("/s/homes/7-data.qcow2", Access::Both),
                Open::Tap { name: "qvd7".into() },
                file("/run/q,vd/vm/7/console", Access::Write),
            ]
        );
        assert!(!words.iter().any(|word| word.contains("/s/")), "{words:?}");
        let sets = ["fd=100,set=100", "fd=101,set=101", "fd=102,set=102", "fd=104,set=104"];
        assert_eq!(values(&guest(), "-add-fd"), sets);
        assert_eq!(values(&guest(), "-netdev"), ["tap,id=net,fd=103"]);
    }

    #[test]
    fn what_qemu_complains_of_is_found_among_its_words() {
        let output = "shim: a note\nqemu-system-x86_64: warning: slow\n\
            qemu-system-x86_64: -blockdev {\"driver\":\"qcow2\",\"node-name\":\"home\",\"file\":{}}: Failed to get a lock\n\
            Is another process using it?\nqemu-system-x86_64: more\n";
        assert_eq!(complaint(output).unwrap(), "disk home: Failed to get a lock. Is another process using it?");
        let output = "qemu-system-x86_64: cannot set up guest memory 'pc.ram': Cannot allocate memory\n";
        assert_eq!(complaint(output).unwrap(), "cannot set up guest memory 'pc.ram': Cannot allocate memory");
        assert_eq!(complaint("shim: a note\n"), None);
    }

    #[test]
    fn commas_in_paths_part_nothing() {
        let found = values(&guest(), "-vnc");
        assert_eq!(found, ["unix:/run/q,,vd/vm/7/qemu/vnc.sock,lossy=on"]);
        assert_eq!(values(&guest(), "-pidfile"), ["/run/q,vd/vm/7/qemu/qemu.pid"], "which is no list of options");
    }

    #[test]
    fn a_guest_gets_what_it_was_given_and_nothing_else() {
        let firmware = values(&guest(), "-fw_cfg").join(" ");
        assert!(firmware.contains("name=opt/com.theqvd/secret,file=/run/q,,vd/vm/7/guest/secret"), "{firmware}");
        let bare = GuestConfig { secret: false, vnc: None, console: None, ballooning: false, ..guest() };
        assert_eq!(values(&bare, "-fw_cfg").len(), 1);
        assert!(values(&bare, "-vnc").is_empty());
        assert_eq!(values(&bare, "-chardev"), ["null,id=console"]);
        assert!(!values(&bare, "-device").iter().any(|device| device.contains("balloon")));
    }
}
