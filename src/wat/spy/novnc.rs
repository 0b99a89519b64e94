//! noVNC, which speaks RFB in the browser: its modules, as they lie in a directory of the machine. They are no part of the program.

use std::{
    path::{Component, Path, PathBuf},
    time::UNIX_EPOCH,
};

use axum::{
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};

/// Where the one module is from which all others are loaded.
const ENTRY: &str = "core/rfb.js";

/// The directory.
pub struct NoVnc(PathBuf);

impl NoVnc {
    pub fn at(directory: PathBuf) -> Self {
        Self(directory)
    }

    pub fn directory(&self) -> &Path {
        &self.0
    }

    /// Whether it is there.
    pub async fn is_there(&self) -> bool {
        tokio::fs::metadata(self.0.join(ENTRY)).await.is_ok_and(|file| file.is_file())
    }

    /// A module.
    pub async fn module(&self, path: &str, headers: &HeaderMap) -> Response {
        let Some(path) = module(path) else { return StatusCode::NOT_FOUND.into_response() };
        let file = self.0.join(path);
        let Ok(about) = tokio::fs::metadata(&file).await else { return StatusCode::NOT_FOUND.into_response() };
        let changed = about.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let tag = format!("\"{:x}-{:x}\"", about.len(), changed.unwrap_or_default().as_nanos());
        let known = headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
        let about = [(header::ETAG, tag), (header::CACHE_CONTROL, "no-cache".to_owned())];
        if known {
            return (StatusCode::NOT_MODIFIED, about).into_response();
        }
        match tokio::fs::read(&file).await {
            Ok(text) => (about, [(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], text).into_response(),
            Err(error) => {
                tracing::debug!(file = %file.display(), %error, "cannot be read");
                StatusCode::NOT_FOUND.into_response()
            }
        }
    }
}

/// The path of a module below the directory; `None`: it is none, or leads elsewhere.
fn module(path: &str) -> Option<&Path> {
    let path = Path::new(path);
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    let ours = path.starts_with("core") || path.starts_with("vendor");
    let script = path.extension().is_some_and(|ending| ending == "js");
    (plain && ours && script).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_modules_of_novnc_itself_are_given() {
        for path in ["core/rfb.js", "core/input/keyboard.js", "vendor/pako/lib/zlib/inflate.js"] {
            assert_eq!(module(path), Some(Path::new(path)));
        }
        for path in
            ["", "vnc.html", "app/ui.js", "core/rfb.css", "core/../../x.js", "/core/rfb.js", "../core/rfb.js", "core"]
        {
            assert_eq!(module(path), None, "{path}");
        }
    }
}
