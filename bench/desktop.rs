//! A site with the demo's desktop image, one user and one desktop; what scenarios with real containers stand on.

use std::path::Path;

use qvd::demo::image;

use crate::site::BenchSite;

/// Login, password and VM of the one user.
pub const LOGIN: &str = "bench";
pub const PASSWORD: &str = "measured";
pub const VM: &str = "bench/desktop";

/// An installation with one stopped desktop.
pub async fn open(name: &str, network: u8) -> anyhow::Result<BenchSite> {
    let mut told = String::new();
    let file = image::desktop_image(Path::new(image::CACHE), |progress| {
        let stage = progress.stage.to_string();
        if stage != told {
            eprintln!("desktop image: {stage}");
            told = stage;
        }
    })
    .await?;
    let bench = BenchSite::open(name, network, "lxc", &[]).await?;
    bench.site.add_image(&file, "desktop.tar.zst")?;
    bench
        .site
        .sql(&format!(
            "select osf_create('desktop', memory => 1024, user_storage => 100);
             select di_create('desktop', 'desktop.tar.zst'), user_create('{LOGIN}', '{PASSWORD}');
             select vm_create('{LOGIN}', 'desktop', 'desktop')"
        ))
        .await?;
    Ok(bench)
}
