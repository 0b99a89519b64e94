//! Asks an agent: one call, one TCP connection, one limit for all of it.
//! Nothing is retried and nothing is remembered here, so a call that fails costs what the failure costs: a booting VM
//! may be pinged every few milliseconds. Proxies of the environment are not used.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use serde_json::Value;
use socket2::{SockRef, TcpKeepalive};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::protocol::{self, AnswerError, Method, Pairs};
use crate::model::{VmSecret, XState};

/// The agent of one VM.
#[derive(Clone, Debug)]
pub struct AgentClient {
    peer: Arc<Peer>,
}

/// A connection to an agent.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Makes connections to an agent that cannot be reached by its address from here.
pub trait Connect: fmt::Debug + Send + Sync {
    /// A new connection.
    fn connect(&self) -> BoxFuture<'_, io::Result<Box<dyn Connection>>>;
}

#[derive(Debug)]
struct Peer {
    address: SocketAddr,
    /// `None`: to the address, from here.
    through: Option<Arc<dyn Connect>>,
    secret: Option<VmSecret>,
    limit: Duration,
}

/// Why a call gave no result.
#[derive(Debug, Error)]
pub enum AgentError {
    /// Nobody answers at the address, or the connection broke.
    #[error("cannot reach the agent of the VM")]
    Unreachable {
        /// What the network said.
        #[source]
        source: io::Error,
    },
    /// The limit of the call passed.
    #[error("the agent of the VM did not answer in time")]
    Timeout,
    /// The method failed; the text is the agent's, made for people.
    #[error("the agent of the VM refused: {0}")]
    Refused(String),
    /// The agent knows another secret than we do.
    #[error("the agent of the VM does not accept our secret")]
    Secret,
    /// What answers is no agent, or one that we do not understand.
    #[error("the agent of the VM answered nonsense: {0}")]
    Protocol(String),
}

/// A connection to a desktop: RFB, in which the server speaks first.
pub struct Desktop {
    /// What was said already.
    pub said: Vec<u8>,
    /// What follows.
    pub stream: Box<dyn Connection>,
}

/// Why a desktop is not shown.
#[derive(Debug, Error)]
pub enum VncError {
    /// The agent cannot be asked.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The image has no program for it.
    #[error("the image of the VM has no x11vnc")]
    Missing,
    /// Nobody uses the VM.
    #[error("there is no desktop in the VM that could be seen")]
    NoSession,
    /// The user would have to agree.
    #[error("the user would have to agree and is not connected")]
    Absent,
    /// The agent lets no more in.
    #[error("too many look at the desktop already")]
    Crowded,
}

impl AgentClient {
    /// Names an agent; nothing is connected yet. `limit` holds for each call, from the first SYN to the last byte.
    /// Against a VM that is booting let it be some 20 ms: a SYN that comes too early is repeated only after a second.
    pub fn new(address: SocketAddr, secret: Option<VmSecret>, limit: Duration) -> Self {
        Self { peer: Arc::new(Peer { address, through: None, secret, limit }) }
    }

    /// The same by connections that another makes.
    pub fn through(connect: Arc<dyn Connect>, address: SocketAddr, secret: Option<VmSecret>, limit: Duration) -> Self {
        Self { peer: Arc::new(Peer { address, through: Some(connect), secret, limit }) }
    }

    /// Whether the agent lives.
    pub async fn ping(&self) -> Result<(), AgentError> {
        self.call(Method::Ping, &[]).await.map(drop)
    }

    /// Shuts the VM down. The answer comes before the VM does it.
    pub async fn poweroff(&self) -> Result<(), AgentError> {
        self.call(Method::Poweroff, &[]).await.map(drop)
    }

    /// Tells the VM when it expires; both are time stamps as text.
    pub async fn expire(&self, soft: &str, hard: &str) -> Result<(), AgentError> {
        let parameters = [("vm.expiration.soft", soft), ("vm.expiration.hard", hard)];
        self.call(Method::Expire, &parameters.map(|(key, value)| (key.to_owned(), value.to_owned()))).await.map(drop)
    }

    /// Starts or resumes the X session with the parameters of a connection. Success means that it is on its way.
    pub async fn x_start(&self, parameters: &[(String, String)]) -> Result<(), AgentError> {
        self.call(Method::XStart, parameters).await.map(drop)
    }

    /// Ends the X session.
    pub async fn x_stop(&self) -> Result<(), AgentError> {
        self.call(Method::XStop, &[]).await.map(drop)
    }

    /// Makes the X session let go of its proxy.
    pub async fn x_suspend(&self) -> Result<(), AgentError> {
        self.call(Method::XSuspend, &[]).await.map(drop)
    }

    /// The state of the X session.
    pub async fn x_state(&self) -> Result<XState, AgentError> {
        state(self.call(Method::XState, &[]).await?)
    }

    /// Waits at the agent until its X state is another than `seen` or `limit` passed, and returns what it is then.
    /// `None`: the agent does not know this extension, so it is a classic one.
    pub async fn x_wait(&self, seen: XState, limit: Duration) -> Result<Option<XState>, AgentError> {
        let parameters: Pairs = vec![
            (protocol::WAIT_SEEN.to_owned(), seen.to_string()),
            (protocol::WAIT_LIMIT.to_owned(), limit.as_secs_f64().to_string()),
        ];
        match self.exchange(Method::XWait, &parameters, self.peer.limit + limit).await? {
            (404, _) => Ok(None),
            (status, body) => state(result(status, &body)?).map(Some),
        }
    }

    /// A connection to the desktop, which has to be used with care: where nothing shall be done, `view_only` asks the agent to
    /// see to it, which a classic one does not.
    ///
    /// # Errors
    /// The agent says why not, or does not answer within the limit.
    pub async fn vnc(&self, view_only: bool) -> Result<Desktop, VncError> {
        let mut request = self.head(&protocol::vnc_target(view_only));
        request.push_str("Connection: Upgrade\r\nUpgrade: VNC\r\n\r\n");
        let exchange = async {
            let mut stream = self.connect(true).await.map_err(AgentError::from)?;
            stream.write_all(request.as_bytes()).await.map_err(AgentError::from)?;
            let said = read_upgrade(&mut stream).await?;
            Ok(Desktop { said, stream })
        };
        timeout(self.peer.limit, exchange).await.map_err(|_| AgentError::Timeout)?
    }

    async fn call(&self, method: Method, parameters: &[(String, String)]) -> Result<Value, AgentError> {
        let (status, body) = self.exchange(method, parameters, self.peer.limit).await?;
        result(status, &body)
    }

    async fn exchange(
        &self,
        method: Method,
        parameters: &[(String, String)],
        limit: Duration,
    ) -> Result<(u16, Vec<u8>), AgentError> {
        let request = self.head(&protocol::target(method, parameters)) + "\r\n";
        let exchange = async { converse(&mut self.connect(false).await?, &request).await };
        timeout(limit, exchange).await.map_err(|_| AgentError::Timeout)?
    }

    /// Request line and headers, without the line that ends them.
    fn head(&self, target: &str) -> String {
        let Peer { address, secret, .. } = &*self.peer;
        let mut head = format!("GET {target} HTTP/1.1\r\nHost: {address}\r\n");
        if let Some(secret) = secret {
            head.push_str(&format!("{}: {}\r\n", protocol::SECRET_HEADER, secret.to_hex()));
        }
        head
    }

    /// Of one that lasts it is noticed, too, when the VM is gone without a word.
    async fn connect(&self, lasting: bool) -> io::Result<Box<dyn Connection>> {
        let Peer { address, through, .. } = &*self.peer;
        if let Some(through) = through {
            return through.connect().await;
        }
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        if lasting {
            let alive = TcpKeepalive::new().with_time(ALIVE).with_interval(ALIVE);
            SockRef::from(&stream).set_tcp_keepalive(&alive)?;
        }
        Ok(Box::new(stream))
    }
}

impl From<io::Error> for AgentError {
    fn from(source: io::Error) -> Self {
        Self::Unreachable { source }
    }
}

/// After so much silence a VM is asked for a sign of life.
const ALIVE: Duration = Duration::from_secs(20);

/// More than this no answer of an agent is long.
const ANSWER_LIMIT: usize = 64 * 1024;

async fn converse(stream: &mut (impl Connection + ?Sized), request: &str) -> Result<(u16, Vec<u8>), AgentError> {
    stream.write_all(request.as_bytes()).await?;
    read_answer(stream).await
}

async fn read_answer(stream: &mut (impl Connection + ?Sized)) -> Result<(u16, Vec<u8>), AgentError> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        if let Some(answer) = parse_answer(&bytes)? {
            return Ok(answer);
        }
        if bytes.len() >= ANSWER_LIMIT {
            return Err(AgentError::Protocol(format!("its answer is longer than {ANSWER_LIMIT} bytes")));
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
}

/// Reads the answers to an upgrade up to the one that counts; what comes after it is the other protocol's.
async fn read_upgrade(stream: &mut (impl Connection + ?Sized)) -> Result<Vec<u8>, VncError> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        match parse_upgrade(&bytes)? {
            Some((Upgrade::Wait, length)) => drop(bytes.drain(..length)),
            Some((Upgrade::Done, length)) => return Ok(bytes.split_off(length)),
            None if bytes.len() >= ANSWER_LIMIT => {
                return Err(AgentError::Protocol(format!("its answer is longer than {ANSWER_LIMIT} bytes")).into());
            }
            None => {
                if stream.read_buf(&mut bytes).await.map_err(AgentError::from)? == 0 {
                    return Err(AgentError::from(io::Error::from(io::ErrorKind::UnexpectedEof)).into());
                }
            }
        }
    }
}

/// What an answer to an upgrade says.
#[derive(Debug, PartialEq, Eq)]
enum Upgrade {
    Wait,
    Done,
}

/// The answer at the beginning of `bytes` and its length, once it is complete.
fn parse_upgrade(bytes: &[u8]) -> Result<Option<(Upgrade, usize)>, VncError> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(bytes).map_err(|error| AgentError::Protocol(error.to_string()))?;
    let httparse::Status::Complete(length) = parsed else { return Ok(None) };
    match response.code.unwrap_or_default() {
        101 => Ok(Some((Upgrade::Done, length))),
        100..=199 => Ok(Some((Upgrade::Wait, length))),
        403 => Err(AgentError::Secret.into()),
        // Agents that do not know the call, as our first ones, cannot show anything either.
        404 | 501 => Err(VncError::Missing),
        409 => Err(VncError::Absent),
        429 => Err(VncError::Crowded),
        503 => Err(VncError::NoSession),
        other => Err(AgentError::Protocol(format!("status {other}")).into()),
    }
}

/// Status and body once both are complete.
pub(crate) fn parse_answer(bytes: &[u8]) -> Result<Option<(u16, Vec<u8>)>, AgentError> {
    let nonsense = |problem: &dyn ToString| AgentError::Protocol(problem.to_string());
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(bytes).map_err(|error| nonsense(&error))? else {
        return Ok(None);
    };
    let status = response.code.unwrap_or_default();
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.ok_or_else(|| nonsense(&"no length is given"))?;
    let length = str::from_utf8(length.value).ok().and_then(|text| text.trim().parse::<usize>().ok());
    let length = length.filter(|length| *length <= ANSWER_LIMIT).ok_or_else(|| nonsense(&"its length is no length"))?;
    Ok(bytes.get(head..head + length).map(|body| (status, body.to_vec())))
}

fn result(status: u16, body: &[u8]) -> Result<Value, AgentError> {
    match status {
        200 => protocol::decode(body).map_err(|error| match error {
            AnswerError::Refused(text) => AgentError::Refused(text),
            AnswerError::Malformed(text) => AgentError::Protocol(text),
        }),
        403 => Err(AgentError::Secret),
        other => Err(AgentError::Protocol(format!("status {other}"))),
    }
}

fn state(value: Value) -> Result<XState, AgentError> {
    let word = value.as_str().ok_or_else(|| AgentError::Protocol(format!("{value} is no state")))?;
    word.parse().map_err(AgentError::Protocol)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// An agent that gives one prepared answer and tells what it was asked.
    async fn agent(answer: &'static str) -> (AgentClient, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let secret = VmSecret::new([7; 32]);
        let client = AgentClient::new(listener.local_addr().unwrap(), Some(secret), Duration::from_secs(5));
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(request).unwrap()
        });
        (client, asked)
    }

    #[tokio::test]
    async fn a_call_carries_the_secret_and_its_parameters() {
        let (client, asked) = agent("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n\"starting\"\r\n").await;
        client.x_start(&[("a".into(), "b c".into())]).await.unwrap();
        let request = asked.await.unwrap();
        assert!(request.starts_with("GET /vma/x_start?a=b%20c HTTP/1.1\r\n"), "{request}");
        assert!(request.contains(&format!("\r\nX-QVD-VM-Secret: {}\r\n", "07".repeat(32))), "{request}");
    }

    #[tokio::test]
    async fn an_error_of_the_method_is_told_as_the_agent_put_it() {
        let (client, _asked) = agent("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n\"\",\"no\"\r\n").await;
        assert!(matches!(client.x_stop().await, Err(AgentError::Refused(text)) if text == "no"));
    }

    #[tokio::test]
    async fn a_classic_agent_is_known_by_its_404() {
        let (client, _asked) = agent("HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno\n").await;
        assert!(matches!(client.x_wait(XState::Starting, Duration::ZERO).await, Ok(None)));
    }

    #[tokio::test]
    async fn a_wrong_secret_has_its_own_error() {
        let (client, _asked) = agent("HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno\n").await;
        assert!(matches!(client.ping().await, Err(AgentError::Secret)));
    }

    #[tokio::test]
    async fn what_is_no_answer_is_refused_without_reading_it_all() {
        for answer in ["SSH-2.0-x\r\n", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n"]
        {
            let (client, _asked) = agent(answer).await;
            assert!(matches!(client.ping().await, Err(AgentError::Protocol(_))), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_desktop_is_asked_for_with_an_upgrade_and_what_it_says_first_is_kept() {
        let answer = "HTTP/1.1 102 Processing\r\nX-QVD-VMA-Info: Starting VNC service\r\n\r\n\
                      HTTP/1.1 101 Switching Protocols\r\n\r\nRFB 003.008\n";
        let (client, asked) = agent(answer).await;
        let desktop = client.vnc(true).await.unwrap();
        assert_eq!(desktop.said, b"RFB 003.008\n");
        let request = asked.await.unwrap();
        assert!(request.starts_with("GET /vma/vnc_connect?view_only=1 HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("\r\nUpgrade: VNC\r\n") && request.contains("X-QVD-VM-Secret"), "{request}");
    }

    #[tokio::test]
    async fn why_a_desktop_is_not_shown_is_told_apart() {
        for (status, wanted) in [
            ("404 Not Found", "the image of the VM has no x11vnc"),
            ("501 Not Implemented", "the image of the VM has no x11vnc"),
            ("503 Service Unavailable", "there is no desktop in the VM that could be seen"),
            ("409 Conflict", "the user would have to agree and is not connected"),
            ("429 Too Many Requests", "too many look at the desktop already"),
            ("403 Forbidden", "the agent of the VM does not accept our secret"),
            ("500 No", "the agent of the VM answered nonsense: status 500"),
        ] {
            let answer = format!("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
            let (client, _asked) = agent(answer.leak()).await;
            assert_eq!(client.vnc(false).await.err().unwrap().to_string(), wanted, "{status}");
        }
    }

    #[tokio::test]
    async fn silence_ends_with_the_limit_and_a_closed_port_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = AgentClient::new(listener.local_addr().unwrap(), None, Duration::from_millis(20));
        assert!(matches!(client.ping().await, Err(AgentError::Timeout)));
        drop(listener);
        assert!(matches!(client.ping().await, Err(AgentError::Unreachable { .. })));
    }
}
