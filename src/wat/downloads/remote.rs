//! Somebody else's web server: which addresses may be asked, and the answer to one request, redirects followed. Only http and
//! https, and only the address that was checked is connected to.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    body::Bytes,
    http::{Request, Response, StatusCode, header},
};
use http_body_util::Empty;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use url::{Host, Url};

const CONNECT: Duration = Duration::from_secs(10);
/// Until the head of an answer is there.
const HEAD: Duration = Duration::from_secs(30);
const REDIRECTS: usize = 5;

/// Why nothing comes.
#[derive(Debug, Error)]
pub enum RemoteError {
    #[error("this is not an http or https address without a password")]
    Address,
    #[error("{0} is not a global address (wat.download.private allows it)")]
    Private(IpAddr),
    #[error("{0} has no address")]
    Unknown(String),
    #[error("{0} does not answer: {1}")]
    Silent(String, String),
    #[error("it is redirected more than {REDIRECTS} times")]
    Redirects,
    #[error("it is redirected from https to http")]
    Downgrade,
    #[error("the server answers {0}")]
    Status(StatusCode),
    #[error("the server does not say how long it is")]
    Length,
    #[error("the server sends it encoded, or another part than was asked for")]
    Content,
}

/// Which addresses may be connected to.
pub type Allowed = fn(IpAddr) -> bool;

/// All, or those that everybody can reach.
pub fn allowed(private: bool) -> Allowed {
    if private { |_| true } else { is_global }
}

/// What comes, from where on.
pub struct Remote {
    pub body: Incoming,
    pub length: u64,
    pub offset: u64,
    pub validator: Option<String>,
}

/// An address that may be asked, as far as it can be told without resolving it.
pub fn address(text: &str) -> Result<Url, RemoteError> {
    let url = Url::parse(text.trim()).map_err(|_| RemoteError::Address)?;
    let plain = url.username().is_empty() && url.password().is_none() && url.host().is_some();
    if matches!(url.scheme(), "http" | "https") && plain { Ok(url) } else { Err(RemoteError::Address) }
}

/// Whether everybody can be reached under it, and nobody who is near and trusts his neighbours.
fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_global_v4(address),
        IpAddr::V6(address) => is_global_v6(address),
    }
}

fn is_global_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(a == 0
        || a >= 224
        || address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_documentation()
        || (a == 100 && b & 0xc0 == 64)
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && b & 0xfe == 18))
}

/// Global unicast is 2000::/3; what leads to IPv4 from there is no better than that.
fn is_global_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    a & 0xe000 == 0x2000 && a != 0x2002 && !(a == 0x2001 && (b < 0x200 || b == 0xdb8)) && !(a == 0x3fff && b < 0x1000)
}

/// Asks for a file from an offset on, if it is still the one with this validator; else it comes from its beginning.
pub async fn open(url: &Url, offset: u64, validator: Option<&str>, allowed: Allowed) -> Result<Remote, RemoteError> {
    let mut url = url.clone();
    for _ in 0..=REDIRECTS {
        let answer = ask(&url, offset, validator, allowed).await?;
        if matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
            let location = answer.headers().get(header::LOCATION).and_then(|location| location.to_str().ok());
            let next = location.and_then(|location| url.join(location).ok()).ok_or(RemoteError::Address)?;
            let next = address(next.as_str())?;
            if url.scheme() == "https" && next.scheme() == "http" {
                return Err(RemoteError::Downgrade);
            }
            url = next;
            continue;
        }
        return taken(answer, offset);
    }
    Err(RemoteError::Redirects)
}

fn taken(answer: Response<Incoming>, offset: u64) -> Result<Remote, RemoteError> {
    let said = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
    if said(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(RemoteError::Content);
    }
    let etag = said(header::ETAG).filter(|tag| !tag.starts_with("W/"));
    let validator = etag.or(said(header::LAST_MODIFIED)).map(str::to_owned);
    let length = said(header::CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    let (length, offset) = match answer.status() {
        StatusCode::OK => (length.ok_or(RemoteError::Length)?, 0),
        StatusCode::PARTIAL_CONTENT if offset > 0 => {
            let total = said(header::CONTENT_RANGE)
                .and_then(|range| range.strip_prefix(&format!("bytes {offset}-")))
                .and_then(|rest| rest.split_once('/'))
                .and_then(|(_, total)| total.parse().ok());
            (total.ok_or(RemoteError::Content)?, offset)
        }
        status => return Err(RemoteError::Status(status)),
    };
    Ok(Remote { body: answer.into_body(), length, offset, validator })
}

async fn ask(
    url: &Url,
    offset: u64,
    validator: Option<&str>,
    allowed: Allowed,
) -> Result<Response<Incoming>, RemoteError> {
    let name = url.host_str().ok_or(RemoteError::Address)?;
    let silent = |error: String| RemoteError::Silent(name.to_owned(), error);
    let stream =
        timeout(CONNECT, connect(url, allowed)).await.map_err(|_| silent("it takes too long".to_owned()))??;
    let mut request = Request::get(&url[url::Position::BeforePath..url::Position::AfterQuery])
        .header(header::HOST, &url[url::Position::BeforeHost..url::Position::AfterPort])
        .header(header::USER_AGENT, "qvd")
        .header(header::ACCEPT_ENCODING, "identity");
    if let Some(validator) = validator.filter(|_| offset > 0) {
        request = request.header(header::RANGE, format!("bytes={offset}-")).header(header::IF_RANGE, validator);
    }
    let request = request.body(Empty::new()).map_err(|_| RemoteError::Address)?;
    let answer = async {
        if url.scheme() == "http" {
            return exchange(stream, request).await;
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let unbracketed = name.trim_start_matches('[').trim_end_matches(']').to_owned();
        let server = ServerName::try_from(unbracketed).map_err(|error| error.to_string())?;
        let stream =
            TlsConnector::from(Arc::new(config)).connect(server, stream).await.map_err(|error| error.to_string())?;
        exchange(stream, request).await
    };
    let answer = timeout(HEAD, answer).await.unwrap_or_else(|_| Err("it takes too long".to_owned()));
    answer.map_err(silent)
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
) -> Result<Response<Incoming>, String> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // It ends with the body, or when nobody reads that.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(|error| error.to_string())
}

/// Resolves once. What is connected to is what was checked.
async fn connect(url: &Url, allowed: Allowed) -> Result<TcpStream, RemoteError> {
    let port = url.port_or_known_default().ok_or(RemoteError::Address)?;
    let name = url.host_str().unwrap_or_default().to_owned();
    let addresses: Vec<SocketAddr> = match url.host().ok_or(RemoteError::Address)? {
        Host::Ipv4(address) => vec![(address, port).into()],
        Host::Ipv6(address) => vec![(address, port).into()],
        Host::Domain(domain) => {
            lookup_host((domain, port)).await.map_err(|_| RemoteError::Unknown(name.clone()))?.collect()
        }
    };
    let mut problem = RemoteError::Unknown(name.clone());
    for address in addresses {
        if !allowed(address.ip()) {
            return Err(RemoteError::Private(address.ip()));
        }
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => problem = RemoteError::Silent(name.clone(), error.to_string()),
        }
    }
    Err(problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_global_addresses_are_global() {
        for near in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.31.0.1",
            "192.0.0.8",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:8.8.8.8",
            "::8.8.8.8",
            "64:ff9b::a00:1",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "fec0::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "2002:a00:1::1",
        ] {
            assert!(!is_global(near.parse().unwrap()), "{near}");
        }
        for global in ["8.8.8.8", "100.128.0.1", "172.32.0.1", "2606:4700::1111", "2001:4860:4860::8888"] {
            assert!(is_global(global.parse().unwrap()), "{global}");
        }
    }

    #[test]
    fn other_schemes_and_passwords_are_refused() {
        for wrong in ["ftp://a/b", "file:///etc/passwd", "http://a:b@c/d", "a", "http:"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
        // However it is written.
        assert_eq!(address("http://0x7f.1/a").unwrap().host(), Some(Host::Ipv4(Ipv4Addr::LOCALHOST)));
    }

    #[tokio::test]
    async fn where_an_address_leads_is_checked_as_it_is() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        let serving = tokio::spawn(async move {
            let (mut stream, _) = server.accept().await.unwrap();
            let mut head = [0; 4096];
            assert_ne!(stream.read(&mut head).await.unwrap(), 0);
            let answer = format!("HTTP/1.1 302 Found\r\nLocation: //127.0.0.2:{port}/\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let url = address(&format!("http://127.0.0.1:{port}/")).unwrap();
        let refused = open(&url, 0, None, |address| address != IpAddr::from([127, 0, 0, 2])).await;
        assert!(matches!(refused, Err(RemoteError::Private(near)) if near == IpAddr::from([127, 0, 0, 2])));
        serving.await.unwrap();
    }
}
