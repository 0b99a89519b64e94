//! Mounts that must not be there. A container's own mounts live in its own namespace and end with it; what is found
//! below its directory on the node was put there by a person or a mishap, and would lose its files with the directory.

use std::{fs, io, path::Path};

use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
};

/// Unmounts everything mounted below `dir`, the deepest first.
pub fn unmount_below(dir: &Path) -> io::Result<()> {
    for point in points_below(&fs::read_to_string("/proc/self/mountinfo")?, dir) {
        match umount2(point.as_str(), MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn points_below(mountinfo: &str, dir: &Path) -> Vec<String> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    // The kernel lists a mount after the one it lies upon.
    let mut below: Vec<_> = points.filter(|point| Path::new(point).starts_with(dir)).collect();
    below.reverse();
    below
}

/// The kernel writes blanks and the like as three octal digits.
fn unescape(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(field.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_below_a_directory_are_found_the_deepest_first() {
        let info = "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:5 / /run/qvd/vm/7/x rw - tmpfs t rw\n\
                    3 2 0:6 / /run/qvd/vm/7/x/y\\040z rw - tmpfs t rw\n4 1 0:7 / /run/qvd/vm/70 rw - tmpfs t rw\n";
        assert_eq!(points_below(info, Path::new("/run/qvd/vm/7")), ["/run/qvd/vm/7/x/y z", "/run/qvd/vm/7/x"]);
    }
}
