//! Disk images on their way from the staging directory to VMs, with a real hkd and real files; and what stops them.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    database::{Db, Session},
    host::{Hkd, Host},
    patience::until,
};

/// Longer than anybody waits here, so that nothing is found by polling.
const NEVER: (&str, &str) = ("internal.hkd.poll.relaxed", "600");

/// Packs a desktop as far as anybody looks.
fn pack(archive: &Path, files: &[&str]) {
    let tree = tempfile::tempdir().unwrap();
    for file in files {
        let file = tree.path().join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "program").unwrap();
    }
    fs::create_dir_all(archive.parent().unwrap()).unwrap();
    let packed = Command::new("tar").arg("-cf").arg(archive).arg("-C").arg(tree.path()).arg(".").status();
    assert!(packed.unwrap().success());
}

const DESKTOP: [&str; 3] = ["usr/bin/nxagent", "usr/bin/xinit", "etc/X11/Xsession"];

struct Stage {
    admin: Session,
    storage: PathBuf,
}

impl Stage {
    async fn new(db: &Db, host: &Host<'_>) -> Self {
        db.sql("select osf_create('desk')").await;
        Self { admin: db.session("qvd_admin").await, storage: host.storage() }
    }

    fn staged(&self, name: &str) -> PathBuf {
        self.storage.join("staging").join(name)
    }

    /// The image of a path that ends in a name; `None`: not there.
    fn image(&self, name: &str) -> Option<PathBuf> {
        let entries = fs::read_dir(self.storage.join("images")).ok()?;
        let ending = format!("-{name}");
        entries.map(|entry| entry.unwrap().path()).find(|path| path.to_string_lossy().ends_with(&ending))
    }

    /// What is neither an image nor anybody's.
    fn leftovers(&self) -> Vec<String> {
        let entries = fs::read_dir(self.storage.join("images")).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with('.')).collect()
    }

    /// Packs a desktop that takes a while to read; most of it is nothing.
    fn stage_large(&self, name: &str) {
        pack(&self.staged(name), &DESKTOP);
        fs::OpenOptions::new().write(true).open(self.staged(name)).unwrap().set_len(128 << 20).unwrap();
    }

    /// Waits until a copy is under way and far from its end.
    async fn copying(&self) -> PathBuf {
        let part = || {
            let entries = fs::read_dir(self.storage.join("images")).ok()?;
            let parts = entries.map(|entry| entry.unwrap().path());
            parts
                .filter(|path| path.to_string_lossy().contains(".part-"))
                .find(|path| path.metadata().is_ok_and(|part| part.len() > 0))
        };
        until("an image is being copied", async || part()).await.0
    }
}

async fn started(host: &Host<'_>) -> Hkd {
    host.started().await
}

#[tokio::test]
async fn a_file_in_staging_is_listed_copied_checked_and_published_and_then_vms_start_from_it() {
    let db = Db::new().await;
    let host = Host::new(&db, &[NEVER]);
    let stage = Stage::new(&db, &host).await;
    db.sql("select host_create('n1', '10.0.0.1')").await;
    pack(&stage.staged("desk.tar"), &DESKTOP);
    fs::write(stage.staged("notes.txt"), "none").unwrap();
    fs::write(stage.staged(".hidden"), "none").unwrap();
    let _hkd = started(&host).await;
    stage.admin.sql("select staging_refresh()").await;
    let listed = "select string_agg(file || ' ' || kind, ', ' order by file) from staging_list";
    db.wait_for(listed, "desk.tar tar, notes.txt unknown").await;

    let di = stage.admin.sql("select di_import('desk', 'desk.tar')").await.unwrap();
    db.wait_for("select state from di_list", "published").await;
    let image = stage.image("desk.tar").unwrap();
    assert_eq!(image.file_name().unwrap().to_str().unwrap(), format!("{di}-desk.tar"));
    assert_eq!(fs::read(&image).unwrap(), fs::read(stage.staged("desk.tar")).unwrap());
    let sum = Command::new("sha256sum").arg(&image).output().unwrap().stdout;
    let shown = db.rows("select path, sha256, size, percentage, version = to_char(now() at time zone 'utc', 'YYYY-MM-DD') || '-000',
        tags[1:2], message is null from di_list").await;
    let sum = String::from_utf8(sum).unwrap().split(' ').next().unwrap().to_owned();
    let size = image.metadata().unwrap().len().to_string();
    assert_eq!(shown[0][1..4], [sum, size, "100".to_owned()]);
    until("nothing is left over", async || stage.leftovers().is_empty().then_some(())).await;
    stage.admin.sql("select user_create('alice'), vm_create('alice', 'd1', 'desk')").await;
    stage.admin.sql("select vm_start('alice/d1')").await;
    db.wait_vm("d1", "running").await;
    assert_eq!(db.sql("select current_di_id from vm_runtimes").await.unwrap(), di);
}

#[tokio::test]
async fn a_file_that_moves_is_the_same_file_in_another_place() {
    let db = Db::new().await;
    let host = Host::new(&db, &[NEVER]);
    let stage = Stage::new(&db, &host).await;
    db.sql("select host_create('n1', '10.0.0.1')").await;
    pack(&stage.staged("desk.tar"), &DESKTOP);
    let inode = stage.staged("desk.tar").metadata().unwrap().ino();
    let _hkd = started(&host).await;
    stage.admin.sql("select di_import('desk', 'desk.tar', move => true)").await;
    db.wait_for("select state from di_list", "published").await;
    assert_eq!(stage.image("desk.tar").unwrap().metadata().unwrap().ino(), inode);
    until("the file has moved", async || (!stage.staged("desk.tar").exists()).then_some(())).await;
}

#[tokio::test]
async fn what_is_no_desktop_fails_with_its_reason_and_leaves_nothing_but_the_file() {
    let db = Db::new().await;
    let host = Host::new(&db, &[NEVER]);
    let stage = Stage::new(&db, &host).await;
    db.sql("select host_create('n1', '10.0.0.1')").await;
    pack(&stage.staged("bare.tar"), &["usr/bin/xinit"]);
    pack(&stage.staged("whole.tar"), &DESKTOP);
    let whole = fs::read(stage.staged("whole.tar")).unwrap();
    fs::write(stage.staged("cut.tar"), &whole[..2048]).unwrap();
    fs::write(stage.staged("text.tar"), "hello").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", stage.staged("link.tar")).unwrap();
    let _hkd = started(&host).await;
    for (file, move_it, why) in [
        ("bare.tar", true, "has no usr/bin/nxagent"),
        ("cut.tar", false, "the end of the archive is missing"),
        ("text.tar", true, "neither a tar archive"),
        ("absent.tar", false, "No such file"),
        ("link.tar", true, "Too many levels"),
    ] {
        let di = stage.admin.sql(&format!("select di_import('desk', '{file}', move => {move_it})")).await.unwrap();
        db.wait_for(&format!("select state from di_list where id = {di}"), "fail").await;
        let said = db.sql(&format!("select message from di_list where id = {di}")).await.unwrap();
        assert!(said.contains(why), "{file}: {said}");
        assert_eq!(stage.image(file), None);
        if file != "absent.tar" {
            assert!(stage.staged(file).symlink_metadata().is_ok(), "{file} is still there");
        }
        assert_eq!(stage.admin.refused(&format!("select di_publish('{di}')")).await.code, "QV021");
        stage.admin.sql(&format!("select di_delete('{di}')")).await;
    }
    until("nothing is left over", async || stage.leftovers().is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_node_that_is_killed_half_way_begins_anew_and_finishes() {
    let db = Db::new().await;
    let host = Host::new(&db, &[NEVER]);
    let stage = Stage::new(&db, &host).await;
    db.sql("select host_create('n1', '10.0.0.1')").await;
    stage.stage_large("large.tar");
    let mut hkd = started(&host).await;
    stage.admin.sql("select di_import('desk', 'large.tar', move => false)").await;
    let part = stage.copying().await;
    hkd.kill();
    assert!(part.exists() && part.metadata().unwrap().len() < 128 << 20, "it was killed half way");
    assert_eq!(stage.image("large.tar"), None);
    assert_eq!(db.sql("select state from di_list").await.unwrap(), "uploading");
    let _hkd = started(&host).await;
    db.wait_for("select state from di_list", "published").await;
    assert_eq!(stage.image("large.tar").unwrap().metadata().unwrap().len(), 128 << 20);
    until("nothing is left over", async || stage.leftovers().is_empty().then_some(())).await;
}

#[tokio::test]
async fn an_image_that_was_in_its_place_when_the_node_died_is_taken_up_without_its_file() {
    let db = Db::new().await;
    let host = Host::new(&db, &[NEVER]);
    let stage = Stage::new(&db, &host).await;
    db.sql("select host_create('n1', '10.0.0.1')").await;
    let di = stage.admin.sql("select di_import('desk', 'desk.tar', move => true)").await.unwrap();
    // As it stands before the word to the database; somebody has removed the staged file, or put another there.
    let image = stage.storage.join(format!("images/{di}-desk.tar"));
    pack(&image, &DESKTOP);
    fs::write(stage.storage.join(format!("images/.import-{di}.part-00")), "half").unwrap();
    let _hkd = started(&host).await;
    db.wait_for("select state from di_list", "published").await;
    until("nothing is left over", async || stage.leftovers().is_empty().then_some(())).await;
}

#[tokio::test]
async fn an_image_is_one_nodes_to_make_until_that_node_has_ended() {
    let db = Db::new().await;
    db.sql("select osf_create('desk'), host_create('n1', '10.0.0.1'), host_create('n2', '10.0.0.2')").await;
    db.sql("update hosts set storage_id = '00000000-0000-0000-0000-000000000001'").await;
    let first = db.node_runs().await;
    let second = db.sql("select node || ', ' || node_epoch from node_start('n2', gen_random_uuid(), 1)").await.unwrap();
    let node = db.session("qvd_node").await;
    let work = |life: &str| format!("select source from node_images({life}, 600, true)");
    let ready = |life: &str, di: &str| format!("select node_di_ready({life}, {di}, repeat('0', 64), 1, null)");
    let di = db.sql("select di_import('desk', 'desk.tar')").await.unwrap();
    assert_eq!(node.sql(&work(&first)).await.as_deref(), Some("desk.tar"));
    db.sql(&format!("select node_state({first}, 'stopping')")).await;
    assert_eq!(node.sql(&work(&second)).await, None, "its daemon may be about to give it its name");
    db.sql(&format!("select node_state({first}, 'stopped')")).await;
    assert_eq!(node.sql(&work(&second)).await.as_deref(), Some("desk.tar"));
    assert_eq!(node.sql(&ready(&first, &di)).await, None, "another's is neither ready nor to be removed");
    assert_eq!(node.sql(&ready(&second, &di)).await.as_deref(), Some("t"));
    let deleted = db.sql("select di_import('desk', 'desk.tar')").await.unwrap();
    node.sql(&work(&second)).await;
    db.sql(&format!("select di_delete('{deleted}')")).await;
    assert_eq!(node.sql(&ready(&second, &deleted)).await.as_deref(), Some("f"));
}

#[tokio::test]
async fn a_file_on_a_storage_that_no_node_has_any_more_is_not_imported() {
    let db = Db::new().await;
    db.sql("select osf_create('desk'), host_create('n1', '10.0.0.1'), host_create('n2', '10.0.0.2')").await;
    let life = db.node_runs().await;
    db.sql(&format!("select node_images({life}, 600, true)")).await;
    db.sql(&format!("select node_staging({life}, '{{desk.tar}}', '{{1}}', '{{1}}', '{{tar}}', null)")).await;
    db.sql(&format!("select node_state({life}, 'stopped'); delete from hosts where name = 'n1'")).await;
    db.sql("select host_create('n3', '10.0.0.3')").await;
    assert_eq!(db.refused("select di_import('desk', 'desk.tar')").await.code, "QV010");
}

#[tokio::test]
async fn a_node_that_dies_over_an_image_again_and_again_is_not_given_it_for_ever() {
    let db = Db::new().await;
    let host = Host::new(&db, &[NEVER]);
    let stage = Stage::new(&db, &host).await;
    db.sql("select host_create('n1', '10.0.0.1')").await;
    let life = db.node_runs().await;
    stage.admin.sql("select di_import('desk', 'desk.tar')").await;
    let node = db.session("qvd_node").await;
    let claim = format!("select source from node_images({life}, 600, true)");
    for _ in 0..5 {
        assert_eq!(node.sql(&claim).await.as_deref(), Some("desk.tar"));
    }
    assert_eq!(node.sql(&claim).await, None);
    let failed = db.rows("select state, message from di_list").await;
    assert_eq!(failed, [["fail", "the nodes that made it ended 5 times, the last was n1"]]);
}

#[tokio::test]
async fn a_full_disk_is_a_reason_and_the_next_attempt_works_when_there_is_room() {
    let db = Db::new().await;
    let host = Host::new(&db, &[NEVER]);
    let stage = Stage::new(&db, &host).await;
    db.sql("select host_create('n1', '10.0.0.1')").await;
    pack(&stage.staged("desk.tar"), &DESKTOP);
    fs::OpenOptions::new().write(true).open(stage.staged("desk.tar")).unwrap().set_len(8 << 20).unwrap();
    let images = stage.storage.join("images");
    fs::create_dir_all(&images).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "none"]).arg(&images).status();
    assert!(mounted.unwrap().success());
    let _mount = Mount(images.clone());
    let _hkd = started(&host).await;
    stage.admin.sql("select di_import('desk', 'desk.tar', 'v1', move => true)").await;
    db.wait_for("select state from di_list", "fail").await;
    let said = db.sql("select message from di_list").await.unwrap();
    assert!(said.contains("No space left") && said.contains("make room on the storage"), "{said}");
    until("nothing stays behind", async || (fs::read_dir(&images).unwrap().count() == 0).then_some(())).await;
    assert!(stage.staged("desk.tar").exists());
    let grown = Command::new("mount").args(["-o", "remount,size=64m"]).arg(&images).status();
    assert!(grown.unwrap().success());
    stage.admin.sql("select di_delete('desk/v1'), di_import('desk', 'desk.tar', 'v1', move => true)").await;
    db.wait_for("select state from di_list", "published").await;
    until("the file has moved", async || (!stage.staged("desk.tar").exists()).then_some(())).await;
}

struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test]
async fn an_image_that_is_deleted_while_it_is_copied_leaves_nothing() {
    let db = Db::new().await;
    let host = Host::new(&db, &[NEVER]);
    let stage = Stage::new(&db, &host).await;
    db.sql("select host_create('n1', '10.0.0.1')").await;
    stage.stage_large("large.tar");
    let _hkd = started(&host).await;
    stage.admin.sql("select di_import('desk', 'large.tar', 'v1')").await;
    stage.copying().await;
    stage.admin.sql("select di_delete('desk/v1')").await;
    until("nothing is left", async || {
        (stage.leftovers().is_empty() && stage.image("large.tar").is_none()).then_some(())
    })
    .await;
    db.wait_for("select count(*) from di_leftovers", "0").await;
    assert!(stage.staged("large.tar").exists());
}

#[tokio::test]
async fn two_nodes_of_a_storage_get_different_work_and_the_dead_ones_work_is_the_others() {
    let db = Db::new().await;
    db.sql("select osf_create('desk'), host_create('a', '10.0.0.1'), host_create('b', '10.0.0.2'), host_create('c', '10.0.0.3')").await;
    let shared = "storage_id = '6b1e0a1c-5c22-4bb0-9a53-0d3f6b2c1e11'";
    let mut lives = Vec::new();
    for name in ["a", "b", "c"] {
        let life = db
            .sql(&format!("select node || ', ' || node_epoch from node_start('{name}', gen_random_uuid(), 1)"))
            .await
            .unwrap();
        db.sql(&format!("select node_state({life}, 'running')")).await;
        lives.push(life);
    }
    db.sql(&format!("update hosts set {shared} where name in ('a', 'b')")).await;
    db.sql(&format!("select node_images({}, 600, false)", lives[0])).await;
    let stage =
        format!("select node_staging({}, '{{x.tar,y.tar}}', '{{1,1}}', '{{0,0}}', '{{tar,tar}}', null)", lives[0]);
    db.sql(&stage).await;
    db.sql("select di_import('desk', 'x.tar'), di_import('desk', 'y.tar')").await;
    let claim = |life: &str| format!("select source from node_images({life}, 600, true)");
    let (a, b) = (db.session("qvd_node").await, db.session("qvd_node").await);
    assert_eq!(db.sql(&claim(&lives[2])).await, None, "it has another storage");
    assert_eq!(a.sql(&claim(&lives[0])).await.as_deref(), Some("x.tar"));
    assert_eq!(b.sql(&claim(&lives[1])).await.as_deref(), Some("y.tar"));
    assert_eq!(
        b.sql(&format!("select list, source from node_images({}, 600, false)", lives[1])).await.as_deref(),
        Some("f")
    );

    // The first is given up: what it still writes is void, and the other has its work.
    let x = db.sql("select di_id from di_imports where source = 'x.tar'").await.unwrap();
    let done = |life: &str| format!("select node_di_ready({life}, {x}, repeat('a', 64), 1, null)");
    assert_eq!(b.sql(&done(&lives[1])).await, None, "it is not the other's yet");
    db.sql("update host_runtimes r set epoch = epoch + 1, state = 'lost' from hosts where id = host_id and name = 'a'")
        .await;
    let y = db.sql("select di_id from di_imports where source = 'y.tar'").await.unwrap();
    b.sql(&format!("select node_di_failed({}, {y}, 'it is no desktop')", lives[1])).await;
    assert_eq!(b.sql(&claim(&lives[1])).await.as_deref(), Some("x.tar"));
    assert_eq!(a.refused(&done(&lives[0])).await.code, "QV001");
    assert_eq!(b.sql(&done(&lives[1])).await.as_deref(), Some("t"));
    assert_eq!(
        db.rows("select state, message from di_list order by id").await,
        [["published", ""], ["fail", "it is no desktop"]]
    );
}

#[tokio::test]
async fn a_tag_belongs_to_one_published_image_and_moves_when_another_is_published() {
    let db = Db::with_vms(1).await;
    let admin = db.session("qvd_admin").await;
    db.node_runs().await;
    // The image that the VM has, and one that is ready.
    let old = db.sql("select id from di_list").await.unwrap();
    db.sql("update osfs set name = 'desk'").await;
    let new = admin
        .sql("select di_import('desk', 'new.tar', 'v2', tags => '{default,gold}', publish => false)")
        .await
        .unwrap();
    let tags = async |di: &str| db.sql(&format!("select tags from di_list where id = {di}")).await.unwrap();
    assert!(tags(&old).await.contains("default,head"), "one that is not published takes nothing away");
    db.sql(&format!("delete from di_imports; update di_runtimes set state = 'ready' where di_id = {new}")).await;
    let before = db.sql("select di_id from vm_specs").await.unwrap();
    assert_eq!(before, old);
    admin.sql("select di_publish('desk/gold')").await;
    assert_eq!(tags(&new).await, "{default,gold,head,v2}");
    assert!(!tags(&old).await.contains("default"), "{}", tags(&old).await);
    assert_eq!(db.sql("select di_id from vm_specs").await.unwrap(), new);

    let version = db.sql(&format!("select version from dis where id = {old}")).await.unwrap();
    for (statement, code) in [
        (format!("select di_tag('desk/v2', '{version}')"), "QV013"),
        ("select di_untag('desk/v2', 'v2')".to_owned(), "QV014"),
        ("select di_untag('desk/v2', 'head')".to_owned(), "QV014"),
        ("select di_untag('desk/v2', 'silver')".to_owned(), "QV010"),
        ("select di_tag('desk/v2', 'a/b')".to_owned(), "QV014"),
        ("select di_tag('desk/v9', 'a')".to_owned(), "QV010"),
        ("select di_tag('999', 'a')".to_owned(), "QV010"),
        ("select di_import('desk', 'new.tar', 'v2')".to_owned(), "QV013"),
        ("select di_import('desk', '../new.tar')".to_owned(), "QV014"),
        ("select di_import('desk', 'x.tar', soft => '2 hours', hard => '1 hour')".to_owned(), "QV014"),
    ] {
        assert_eq!(admin.refused(&statement).await.code, code, "{statement}");
    }
    admin.sql(&format!("select di_untag('desk/v2', 'gold'), di_tag('{old}', 'default')")).await;
    assert_eq!(tags(&new).await, "{head,v2}");
    assert_eq!(db.sql("select di_id from vm_specs").await.unwrap(), old);
    admin.sql(&format!("select di_block('{old}', true)")).await;
    assert_eq!(admin.refused("select vm_start('alice/d1')").await.code, "QV031");
}

#[tokio::test]
async fn vms_that_run_from_an_older_image_expire_after_a_newer_one_is_published() {
    let db = Db::with_vms(2).await;
    let life = db.node_runs().await;
    db.sql("update osfs set name = 'desk'").await;
    db.sql(&format!("select vm_start('alice/d1'); select node_claim({life}, 3030, 4100)")).await;
    let new = db
        .sql("select di_import('desk', 'new.tar', 'v2', tags => '{default}', soft => '1 hour', hard => '2 hours')")
        .await
        .unwrap();
    let claimed = db.sql(&format!("select di from node_images({life}, 600, true)")).await;
    assert_eq!(claimed.as_ref(), Some(&new));
    let left = "select string_agg(v.name || ' ' || coalesce(round(extract(epoch from r.vm_expiration_soft - now()) / 3600)::text, '-')
        || ' ' || coalesce(round(extract(epoch from r.vm_expiration_hard - now()) / 3600)::text, '-'), ', ' order by v.name)
        from vm_runtimes r join vms v on v.id = r.vm_id";
    assert_eq!(db.sql(left).await.unwrap(), "d1 - -, d2 - -", "not before it is published");
    db.sql(&format!("select node_di_ready({life}, {new}, repeat('a', 64), 1, null)")).await;
    assert_eq!(db.sql(left).await.unwrap(), "d1 1 2, d2 - -", "what does not run does not expire");
    // One that expires sooner is not given more time.
    db.sql("select vm_expire('alice/d1', now(), now() + interval '1 hour')").await;
    let third = db
        .sql("select di_import('desk', 'new.tar', 'v3', tags => '{default}', hard => '5 hours', publish => false)")
        .await
        .unwrap();
    db.sql(&format!("delete from di_imports; update di_runtimes set state = 'ready' where di_id = {third}; select di_publish('{third}')")).await;
    assert_eq!(db.sql(left).await.unwrap(), "d1 0 1, d2 - -");
}

#[tokio::test]
async fn an_image_that_somebody_needs_is_not_deleted_and_the_file_of_another_is() {
    let db = Db::with_vms(1).await;
    let host = Host::new(&db, &[NEVER, ("internal.hkd.basefs.keep", "0")]);
    let admin = db.session("qvd_admin").await;
    db.sql("update osfs set name = 'desk'").await;
    let images = host.storage().join("images");
    let basefs = host.storage().join("basefs");
    fs::create_dir_all(&images).unwrap();
    for name in ["desk", "other", "stray"] {
        fs::create_dir_all(basefs.join(name).join("usr")).unwrap();
        fs::write(images.join(format!("{name}.tar")), "").unwrap();
    }
    fs::create_dir_all(basefs.join(".going-older")).unwrap();
    fs::create_dir_all(basefs.join(".untar-desk")).unwrap();
    let hkd = started(&host).await;
    admin.sql("select vm_start('alice/d1')").await;
    db.wait_vm("d1", "running").await;
    assert_eq!(admin.refused("select di_delete('desk/default')").await.code, "QV022", "a VM runs from it");
    let used = db.sql("select id from di_list").await.unwrap();
    admin.sql("select di_create('desk', 'other.tar', 'v2')").await;
    assert_eq!(admin.refused(&format!("select di_delete('{used}')")).await.code, "QV022", "it runs all the same");
    admin.sql("select di_delete('desk/v2')").await;
    until("its file is gone", async || (!images.join("other.tar").exists()).then_some(())).await;
    until("what was unpacked is gone", async || (!basefs.join("other").exists()).then_some(())).await;
    until("also what belongs to none", async || {
        (!basefs.join("stray").exists() && !basefs.join(".going-older").exists()).then_some(())
    })
    .await;
    assert!(basefs.join("desk/usr").is_dir() && images.join("desk.tar").exists());
    assert!(basefs.join(".untar-desk").is_dir(), "somebody may be unpacking it");
    assert!(images.join("stray.tar").exists(), "a file that an administrator put there is his");
    assert_eq!(db.sql("select tags from di_list").await.unwrap().matches("default").count(), 1, "the tags went back");
    admin.sql("select vm_stop('alice/d1')").await;
    db.wait_vm("d1", "stopped").await;
    let refusal = admin.refused("select di_delete('desk/default')").await;
    assert_eq!(refusal.code, "QV022", "{refusal:?}");
    assert!(refusal.message.contains("alice@default/d1") || refusal.message.contains("d1"), "{refusal:?}");
    drop(hkd);
}

#[tokio::test]
async fn qvd_admin_di_does_all_of_it_and_says_how_it_ended() {
    let db = Db::new().await;
    let host = Host::new(&db, &[NEVER]);
    let stage = Stage::new(&db, &host).await;
    db.sql("select host_create('n1', '10.0.0.1')").await;
    pack(&stage.staged("desk.tar"), &DESKTOP);
    let _hkd = started(&host).await;
    let said = |arguments: &[&str]| {
        let output = host.qvd(&[&["admin", "di"], arguments].concat());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let json = serde_json::from_str::<serde_json::Value>(&text).unwrap_or_default();
        (output.status.code().unwrap(), text, json, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, _, listed, errors) = said(&["staging", "--json"]);
    assert_eq!((code, listed[0]["file"].as_str()), (0, Some("desk.tar")), "{errors}");
    let (code, text, made, errors) =
        said(&["create", "desk", "desk.tar", "--version", "v1", "--tag", "gold", "--wait", "--json"]);
    assert_eq!((code, made["state"].as_str()), (0, Some("published")), "{text} {errors}");
    assert_eq!(made["tags"], serde_json::json!(["default", "gold", "head", "v1"]));
    assert_eq!(said(&["untag", "desk/v1", "gold"]).0, 0);
    assert_eq!(
        said(&["tag", "desk/v1", "silver", "--json"]).2["tags"],
        serde_json::json!(["default", "head", "silver", "v1"])
    );
    assert_eq!(said(&["block", "desk/silver", "--json"]).2["blocked"], true);
    assert!(said(&["block", "desk/silver", "--undo"]).1.contains("is published"));
    fs::write(stage.staged("text.tar"), "hello").unwrap();
    let (code, text, _, errors) = said(&["create", "desk", "text.tar", "--wait"]);
    assert_eq!(code, 1);
    assert!(
        text.contains("fail") && text.contains("neither a tar archive") && errors.contains("text.tar"),
        "{text} {errors}"
    );
    let (code, _, _, errors) = said(&["create", "nothing", "desk.tar"]);
    assert_eq!(code, 1, "{errors}");
    assert_eq!(said(&["delete", "desk/v1"]).0, 0);
    until("its file is gone", async || stage.image("desk.tar").is_none().then_some(())).await;
}
