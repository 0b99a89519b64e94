//! What an administrator can get wrong: each costs one start, says so in one sentence, and is mended without more.

use std::{fs, path::Path, process::Command, sync::Arc};

use super::{desk::Desk, eventually, installation::Installation, viewer::Viewer};

#[tokio::test]
async fn a_missing_image_is_named_and_can_be_supplied_later() {
    let at = Installation::shared().await;
    let peggy = Desk::with_image(&at, "peggy", "absent.tar").await;
    let path = at.images().join("absent.tar");
    let reason = format!(
        "disk image {} does not exist; copy the image there or correct the path of the disk image",
        path.display()
    );
    assert_eq!(peggy.refused_start().await, reason);

    let viewer = Viewer::connect(&peggy).await;
    assert_eq!(viewer.ended().await.code(), Some(5), "{}", viewer.said());
    assert!(viewer.said().contains("is not available"), "{}", viewer.said());
    peggy.disconnected().await;

    pack(&path, &["usr/bin/nxagent", "usr/bin/xinit"]);
    peggy.start().await;
    peggy.stop().await;
}

#[tokio::test]
async fn a_truncated_image_is_named_and_can_be_copied_again() {
    let at = Installation::shared().await;
    let quinn = Desk::with_image(&at, "quinn", "torn.tar.zst").await;
    let path = at.images().join("torn.tar.zst");
    pack(&path, &["usr/bin/nxagent", "usr/bin/xinit"]);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let reason = quinn.refused_start().await;
    assert!(reason.starts_with("disk image torn.tar.zst cannot be unpacked: "), "{reason}");
    assert!(
        reason.ends_with("; copy the image again; it must be a tar archive, plain or gz, bz2, xz, zst"),
        "{reason}"
    );
    for half in ["torn", ".untar-torn"] {
        assert!(!at.storage("basefs").join(half).exists(), "{half} was left");
    }

    fs::write(&path, whole).unwrap();
    quinn.start().await;
    quinn.stop().await;
}

#[tokio::test]
async fn an_image_without_nxagent_is_named_and_a_newer_version_is_taken() {
    let at = Installation::shared().await;
    let rita = Desk::with_image(&at, "rita", "bare.tar").await;
    pack(&at.images().join("bare.tar"), &["usr/bin/xinit"]);
    let reason = "disk image bare.tar has no usr/bin/nxagent; \
                  install it in the image (Debian: packages nxagent and xinit)";
    assert_eq!(rita.refused_start().await, reason);

    pack(&at.images().join("better.tar"), &["usr/bin/nxagent", "usr/bin/xinit"]);
    at.sql("select di_create('of-rita', 'better.tar')").await.unwrap();
    rita.start().await;
    rita.stop().await;
}

#[tokio::test]
async fn a_home_that_cannot_be_made_is_named_and_can_be_made_later() {
    let at = Installation::shared().await;
    let sybil = Desk::new(&at, "sybil").await;
    let in_the_way = at.storage(&format!("homefs/{}-fs", sybil.vm));
    fs::create_dir_all(in_the_way.parent().unwrap()).unwrap();
    fs::write(&in_the_way, "a file").unwrap();
    let reason = sybil.refused_start().await;
    assert!(reason.starts_with(&format!("the home {} cannot be written; ", in_the_way.display())), "{reason}");

    fs::remove_file(&in_the_way).unwrap();
    sybil.start().await;
    assert!(in_the_way.is_dir());
    sybil.stop().await;
}

#[tokio::test]
async fn a_vm_has_no_more_memory_than_its_osf_says() {
    let at = Installation::shared().await;
    at.sql("select osf_create('tight', memory => 96), di_create('tight', 'desktop.tar.zst')").await.unwrap();
    let trent = Desk::of(&at, "trent", "tight").await;
    let guest = trent.start().await;
    let enough = guest.run("head -c 20M /dev/zero | tail -c 10M | wc -c");
    assert_eq!(String::from_utf8_lossy(&enough.stdout).trim(), "10485760");
    let greedy = guest.run("head -c 300M /dev/zero | tail -c 200M | wc -c");
    assert_eq!(String::from_utf8_lossy(&greedy.stdout).trim(), "0", "200 MB were there");
    assert_eq!(trent.column("state").await.as_deref(), Some("running"));
    trent.stop().await;
}

impl Desk {
    /// A user with a VM of an image that may not be there, in an OSF of its own.
    async fn with_image(at: &Arc<Installation>, user: &str, image: &str) -> Self {
        at.sql(&format!("select osf_create('of-{user}'), di_create('of-{user}', '{image}')")).await.unwrap();
        Self::of(at, user, &format!("of-{user}")).await
    }

    /// Tries to start it; why that failed.
    async fn refused_start(&self) -> String {
        self.ask_start().await;
        let reason = eventually("the start has failed", async || {
            let reason = "case when state = 'stopped' and command is null then reason end";
            match self.column(reason).await {
                Some(reason) => Ok(reason),
                None => Err(format!("{:?}", self.column("state").await)),
            }
        });
        let reason = reason.await;
        assert!(!reason.contains('\n') && reason.len() < 300, "{reason}");
        self.nothing_is_left().await;
        assert_eq!(self.column("host").await, None);
        reason
    }
}

/// Packs an image that has these programs, which do nothing, and something that does not compress.
fn pack(image: &Path, programs: &[&str]) {
    let root = tempfile::tempdir().unwrap();
    for directory in ["dev", "etc", "home", "proc", "sys", "tmp", "usr/bin"] {
        fs::create_dir_all(root.path().join(directory)).unwrap();
    }
    for program in programs {
        fs::write(root.path().join(program), "").unwrap();
    }
    let noise: Vec<u8> =
        (0..100_000_u64).flat_map(|n| n.wrapping_mul(n).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()).collect();
    fs::write(root.path().join("noise"), noise).unwrap();
    let mut tar = Command::new("tar");
    tar.arg("--create").arg("--auto-compress").arg("--file").arg(image).arg("--directory").arg(root.path()).arg(".");
    assert!(tar.status().unwrap().success());
}
