//! The root file system between installation and packing: traces of the machine that built it go out, the desktop's
//! own files go in.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use thiserror::Error;

/// A file of ours in the image.
pub struct DesktopFile {
    /// Place in the image, without the leading slash.
    pub path: &'static str,
    /// Contents.
    pub text: &'static str,
    mode: u32,
}

/// Everything that makes a bare system the demo's desktop.
pub const FILES: &[DesktopFile] = &[
    data("etc/jwm/system.jwmrc", include_str!("../desktop/system.jwmrc")),
    data("etc/htoprc", include_str!("../desktop/htoprc")),
    data("usr/share/desktop/menu.svg", include_str!("../desktop/menu.svg")),
    data("usr/share/desktop/processes.svg", include_str!("../desktop/processes.svg")),
    data("usr/share/desktop/terminal.svg", include_str!("../desktop/terminal.svg")),
    data("usr/share/desktop/wallpaper.svg", include_str!("../desktop/wallpaper.svg")),
    program("usr/local/bin/desktop-greeting", include_str!("../desktop/desktop-greeting")),
    program("usr/local/bin/desktop-terminal", include_str!("../desktop/desktop-terminal")),
    data("etc/apt/sources.list", "# The package mirror of your site.\n"),
    data("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
];

const fn data(path: &'static str, text: &'static str) -> DesktopFile {
    DesktopFile { path, text, mode: 0o644 }
}

const fn program(path: &'static str, text: &'static str) -> DesktopFile {
    DesktopFile { path, text, mode: 0o755 }
}

/// Files that say where and how the image was built. What must be there is made again, empty.
const TRACES: &[&str] = &[
    "etc/apt/apt.conf.d/99mmdebstrap",
    "etc/apt/auth.conf",
    "etc/apt/sources.list",
    "etc/dpkg/dpkg.cfg.d/99mmdebstrap",
    "etc/hostname",
    "etc/machine-id",
    "etc/resolv.conf",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
];

/// Directories whose contents say so.
const TRACE_DIRS: &[&str] = &[
    "etc/apt/auth.conf.d",
    "etc/apt/sources.list.d",
    "run",
    "tmp",
    "var/cache/apt",
    "var/cache/debconf",
    "var/cache/ldconfig",
    "var/lib/apt/lists",
    "var/log",
    "var/tmp",
];

/// A file of the image that could not be changed.
#[derive(Debug, Error)]
#[error("cannot change {}", .path.display())]
pub struct RootError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Removes what says where the image was built.
pub fn clean(root: &Path) -> Result<(), RootError> {
    for path in TRACES.iter().map(|path| root.join(path)) {
        gone(fs::remove_file(&path)).map_err(on(&path))?;
    }
    for dir in TRACE_DIRS.iter().map(|path| root.join(path)) {
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) => {
                gone(Err(error)).map_err(on(&dir))?;
                continue;
            }
        };
        for entry in entries {
            let entry = entry.map_err(on(&dir))?;
            let is_dir = entry.file_type().map_err(on(&dir))?.is_dir();
            let path = entry.path();
            if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.map_err(on(&path))?;
        }
    }
    Ok(())
}

/// Puts the desktop's files in, and what a machine without an init system would otherwise lack.
pub fn furnish(root: &Path) -> Result<(), RootError> {
    for file in FILES {
        let path = root.join(file.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(on(parent))?;
        }
        write(&path, file.text, file.mode)?;
    }
    // Empty means: to be filled at first boot, by whoever boots it.
    write(&root.join("etc/machine-id"), "", 0o444)?;
    write(&root.join("etc/resolv.conf"), "", 0o644)?;
    let machine_id = root.join("var/lib/dbus/machine-id");
    if machine_id.parent().is_some_and(Path::is_dir) {
        symlink("/etc/machine-id", &machine_id).map_err(on(&machine_id))?;
    }
    // An X server that is not root cannot make these, and without them clients find it only after a long time.
    for dir in ["tmp/.X11-unix", "tmp/.ICE-unix"].map(|path| root.join(path)) {
        fs::create_dir_all(&dir).map_err(on(&dir))?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o1777)).map_err(on(&dir))?;
    }
    Ok(())
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), RootError> {
    fs::write(path, text).and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode))).map_err(on(path))
}

/// What is not there need not be removed.
fn gone(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

fn on(path: &Path) -> impl FnOnce(io::Error) -> RootError {
    |source| RootError { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_go_and_the_rest_stays() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "http://mirror.example").unwrap();
        };
        let traces = ["etc/resolv.conf", "etc/apt/sources.list.d/main.sources", "var/lib/apt/lists/mirror/Packages"];
        let rest = ["etc/passwd", "var/lib/dpkg/status"];
        traces.into_iter().chain(rest).for_each(put);
        clean(root.path()).unwrap();
        furnish(root.path()).unwrap();
        assert!(!root.path().join(traces[1]).exists() && !root.path().join(traces[2]).exists());
        assert_eq!(fs::read_to_string(root.path().join(traces[0])).unwrap(), "");
        assert!(rest.iter().all(|path| root.path().join(path).exists()));
        let terminal = fs::metadata(root.path().join("usr/local/bin/desktop-terminal")).unwrap();
        assert_eq!(terminal.permissions().mode() & 0o7777, 0o755);
        let sockets = fs::metadata(root.path().join("tmp/.X11-unix")).unwrap();
        assert_eq!(sockets.permissions().mode() & 0o7777, 0o1777);
    }

    #[test]
    fn cleaning_what_is_not_there_is_no_error() {
        clean(tempfile::tempdir().unwrap().path()).unwrap();
    }
}
