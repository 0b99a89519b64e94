//! One user's conversation with a server: log in, list desktops, stop one, connect to one. Shared by every user
//! interface; it asks nothing and shows nothing.

use std::{fmt, io, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use rustls::pki_types::ServerName;
use serde::{Deserialize, Deserializer, Serialize};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{
    error::ClientError,
    http::{Answer, Exchange, HttpError, escape},
    trust::Trust,
};
use crate::{
    model::VmId,
    tunnel::{Conn, quic::Parting, tune},
};

/// How long a server may take to accept a connection, and again to finish the TLS handshake.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(20);

/// Where to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Proof of who the user is.
#[derive(Clone)]
pub enum Credentials {
    /// Login and password.
    Password {
        /// With the tenant where needed.
        login: String,
        /// With the second factor at its end where needed.
        password: String,
    },
    /// A token as it was handed out.
    Token(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { login, .. } => write!(f, "Password({login:?}, …)"),
            Self::Token(_) => f.write_str("Token(…)"),
        }
    }
}

impl Credentials {
    fn header(&self) -> String {
        match self {
            Self::Password { login, password } => {
                format!("Basic {}", BASE64_STANDARD.encode(format!("{login}:{password}")))
            }
            Self::Token(token) => format!("Bearer {}", BASE64_STANDARD.encode(token)),
        }
    }
}

/// A desktop as the server lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desktop {
    /// Its id.
    pub id: VmId,
    /// Its name.
    pub name: String,
    /// A VM state; servers may have more than we know.
    pub state: String,
    /// Whether it is out of service.
    #[serde(deserialize_with = "number_or_bool", serialize_with = "as_number")]
    pub blocked: bool,
}

/// Classic servers send 0 and 1.
fn number_or_bool<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Bool(bool),
        Number(i64),
    }
    Ok(match Either::deserialize(deserializer)? {
        Either::Bool(value) => value,
        Either::Number(value) => value != 0,
    })
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn as_number<S: serde::Serializer>(value: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u8(u8::from(*value))
}

/// A connection to a server on which a user's requests are made. The credentials travel with every request; a token
/// that may be used once is good for all of them.
#[derive(Debug)]
pub struct Session {
    exchange: Exchange<Conn>,
    authorization: String,
    server: String,
}

/// A desktop's end of the tunnel, ready for nxproxy.
#[derive(Debug)]
pub struct Link {
    /// The connection.
    pub conn: Conn,
    /// What arrived behind the answer; the first bytes of the tunnel.
    pub leftover: Vec<u8>,
    /// Opens the side channels of this session.
    pub slave_key: String,
    /// Names this session to a server that can say later why it ended; classic servers do not.
    pub session: Option<String>,
    /// Lets the user come back to this desktop when the server is replaced; classic servers give none.
    pub resume: Option<Credentials>,
    /// `host:port`, for messages.
    pub server: String,
}

impl Session {
    /// Connects over TCP. With `trust` over TLS, else in the clear. Nothing is sent about the user yet.
    ///
    /// # Errors
    /// When the server cannot be reached or its certificate is not accepted.
    pub async fn open(
        server: &Server,
        credentials: Credentials,
        trust: Option<&Arc<Trust>>,
    ) -> Result<Self, ClientError> {
        Ok(Self::on(tcp(server, trust).await?, server, &credentials))
    }

    /// Speaks over a connection on which nothing was said yet.
    pub fn on(conn: Conn, server: &Server, credentials: &Credentials) -> Self {
        Self { exchange: Exchange::new(conn), authorization: credentials.header(), server: server.to_string() }
    }

    /// A way to learn how the connection ends.
    pub fn parting(&self) -> Option<Parting> {
        self.exchange.stream().parting()
    }

    /// The user's desktops.
    ///
    /// # Errors
    /// When the login is rejected or the server will not answer.
    pub async fn list(&mut self) -> Result<Vec<Desktop>, ClientError> {
        let answer = self.request("/qvd/list_of_vm?", &[], &mut |_| {}).await?;
        match answer.status {
            200 => serde_json::from_slice(&answer.body).map_err(|error| self.gibberish(error.into())),
            _ => Err(self.refused(&answer)),
        }
    }

    /// Stops a desktop and waits until it is down.
    ///
    /// # Errors
    /// When the server will not, or it takes too long.
    pub async fn stop(&mut self, vm: VmId, progress: &mut (dyn FnMut(&str) + Send)) -> Result<(), ClientError> {
        let answer = self.request(&format!("/qvd/stop_vm?id={vm}"), &[], progress).await?;
        if answer.status == 200 { Ok(()) } else { Err(self.refused(&answer)) }
    }

    /// Why a session of this user ended; `None` when the server does not know.
    ///
    /// # Errors
    /// When the login is rejected or the server will not answer.
    pub async fn end_of(&mut self, session: &str) -> Result<Option<String>, ClientError> {
        let answer = self.request(&format!("/qvd/session_end?id={}", escape(session)), &[], &mut |_| {}).await?;
        if answer.status != 200 {
            return Err(self.refused(&answer));
        }
        let told: serde_json::Value =
            serde_json::from_slice(&answer.body).map_err(|error| self.gibberish(error.into()))?;
        Ok(told.get("reason").and_then(|reason| reason.as_str()).map(str::to_owned))
    }

    /// Connects to a desktop, which is started if need be. `progress` hears what the server is doing.
    ///
    /// # Errors
    /// When the desktop is not available or the connection breaks meanwhile.
    pub async fn connect(
        mut self,
        vm: VmId,
        parameters: &[(String, String)],
        progress: &mut (dyn FnMut(&str) + Send),
    ) -> Result<Link, ClientError> {
        let mut target = format!("/qvd/connect_to_vm?id={vm}");
        for (key, value) in parameters {
            target.push_str(&format!("&{}={}", escape(key), escape(value)));
        }
        let headers = [("Connection", "Upgrade"), ("Upgrade", "QVD/1.0"), ("X-QVD-Resume", "1")];
        let answer = self.request(&target, &headers, progress).await?;
        if answer.status != 101 {
            return Err(self.refused(&answer));
        }
        let slave_key = answer.header("X-QVD-Slave-Key").unwrap_or_default().to_owned();
        let session = answer.header("X-QVD-Session-Id").map(str::to_owned);
        let resume = answer.header("X-QVD-Resume-Token").map(|token| Credentials::Token(token.to_owned()));
        let (conn, leftover) = self.exchange.into_parts();
        Ok(Link { conn, leftover, slave_key, session, resume, server: self.server })
    }

    /// Sends a request and passes interim answers on until the final one.
    async fn request(
        &mut self,
        target: &str,
        headers: &[(&str, &str)],
        progress: &mut (dyn FnMut(&str) + Send),
    ) -> Result<Answer, ClientError> {
        let mut all = vec![("Authorization", self.authorization.as_str())];
        all.extend_from_slice(headers);
        if let Err(error) = self.exchange.send(target, &all).await {
            return Err(self.broken(error));
        }
        loop {
            match self.exchange.receive().await {
                Ok(answer) if (102..200).contains(&answer.status) || answer.status == 100 => {
                    if let Some(text) = answer.header("X-QVD-VM-Info") {
                        progress(text);
                    }
                }
                Ok(answer) => return Ok(answer),
                Err(error) => return Err(self.broken(error)),
            }
        }
    }

    fn broken(&self, error: HttpError) -> ClientError {
        match error {
            HttpError::Io(source) => ClientError::Lost { server: self.server.clone(), source: Some(source) },
            other => self.gibberish(other),
        }
    }

    fn gibberish(&self, source: HttpError) -> ClientError {
        ClientError::Gibberish { server: self.server.clone(), source }
    }

    fn refused(&self, answer: &Answer) -> ClientError {
        match answer.status {
            401 => ClientError::Rejected { text: answer.text() },
            400.. => ClientError::Unavailable { text: answer.text() },
            status => self.gibberish(HttpError::Status { status }),
        }
    }
}

/// Connects over TCP. With `trust` over TLS, else in the clear.
pub(super) async fn tcp(server: &Server, trust: Option<&Arc<Trust>>) -> Result<Conn, ClientError> {
    let label = server.to_string();
    let unreachable = |source: io::Error| ClientError::Unreachable { server: label.clone(), source };
    let tcp = limited(TcpStream::connect((server.host.as_str(), server.port))).await.map_err(unreachable)?;
    tune(&tcp).map_err(unreachable)?;
    let Some(trust) = trust else { return Ok(tcp.into()) };
    let name = ServerName::try_from(server.host.clone())
        .map_err(|_| ClientError::Usage(format!("{:?} is neither a host name nor an address", server.host)))?;
    let (config, verdict) = trust.client_config(&label)?;
    let handshake = limited(TlsConnector::from(config).connect(name, tcp)).await;
    match (handshake, verdict.take()) {
        (Ok(stream), _) => Ok(stream.into()),
        (Err(_), Some(refusal)) => Err(refusal.into()),
        (Err(source), None) => Err(unreachable(source)),
    }
}

async fn limited<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(CONNECT_LIMIT, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
