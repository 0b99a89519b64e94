//! What a VM's processes print, taken from a pipe and kept in a file of bounded size.
//! A pipe and not the file itself, because a VM may do with its standard output what it likes: fill, truncate, seek.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
};

use nix::{
    fcntl::OFlag,
    sys::stat::Mode,
    unistd::{mkfifo, pipe2},
};

/// At this size the file is renamed to `….old` and a new one begun.
const LIMIT: u64 = 256 * 1024;

/// The reading end of the pipe and the file behind it.
pub struct Outlet {
    pipe: File,
    /// Kept open, or the pipe would report its end for ever once the VM closed its side; `None`: the pipe is that itself.
    _writer: Option<OwnedFd>,
    path: PathBuf,
    file: File,
    written: u64,
}

impl Outlet {
    /// Opens the file for appending; returns the writing end of the pipe with it.
    pub fn open(path: &Path) -> io::Result<(Self, OwnedFd)> {
        let (pipe, writer) = pipe2(OFlag::O_CLOEXEC)?;
        // Only our end: the VM's programs expect blocking output.
        nix::fcntl::fcntl(&pipe, nix::fcntl::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok((Self::between(File::from(pipe), Some(writer.try_clone()?), path)?, writer))
    }

    /// The same for whoever opens the named pipe `fifo`, which is made here.
    pub fn open_named(fifo: &Path, path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(fifo) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        mkfifo(fifo, Mode::S_IRUSR | Mode::S_IWUSR)?;
        // For writing, too, so that it does not end whenever the other end does.
        let pipe = OpenOptions::new().read(true).write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(fifo)?;
        Self::between(pipe, None, path)
    }

    fn between(pipe: File, writer: Option<OwnedFd>, path: &Path) -> io::Result<Self> {
        let file = append(path)?;
        let written = file.metadata()?.len();
        Ok(Self { pipe, _writer: writer, path: path.to_owned(), file, written })
    }

    /// Takes what the pipe holds now, but no more than a pipeful, so that a chatty VM cannot keep the shim busy.
    pub fn drain(&mut self) {
        let mut buffer = [0; 16 * 1024];
        for _ in 0..4 {
            match self.pipe.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(length) => self.keep(&buffer[..length]),
            }
        }
    }

    /// Adds a line of the shim itself.
    pub fn note(&mut self, line: &str) {
        self.keep(format!("shim: {line}\n").as_bytes());
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.written + bytes.len() as u64 > LIMIT {
            let mut old = self.path.clone().into_os_string();
            old.push(".old");
            if std::fs::rename(&self.path, old).is_ok()
                && let Ok(file) = append(&self.path)
            {
                (self.file, self.written) = (file, 0);
            } else {
                return;
            }
        }
        // A full disk costs log lines, never the VM.
        if self.file.write_all(bytes).is_ok() {
            self.written += bytes.len() as u64;
        }
    }
}

impl AsFd for Outlet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

#[cfg(all(test, feature = "node"))]
mod tests {
    use super::*;

    #[test]
    fn a_chatty_vm_fills_at_most_two_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("output.log");
        let (mut outlet, writer) = Outlet::open(&path).unwrap();
        let mut writer = File::from(writer);
        for _ in 0..200 {
            writer.write_all(&[b'x'; 8192]).unwrap();
            outlet.drain();
        }
        outlet.note("end");
        let size = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().len();
        assert!(size("output.log") <= LIMIT && size("output.log.old") <= LIMIT);
        assert!(std::fs::read_to_string(&path).unwrap().ends_with("shim: end\n"));
    }
}
