//! The web tool, an organisation to administer and a browser in which somebody is logged in.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::driver::Browser;
use crate::{
    cluster::database::Db,
    desktop::Installation,
    wat::stage::{PASSWORD, Wat, administrator, made_administrator},
};

/// Where pictures of pages are kept.
const PICTURES: &str = "target/screenshots";

/// Everything that is needed.
pub struct Stage {
    pub db: Db,
    pub wat: Wat,
    pub browser: Browser,
}

impl Stage {
    /// With the organisation of `company.sql` and an administrator of all of it.
    pub async fn company() -> Self {
        let db = Db::new().await;
        db.sql(include_str!("company.sql")).await;
        Self::on(db).await
    }

    /// With so many VMs of alice, and a node that does not run.
    pub async fn with_vms(vms: u32) -> Self {
        Self::on(Db::with_vms(vms).await).await
    }

    /// With so many that were written without triggers.
    pub async fn with_many_vms(vms: u32) -> Self {
        Self::on(Db::with_many_vms(vms).await).await
    }

    pub async fn on(db: Db) -> Self {
        administrator(&db, "root", "*", "Root").await;
        let wat = Wat::start(&db).await;
        let browser = logged_in(&wat, &[]).await;
        Self { db, wat, browser }
    }

    /// Goes to a page of the web tool.
    pub async fn go(&self, path: &str) {
        self.browser.go(&self.address(path)).await.unwrap();
    }

    pub fn address(&self, path: &str) -> String {
        format!("http://{}{path}", self.wat.address())
    }

    /// Goes to an object's page; `id` is an SQL expression.
    pub async fn go_to_object(&self, kind: &str, id: &str) {
        let id = self.db.sql(&format!("select {id}")).await.unwrap();
        self.go(&format!("/{kind}/{id}")).await;
    }

    /// Every page that the navigation leads to, as paths.
    pub async fn sections(&self) -> Vec<String> {
        self.paths("body > nav a").await
    }

    /// Where links lead, as paths.
    pub async fn paths(&self, links: &str) -> Vec<String> {
        let script = format!("return [...document.querySelectorAll('{links}')].map(link => link.getAttribute('href'))");
        strings(&self.browser.script(&script).await.unwrap())
    }

    /// One of every kind of page that links lead to from the first.
    pub async fn pages(&self) -> Vec<String> {
        let mut pages = vec!["/".to_owned()];
        let mut at = 0;
        while at < pages.len() {
            self.go(&pages[at]).await;
            for path in self.paths("nav a[href^=\"/\"], main a[href^=\"/\"]:not([download])").await {
                let path = path.split('?').next().unwrap().to_owned();
                if !pages.iter().any(|known| called(known) == called(&path)) {
                    pages.push(path);
                }
            }
            at += 1;
        }
        pages
    }

    /// Keeps a picture of the page.
    pub async fn picture(&self, name: &str) {
        keep_picture(&self.browser, name).await;
    }

    /// What the browser has to complain about; nothing, usually.
    pub async fn is_content(&self, whereabouts: &str) {
        let complaints = self.browser.complaints().await.unwrap();
        assert_eq!(complaints, Vec::<String>::new(), "on {whereabouts}");
    }
}

/// The web tool of an installation, with noVNC and an administrator of all of it.
pub async fn web_tool(at: &Installation) -> Wat {
    if let Err(error) = at.sql(&made_administrator("root", "*", "Root")).await {
        // Another test of the same installation may have made it.
        let there = at.value("select count(*) from administrators where name = 'root'").await;
        assert_eq!(there, "1", "{error}");
    }
    let novnc = installed("novnc/core/rfb.js");
    let novnc = novnc.ancestors().nth(2).unwrap().display();
    let socket = at.cluster().socket_dir().display().to_string();
    Wat::configured(&socket, "qvd", &[], &format!("wat.novnc.dir = {novnc}\n")).await
}

/// A browser in which the administrator of all is logged in. It also reaches others than the web tool.
pub async fn logged_in(wat: &Wat, others: &[SocketAddr]) -> Browser {
    let reached: Vec<_> = [wat.address()].iter().chain(others).copied().collect();
    let browser = Browser::open(&reached).await.unwrap();
    browser.log_in(wat.address(), "root", PASSWORD).await.unwrap();
    browser.until_it_says("QVD").await.unwrap();
    browser
}

/// Keeps a picture of a browser's page.
pub async fn keep_picture(browser: &Browser, name: &str) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(PICTURES);
    fs::create_dir_all(&directory).unwrap();
    let picture = browser.picture().await.unwrap();
    assert!(picture.starts_with(b"\x89PNG"), "a picture");
    fs::write(directory.join(format!("{name}.png")), picture).unwrap();
}

/// The name of a kind of pages: `/vm/10003` is `vm-one`.
pub fn called(path: &str) -> String {
    let parts = path.split('/').filter(|part| !part.is_empty());
    let parts = parts.map(|part| if part.parse::<i64>().is_ok() { "one" } else { part });
    match parts.collect::<Vec<_>>().join("-") {
        nothing if nothing.is_empty() => "overview".to_owned(),
        name => name,
    }
}

pub fn strings(value: &Value) -> Vec<String> {
    let values = value.as_array().unwrap_or_else(|| panic!("no list: {value}"));
    values.iter().map(|value| value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()).collect()
}

/// A file that `make` installs for tests below `target`.
pub fn installed(path: &str) -> PathBuf {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("target").join(path);
    assert!(file.exists(), "{} is missing; run `make axe novnc`", file.display());
    file
}
