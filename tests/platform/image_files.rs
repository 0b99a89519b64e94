//! `qvd image` with real files and, for building, with the machine's own packages.

use std::{
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

fn qvd(arguments: &[&str], epoch: Option<&str>) -> (Output, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qvd"));
    let output = command
        .args(arguments)
        .env_remove("SOURCE_DATE_EPOCH")
        .envs(epoch.map(|at| ("SOURCE_DATE_EPOCH", at)))
        .output();
    let output = output.unwrap();
    let json = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output, json)
}

#[test]
fn qvd_image_check_says_whether_a_file_will_work_and_why_not() {
    let dir = tempfile::tempdir().unwrap();
    // tar would look for such a file on another machine.
    let path = dir.path().join("desk:1.tar");
    let file = path.to_str().unwrap();
    super::image::pack(&path);
    let (output, said) = qvd(&["image", "check", "--json", file], None);
    assert_eq!((output.status.code(), &said["works"], &said["kind"]), (Some(0), &Value::Bool(true), &"tar".into()));
    assert!(said["warnings"][0].as_str().unwrap().contains("Xsession"), "{said}");
    std::fs::write(&path, "no archive").unwrap();
    let (output, _) = qvd(&["image", "check", file], None);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("will not work") && text.contains("problem: it is neither"), "{text}");
    let (output, _) = qvd(&["image", "check", "/nonexistent.tar"], None);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent.tar"), "{output:?}");
}

#[test]
fn what_is_no_package_is_refused_before_anything_is_built() {
    for name in ["--essential", "a b", "Jwm"] {
        let (output, _) = qvd(&["image", "build", &format!("--package={name}")], None);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
}

#[test]
fn a_real_disk_is_checked_by_qemu() {
    let dir = tempfile::tempdir().unwrap();
    let (base, layer) = (dir.path().join("base.qcow2"), dir.path().join("layer.qcow2"));
    let img = |arguments: &[&str]| assert!(Command::new("qemu-img").args(arguments).output().unwrap().status.success());
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    img(&["create", "-f", "qcow2", &text(&base), "8M"]);
    img(&["create", "-f", "qcow2", "-b", &text(&base), "-F", "qcow2", &text(&layer)]);
    let (output, said) = qvd(&["image", "check", "--json", &text(&base)], None);
    assert_eq!((output.status.code(), &said["kind"]), (Some(0), &"qcow2".into()), "{said}");
    let (_, said) = qvd(&["image", "check", "--json", &text(&layer)], None);
    assert!(said["problems"][0].as_str().unwrap().contains("layer over another file"), "{said}");
    // The table of its clusters points nowhere.
    let mut bytes = std::fs::read(&base).unwrap();
    let table = usize::try_from(u64::from_be_bytes(bytes[40..48].try_into().unwrap())).unwrap();
    bytes.resize(bytes.len().max(table + 8), 0);
    bytes[table..table + 8].copy_from_slice(&(1u64 << 63 | 0x00ff_ff00_0000).to_be_bytes());
    std::fs::write(&base, bytes).unwrap();
    let (output, said) = qvd(&["image", "check", "--json", &text(&base)], None);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said["problems"][0].as_str().unwrap().contains("damaged"), "{said}");
}
