//! Programs of the image that are told, or asked, when something happens to the session.
//! Blocking ones can refuse by their exit status; those about states run beside us and are not waited for. Their
//! arguments are key and value in turn, their output goes to one log. Like in classic they have no time limit.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    thread,
};

use thiserror::Error;

use super::config::Settings;

/// Something that was ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The session is about to start or resume.
    PreConnect,
    /// The session starts or resumes now.
    Connect,
    /// Somebody ends the session.
    Stop,
    /// Somebody suspends the session.
    Suspend,
    /// The VM is about to shut down.
    Poweroff,
    /// The VM will be stopped soon.
    Expire,
}

/// A state that was entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entered {
    /// A proxy is connected.
    Connected,
    /// The session lives without a proxy.
    Suspended,
    /// There is no session any more.
    Stopped,
}

/// A step of making the user's account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provisioning {
    /// Mount the homes.
    MountHome,
    /// Add the user.
    AddUser,
    /// The user was added.
    AfterAddUser,
}

/// A blocking hook that failed.
#[derive(Debug, Error)]
pub enum HookError {
    /// It could not be run.
    #[error("cannot run hook {hook}")]
    Run {
        /// The program.
        hook: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It refused.
    #[error("hook {hook} failed ({status})")]
    Refused {
        /// The program.
        hook: String,
        /// Its exit status.
        status: ExitStatus,
    },
}

/// The configured hooks.
#[derive(Clone, Debug)]
pub struct Hooks {
    settings: Settings,
}

impl Hooks {
    /// Takes the programs from the settings.
    pub fn new(settings: &Settings) -> Self {
        Self { settings: settings.clone() }
    }

    /// Runs the hook of an action and waits for it. `session` is the reported state, `parameters` those of the call.
    pub fn action(&self, action: Action, parameters: &[(String, String)], session: &str) -> Result<(), HookError> {
        let settings = &self.settings;
        let (hook, word) = match action {
            Action::PreConnect => (&settings.on_pre_connect, "pre_connect"),
            Action::Connect => (&settings.on_connect, "connect"),
            Action::Stop => (&settings.on_stop, "stop"),
            Action::Suspend => (&settings.on_suspend, "suspend"),
            Action::Poweroff => (&settings.on_poweroff, "poweroff"),
            Action::Expire => (&settings.on_expire, "expire"),
        };
        let Some(hook) = hook else { return Ok(()) };
        let extra = [("qvd.vm.session.state", session), ("qvd.hook.on_action", word)];
        self.blocking(hook, arguments(parameters, &extra))
    }

    /// Starts the hook of a state.
    pub fn entered(&self, state: Entered) {
        let (hook, word) = match state {
            Entered::Connected => (&self.settings.on_connected, "connected"),
            Entered::Suspended => (&self.settings.on_suspended, "suspended"),
            Entered::Stopped => (&self.settings.on_disconnected, "stopped"),
        };
        let Some(hook) = hook else { return };
        let child = self.command(hook, arguments(&[], &[("qvd.hook.on_state", word)])).and_then(|mut it| it.spawn());
        match child {
            Ok(mut child) => drop(thread::spawn(move || child.wait())),
            Err(error) => tracing::warn!(hook = %hook.display(), %error, "cannot run hook"),
        }
    }

    /// Runs the hook of a provisioning step and waits for it; false when there is none.
    pub fn provisioning(&self, step: Provisioning, parameters: &[(String, String)]) -> Result<bool, HookError> {
        let (hook, word) = match step {
            Provisioning::MountHome => (&self.settings.on_mount_home, "mount_home"),
            Provisioning::AddUser => (&self.settings.on_add_user, "add_user"),
            Provisioning::AfterAddUser => (&self.settings.on_after_add_user, "after_add_user"),
        };
        let Some(hook) = hook else { return Ok(false) };
        self.blocking(hook, arguments(parameters, &[("qvd.hook.on_provisioning", word)])).map(|()| true)
    }

    fn blocking(&self, hook: &Path, arguments: Vec<String>) -> Result<(), HookError> {
        let name = hook.display().to_string();
        let status = self.command(hook, arguments).and_then(|mut command| command.status());
        match status.map_err(|source| HookError::Run { hook: name.clone(), source })? {
            status if status.success() => Ok(()),
            status => Err(HookError::Refused { hook: name, status }),
        }
    }

    fn command(&self, hook: &Path, arguments: Vec<String>) -> io::Result<Command> {
        tracing::info!(hook = %hook.display(), "running hook");
        let log = open_log(&self.settings.log_dir, "qvd-hooks.log")?;
        let mut command = Command::new(hook);
        command.args(arguments).stdin(Stdio::null()).stderr(log.try_clone()?).stdout(log);
        Ok(command)
    }
}

fn arguments(parameters: &[(String, String)], extra: &[(&str, &str)]) -> Vec<String> {
    let parameters = parameters.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    parameters.chain(extra.iter().copied()).flat_map(|(key, value)| [key.to_owned(), value.to_owned()]).collect()
}

/// Opens a log to append to it.
pub fn open_log(dir: &Path, name: &str) -> io::Result<File> {
    fs::create_dir_all(dir)?;
    let path: PathBuf = dir.join(name);
    fs::OpenOptions::new().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A directory with a hook that writes its arguments to the log, gone after the test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str, script: &str) -> (Self, Hooks) {
            let dir = std::env::temp_dir().join(format!("qvd-vma-hooks-{}-{name}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            let hook = dir.join("hook");
            fs::write(&hook, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
            let (log, hook) = (dir.display(), hook.display());
            let text =
                format!("path.log = {log}\nvma.on_action.connect = {hook}\nvma.on_provisioning.add_user = {hook}");
            (Self(dir), Hooks::new(&Settings::from_text(&text).unwrap()))
        }

        fn log(&self) -> String {
            fs::read_to_string(self.0.join("qvd-hooks.log")).unwrap_or_default()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_hook_gets_keys_and_values_in_turn() {
        let (scratch, hooks) = Scratch::new("arguments", "printf '<%s>' \"$@\"");
        hooks.action(Action::Connect, &[("a".into(), "b c".into())], "stopped").unwrap();
        assert_eq!(scratch.log(), "<a><b c><qvd.vm.session.state><stopped><qvd.hook.on_action><connect>");
        assert!(hooks.provisioning(Provisioning::AddUser, &[]).unwrap());
        assert!(scratch.log().ends_with("<qvd.hook.on_provisioning><add_user>"));
    }

    #[test]
    fn a_hook_can_refuse() {
        let (_scratch, hooks) = Scratch::new("refuse", "exit 7");
        let error = hooks.action(Action::Connect, &[], "stopped").unwrap_err();
        assert!(error.to_string().ends_with("hook failed (exit status: 7)"), "{error}");
    }

    #[test]
    fn what_is_not_configured_is_no_obstacle() {
        let hooks = Hooks::new(&Settings::from_text("").unwrap());
        hooks.action(Action::Stop, &[], "connected").unwrap();
        assert!(!hooks.provisioning(Provisioning::MountHome, &[]).unwrap());
    }
}
