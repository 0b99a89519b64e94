//! Files brought to the staging directory over real connections, also by those who are cut off and those who mean no good.

use std::{fs, path::Path};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use tempfile::TempDir;

use super::stage::{Answer, PASSWORD, Wat, administrator, authorization};
use crate::cluster::{database::Db, patience::until};

const API: &str = "/api/v1/staging";

struct Stage {
    db: Db,
    wat: Wat,
    staging: TempDir,
}

async fn stage() -> Stage {
    let db = Db::new().await;
    administrator(&db, "root", "*", "Root").await;
    let staging = tempfile::tempdir().unwrap();
    let wat = Wat::start_with(&db, &["--staging", staging.path().to_str().unwrap()]).await;
    Stage { db, wat, staging }
}

fn begin(name: &str, length: usize, more: &[(&str, &str)]) -> String {
    let words = [("filename", name)]
        .iter()
        .chain(more)
        .map(|(word, value)| format!("{word} {}", BASE64_STANDARD.encode(value)))
        .collect::<Vec<_>>();
    format!("Upload-Length: {length}\r\nUpload-Metadata: {}\r\n", words.join(","))
}

fn sha256(bytes: &[u8]) -> String {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes)
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

impl Stage {
    async fn begin_as(&self, who: &str, name: &str, length: usize, more: &[(&str, &str)]) -> Answer {
        let headers = format!("{}{}", authorization(who, PASSWORD), begin(name, length, more));
        self.wat.ask("POST", API, &headers, "").await
    }

    async fn begun(&self, name: &str, length: usize, more: &[(&str, &str)]) -> String {
        let answer = self.begin_as("root", name, length, more).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.header("Location").unwrap().to_owned()
    }

    async fn piece_as(&self, who: &str, url: &str, offset: usize, piece: &[u8]) -> Answer {
        self.wat.bring(&authorization(who, PASSWORD), url, offset, piece.len(), piece).await.unwrap()
    }

    async fn piece(&self, url: &str, offset: usize, piece: &[u8]) -> Answer {
        self.piece_as("root", url, offset, piece).await
    }

    async fn offset(&self, url: &str) -> usize {
        let answer = self.wat.ask("HEAD", url, &authorization("root", PASSWORD), "").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.header("Upload-Offset").unwrap().parse().unwrap()
    }

    fn read(&self, name: &str) -> Option<Vec<u8>> {
        fs::read(self.staging.path().join(name)).ok()
    }

    /// Sends less than was said and goes away; waits until what came is kept, and nobody is expected to go on.
    async fn cut_off(&self, url: &str, content: &[u8], at: usize) {
        let cut = self.wat.bring(&authorization("root", PASSWORD), url, 0, content.len(), &content[..at]).await;
        assert!(cut.is_none());
        until("what came is kept", async || (self.offset(url).await == at).then_some(())).await;
        until("nobody brings it any more", async || (self.piece(url, at, b"").await.status == 204).then_some(())).await;
    }
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A few megabytes that are nowhere the same.
fn content() -> Vec<u8> {
    (0..3_000_000_u32).flat_map(|n| (n.wrapping_mul(2_654_435_761) >> 8).to_le_bytes()).collect()
}

#[tokio::test]
async fn a_file_that_is_cut_off_goes_on_where_it_ended_and_is_whole() {
    let stage = stage().await;
    let content = content();
    let url = stage.begun("desk.tar", content.len(), &[("sha256", &sha256(&content))]).await;
    stage.cut_off(&url, &content, 5_000_000).await;
    assert_eq!(stage.read("desk.tar"), None, "nobody takes half of it for an image");
    let wrong = stage.piece(&url, 4_000_000, b"again").await;
    assert!(wrong.status == 409 && wrong.body.contains("offset 5000000"), "{wrong:?}");
    let done = stage.piece(&url, 5_000_000, &content[5_000_000..]).await;
    assert_eq!((done.status, done.header("Upload-Offset")), (204, Some("12000000")), "{done:?}");
    assert!(stage.read("desk.tar").is_some_and(|found| found == content));
    assert_eq!(stage.offset(&url).await, content.len(), "who did not hear of the end is told");
    let entry = stage
        .db
        .rows("select administrator_name, ip, object_name, arguments->>'sha256' from log where action = 'upload'")
        .await;
    assert_eq!(entry, [["root", "127.0.0.1", "desk.tar", &sha256(&content)]]);
    let taken = stage.begin_as("root", "desk.tar", 3, &[]).await;
    assert!(taken.status == 409 && taken.body.contains("a file desk.tar already"), "{taken:?}");
    let url = stage.begun("desk.tar", 3, &[("overwrite", "true")]).await;
    assert_eq!(stage.piece(&url, 0, b"new").await.status, 204);
    assert_eq!(stage.read("desk.tar").unwrap(), b"new");
}

#[tokio::test]
async fn another_process_goes_on_with_what_a_killed_one_took() {
    let mut stage = stage().await;
    let content = content();
    let url = stage.begun("desk.tar", content.len(), &[("sha256", &sha256(&content))]).await;
    let sent = &content[..6_000_001];
    let _waits = stage.wat.hold(&authorization("root", PASSWORD), &url, content.len(), sent).await;
    until("most of it is written", async || (stage.offset(&url).await > 4_000_000).then_some(())).await;
    let busy = stage.piece(&url, stage.offset(&url).await, b"x").await;
    assert_eq!(busy.status, 423, "{busy:?}");
    // Dropping the one before is SIGKILL, in the middle of a piece.
    stage.wat = Wat::start_with(&stage.db, &["--staging", stage.staging.path().to_str().unwrap()]).await;
    let kept = stage.offset(&url).await;
    assert!(kept > 4_000_000 && kept <= sent.len(), "{kept}");
    assert_eq!(stage.piece(&url, kept, &content[kept..]).await.status, 204);
    assert!(stage.read("desk.tar").is_some_and(|found| found == content));
}

#[tokio::test]
async fn what_is_not_what_was_announced_is_not_kept() {
    let stage = stage().await;
    let url = stage.begun("desk.tar", 4, &[("sha256", &sha256(b"good"))]).await;
    let refused = stage.piece(&url, 0, b"evil").await;
    assert!(refused.status == 460 && refused.body.contains(&sha256(b"evil")), "{refused:?}");
    assert_eq!(names(stage.staging.path()), Vec::<String>::new());
    let url = stage.begun("desk.tar", 4, &[]).await;
    assert_eq!(stage.piece(&url, 0, b"more than four").await.status, 413);
    // Without a length nobody knows before it comes.
    let chunked = stage.wat.bring_chunked(&authorization("root", PASSWORD), &url, 0, &[b"thr", b"ee!"]).await;
    assert_eq!(chunked.status, 413, "{chunked:?}");
    let too_large = stage.begin_as("root", "x.tar", usize::MAX >> 1, &[]).await;
    assert_eq!(too_large.status, 507, "{too_large:?}");
    let discarded = stage.wat.ask("DELETE", &url, &authorization("root", PASSWORD), "").await;
    assert_eq!(discarded.status, 204, "{discarded:?}");
    assert_eq!(names(stage.staging.path()), Vec::<String>::new());
}

#[tokio::test]
async fn a_name_leads_nowhere_else_and_nothing_of_others_is_touched() {
    let stage = stage().await;
    for name in ["../evil", "/etc/passwd", ".hidden", "a/b", "", "lock.x", "a\nb", "a b", "ñ.tar", &"x".repeat(201)] {
        let refused = stage.begin_as("root", name, 1, &[]).await;
        assert!(refused.status == 422 && refused.body.contains("cannot be the file name"), "{name}: {refused:?}");
    }
    for id in ["..%2f..%2fetc%2fpasswd", "0", &"g".repeat(32), &"0".repeat(32)] {
        assert_eq!(stage.piece(&format!("{API}/{id}"), 0, b"x").await.status, 404, "{id}");
    }
    administrator(&stage.db, "reader", "*", "Operator L1").await;
    administrator(&stage.db, "second", "*", "Root").await;
    let refused = stage.begin_as("reader", "desk.tar", 1, &[]).await;
    assert!(refused.status == 403 && refused.body.contains("di.create."), "{refused:?}");
    let url = stage.begun("desk.tar", 4, &[]).await;
    assert_eq!(stage.piece_as("reader", &url, 0, b"evil").await.status, 403);
    assert_eq!(stage.piece_as("second", &url, 0, b"evil").await.status, 404, "it is another's");
    assert_eq!(stage.wat.ask("POST", API, &begin("x.tar", 1, &[]), "").await.status, 401);
    let foreign =
        format!("{}Sec-Fetch-Site: cross-site\r\n{}", authorization("root", PASSWORD), begin("x.tar", 1, &[]));
    assert_eq!(stage.wat.ask("POST", API, &foreign, "").await.status, 403);
    assert_eq!(stage.offset(&url).await, 0);
}

#[tokio::test]
async fn a_disk_that_is_full_keeps_what_is_there_until_there_is_room() {
    let stage = stage().await;
    let small = tempfile::tempdir().unwrap();
    let mounted =
        std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=1M", "none"]).arg(small.path()).status();
    assert!(mounted.unwrap().success());
    let wat = Wat::start_with(&stage.db, &["--staging", small.path().to_str().unwrap()]).await;
    let stage = Stage { wat, ..stage };
    let content = vec![7; 900_000];
    let url = stage.begun("desk.tar", content.len(), &[("sha256", &sha256(&content))]).await;
    assert_eq!(stage.piece(&url, 0, &content[..300_000]).await.status, 204);
    fs::write(small.path().join("other"), vec![0; 600_000]).unwrap();
    let full = stage.piece(&url, 300_000, &content[300_000..]).await;
    assert!(full.status == 507 && full.body.contains("what is there is kept"), "{full:?}");
    let kept = stage.offset(&url).await;
    assert!(kept >= 300_000 && kept < content.len(), "{kept}");
    fs::remove_file(small.path().join("other")).unwrap();
    assert_eq!(stage.piece(&url, kept, &content[kept..]).await.status, 204);
    assert!(fs::read(small.path().join("desk.tar")).unwrap() == content);
    drop(stage);
    let _ = std::process::Command::new("umount").arg("-l").arg(small.path()).status();
}

#[tokio::test]
async fn a_web_tool_without_the_storage_says_so_and_what_to_do() {
    let stage = stage().await;
    let page = stage.wat.get("root", "/staging").await.body;
    assert!(page.contains(r#"id="upload""#) && page.contains("/static/upload.js"), "{page}");
    let gone = stage.staging.path().to_owned();
    fs::remove_dir(&gone).unwrap();
    let page = stage.wat.get("root", "/staging").await.body;
    assert!(page.contains("path.storage.staging") && !page.contains(r#"id="upload""#), "{page}");
    assert_eq!(stage.begin_as("root", "desk.tar", 1, &[]).await.status, 503);
    fs::create_dir(&gone).unwrap();
}
