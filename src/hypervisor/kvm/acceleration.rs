//! What executes guests. That `/dev/kvm` can be opened says little: there are machines where it opens and guests crawl or
//! hang. So it is trusted only after a tiny guest came to its end with it, which is tried once after each boot of the
//! machine and remembered below `path.run`.

use std::{fmt, fs, io, path::Path, time::Duration};

use tokio::time::Instant;
use tracing::{info, warn};

use super::{HypervisorError, failed};
use crate::{
    model::config::{Config, keys},
    process::{ProcessError, Program, boot_id},
};

/// The guest; see `probe.s`.
const GUEST: &[u8] = include_bytes!("probe.bin");
/// How QEMU ends when the guest has done its work.
const DONE: i32 = 85;
/// With a processor that runs guests it takes a third of a second.
const LIMIT: Duration = Duration::from_secs(10);

/// What executes guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acceleration {
    /// The processor.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

impl fmt::Display for Acceleration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// What was wished for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// This and nothing else.
    Only(Acceleration),
    /// The best that works.
    Auto,
}

impl Wish {
    /// As configured.
    pub fn of(config: &Config) -> Result<Self, HypervisorError> {
        match config.get(&keys::VM_KVM_ACCELERATION).as_str() {
            "auto" => Ok(Self::Auto),
            "kvm" => Ok(Self::Only(Acceleration::Kvm)),
            "tcg" => Ok(Self::Only(Acceleration::Tcg)),
            other => {
                Err(failed(format!("vm.kvm.acceleration = {other} is not known"), Some("use auto, kvm or tcg"), None))
            }
        }
    }

    /// What guests of this node are executed by. `run` is `path.run`.
    pub async fn settle(self, qemu: &Path, run: &Path) -> Result<Acceleration, HypervisorError> {
        let Self::Only(accelerator) = self else { return remembered(qemu, run).await };
        if accelerator == Acceleration::Kvm && !Path::new("/dev/kvm").exists() {
            let hint = "switch virtualisation on in the firmware, load the module kvm_intel or kvm_amd, or set \
                        vm.kvm.acceleration = tcg";
            return Err(failed("the machine has no /dev/kvm", Some(hint), None));
        }
        Ok(accelerator)
    }
}

/// Whether the processor of this machine runs guests, as far as it answers within `limit`; why it does not. Nothing is
/// remembered.
pub async fn processor_runs_guests(limit: Duration) -> Result<(), String> {
    let qemu = super::qemu().map_err(|error| error.to_string())?;
    let place = tempfile::tempdir().map_err(|error| error.to_string())?;
    let tried = tokio::time::timeout(limit, tried(Acceleration::Kvm, &qemu, place.path()));
    tried.await.unwrap_or_else(|_| Err(format!("a tiny guest did not end within {} s", limit.as_secs())))
}

async fn remembered(qemu: &Path, run: &Path) -> Result<Acceleration, HypervisorError> {
    let fail = |what: &str, source| failed(format!("cannot {what}"), None, Some(source));
    let boot = boot_id().map_err(|e| fail("tell this boot of the machine from others", e))?;
    let note = run.join(format!("acceleration.{boot}"));
    match fs::read_to_string(&note).unwrap_or_default().trim() {
        "kvm" => return Ok(Acceleration::Kvm),
        "tcg" => {
            let why = "the processor did not run one when that was tried; it is tried again when this file is gone";
            warn!(file = %note.display(), "guests are emulated, which is slow: {why}");
            return Ok(Acceleration::Tcg);
        }
        _ => {}
    }
    let best = match tried(Acceleration::Kvm, qemu, run).await {
        Ok(()) => Acceleration::Kvm,
        Err(why) => {
            warn!(why, "guests are emulated, which is slow: the processor does not run them");
            Acceleration::Tcg
        }
    };
    fs::write(&note, format!("{best}\n")).map_err(|e| fail(&format!("write {}", note.display()), e))?;
    Ok(best)
}

/// Runs the tiny guest; why it did not come to its end.
pub async fn tried(accelerator: Acceleration, qemu: &Path, run: &Path) -> Result<(), String> {
    if accelerator == Acceleration::Kvm && !Path::new("/dev/kvm").exists() {
        return Err("the machine has no /dev/kvm".to_owned());
    }
    let guest = run.join("acceleration.guest");
    fs::write(&guest, GUEST).map_err(|error: io::Error| format!("cannot write {}: {error}", guest.display()))?;
    let began = Instant::now();
    let ran = Program::new(qemu)
        .args(["-machine", "q35", "-accel", &accelerator.to_string(), "-cpu", accelerator.cpu(), "-m", "32"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel"])
        .args([&guest])
        .limit(LIMIT)
        .run()
        .await;
    let _ = fs::remove_file(&guest);
    match ran {
        Err(ProcessError::Failed { status, .. }) if status.code() == Some(DONE) => {
            info!(%accelerator, milliseconds = began.elapsed().as_millis() as u64, "a tiny guest ran");
            Ok(())
        }
        Ok(_) => Err("a tiny guest ended before its work was done".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

impl Acceleration {
    /// The processor that guests see.
    pub fn cpu(self) -> &'static str {
        match self {
            Self::Kvm => "host",
            Self::Tcg => "max",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const QEMU: &str = "/usr/bin/qemu-system-x86_64";

    #[test]
    fn the_tiny_guest_is_what_its_source_says() {
        let dir = tempfile::tempdir().unwrap();
        let (object, binary) = (dir.path().join("probe.o"), dir.path().join("probe.bin"));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/hypervisor/kvm/probe.s");
        assert!(Command::new("as").arg("--32").arg("-o").arg(&object).arg(source).status().unwrap().success());
        let words = ["-m", "elf_i386", "-Ttext", "0x100000", "--oformat", "binary", "-o"];
        assert!(Command::new("ld").args(words).arg(&binary).arg(&object).status().unwrap().success());
        assert_eq!(fs::read(&binary).unwrap(), GUEST);
    }

    #[tokio::test]
    async fn a_tiny_guest_comes_to_its_end_where_guests_run() {
        let dir = tempfile::tempdir().unwrap();
        tried(Acceleration::Tcg, QEMU.as_ref(), dir.path()).await.unwrap();
        // Something that ends well without having run the guest proves nothing.
        assert!(tried(Acceleration::Tcg, "/bin/true".as_ref(), dir.path()).await.is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_was_found_out_is_good_until_the_machine_is_started_again() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Wish::Auto.settle("/bin/false".as_ref(), dir.path()).await.unwrap(), Acceleration::Tcg);
        let note = dir.path().join(format!("acceleration.{}", boot_id().unwrap()));
        fs::write(&note, "kvm\n").unwrap();
        assert_eq!(Wish::Auto.settle("/bin/false".as_ref(), dir.path()).await.unwrap(), Acceleration::Kvm);
        fs::rename(&note, dir.path().join("acceleration.of-another-boot")).unwrap();
        assert_eq!(Wish::Auto.settle("/bin/false".as_ref(), dir.path()).await.unwrap(), Acceleration::Tcg);
    }
}
