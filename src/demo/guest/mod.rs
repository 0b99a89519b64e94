//! A throw-away virtual machine with Debian's kernel, for what the kernel of this machine may not have: TLS, NFS. A program
//! runs there as it would here, with its libraries and a few tools. The machine is made by a script and ends with its
//! program; it is emulated, so what is fast or slow there says little. Nothing is installed and nothing stays, except for
//! the kernel's package in the cache.

use std::{path::Path, process::Command, time::Duration};

/// A function of the shell that fetches Debian's kernel.
pub const KERNEL: &str = include_str!("kernel");
/// Makes the machine and waits for its end.
const RUN: &str = include_str!("run");

/// Modules without which its kernel has no TLS.
pub const TLS: &[&str] = &["aesni-intel", "gcm", "ctr", "chacha-x86_64", "poly1305-x86_64", "chacha20poly1305", "tls"];

/// What a machine is like.
#[derive(Clone, Copy, Debug)]
pub struct Guest<'a> {
    /// How long it may last.
    pub limit: Duration,
    /// Programs of this machine that are to be there.
    pub tools: &'a [&'a str],
    /// Modules of its kernel that are loaded before, with those that they need.
    pub modules: &'a [&'a str],
    /// What its kernel is told besides.
    pub parameters: &'a str,
}

impl Guest<'_> {
    /// Runs `program` there; arguments may be added. Its output is this command's at the end, and so is its result, but
    /// 2 when the machine cannot be started or is not done in time, and 3 when it ended before its program.
    /// `QVD_GUEST` is set there, and all of this command's environment whose names begin with `QVD_GUEST_`.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "bash", "-c", &format!("{KERNEL}\n{RUN}"), "guest"]);
        command.arg(self.limit.as_secs().to_string()).arg(self.tools.join(" "));
        command.arg(self.modules.join(" ")).arg(self.parameters).arg(program);
        command
    }
}
