//! From an image that nobody unpacked to its root file system, beside `tar` with the same archive, alone and followed by
//! what puts its files on the disk. All on the same file system, which is quiet before each.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context;
use qvd::{
    demo::image,
    model::config::Config,
    process::Program,
    storage::{ImageName, Storage},
};

use crate::report::{Report, Samples};

const NAME: &str = "desktop.tar.zst";
const LIMIT: Duration = Duration::from_secs(600);

pub async fn run(repetitions: usize, beside: Option<PathBuf>) -> anyhow::Result<Report> {
    let file = image::desktop_image(Path::new(image::CACHE), |_| {}).await?;
    let directory = match beside {
        Some(beside) => tempfile::tempdir_in(beside)?,
        None => tempfile::tempdir()?,
    };
    let mut config = Config::default();
    config.set("path.storage.root", directory.path().display().to_string())?;
    let storage = Storage::new(&config);
    storage.prepare()?;
    let archive = directory.path().join("images").join(NAME);
    std::fs::copy(&file, &archive)?;
    let image = ImageName::parse(NAME)?;

    let (mut ours, mut bare, mut synced) = (Samples::default(), Samples::default(), Samples::default());
    let warm_up = 1;
    for round in 0..repetitions + warm_up {
        quiet(directory.path()).await?;
        let began = Instant::now();
        let root = storage.unpacked(&image).await?.root;
        let own = began.elapsed();
        std::fs::remove_dir_all(root)?;

        let beside = directory.path().join("beside");
        std::fs::create_dir(&beside)?;
        quiet(directory.path()).await?;
        let began = Instant::now();
        let tar = Program::new("tar").args(["--extract", "--numeric-owner", "--file"]).args([&archive]);
        tar.args(["--directory".as_ref(), beside.as_path()]).limit(LIMIT).run().await?;
        let (unpacked, _) = (began.elapsed(), quiet(directory.path()).await?);
        let on_disk = began.elapsed();
        std::fs::remove_dir_all(&beside)?;
        if round >= warm_up {
            ours.add(own);
            bare.add(unpacked);
            synced.add(on_disk);
        }
    }
    let mut report = Report { scenario: "unpack", repetitions, ..Report::default() };
    report.figure("unpack_p50_ms", ours.ms(0.5));
    report.figure("ratio_to_tar", bare.ms(0.5) / ours.ms(0.5));
    report.figure("ratio_to_tar_on_disk", synced.ms(0.5) / ours.ms(0.5));
    report.peer("tar", "unpack_p50_ms", bare.ms(0.5));
    report.peer("tar, sync", "unpack_p50_ms", synced.ms(0.5));
    for (name, samples) in [("ours", ours), ("tar", bare), ("tar, sync", synced)] {
        report.spread.insert(name.to_owned(), samples.spread());
    }
    Ok(report)
}

/// Returns when the file system has nothing left to write.
async fn quiet(directory: &Path) -> anyhow::Result<()> {
    let sync = Program::new("sync").args(["--file-system"]).args([directory]).limit(LIMIT);
    sync.run().await.map(drop).context("the file system cannot be made quiet")
}
