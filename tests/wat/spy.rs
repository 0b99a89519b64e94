//! Desktops in the browser, as far as the web tool: tickets, rights, what passes and how it ends. The agent is played by the test,
//! which so sees every byte that reaches a VM.

use std::{fs, net::SocketAddr, time::Duration};

use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message, client::IntoClientRequest},
};

use super::stage::{PASSWORD, Wat, administrator, authorization};
use crate::cluster::{database::Db, patience::PATIENCE};

const GREETING: &[u8] = b"RFB 003.008\n";
/// What a viewer says until it may send messages.
const INTRODUCTION: &[u8] = b"RFB 003.008\n\x01\x01";
/// A request for the picture, which everybody may send.
const REQUEST: [u8; 10] = [3, 0, 0, 0, 0, 0, 2, 128, 1, 224];
const KEY: [u8; 8] = [4, 1, 0, 0, 0, 0, 0, 65];
const POINTER: [u8; 6] = [5, 1, 0, 9, 0, 9];
const PASTED: &[u8] = b"\x06\0\0\0\0\0\0\x02hi";

/// A VM that runs, the web tool, and who plays the VM's agent.
struct Stage {
    db: Db,
    wat: Wat,
    vm: String,
    node: String,
    agent: TcpListener,
    _novnc: tempfile::TempDir,
}

impl Stage {
    async fn new() -> Self {
        let db = Db::with_vms(1).await;
        let node = db.node_runs().await;
        administrator(&db, "root", "*", "Root").await;
        let vm = db.sql("select id from vms").await.unwrap();
        let agent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = agent.local_addr().unwrap().port();
        db.sql(&format!("select vm_start({vm}); select node_claim({node}, {port}, 4100)")).await;
        db.sql(&format!("select node_vm_state({node}, {vm}, '{{starting}}', 'running')")).await;
        db.sql("update vm_runtimes set vm_address = '127.0.0.1'").await;
        let novnc = tempfile::tempdir().unwrap();
        fs::create_dir(novnc.path().join("core")).unwrap();
        fs::write(novnc.path().join("core/rfb.js"), "export default class {}").unwrap();
        fs::write(novnc.path().join("secret.js"), "not for the world").unwrap();
        let wat = Wat::start_configured(&db, &[], &format!("wat.novnc.dir = {}\n", novnc.path().display())).await;
        Self { db, wat, vm, node, agent, _novnc: novnc }
    }

    fn page(&self) -> String {
        format!("/vm/{}/spy", self.vm)
    }

    /// Where the stream of a new page is.
    async fn stream(&self, who: &str, mode: &str) -> String {
        let page = self.wat.post(who, &self.page(), &[("mode", mode)]).await;
        assert_eq!(page.status, 200, "{page:?}");
        page.body.split("data-stream=\"").nth(1).and_then(|rest| rest.split_once('"')).unwrap().0.to_owned()
    }

    /// A browser that opens it.
    async fn open(&self, who: &str, mode: &str) -> Socket {
        let stream = self.stream(who, mode).await;
        websocket(self.wat.address(), &stream, &[]).await.unwrap()
    }

    /// Who is asked for the desktop, and says yes.
    async fn shows(&self) -> TcpStream {
        let (mut stream, head) = self.asked().await;
        let secret = self.db.sql("select encode(secret, 'hex') from vm_specs").await.unwrap();
        assert!(head.contains(&format!("X-QVD-VM-Secret: {secret}")), "{head}");
        stream.write_all(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n\r\n").await.unwrap();
        stream.write_all(GREETING).await.unwrap();
        stream
    }

    async fn asked(&self) -> (TcpStream, String) {
        let (mut stream, _) = timeout(PATIENCE, self.agent.accept()).await.unwrap().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut head).await.unwrap(), 0);
        }
        (stream, String::from_utf8(head).unwrap())
    }
}

type Socket = WebSocketStream<TcpStream>;

/// Opens a WebSocket without a password, as some browsers do.
async fn websocket(at: SocketAddr, path: &str, headers: &[(&'static str, &str)]) -> Result<Socket, u16> {
    let mut request = format!("ws://{at}{path}").into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    match client_async(request, TcpStream::connect(at).await.unwrap()).await {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::Error::Http(response)) => Err(response.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

/// The next picture that comes.
async fn hears(socket: &mut Socket) -> Vec<u8> {
    loop {
        match timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap() {
            Message::Binary(said) => return said.to_vec(),
            Message::Ping(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// The code with which it ends.
async fn end(socket: &mut Socket) -> u16 {
    let ended = async {
        loop {
            match socket.next().await.unwrap().unwrap() {
                Message::Close(close) => return close.unwrap().code.into(),
                Message::Ping(_) | Message::Binary(_) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    // For the whole of it: signs of life come for ever.
    timeout(PATIENCE, ended).await.expect("it ends")
}

async fn says(socket: &mut Socket, bytes: &[u8]) {
    socket.send(Message::Binary(bytes.to_vec().into())).await.unwrap();
}

/// What reaches the VM, of this length.
async fn reaches(agent: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    timeout(PATIENCE, agent.read_exact(&mut bytes)).await.expect("it arrives").unwrap();
    bytes
}

#[tokio::test]
async fn of_one_who_watches_nothing_reaches_the_vm_but_looks_and_of_one_who_takes_over_everything() {
    let stage = Stage::new().await;
    let deeds = [&KEY[..], &POINTER, PASTED, &REQUEST].concat();
    for (mode, wanted) in [("watch", &REQUEST[..]), ("interactive", &deeds[..])] {
        let mut socket = stage.open("root", mode).await;
        let mut agent = stage.shows().await;
        assert_eq!(hears(&mut socket).await, GREETING);
        says(&mut socket, INTRODUCTION).await;
        assert_eq!(reaches(&mut agent, INTRODUCTION.len()).await, INTRODUCTION);
        // Cut anywhere.
        for byte in &deeds {
            says(&mut socket, &[*byte]).await;
        }
        assert_eq!(reaches(&mut agent, wanted.len()).await, wanted, "{mode}");
        agent.write_all(b"a picture").await.unwrap();
        assert_eq!(hears(&mut socket).await, b"a picture");
        socket.close(None).await.unwrap();
        let mut rest = Vec::new();
        timeout(PATIENCE, agent.read_to_end(&mut rest)).await.expect("its end reaches the VM").unwrap();
        assert_eq!(rest, b"", "{mode}");
    }
    let logged = stage
        .db
        .rows("select administrator_name, object_name, arguments from log where action = 'spy' order by id")
        .await;
    let logged: Vec<_> = logged.iter().map(|row| row.join(" ")).collect();
    assert_eq!(
        logged,
        [r#"root alice@default/d1 {"interactive": false}"#, r#"root alice@default/d1 {"interactive": true}"#]
    );
}

#[tokio::test]
async fn a_desktop_is_nobodys_who_may_not_see_it() {
    let stage = Stage::new().await;
    let page = stage.page();
    stage.db.sql("select tenant_create('school')").await;
    administrator(&stage.db, "ann", "school", "Root").await;
    stage.db.sql(r#"select object_create('role', '{"name": "blind", "tenant": "*", "roles": ["VMs Reader"]}')"#).await;
    stage
        .db
        .sql(r#"select object_create('role', '{"name": "looker", "tenant": "*", "roles": ["VMs Operator"], "acls": ["vm.see.state."]}')"#)
        .await;
    stage.db.sql(r#"select objects_update('role', array(select id from roles where name = 'looker'), '{"acls": {"deny": ["vm.spy.interactive."]}}')"#).await;
    administrator(&stage.db, "blind", "*", "blind").await;
    administrator(&stage.db, "looker", "*", "looker").await;
    for (who, mode, status) in [
        ("ann@school", "watch", 404),
        ("blind", "watch", 403),
        ("looker", "watch", 200),
        ("looker", "interactive", 403),
        ("root", "interactive", 200),
        ("root", "own", 422),
    ] {
        assert_eq!(stage.wat.post(who, &page, &[("mode", mode)]).await.status, status, "{who} {mode}");
    }
    for (who, status) in [("ann@school", 404), ("blind", 403), ("looker", 200)] {
        assert_eq!(stage.wat.get(who, &page).await.status, status, "{who}");
    }
    let buttons = async |who| {
        let page = stage.wat.get(who, &format!("/vm/{}", stage.vm)).await.body;
        (page.contains(r#"value="watch""#), page.contains(r#"value="interactive""#))
    };
    assert_eq!(
        (buttons("blind").await, buttons("looker").await, buttons("root").await),
        ((false, false), (true, false), (true, true))
    );
    assert_eq!(
        stage.db.sql("select count(*) from log where action = 'spy'").await.as_deref(),
        Some("0"),
        "nobody has looked yet"
    );
}

#[tokio::test]
async fn a_stream_takes_a_ticket_that_was_not_used_and_comes_from_our_own_page() {
    let stage = Stage::new().await;
    let at = stage.wat.address();
    let stream = stage.stream("root", "watch").await;
    let authorization = authorization("root", PASSWORD);
    let login = authorization.trim().split_once(": ").unwrap().1;
    let without = format!("{}/stream", stage.page());
    assert_eq!(websocket(at, &without, &[("authorization", login)]).await.err(), Some(400));
    assert_eq!(websocket(at, &format!("{without}?ticket=0"), &[("authorization", login)]).await.err(), Some(403));
    for elsewhere in [("origin", "http://evil.example"), ("sec-fetch-site", "cross-site"), ("origin", "null")] {
        assert_eq!(websocket(at, &stream, &[elsewhere]).await.err(), Some(403), "{elsewhere:?}");
    }
    let other = stream.replace(&stage.vm, "99999");
    let here = format!("http://{at}");
    let mut socket = websocket(at, &stream, &[("origin", &here)]).await.unwrap();
    let _agent = stage.shows().await;
    assert_eq!(hears(&mut socket).await, GREETING);
    assert_eq!(websocket(at, &stream, &[]).await.err(), Some(403), "it is good once");
    assert_eq!(websocket(at, &other, &[]).await.err(), Some(403));
    // A form of another site's page is refused before anybody is asked.
    let headers = format!("{authorization}Sec-Fetch-Site: cross-site\r\n");
    assert_eq!(stage.wat.ask("POST", &stage.page(), &headers, "mode=watch").await.status, 403);
}

#[tokio::test]
async fn it_ends_as_soon_as_the_right_is_withdrawn_the_tenant_is_blocked_or_the_vm_stops() {
    let stage = Stage::new().await;
    administrator(&stage.db, "ann", "default", "Root").await;
    let role = r#"select object_create('role', '{"name": "lookers", "tenant": "*", "roles": ["VMs Operator"]}')"#;
    stage.db.sql(role).await;
    administrator(&stage.db, "looker", "*", "lookers").await;
    let taken = r#"select objects_update('role', array(select id from roles where name = 'lookers'), '{"acls": {"deny": ["vm.spy."]}}')"#;
    let stopped = format!("select vm_stop({}); select node_claim({}, 3030, 4100)", stage.vm, stage.node);
    for (who, change, code) in [
        ("looker", taken, 4403),
        ("ann", "select tenants_block(array[(select id from tenants where name = 'default')], true)", 4403),
        ("root", stopped.as_str(), 4410),
    ] {
        let mut socket = stage.open(who, "watch").await;
        let mut agent = stage.shows().await;
        assert_eq!(hears(&mut socket).await, GREETING);
        let begun = std::time::Instant::now();
        stage.db.sql(change).await;
        assert_eq!(end(&mut socket).await, code, "{change}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{change}: nobody waited for the next look");
        let mut rest = Vec::new();
        timeout(PATIENCE, agent.read_to_end(&mut rest)).await.expect("the VM is left").unwrap();
    }
}

#[tokio::test]
async fn why_there_is_nothing_to_be_seen_is_told_in_words() {
    let stage = Stage::new().await;
    for (answer, code, words) in [
        ("404 Not Found", 4501, "The image of this VM has no x11vnc"),
        ("501 Not Implemented", 4501, "The image of this VM has no x11vnc"),
        ("503 Service Unavailable", 4503, "Nobody is using this desktop"),
        ("409 Conflict", 4409, "The user would have to agree and is not connected."),
        ("429 Too Many Requests", 4429, "Too many look already."),
        ("403 Forbidden", 4502, "The VM cannot be reached"),
        ("101 Switching Protocols", 4451, "The user did not agree."),
    ] {
        let page = stage.wat.post("root", &stage.page(), &[("mode", "watch")]).await.body;
        assert!(page.contains(&format!("<li data-code=\"{code}\">{words}")), "{page}");
        let mut socket = stage.open("root", "watch").await;
        let (mut agent, _) = stage.asked().await;
        agent.write_all(format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n").as_bytes()).await.unwrap();
        if code == 4451 {
            agent.write_all(GREETING).await.unwrap();
        }
        drop(agent);
        assert_eq!(end(&mut socket).await, code, "{answer}");
    }
    let mut socket = stage.open("root", "watch").await;
    let agent = stage.shows().await;
    says(&mut socket, b"GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(end(&mut socket).await, 4400);
    drop(agent);
    drop(stage.agent);
    let stream = {
        let page = stage.wat.post("root", &format!("/vm/{}/spy", stage.vm), &[("mode", "watch")]).await;
        page.body.split("data-stream=\"").nth(1).and_then(|rest| rest.split_once('"')).unwrap().0.to_owned()
    };
    let mut socket = websocket(stage.wat.address(), &stream, &[]).await.unwrap();
    assert_eq!(end(&mut socket).await, 4502);
}

#[tokio::test]
async fn so_many_look_at_once_and_no_more_until_one_has_left() {
    let stage = Stage::new().await;
    let mut looking = Vec::new();
    for _ in 0..64 {
        let mut socket = stage.open("root", "watch").await;
        let agent = stage.shows().await;
        assert_eq!(hears(&mut socket).await, GREETING);
        looking.push((socket, agent));
    }
    assert_eq!(end(&mut stage.open("root", "watch").await).await, 4429);
    let (mut leaving, mut left) = looking.pop().unwrap();
    leaving.close(None).await.unwrap();
    timeout(PATIENCE, left.read_to_end(&mut Vec::new())).await.expect("the VM is left").unwrap();
    let mut socket = stage.open("root", "watch").await;
    let _agent = stage.shows().await;
    assert_eq!(hears(&mut socket).await, GREETING);
}

#[tokio::test]
async fn a_desktop_is_not_read_from_faster_than_its_browser_takes_it() {
    let stage = Stage::new().await;
    let mut socket = stage.open("root", "watch").await;
    let mut agent = stage.shows().await;
    let piece = vec![7; 1 << 20];
    let mut written = 0;
    // Buffers of the kernel at both connections take some of it.
    while let Ok(Ok(length)) = timeout(Duration::from_secs(1), agent.write(&piece)).await {
        written += length;
        assert!(written < 64 << 20, "nobody reads, and {written} bytes were taken");
    }
    let mut heard = 0;
    while heard < GREETING.len() + written {
        heard += hears(&mut socket).await.len();
    }
    agent.write_all(b"more").await.unwrap();
    assert_eq!(hears(&mut socket).await, b"more");
}

#[tokio::test]
async fn modules_of_novnc_are_given_and_where_there_are_none_the_page_says_what_to_install() {
    let stage = Stage::new().await;
    let module = stage.wat.ask("GET", "/novnc/core/rfb.js", "", "").await;
    assert_eq!((module.status, module.header("content-type")), (200, Some("text/javascript; charset=utf-8")));
    let tag = format!("If-None-Match: {}\r\n", module.header("etag").unwrap());
    assert_eq!(stage.wat.ask("GET", "/novnc/core/rfb.js", &tag, "").await.status, 304);
    for path in [
        "/novnc/core/none.js",
        "/novnc/secret.js",
        "/novnc/core/../secret.js",
        "/novnc/core/%2e%2e/secret.js",
        "/novnc/core",
    ] {
        assert_eq!(stage.wat.ask("GET", path, "", "").await.status, 404, "{path}");
    }
    let page = stage.wat.post("root", &stage.page(), &[("mode", "watch")]).await;
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("script-src 'self'; style-src 'self'; img-src 'self' data:;"), "{policy}");
    assert!(!page.body.contains("<script>") && !page.body.contains("style="), "{page:?}");
    let bare = Wat::start_configured(&stage.db, &[], "wat.novnc.dir = /nowhere\n").await;
    let page = bare.post("root", &stage.page(), &[("mode", "watch")]).await.body;
    assert!(page.contains("Install Debian&#39;s package novnc") && page.contains("<code>/nowhere</code>"), "{page}");
    assert!(!page.contains("spy.js") && !page.contains("ticket"), "{page}");
}
