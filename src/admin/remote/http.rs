//! Requests to the web tool over one connection that is kept: HTTP/1.1, with TLS unless it is on this machine. What is answered is
//! JSON or a problem.

use std::{path::PathBuf, sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
    header::{self, HeaderValue},
};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Mutex,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use url::{Host, Position, Url};

use crate::certificate;

use super::RemoteError;

const CONNECT: Duration = Duration::from_secs(10);
/// For one answer. The database has limits that are shorter.
const ANSWER: Duration = Duration::from_secs(120);

/// Which web tool is asked, by whom.
pub struct Place {
    url: Url,
    tls: Option<Arc<ClientConfig>>,
    authorization: HeaderValue,
    /// The connection, while nobody asks.
    idle: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

/// What is asked.
pub struct Ask<'a> {
    pub method: Method,
    /// Behind `/api/v1`, with its parts and its query encoded.
    pub path: &'a str,
    pub body: Option<&'a Value>,
}

/// An address of a web tool. A password is never sent in the clear over a network.
pub fn address(text: &str) -> Result<Url, RemoteError> {
    let wrong = |why: &'static str| RemoteError::Address(text.to_owned(), why);
    let url = Url::parse(text).map_err(|_| wrong("it is not like https://wat.example/"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("name and password do not belong there, where everybody on this machine can read them"));
    }
    let here = match url.host() {
        None => return Err(wrong("it names no host")),
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
    };
    match url.scheme() {
        "https" => Ok(url),
        "http" if here => Ok(url),
        "http" => Err(wrong("the password would be sent in the clear; https:// is needed")),
        _ => Err(wrong("it is not like https://wat.example/")),
    }
}

impl Place {
    /// Of an administrator with a password.
    pub fn new(url: Url, authorities: Option<PathBuf>, name: &str, password: &str) -> Result<Self, RemoteError> {
        let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("{name}:{password}")));
        let mut authorization = HeaderValue::try_from(basic).map_err(|error| RemoteError::Shape(error.to_string()))?;
        authorization.set_sensitive(true);
        let tls = if url.scheme() == "https" { Some(trusting(authorities)?) } else { None };
        Ok(Self { url, tls, authorization, idle: Mutex::default() })
    }

    fn name(&self) -> String {
        self.url[Position::BeforeHost..Position::AfterPort].to_owned()
    }

    fn silent(&self, why: impl ToString) -> RemoteError {
        RemoteError::Unreachable(self.name(), why.to_string())
    }

    /// What is answered to a request, which must be JSON or nothing.
    pub async fn json(&self, ask: Ask<'_>) -> Result<Value, RemoteError> {
        let answer = timeout(ANSWER, async {
            // Nobody else asks meanwhile: HTTP/1.1 has one answer at a time.
            let mut idle = self.idle.lock().await;
            let (response, sender) = self.send(&ask, idle.take()).await?;
            let status = response.status();
            let body = response.into_body().collect().await.map_err(|error| self.silent(error))?.to_bytes();
            *idle = Some(sender);
            Ok((status, body))
        });
        let (status, body) = answer.await.map_err(|_| self.silent("it takes too long"))??;
        if status.is_success() {
            return match body.is_empty() {
                true => Ok(Value::Null),
                false => serde_json::from_slice(&body).map_err(|_| self.unlike(status)),
            };
        }
        Err(self.refused(status, &body))
    }

    /// An answer that has no end, over a connection of its own.
    pub async fn stream(&self, path: &str) -> Result<Incoming, RemoteError> {
        let ask = Ask { method: Method::GET, path, body: None };
        let (response, sender) = self.send(&ask, None).await?;
        // The connection goes on with the body.
        drop(sender);
        match response.status() {
            StatusCode::OK => Ok(response.into_body()),
            status => {
                let body = response.into_body().collect().await.map_err(|error| self.silent(error))?.to_bytes();
                Err(self.refused(status, &body))
            }
        }
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> RemoteError {
        if status == StatusCode::UNAUTHORIZED {
            return RemoteError::Unknown(self.name());
        }
        RemoteError::of_problem(&serde_json::from_slice(body).unwrap_or_default())
            .unwrap_or_else(|| self.unlike(status))
    }

    /// Somebody else may answer there.
    fn unlike(&self, status: StatusCode) -> RemoteError {
        RemoteError::Shape(format!("{} answers {status}, and not as the web tool of this version does", self.name()))
    }

    /// Sends it over a connection that was kept, or over a new one. What may have arrived is not sent again.
    async fn send(
        &self,
        ask: &Ask<'_>,
        kept: Option<SendRequest<Full<Bytes>>>,
    ) -> Result<(Response<Incoming>, SendRequest<Full<Bytes>>), RemoteError> {
        let mut request = self.request(ask)?;
        if let Some(mut sender) = kept
            && sender.ready().await.is_ok()
        {
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, sender)),
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(self.silent(failed.into_error())),
                },
            }
        }
        let mut sender = self.connect().await?;
        let response = sender.send_request(request).await.map_err(|error| self.silent(error))?;
        Ok((response, sender))
    }

    fn request(&self, ask: &Ask<'_>) -> Result<Request<Full<Bytes>>, RemoteError> {
        let path = format!("{}/api/v1{}", self.url.path().trim_end_matches('/'), ask.path);
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(path)
            .header(header::HOST, self.name())
            .header(header::USER_AGENT, concat!("qvd/", env!("CARGO_PKG_VERSION")))
            .header(header::AUTHORIZATION, self.authorization.clone());
        let mut body = Bytes::new();
        if let Some(said) = ask.body {
            request = request.header(header::CONTENT_TYPE, "application/json");
            body = said.to_string().into();
        }
        request.body(Full::new(body)).map_err(|error| RemoteError::Shape(error.to_string()))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, RemoteError> {
        let late = |_| self.silent("it does not answer");
        let host = self.url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = self.url.port_or_known_default().unwrap_or(443);
        let stream = timeout(CONNECT, TcpStream::connect((host.as_str(), port))).await.map_err(late)?;
        let stream = stream.map_err(|error| self.silent(error))?;
        // A request is small and is waited for.
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else { return self.begin(stream).await };
        let server = ServerName::try_from(host).map_err(|error| self.silent(error))?;
        let secured = timeout(CONNECT, TlsConnector::from(tls.clone()).connect(server, stream)).await.map_err(late)?;
        let secured = secured.map_err(|error| match distrust(&error) {
            Some(why) => RemoteError::Untrusted(self.name(), why),
            None => self.silent(error),
        })?;
        self.begin(secured).await
    }

    async fn begin(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<SendRequest<Full<Bytes>>, RemoteError> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.silent(error))?;
        // How it ends is heard by whoever waits for an answer.
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// Why a certificate will not do; `None`: something else is wrong.
fn distrust(error: &std::io::Error) -> Option<String> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer) => {
            Some("it is of an authority that is not trusted here".to_owned())
        }
        error @ rustls::Error::InvalidCertificate(_) => Some(error.to_string()),
        _ => None,
    }
}

/// TLS with servers whose certificates are of these authorities, or of those that the system trusts.
fn trusting(authorities: Option<PathBuf>) -> Result<Arc<ClientConfig>, RemoteError> {
    let mut roots = RootCertStore::empty();
    match authorities {
        Some(file) => {
            let wrong = |why: String| RemoteError::Authorities { file: file.clone(), why };
            let certificates = CertificateDer::pem_file_iter(&file).map_err(|error| wrong(error.to_string()))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
                roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(wrong("it holds no certificate".to_owned()));
            }
        }
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    let config = ClientConfig::builder_with_provider(Arc::new(certificate::provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| RemoteError::Shape(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_sent_in_the_clear_over_a_network_or_stands_in_an_address() {
        for good in [
            "https://wat.example",
            "https://wat.example:8444/qvd/",
            "http://127.0.0.1:8080",
            "http://[::1]/",
            "http://localhost",
        ] {
            assert!(address(good).is_ok(), "{good}");
        }
        for wrong in
            ["http://wat.example", "http://10.0.0.1/", "https://root:pw@wat.example", "wat.example", "ftp://a/", ""]
        {
            assert!(matches!(address(wrong), Err(RemoteError::Address(..))), "{wrong}");
        }
    }
}
