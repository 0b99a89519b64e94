//! What disk images of the *extended* kind bring for the node, and is heeded only where `vm.lxc.hooks.allow` is set, since
//! root of the node runs or reads it: `hooks/prestart`, `poststart` and `poststop`, `lxc/config-extra` and `lxc/fstab`.
//! A hook becomes a script in the VM's directory with all its arguments, so that the last can be run whoever cleans up.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    hypervisor::guest,
    process::{ProcessError, Program},
};

/// How long a hook may take.
const LIMIT: Duration = Duration::from_secs(20);

/// When a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// The root file system is mounted, nothing runs.
    Prestart,
    /// The first process runs.
    Poststart,
    /// No process is left.
    Poststop,
}

impl Hook {
    const ALL: [Self; 3] = [Self::Prestart, Self::Poststart, Self::Poststop];

    /// Its name, and the state in which its VM is.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Prestart => ("prestart", "starting"),
            Self::Poststart => ("poststart", "starting"),
            Self::Poststop => ("poststop", "stopping"),
        }
    }

    fn script(self, dir: &Path) -> PathBuf {
        dir.join(self.words().0)
    }

    /// Runs it once, if the VM whose directory is `dir` has it.
    pub async fn run(self, dir: &Path) -> Result<(), ProcessError> {
        let script = self.script(dir);
        if !script.exists() {
            return Ok(());
        }
        let done = Program::new("sh").args([&script]).limit(LIMIT).run().await;
        let _ = fs::remove_file(script);
        done.map(drop)
    }
}

/// What hooks are told of a container, besides which hook it is, in classic QVD's words and order.
pub type Told = [(&'static str, String)];

/// Writes the scripts of the hooks there are into `dir`. What LXC is to know of them and of other settings.
pub fn adopt(metadata: &Path, dir: &Path, told: &Told) -> io::Result<String> {
    let mut lines = String::new();
    for hook in Hook::ALL {
        let (name, state) = hook.words();
        let program = metadata.join("hooks").join(name);
        if !program.is_file() {
            continue;
        }
        let words =
            [("hook", name.to_owned()), ("state", state.to_owned()), ("os_meta", metadata.display().to_string())];
        let words = told.iter().chain(&words).flat_map(|(key, value)| [(*key).to_owned(), value.clone()]);
        let words: Vec<String> = [program.display().to_string()].into_iter().chain(words).map(|w| quoted(&w)).collect();
        let script = hook.script(dir);
        let output = match hook {
            // LXC keeps what it hears of a hook to itself.
            Hook::Prestart => format!(">>{} 2>&1", quoted(&dir.join("output.log").display().to_string())),
            Hook::Poststart | Hook::Poststop => ">&2".to_owned(),
        };
        guest::write(&script, &format!("exec {} {output}\n", words.join(" ")), 0o600)?;
        if hook == Hook::Prestart {
            // It alone runs where the container's root file system is seen.
            lines += &format!(
                "lxc.hook.version = 1\nlxc.hook.pre-start = /bin/sh {}\n",
                quoted(&script.display().to_string())
            );
        }
    }
    let (extra, fstab) = (metadata.join("lxc/config-extra"), metadata.join("lxc/fstab"));
    if fstab.is_file() {
        lines += &format!("lxc.mount.fstab = {}\n", fstab.display());
    }
    if extra.is_file() {
        lines += &fs::read_to_string(extra)?;
    }
    Ok(lines)
}

/// A word of the shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hook_is_told_everything_in_one_word_each() {
        let dir = tempfile::tempdir().unwrap();
        let metadata = dir.path().join("it's meta");
        for part in ["hooks", "lxc"] {
            fs::create_dir_all(metadata.join(part)).unwrap();
        }
        let heard = dir.path().join("heard");
        let program = format!("#!/bin/sh\nprintf '%s\\n' \"$@\" >{}\n", heard.display());
        guest::write(&metadata.join("hooks/poststop"), &program, 0o700).unwrap();
        guest::write(&metadata.join("lxc/config-extra"), "lxc.x = 1\n", 0o600).unwrap();
        let told = [("id", "7".to_owned()), ("name", "a 'b'\n$(c)".to_owned())];
        assert_eq!(adopt(&metadata, dir.path(), &told).unwrap(), "lxc.x = 1\n");
        for hook in Hook::ALL {
            hook.run(dir.path()).await.unwrap();
        }
        let meta = metadata.display();
        let expected = format!("id\n7\nname\na 'b'\n$(c)\nhook\npoststop\nstate\nstopping\nos_meta\n{meta}\n");
        assert_eq!(fs::read_to_string(heard).unwrap(), expected);
    }

    #[tokio::test]
    async fn a_hook_that_fails_says_so_and_the_first_is_left_to_lxc() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("hooks")).unwrap();
        for name in ["prestart", "poststart"] {
            guest::write(&dir.path().join("hooks").join(name), "#!/bin/sh\necho no licence\nexit 3\n", 0o700).unwrap();
        }
        let run = dir.path().join("run");
        fs::create_dir(&run).unwrap();
        let lines = adopt(dir.path(), &run, &[]).unwrap();
        assert!(
            lines.contains("lxc.hook.pre-start = /bin/sh '") && lines.contains("lxc.hook.version = 1\n"),
            "{lines}"
        );
        let error = Hook::Poststart.run(&run).await.unwrap_err();
        assert_eq!(error.stderr(), "no licence");
    }
}
