//! The HTTP server of the agent: a thread per connection, requests one after the other, nothing but GET.
//! Its callers are the nodes of the cluster, a handful at a time; more connections than that are closed at once.

use std::{
    fs,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{
    model::VmSecret,
    vma::protocol::{self, CONTENT_TYPE, Masked, Method, Pairs, SECRET_HEADER, VIEW_ONLY, VNC, VNC_CONNECT},
};

use super::{methods::Agent, power};

/// More callers at the same time than this are not served.
const MOST_CALLERS: usize = 64;

/// An idle connection is closed after this time.
const IDLE: Duration = Duration::from_secs(120);

/// Parameters travel in the request line, so it may be long.
const HEAD_LIMIT: usize = 256 * 1024;

const STACK: usize = 512 * 1024;

/// Serves callers for ever.
pub fn serve(listener: &TcpListener, agent: &Arc<Agent>) {
    let callers = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a caller");
                // The cause (no memory, no descriptors) will not be gone at once.
                thread::sleep(Duration::from_millis(50));
                continue;
            }
        };
        let Some(caller) = Caller::admit(&callers) else {
            tracing::warn!("too many callers");
            continue;
        };
        let agent = Arc::clone(agent);
        let converse = move || {
            let _caller = caller;
            if let Err(error) = converse(stream, &agent) {
                tracing::debug!(%error, "a caller is gone");
            }
        };
        if let Err(error) = thread::Builder::new().stack_size(STACK).spawn(converse) {
            tracing::warn!(%error, "cannot serve a caller");
        }
    }
}

/// One of the places for callers.
struct Caller(Arc<AtomicUsize>);

impl Caller {
    fn admit(callers: &Arc<AtomicUsize>) -> Option<Self> {
        // Counted before it is compared, so that the place is given back in any case.
        let caller = Self(Arc::clone(callers));
        (callers.fetch_add(1, Ordering::Relaxed) < MOST_CALLERS).then_some(caller)
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn converse(mut stream: TcpStream, agent: &Agent) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))?;
    let mut bytes = Vec::new();
    loop {
        let request = match read_request(&mut stream, &mut bytes)? {
            Incoming::Request(request) => request,
            Incoming::End => return Ok(()),
            Incoming::Nonsense => return respond(&mut stream, 400, "Bad Request", "text/plain", b"Bad request\r\n"),
        };
        if let Some(Call::Vnc { upgrade, view_only }) = request.call {
            let trusted = is_trusted(&agent.settings().secret_file, request.secret.as_deref());
            // RFB begins with the server's words, so whoever has spoken already speaks something else.
            return show(stream, agent, trusted, upgrade && bytes.is_empty(), view_only);
        }
        let keep = request.keep;
        let power_off = answer(&mut stream, request, agent)?;
        if power_off {
            // The caller shall have the answer before its network is gone.
            stream.shutdown(std::net::Shutdown::Write)?;
            power::off();
        }
        if power_off || !keep {
            return Ok(());
        }
    }
}

/// Answers one request; true when the VM is to be shut down now.
fn answer(stream: &mut TcpStream, request: Request, agent: &Agent) -> io::Result<bool> {
    if !is_trusted(&agent.settings().secret_file, request.secret.as_deref()) {
        forbid(stream)?;
        return Ok(false);
    }
    let Some(Call::Method(method, parameters)) = request.call else {
        respond(stream, 404, "Not Found", "text/plain", b"Not found\r\n")?;
        return Ok(false);
    };
    tracing::debug!(%method, parameters = %Masked(&parameters), "called");
    let reply = agent.call(method, parameters);
    if let Err(problem) = &reply.answer {
        tracing::warn!(%method, problem, "refused");
    }
    respond(stream, 200, "OK", CONTENT_TYPE, &protocol::encode(&reply.answer))?;
    Ok(reply.power_off)
}

fn forbid(stream: &mut TcpStream) -> io::Result<()> {
    tracing::warn!(caller = ?stream.peer_addr().ok(), "a caller does not know the secret");
    respond(stream, 403, "Forbidden", "text/plain", b"Forbidden\r\n")
}

/// Makes the connection one to the desktop. Callers of classic QVD want to read 102 before 101.
fn show(mut stream: TcpStream, agent: &Agent, trusted: bool, upgrade: bool, view_only: bool) -> io::Result<()> {
    if !trusted {
        return forbid(&mut stream);
    }
    if !upgrade {
        let head =
            "HTTP/1.1 426 Upgrade Required\r\nUpgrade: VNC\r\nConnection: Upgrade, close\r\nContent-Length: 0\r\n\r\n";
        return stream.write_all(head.as_bytes());
    }
    stream.write_all(b"HTTP/1.1 102 Processing\r\nX-QVD-VMA-Info: Starting VNC service\r\n\r\n")?;
    match agent.show(view_only) {
        Ok(shown) => {
            tracing::info!(caller = ?stream.peer_addr().ok(), view_only, "the desktop is shown");
            shown.on(stream)
        }
        Err(problem) => {
            tracing::warn!(%problem, "the desktop is not shown");
            let (status, reason) = problem.status();
            respond(&mut stream, status, reason, "text/plain", format!("{problem}\r\n").as_bytes())
        }
    }
}

/// A request as far as the agent is concerned.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    /// What is called; `None` when there is no such thing.
    call: Option<Call>,
    secret: Option<String>,
    /// Whether another request may follow.
    keep: bool,
}

/// What can be called.
#[derive(Debug, PartialEq, Eq)]
enum Call {
    Method(Method, Pairs),
    /// RFB on this connection; whether HTTP's words for that were said, and whether somebody only looks.
    Vnc {
        upgrade: bool,
        view_only: bool,
    },
}

/// What a caller sends next.
enum Incoming {
    Request(Request),
    End,
    Nonsense,
}

/// Reads one request; what is behind it stays in `bytes`.
fn read_request(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<Incoming> {
    let mut chunk = [0; 4096];
    loop {
        match parse(bytes) {
            Ok(Some((request, length))) => {
                bytes.drain(..length);
                return Ok(Incoming::Request(request));
            }
            Ok(None) if bytes.len() < HEAD_LIMIT => {}
            _ => return Ok(Incoming::Nonsense),
        }
        match stream.read(&mut chunk)? {
            0 => return Ok(Incoming::End),
            length => bytes.extend_from_slice(&chunk[..length]),
        }
    }
}

/// The request at the beginning of `bytes` and its length, once it is complete.
fn parse(bytes: &[u8]) -> Result<Option<(Request, usize)>, httparse::Error> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(length) = head.parse(bytes)? else { return Ok(None) };
    let header = |name: &str| {
        let header = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        Some(String::from_utf8_lossy(header.value).trim().to_owned())
    };
    let is_get = head.method == Some("GET");
    let call = head.path.filter(|_| is_get).and_then(protocol::parse_target);
    let call = call.and_then(|(name, parameters)| match name {
        VNC_CONNECT => {
            let upgrade = header("upgrade").is_some_and(|value| value.eq_ignore_ascii_case(VNC))
                && header("connection").is_some_and(|value| has_word(&value, "upgrade"));
            // A later parameter overrides an earlier one.
            let view_only = parameters.iter().rfind(|(key, _)| key == VIEW_ONLY).is_some_and(|(_, value)| value == "1");
            Some(Call::Vnc { upgrade, view_only })
        }
        name => Some(Call::Method(name.parse().ok()?, parameters)),
    });
    let close = header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    // Only a GET is sure to have no body that would be read as the next request.
    let keep = is_get && head.version == Some(1) && !close;
    Ok(Some((Request { call, secret: header(SECRET_HEADER), keep }, length)))
}

/// Whether a list with commas has this word.
fn has_word(list: &str, word: &str) -> bool {
    list.split(',').any(|item| item.trim().eq_ignore_ascii_case(word))
}

fn respond(stream: &mut TcpStream, status: u16, reason: &str, kind: &str, body: &[u8]) -> io::Result<()> {
    let head = format!("HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), body].concat())
}

/// Whether a caller may be answered. The file is read anew each time: it may come later than the agent, and a file
/// that is there but holds no secret trusts nobody.
fn is_trusted(file: &Path, given: Option<&str>) -> bool {
    match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "cannot read the secret");
            false
        }
        Ok(text) => match (VmSecret::parse(&text), given.map(VmSecret::parse)) {
            (Ok(ours), Some(Ok(given))) => ours.matches(&given),
            _ => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Request {
        let (request, length) = parse(text.as_bytes()).unwrap().unwrap();
        assert_eq!(length, text.len());
        request
    }

    #[test]
    fn a_call_is_read_with_its_secret() {
        let read = request("GET /vma/x_start?a=1 HTTP/1.1\r\nHost: x\r\nx-qvd-vm-secret:  00 \r\n\r\n");
        assert_eq!(read.call, Some(Call::Method(Method::XStart, vec![("a".into(), "1".into())])));
        assert_eq!((read.secret.as_deref(), read.keep), (Some("00"), true));
    }

    #[test]
    fn only_a_get_of_a_known_method_is_a_call() {
        for line in ["POST /vma/ping", "HEAD /vma/ping", "POST /vma/vnc_connect", "GET /ping", "GET /vma/"] {
            assert_eq!(request(&format!("{line} HTTP/1.1\r\n\r\n")).call, None, "{line}");
        }
    }

    #[test]
    fn the_desktop_is_asked_for_with_an_upgrade_as_classic_callers_write_it_too() {
        let asked = |text: &str| request(text).call;
        let classic = "GET /vma/vnc_connect HTTP/1.1\nConnection: Upgrade\nUpgrade: VNC\n\n";
        assert_eq!(asked(classic), Some(Call::Vnc { upgrade: true, view_only: false }));
        let ours = format!(
            "GET {} HTTP/1.1\r\nupgrade: vnc\r\nconnection: keep-alive, upgrade\r\n\r\n",
            protocol::vnc_target(true)
        );
        assert_eq!(asked(&ours), Some(Call::Vnc { upgrade: true, view_only: true }));
        for headers in ["", "Upgrade: VNC\r\n", "Connection: Upgrade\r\nUpgrade: websocket\r\n"] {
            let call = asked(&format!("GET /vma/vnc_connect HTTP/1.1\r\n{headers}\r\n"));
            assert_eq!(call, Some(Call::Vnc { upgrade: false, view_only: false }), "{headers}");
        }
    }

    #[test]
    fn a_connection_is_kept_unless_the_caller_or_its_method_ends_it() {
        assert!(request("GET /vma/ping HTTP/1.1\r\n\r\n").keep);
        for text in ["GET / HTTP/1.0\r\n\r\n", "POST / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nConnection: Close\r\n\r\n"]
        {
            assert!(!request(text).keep, "{text}");
        }
    }

    #[test]
    fn a_request_is_waited_for_and_nonsense_is_not() {
        assert_eq!(parse(b"GET /vma/ping HTTP/1.1\r\nHo").unwrap(), None);
        assert!(parse(b"\x16\x03\x01").is_err());
    }

    #[test]
    fn where_a_secret_is_only_who_knows_it_is_trusted() {
        let file = std::env::temp_dir().join(format!("qvd-vma-secret-{}", std::process::id()));
        let secret = VmSecret::new([1; 32]);
        assert!(is_trusted(&file, None), "no file, no secret");
        fs::write(&file, secret.to_hex()).unwrap();
        let other = VmSecret::new([2; 32]).to_hex();
        let trusted =
            [None, Some(""), Some(other.as_str()), Some(secret.to_hex().as_str())].map(|it| is_trusted(&file, it));
        assert_eq!(trusted, [false, false, false, true]);
        fs::write(&file, "").unwrap();
        assert!(!is_trusted(&file, Some("")), "an empty file trusts nobody");
        fs::remove_file(&file).unwrap();
    }
}
