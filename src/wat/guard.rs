//! What every answer carries so that browsers take only what is ours, and what no request may do: come from another
//! site's page.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

/// No inline script or style, nothing from elsewhere, in no one's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
/// The same for a page whose script makes pictures itself: what comes as an image in a desktop, and its mouse pointer.
pub const POLICY_WITH_PICTURES: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                                        connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

pub async fn guard(request: Request, next: Next) -> Response {
    if !is_from_here(request.method(), request.headers()) {
        return (StatusCode::FORBIDDEN, "another site's page must not change anything here\n").into_response();
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    // Unless a page needs the other one.
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(POLICY));
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::STRICT_TRANSPORT_SECURITY, "max-age=31536000"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // What an administrator sees is nobody else's, not even the cache's.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Whether a request that changes something was made by one of our own pages, or by a program. Browsers say where it comes
/// from; they send the password by themselves, so nothing else tells.
fn is_from_here(method: &Method, headers: &HeaderMap) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) || is_ours(headers)
}

/// Whether one of our own pages asks, or a program.
pub fn is_ours(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    if let Some(site) = text(header::HeaderName::from_static("sec-fetch-site")) {
        return matches!(site, "same-origin" | "none");
    }
    // Older browsers say at least this.
    match (text(header::ORIGIN), text(header::HOST)) {
        (None, _) => true,
        (Some(origin), Some(host)) => origin.split_once("://").is_some_and(|(_, origin)| origin == host),
        (Some(_), None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_here(method: Method, said: &[(&'static str, &'static str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in said {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        is_from_here(&method, &headers)
    }

    #[test]
    fn only_our_own_pages_and_programs_change_anything() {
        let host = ("host", "wat.example:8444");
        for (ours, said) in [
            (true, vec![host, ("sec-fetch-site", "same-origin")]),
            (true, vec![host, ("sec-fetch-site", "none")]),
            (true, vec![host, ("origin", "https://wat.example:8444")]),
            (true, vec![host]),
            (false, vec![host, ("sec-fetch-site", "same-site")]),
            (false, vec![host, ("sec-fetch-site", "cross-site"), ("origin", "https://wat.example:8444")]),
            (false, vec![host, ("origin", "https://evil.example")]),
            (false, vec![host, ("origin", "https://wat.example:8444.evil.example")]),
            (false, vec![host, ("origin", "null")]),
        ] {
            assert_eq!(from_here(Method::POST, &said), ours, "{said:?}");
            assert!(from_here(Method::GET, &said), "reading: {said:?}");
        }
    }
}
