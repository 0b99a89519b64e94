//! `qvd admin storage check` on real directories, with what a real database knows of them.

use std::{fs, path::Path, process::Output};

use serde_json::Value;

use super::{database::Db, host::Host};

fn put(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// What a check said, and its exit status.
fn check(host: &Host<'_>, more: &[&str]) -> (Option<i32>, Vec<Value>) {
    let output = host.qvd(&[&["admin", "storage", "check", "--json"], more].concat());
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    (output.status.code(), said["findings"].as_array().unwrap().clone())
}

fn refused(output: &Output, words: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && said.contains(words), "{output:?}");
    assert_eq!(said.trim().lines().count(), 1, "{said}");
}

#[tokio::test]
async fn a_storage_is_looked_through_and_what_is_dead_is_mended() {
    let db = Db::with_vms(2).await;
    let host = Host::new(&db, &[]);
    let storage = host.storage();
    let id = db.sql("select vm_id('alice/d1')").await.unwrap();
    put(&storage.join("images/desk.tar"), "image");
    put(&storage.join("basefs/desk/usr/bin/x"), "x");
    put(&storage.join(format!("homefs/{id}-fs/letter")), "dear");
    assert_eq!(check(&host, &[]), (Some(0), vec![]));
    let page = host.qvd(&["admin", "storage", "check"]);
    assert!(String::from_utf8_lossy(&page.stdout).ends_with("is as it should be.\n"), "{page:?}");

    put(&storage.join("basefs/gone/usr/bin/x"), "x");
    put(&storage.join("homefs/7777-fs/letter"), "dear");
    put(&storage.join(format!("homefs/lock.{id}")), "{\"host\":1,\"epoch\":-1,\"boot_id\":\"b\"}\n");
    fs::remove_file(storage.join("images/desk.tar")).unwrap();
    let (code, findings) = check(&host, &[]);
    let kinds: Vec<_> = findings.iter().map(|finding| finding["kind"].as_str().unwrap()).collect();
    assert_eq!((code, &*kinds), (Some(1), &["unused-tree", "orphan-home", "stale-lock", "missing-image"][..]));
    assert!(
        findings.iter().all(|finding| finding["outcome"].is_null() && !finding["why"].as_str().unwrap().is_empty())
    );
    assert!(storage.join("homefs/7777-fs/letter").exists(), "looking changes nothing");
    let page = String::from_utf8(host.qvd(&["admin", "storage", "check"]).stdout).unwrap();
    for words in [
        "home of no VM: ",
        "VM 7777 is not on record, and nobody has its lock",
        "--repair moves it into lost-and-found",
        "4 found",
        "--repair acts on 3.",
    ] {
        assert!(page.contains(words), "{page}");
    }

    let (code, findings) = check(&host, &["--repair"]);
    assert_eq!(code, Some(1), "nobody can bring the image back");
    let aside = findings[1]["outcome"]["set-aside"].as_str().unwrap();
    assert_eq!(fs::read_to_string(Path::new(aside).join("letter")).unwrap(), "dear");
    assert!(!storage.join("basefs/gone").exists() && storage.join("basefs/desk").exists());
    assert_eq!(fs::read_to_string(storage.join(format!("homefs/lock.{id}"))).unwrap(), "");
    put(&storage.join("images/desk.tar"), "image");
    assert_eq!(check(&host, &["--repair", "--checksums"]), (Some(0), vec![]));
}

#[tokio::test]
async fn a_vm_that_is_up_keeps_its_image_and_its_locks_whatever_they_say() {
    let db = Db::with_vms(1).await;
    let host = Host::new(&db, &[]);
    let storage = host.storage();
    put(&storage.join("images/desk.tar"), "image");
    put(&storage.join("basefs/desk/usr/bin/x"), "x");
    let node = db.node_runs().await;
    db.sql("select vm_start('alice/d1')").await;
    db.sql(&format!("select vm_id from node_claim({node}, 3030, 4100)")).await;
    let vm = db.sql("select vm_id('alice/d1')").await.unwrap();
    put(&storage.join(format!("overlayfs/lock.{vm}")), "{\"host\":1,\"epoch\":-1,\"boot_id\":\"b\"}\n");
    // Nobody would start from it any more.
    db.sql("update vms set di_tag = 'none'").await;
    assert_eq!(check(&host, &["--repair"]), (Some(0), vec![]));
    assert!(storage.join("basefs/desk/usr/bin/x").exists());
}

#[tokio::test]
async fn a_storage_of_others_is_not_looked_through() {
    let db = Db::with_vms(1).await;
    let host = Host::new(&db, &[("storage.local", "0")]);
    put(&host.storage().join("homefs/7777-fs/letter"), "dear");
    put(&host.storage().join("images/desk.tar"), "image");
    let check = ["admin", "storage", "check", "--repair"];
    refused(&host.qvd(&check), "has never started with a storage that it shares");
    db.sql("update hosts set storage_id = '11111111-1111-1111-1111-111111111111'").await;
    refused(&host.qvd(&check), "does not carry the identity 11111111-1111-1111-1111-111111111111");
    put(&host.storage().join("storage.id"), "22222222-2222-2222-2222-222222222222\n");
    refused(&host.qvd(&check), "but 22222222-2222-2222-2222-222222222222");
    refused(&Host::named(&db, "n9", &[]).qvd(&check), "the database has no node n9");
    refused(&Host::new(&db, &[("database.host", "/nowhere")]).qvd(&check), "");
    assert!(host.storage().join("homefs/7777-fs/letter").exists());
    put(&host.storage().join("storage.id"), "11111111-1111-1111-1111-111111111111\n");
    let output = host.qvd(&check);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(!host.storage().join("homefs/7777-fs").exists());
}
