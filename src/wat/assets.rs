//! Files that browsers keep: they are part of the program, and asked for again only when another one runs.

use axum::{
    extract::Path,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use rust_embed::RustEmbed;

const KINDS: [(&str, &str); 3] =
    [(".css", "text/css; charset=utf-8"), (".js", "text/javascript; charset=utf-8"), (".svg", "image/svg+xml")];

#[derive(RustEmbed)]
#[folder = "src/wat/assets"]
struct Assets;

/// Names the program's own version of the file.
fn tag(file: &rust_embed::EmbeddedFile) -> String {
    let hash = file.metadata.sha256_hash();
    format!("\"{:02x}{:02x}{:02x}{:02x}{:02x}{:02x}\"", hash[0], hash[1], hash[2], hash[3], hash[4], hash[5])
}

pub async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Response {
    let Some(file) = Assets::get(&name) else { return StatusCode::NOT_FOUND.into_response() };
    let Some((_, kind)) = KINDS.iter().find(|(ending, _)| name.ends_with(ending)) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let tag = tag(&file);
    let about = [(header::ETAG, tag.clone()), (header::CACHE_CONTROL, "no-cache".to_owned())];
    if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, about).into_response();
    }
    (about, [(header::CONTENT_TYPE, *kind)], file.data.into_owned()).into_response()
}
