//! What a VM has on the machine besides its home and image. Looked for wherever it could be, not where we put it.

use std::fs;

use qvd::keeper::RootSpec;

use super::{desk::Desk, eventually, processes::Process};

impl Desk {
    /// Waits until the machine has no trace of the VM any more.
    pub async fn nothing_is_left(&self) {
        eventually(&format!("nothing of {} is left", self.name()), async || match self.traces() {
            traces if traces.is_empty() => Ok(()),
            traces => Err(format!("{traces:#?}")),
        })
        .await;
    }

    /// Everything that is there because the VM runs or ran.
    pub fn traces(&self) -> Vec<String> {
        let container = self.at.container(self.vm);
        let directory = self.at.run_directory().join("vm").join(self.vm.to_string());
        let directory = directory.display().to_string();
        let is_group = |name: &str| name.split('.').next_back().is_some_and(|name| begins(name, &container));
        let mut traces = Vec::new();

        if fs::exists(&directory).unwrap() {
            traces.push(directory.clone());
        }
        let of_vm = |process: &Process| {
            process.words().iter().any(|word| word == &container || word.contains(&format!("{directory}/")))
                || process.words().contains(&directory)
                || process.groups().split(['/', '\n']).any(is_group)
        };
        traces.extend(
            Process::all()
                .filter(|process| of_vm(process) && process.lives())
                .map(|process| format!("process {:?}", process.words())),
        );
        let hierarchies = ["/sys/fs/cgroup".to_owned()].into_iter().chain(names("/sys/fs/cgroup", true));
        for group in hierarchies.flat_map(|hierarchy| names(&hierarchy, true)) {
            if group.rsplit('/').next().is_some_and(is_group) {
                traces.push(group);
            }
        }
        let interface = self.at.interface(self.vm);
        let interfaces = names("/sys/class/net", false).into_iter();
        traces.extend(interfaces.filter(|name| begins(name.rsplit('/').next().unwrap_or_default(), &interface)));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let of_storage = [format!("/{}-fs", self.vm), format!("-{}-overlayfs", self.vm)];
        let ours = |line: &&str| {
            line.contains(&*self.at.directory().display().to_string())
                && (line.contains(&directory) || of_storage.iter().any(|part| line.contains(part)))
        };
        traces.extend(mounts.lines().filter(ours).map(str::to_owned));
        let locks = format!("/run/lxc/lock{}/.{container}", RootSpec::directory().display());
        traces.extend(fs::exists(&locks).unwrap().then_some(locks));
        traces
    }
}

/// Whether a name is the wanted one, perhaps with something appended that is no further digit.
fn begins(name: &str, wanted: &str) -> bool {
    name.strip_prefix(wanted).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
}

fn names(directory: &str, directories_only: bool) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let wanted = entries.filter(|entry| !directories_only || entry.file_type().is_ok_and(|kind| kind.is_dir()));
    wanted.map(|entry| entry.path().display().to_string()).collect()
}
