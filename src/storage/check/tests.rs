use std::{fs, path::Path};

use super::{
    super::{StorageLock, overlay::discarded},
    FindingKind as Kind, *,
};
use crate::model::{CensusImage, DiId, HostId, UserId, config::Config};

/// A storage, and what a database knows of it: VM 1, which is up, VM 2, which is not, and image 5, which VM 1 uses.
struct Stage {
    dir: tempfile::TempDir,
    storage: Storage,
    census: Census,
    options: CheckOptions,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.set("path.storage.root", dir.path().to_str().unwrap()).unwrap();
        let storage = Storage::new(&config);
        // Not by `prepare`, which removes in the background what it finds discarded.
        for name in ["homefs", "homes", "overlayfs", "overlays", "basefs", "images", "staging"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let census = Census {
            vms: [(VmId(1), true), (VmId(2), false)].into(),
            users: [(UserId(1), true), (UserId(2), false)].into(),
            images: vec![CensusImage {
                di: DiId(5),
                path: "5-desk.tar".to_owned(),
                is_ready: true,
                is_coming: false,
                is_used: true,
                size: Some(4),
                sha256: Some("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".to_owned()),
            }],
            epochs: [(HostId(1), 3)].into(),
            one_storage: true,
        };
        let options = CheckOptions {
            repair: false,
            checksums: false,
            keeps_layers: false,
            keeps_trees: Duration::from_secs(3600),
        };
        let stage = Self { dir, storage, census, options };
        stage.file("images/5-desk.tar", "test");
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str, content: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn age(&self, name: &str, hours: u64) {
        let then = std::time::SystemTime::now() - Duration::from_secs(hours * 3600);
        fs::File::open(self.path(name)).unwrap().set_modified(then).unwrap();
    }

    fn has(&self, name: &str) -> bool {
        self.path(name).symlink_metadata().is_ok()
    }

    fn check(&self) -> Vec<Finding> {
        self.storage.check::<StorageError>(self.options, || Ok(self.census.clone()), &mut |_, _| {}).unwrap()
    }

    fn repair(&mut self) -> Vec<Finding> {
        self.options.repair = true;
        let findings = self.check();
        self.options.repair = false;
        findings
    }

    /// What was found, by kind and name below the root.
    fn kinds(&self) -> Vec<(Kind, String)> {
        self.kinds_of(&self.check())
    }

    fn kinds_of(&self, findings: &[Finding]) -> Vec<(Kind, String)> {
        let below = |path: &Path| path.strip_prefix(self.dir.path()).unwrap().display().to_string();
        findings.iter().map(|finding| (finding.kind, below(&finding.path))).collect()
    }
}

fn owner(host: i32, epoch: i64) -> String {
    Owner { host: HostId(host), epoch, boot_id: "boot".to_owned() }.record()
}

#[test]
fn what_is_used_is_no_finding_and_nothing_is_made_or_touched() {
    let stage = Stage::new();
    for name in ["homefs/1-fs/letter", "homefs/2-fs/letter", "overlayfs/5-1-overlayfs/upper/x", "basefs/5-desk/usr/x"] {
        stage.file(name, "x");
    }
    for name in
        ["homes/2-data.qcow2", "overlays/5-2-overlay.qcow2", "staging/desk.tar", "homefs/alice", "homefs/lock.2"]
    {
        stage.file(name, "");
    }
    stage.file("homefs/lock.1", &owner(1, 3));
    let before = fs::read_dir(stage.path("homefs")).unwrap().count();
    assert_eq!(stage.kinds(), []);
    assert_eq!(fs::read_dir(stage.path("homefs")).unwrap().count(), before, "no lock is made");
}

#[test]
fn homes_of_nobody_are_set_aside_and_layers_of_nobody_removed_or_set_aside() {
    let mut stage = Stage::new();
    stage.file("homefs/7-fs/letter", "dear");
    stage.file("homes/8-data.qcow2", "disk");
    stage.file("overlayfs/5-7-overlayfs/upper/x", "x");
    stage.file("overlays/5-8-overlay.qcow2", "x");
    let expected = [
        (Kind::OrphanHome, "homefs/7-fs"),
        (Kind::OrphanHome, "homes/8-data.qcow2"),
        (Kind::OrphanLayer, "overlayfs/5-7-overlayfs"),
        (Kind::OrphanLayer, "overlays/5-8-overlay.qcow2"),
    ]
    .map(|(kind, name)| (kind, name.to_owned()));
    assert_eq!(stage.kinds(), expected);
    assert!(stage.check().iter().all(|finding| finding.bytes > 0), "each has a size");
    let findings = stage.repair();
    assert!(findings.iter().all(Finding::is_mended), "{findings:?}");
    let Some(Outcome::SetAside(place)) = &findings[0].outcome else { panic!("{findings:?}") };
    assert!(place.starts_with(stage.path("homefs/lost-and-found")));
    assert_eq!(fs::read_to_string(place.join("letter")).unwrap(), "dear");
    assert!(matches!(&findings[1].outcome, Some(Outcome::SetAside(place)) if place.is_file()));
    assert!(!stage.has("overlayfs/5-7-overlayfs") && !stage.has("overlays/5-8-overlay.qcow2"));
    assert_eq!(stage.kinds(), [], "what was set aside is not found again");

    stage.file("homefs/7-fs/letter", "a second");
    stage.file("overlayfs/5-7-overlayfs/upper/x", "x");
    stage.options.keeps_layers = true;
    let findings = stage.repair();
    assert!(matches!(&findings[1].outcome, Some(Outcome::SetAside(place)) if place.join("upper/x").is_file()));
    assert_eq!(fs::read_to_string(place.join("letter")).unwrap(), "dear", "the first is still there");
}

#[test]
fn what_somebody_holds_or_who_lives_has_written_his_stays() {
    let mut stage = Stage::new();
    for (vm, record) in
        [(7, String::new()), (8, owner(1, 3)), (9, "{\"host\":".to_owned()), (10, owner(1, 2)), (11, owner(4, 1))]
    {
        stage.file(&format!("homefs/{vm}-fs/letter"), "dear");
        stage.file(&format!("homefs/lock.{vm}"), &record);
    }
    let held = StorageLock::take(&stage.path("homefs/lock.7")).unwrap();
    let findings = stage.repair();
    let homes: Vec<_> = findings.iter().filter(|finding| finding.kind == Kind::OrphanHome).collect();
    let mended: Vec<_> = homes.iter().map(|finding| finding.is_mended()).collect();
    // By name: 10, 11, 7, 8, 9.
    assert_eq!(mended, [true, true, false, false, false], "{homes:#?}");
    for (finding, why) in homes[2..].iter().zip(["it runs", "host 1 in epoch 3, which lives", "names no owner"]) {
        assert!(finding.why.contains(why) && matches!(finding.remedy, Remedy::Nobody(_)), "{finding:?}");
    }
    assert!([7, 8, 9].iter().all(|vm| stage.has(&format!("homefs/{vm}-fs/letter"))));
    drop(held);
}

#[test]
fn one_who_takes_the_lock_or_writes_his_name_between_looking_and_acting_keeps_what_is_his() {
    let mut stage = Stage::new();
    stage.file("homefs/7-fs/letter", "dear");
    stage.file("homefs/8-fs/letter", "dear");
    stage.options.repair = true;
    let mut held = None;
    // Sizes are taken between the two.
    let mut progress = |_: &Path, _| {
        held.get_or_insert_with(|| StorageLock::take(&stage.path("homefs/lock.7")).unwrap());
        // His storage lost the lock.
        stage.file("homefs/lock.8", &owner(1, 3));
    };
    let findings = stage.storage.check::<StorageError>(stage.options, || Ok(stage.census.clone()), &mut progress);
    let findings = findings.unwrap();
    for (finding, words) in findings.iter().zip(["somebody has its lock", "host 1 in epoch 3, which lives"]) {
        assert!(matches!(&finding.outcome, Some(Outcome::Left(why)) if why.contains(words)), "{finding:?}");
    }
    assert!(stage.has("homefs/7-fs/letter") && stage.has("homefs/8-fs/letter"));
}

#[test]
fn the_home_of_a_user_is_kept_as_long_as_its_user_is_on_record() {
    let mut stage = Stage::new();
    for user in [1, 2, 7] {
        stage.file(&format!("homefs/user-{user}-fs/letter"), "dear");
        stage.file(&format!("homefs/lock.user-{user}"), &owner(1, 2));
        stage.file(&format!("homes/user-{user}-data.qcow2"), "");
    }
    let kinds = [
        (Kind::StaleLock, "homefs/lock.user-2".to_owned()),
        (Kind::StaleLock, "homefs/lock.user-7".to_owned()),
        (Kind::OrphanHome, "homefs/user-7-fs".to_owned()),
        (Kind::OrphanHome, "homes/user-7-data.qcow2".to_owned()),
    ];
    assert_eq!(stage.kinds(), kinds, "a VM of user 1 is up");
    assert!(stage.repair().iter().all(Finding::is_mended));
    assert!(!stage.has("homefs/user-7-fs") && stage.has("homefs/user-2-fs/letter"));
}

#[test]
fn a_lock_loses_an_owner_who_is_over_and_keeps_one_who_lives() {
    let mut stage = Stage::new();
    stage.file("homefs/lock.2", &owner(1, 2));
    stage.file("overlayfs/lock.2", &owner(1, 3));
    stage.file("homefs/lock.1", &owner(1, 2));
    let kinds = [(Kind::StaleLock, "homefs/lock.2".to_owned()), (Kind::StaleLock, "overlayfs/lock.2".to_owned())];
    assert_eq!(stage.kinds(), kinds, "VM 1 is up, so its lock is left alone");
    let findings = stage.repair();
    assert_eq!(findings[0].outcome, Some(Outcome::Disowned));
    assert_eq!((fs::read_to_string(stage.path("homefs/lock.2")).unwrap().as_str(), &findings[1].outcome), ("", &None));
    assert_eq!(fs::read_to_string(stage.path("overlayfs/lock.2")).unwrap(), owner(1, 3));
}

#[test]
fn what_was_begun_and_left_is_removed_but_not_under_the_hands_of_those_who_are_at_it() {
    let mut stage = Stage::new();
    for name in [
        "basefs/.untar-5-desk/usr/x",
        "images/.import-5.part-00ff",
        "homes/2-data.qcow2.new",
        "overlays/5-2-overlay.qcow2.new",
    ] {
        stage.file(name, "x");
    }
    let junk = discarded(&stage.path("overlayfs/5-2-overlayfs"), std::time::UNIX_EPOCH);
    fs::create_dir(&junk).unwrap();
    let fresh = discarded(&stage.path("overlayfs/5-2-overlayfs"), std::time::SystemTime::now());
    fs::create_dir(&fresh).unwrap();
    stage.file("staging/.desk.tar", "half");
    let unpacker = StorageLock::take(&stage.storage.tree_lock("5-desk")).unwrap();
    let importer = StorageLock::take(&stage.storage.import_lock(DiId(5))).unwrap();
    let kinds = |stage: &Stage| stage.kinds().into_iter().map(|(kind, _)| kind).collect::<Vec<_>>();
    assert_eq!(kinds(&stage), [Kind::DiscardedLayer], "the rest is under way or too young");
    drop((unpacker, importer));
    stage.age("homes/2-data.qcow2.new", 2);
    stage.age("overlays/5-2-overlay.qcow2.new", 2);
    stage.age("staging/.desk.tar", 25);
    stage.census.images[0].is_coming = true;
    assert!(!kinds(&stage).contains(&Kind::UnfinishedImage), "another node will take it up");
    stage.census.images[0].is_coming = false;
    let all = [
        Kind::UnfinishedTree,
        Kind::UnfinishedDisk,
        Kind::UnfinishedImage,
        Kind::DiscardedLayer,
        Kind::UnfinishedDisk,
        Kind::UnfinishedStaging,
    ];
    let mut found = kinds(&stage);
    found.sort_by_key(|kind| all.iter().position(|known| known == kind));
    let mut expected = all.to_vec();
    expected.sort_by_key(|kind| all.iter().position(|known| known == kind));
    assert_eq!(found, expected);
    stage.repair();
    assert_eq!(kinds(&stage), [Kind::UnfinishedStaging], "that one is the administrator's");
    assert!(fresh.exists());
}

#[test]
fn an_unpacked_image_goes_when_no_vm_uses_it_and_none_is_forgotten() {
    let mut stage = Stage::new();
    stage.file("basefs/5-desk/usr/x", "x");
    stage.file("basefs/4-old/usr/x", "x");
    stage.file("overlayfs/lock.2", "");
    stage.census.images[0].is_used = false;
    let runs = StorageLock::take(&stage.path("overlayfs/lock.2")).unwrap();
    let findings = stage.repair();
    assert_eq!(stage.kinds_of(&findings).len(), 2);
    assert!(
        findings.iter().all(|finding| matches!(&finding.outcome, Some(Outcome::Left(why)) if why.contains("VM 2")))
    );
    assert!(stage.has("basefs/5-desk/usr/x") && stage.has("basefs/4-old/usr/x"));
    drop(runs);
    stage.repair();
    assert!(!stage.has("basefs/5-desk") && !stage.has("basefs/4-old"));
    assert_eq!(stage.kinds(), []);
}

#[test]
fn an_unpacked_image_that_a_vm_comes_to_use_meanwhile_stays_in_its_place() {
    let mut stage = Stage::new();
    stage.file("basefs/5-desk/usr/x", "x");
    stage.options.repair = true;
    // At the second question before it is moved away, at the third after it, and so on.
    for comes in [2, 3, 4] {
        let mut asked = 0;
        let census = || {
            asked += 1;
            let mut census = stage.census.clone();
            census.images[0].is_used = asked >= comes;
            Ok(census)
        };
        let findings = stage.storage.check::<StorageError>(stage.options, census, &mut |_, _| {}).unwrap();
        assert!(matches!(findings[0].outcome, Some(Outcome::Left(_))), "{comes}: {findings:?}");
        assert!(stage.has("basefs/5-desk/usr/x"), "{comes}");
    }
}

#[test]
fn images_are_missed_and_measured_and_read_when_that_is_wanted() {
    let mut stage = Stage::new();
    stage.options.checksums = true;
    assert_eq!(stage.kinds(), []);
    stage.file("images/5-desk.tar", "tes2");
    assert_eq!(stage.kinds(), [(Kind::WrongChecksum, "images/5-desk.tar".to_owned())]);
    stage.options.checksums = false;
    assert_eq!(stage.kinds(), [], "nobody reads it");
    stage.file("images/5-desk.tar", "longer");
    assert_eq!(stage.kinds(), [(Kind::WrongSize, "images/5-desk.tar".to_owned())]);
    fs::remove_file(stage.path("images/5-desk.tar")).unwrap();
    assert_eq!(stage.kinds(), [(Kind::MissingImage, "images/5-desk.tar".to_owned())]);
    stage.census.one_storage = false;
    assert_eq!(stage.kinds(), [], "it may be on another storage");
    stage.file("images/mine.tar", "x");
    let findings = stage.repair();
    assert_eq!(stage.kinds_of(&findings), [(Kind::UnknownImage, "images/mine.tar".to_owned())]);
    assert!(stage.has("images/mine.tar"), "somebody may be about to make it an image");
}

#[test]
fn a_layer_of_an_image_that_is_no_more_goes_while_its_vm_is_down() {
    let mut stage = Stage::new();
    for name in ["overlayfs/4-1-overlayfs/upper/x", "overlayfs/4-2-overlayfs/upper/x"] {
        stage.file(name, "x");
    }
    assert_eq!(stage.kinds(), [(Kind::OldLayer, "overlayfs/4-2-overlayfs".to_owned())]);
    stage.repair();
    assert!(stage.has("overlayfs/4-1-overlayfs") && !stage.has("overlayfs/4-2-overlayfs"));
    assert_eq!(stage.kinds(), []);
}
