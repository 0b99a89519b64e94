//! The whole client against a server that follows a script, over real sockets, with a stand-in for nxproxy.

use std::{
    collections::{HashMap, VecDeque},
    fs, io,
    sync::Mutex,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::tunnel::{
    Conn, Reason,
    testing::{PATIENCE, soon, tls_configs},
    tls,
};

/// A user whose answers are known beforehand; without any, there is no terminal.
#[derive(Default)]
pub(super) struct Script {
    answers: Mutex<VecDeque<String>>,
    interactive: bool,
    said: Mutex<Vec<String>>,
    printed: Mutex<String>,
}

impl Script {
    pub(super) fn answering(answers: &[&str]) -> Self {
        let answers = Mutex::new(answers.iter().map(|answer| (*answer).to_owned()).collect());
        Self { answers, interactive: true, ..Self::default() }
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().join("\n")
    }
}

impl Console for Script {
    fn say(&self, line: &str) {
        self.said.lock().unwrap().push(line.to_owned());
    }

    fn print(&self, text: &str) {
        self.printed.lock().unwrap().push_str(text);
    }

    fn interactive(&self) -> bool {
        self.interactive
    }

    fn ask(&self, prompt: &str) -> io::Result<String> {
        self.say(prompt);
        self.answers.lock().unwrap().pop_front().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn ask_hidden(&self, prompt: &str) -> io::Result<String> {
        self.ask(prompt)
    }
}

/// One step of a server on a connection.
enum Step {
    /// Waits for a request that begins so, and sends this.
    Answer(&'static str, String),
    /// Waits for these bytes in the tunnel.
    Hear(&'static str),
    /// Sends these.
    Say(&'static str),
    /// Closes in good order and waits until the client has, too.
    Close,
    /// Waits for the end of the client.
    Wait,
    /// Ends without a word.
    Cut,
    /// Cancels this.
    Cancel(CancellationToken),
}
use Step::{Answer, Cancel, Close, Cut, Hear, Say, Wait};

fn list(names: &[&str]) -> Step {
    let desktop = |(i, name): (usize, &&str)| {
        format!(r#"{{"id":{},"name":"{name}","state":"stopped","blocked":0,"is_application":0}}"#, i + 7)
    };
    let items: Vec<String> = names.iter().enumerate().map(desktop).collect();
    Answer(
        "GET /qvd/list_of_vm? HTTP/1.1\r\nAuthorization: Basic YWxpY2U6czNjcmV0\r\n",
        ok(&format!("[{}]", items.join(","))),
    )
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn error(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn interim(text: &str) -> String {
    format!("HTTP/1.1 102 Processing\r\nX-QVD-VM-Info: {text}\r\n\r\n")
}

fn switching() -> String {
    "HTTP/1.1 101 Switching Protocols\r\nX-QVD-Slave-Key: abc\r\n\r\n".to_owned()
}

/// Plays one connection and returns the last request.
async fn play(mut conn: Conn, steps: Vec<Step>) -> String {
    let mut request = String::new();
    for step in steps {
        match step {
            Answer(expected, answer) => {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(soon(conn.read_u8()).await.unwrap());
                }
                request = String::from_utf8(head).unwrap();
                assert!(request.starts_with(expected), "{request}");
                conn.write_all(answer.as_bytes()).await.unwrap();
                conn.flush().await.unwrap();
            }
            Hear(expected) => {
                let mut heard = vec![0; expected.len()];
                soon(conn.read_exact(&mut heard)).await.unwrap();
                assert_eq!(String::from_utf8(heard).unwrap(), expected);
            }
            Say(text) => {
                conn.write_all(text.as_bytes()).await.unwrap();
                conn.flush().await.unwrap();
            }
            Close => {
                conn.shutdown().await.unwrap();
                let _ = soon(conn.read_to_end(&mut Vec::new())).await;
            }
            Wait => {
                let _ = soon(conn.read_to_end(&mut Vec::new())).await;
            }
            Cut => return request,
            Cancel(token) => token.cancel(),
        }
    }
    request
}

/// A server that plays one script per connection.
struct Fake {
    port: u16,
    requests: JoinHandle<Vec<String>>,
}

impl Fake {
    async fn plain(connections: Vec<Vec<Step>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::new(listener, connections, |tcp| async { Some(Conn::from(tcp)) })
    }

    /// With TLS; a client that breaks the handshake off uses up a connection.
    async fn tls(connections: Vec<Vec<Step>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = tls_configs().0;
        Self::new(listener, connections, move |tcp| {
            let accept = tls::accept(tcp, config.clone(), PATIENCE);
            async { accept.await.ok().map(Conn::from) }
        })
    }

    fn new<F: Future<Output = Option<Conn>> + Send>(
        listener: TcpListener,
        connections: Vec<Vec<Step>>,
        wrap: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> Self {
        let port = listener.local_addr().unwrap().port();
        let requests = tokio::spawn(async move {
            let mut requests = Vec::new();
            for steps in connections {
                let (tcp, _) = listener.accept().await.unwrap();
                if let Some(conn) = wrap(tcp).await {
                    requests.push(play(conn, steps).await);
                }
            }
            requests
        });
        Self { port, requests }
    }
}

/// A user's machine.
struct Desk {
    home: tempfile::TempDir,
    environment: Environment,
}

fn desk(nxproxy_mode: &str) -> Desk {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join(".qvd")).unwrap();
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/src/client/testdata/fake-nxproxy");
    let config = format!("command.nxproxy = {program}\nclient.nxproxy.extra_args = {nxproxy_mode}\ncustom.tag = a&b\n");
    fs::write(home.path().join(".qvd/client.conf"), config).unwrap();
    let variables = [
        ("HOME", home.path().to_str().unwrap()),
        ("PATH", "/usr/bin:/bin"),
        ("DISPLAY", ":77"),
        ("TZ", "Europe/Madrid"),
        ("QVDPASSWORD", "s3cret"),
    ];
    let variables: HashMap<String, String> = variables.map(|(n, v)| (n.to_owned(), v.to_owned())).into();
    Desk { environment: Environment { variables, system_file: "/nonexistent".into() }, home }
}

fn plain(fake: &Fake) -> ClientArgs {
    ClientArgs { no_ssl: true, ..secure(fake) }
}

fn secure(fake: &Fake) -> ClientArgs {
    let (host, user) = (Some("127.0.0.1".to_owned()), Some("alice".to_owned()));
    ClientArgs { host, user, port: Some(fake.port), ..ClientArgs::default() }
}

async fn code(args: &ClientArgs, desk: &Desk, console: &Script) -> u8 {
    match soon(drive(args, &desk.environment, console)).await {
        Ok(()) => 0,
        Err(error) => {
            console.say(&error.sentence());
            error.exit_code()
        }
    }
}

#[tokio::test]
async fn a_session_runs_from_the_list_to_the_end_of_the_tunnel() {
    let progress = [interim("Starting virtual machine"), interim("Connection established"), switching()].concat();
    let steps = vec![
        list(&["work"]),
        Answer("GET /qvd/connect_to_vm?id=7&", progress),
        Hear("NXPROXY-3.5.0 "),
        Say("hello"),
        Wait,
    ];
    let fake = Fake::plain(vec![steps]).await;
    let (desk, console) = (desk("leave"), Script::default());
    assert_eq!(code(&plain(&fake), &desk, &console).await, 0, "{}", console.said());
    let said = console.said();
    assert!(said.contains("Starting virtual machine\nConnection established\n"), "{said}");
    assert!(said.contains("the session ended after 0:00:0") && said.contains("5 bytes received, 14 sent"), "{said}");
    let request = soon(fake.requests).await.unwrap().remove(0);
    let target = "&qvd.client.os=linux&qvd.client.link=adsl&qvd.client.geometry=1024x768&qvd.client.keyboard=pc105%2Fus\
        &qvd.client.fullscreen=0&qvd.client.printing.enabled=0&qvd.client.usb.enabled=0\
        &qvd.client.timezone=Europe%2FMadrid&custom.tag=a%26b HTTP/1.1\r\n";
    assert!(request.contains(target), "{request}");
    assert!(request.contains("\r\nConnection: Upgrade\r\nUpgrade: QVD/1.0\r\n"), "{request}");
}

#[tokio::test]
async fn the_server_may_end_the_session_in_good_order() {
    let steps = vec![
        list(&["work"]),
        Answer("GET /qvd/connect_to_vm?id=7&", switching()),
        Hear("NXPROXY"),
        Say("hello"),
        Close,
    ];
    let fake = Fake::tls(vec![vec![], steps]).await;
    let (desk, console) = (desk("stay"), Script::answering(&["once"]));
    assert_eq!(code(&secure(&fake), &desk, &console).await, 0, "{}", console.said());
    assert!(console.said().contains("the server ended the session"), "{}", console.said());
}

#[tokio::test]
async fn a_connection_cut_in_the_middle_is_lost() {
    let steps =
        vec![list(&["work"]), Answer("GET /qvd/connect_to_vm?id=7&", switching()), Hear("NXPROXY"), Say("hello"), Cut];
    let fake = Fake::tls(vec![vec![], steps]).await;
    let (desk, console) = (desk("stay"), Script::answering(&["once"]));
    assert_eq!(code(&secure(&fake), &desk, &console).await, 7, "{}", console.said());
}

#[tokio::test]
async fn how_it_ended_is_learned_from_nxproxy_too() {
    for (end, nxproxy, status, text) in [
        (Cut, "orderly", 0, "the session ended after"),
        (Cut, "broken", 7, "the connection to 127.0.0.1"),
        (Close, "orderly", 0, "the session ended after"),
        (Close, "broken", 0, "another client took it over"),
    ] {
        let connect = Answer("GET /qvd/connect_to_vm?id=7&", switching());
        let fake = Fake::tls(vec![vec![], vec![list(&["work"]), connect, Hear("NXPROXY"), Say("hello"), end]]).await;
        let (desk, console) = (desk(nxproxy), Script::answering(&["once"]));
        assert_eq!(code(&secure(&fake), &desk, &console).await, status, "{}", console.said());
        assert!(console.said().contains(text), "{}", console.said());
    }
}

#[tokio::test]
async fn a_connection_cut_while_the_desktop_starts_is_lost() {
    let steps = vec![list(&["work"]), Answer("GET /qvd/connect_to_vm?id=7&", interim("Starting virtual machine")), Cut];
    let fake = Fake::plain(vec![steps]).await;
    let console = Script::default();
    assert_eq!(code(&plain(&fake), &desk("stay"), &console).await, 7, "{}", console.said());
    assert!(console.said().contains("Starting virtual machine\nthe connection to 127.0.0.1"), "{}", console.said());
}

#[tokio::test]
async fn a_rejected_login_is_told_and_not_tried_again() {
    let answer = error("401 Unauthorized", "wrong password");
    let fake = Fake::plain(vec![vec![Answer("GET /qvd/list_of_vm?", answer)]]).await;
    let console = Script::default();
    assert_eq!(code(&plain(&fake), &desk("stay"), &console).await, 4);
    assert_eq!(console.said(), "the server rejected the login: wrong password");
}

#[tokio::test]
async fn an_unavailable_desktop_is_told_in_the_words_of_the_server() {
    let answer =
        [interim("Starting virtual machine"), error("503 Service Unavailable", "no node, retry later.")].concat();
    let fake = Fake::plain(vec![vec![list(&["a", "b"]), Answer("GET /qvd/connect_to_vm?id=8&", answer)]]).await;
    let console = Script::default();
    let args = ClientArgs { vm: Some("b".into()), ..plain(&fake) };
    assert_eq!(code(&args, &desk("stay"), &console).await, 5);
    assert_eq!(console.said(), "Starting virtual machine\nno node, retry later.");
}

#[tokio::test]
async fn a_restart_stops_the_desktop_first_and_survives_its_failure() {
    let stop = error("503 Service Unavailable", "unstoppable");
    let gone = error("404 Not Found", "no such machine");
    let steps =
        vec![list(&["a"]), Answer("GET /qvd/stop_vm?id=7 ", stop), Answer("GET /qvd/connect_to_vm?id=7&", gone)];
    let fake = Fake::plain(vec![steps]).await;
    let console = Script::default();
    let args = ClientArgs { restart_session: true, ..plain(&fake) };
    assert_eq!(code(&args, &desk("stay"), &console).await, 5);
    assert_eq!(console.said(), "unstoppable\nno such machine");
}

#[tokio::test]
async fn the_list_is_printed_and_nothing_else_is_needed() {
    let fake = Fake::plain(vec![vec![list(&["work"])]]).await;
    let (mut desk, console) = (desk("stay"), Script::default());
    desk.environment.variables.remove("DISPLAY");
    let args = ClientArgs { list: true, json: true, ..plain(&fake) };
    assert_eq!(code(&args, &desk, &console).await, 0, "{}", console.said());
    let json = r#"[{"id":7,"name":"work","state":"stopped","blocked":0}]"#;
    assert_eq!(*console.printed.lock().unwrap(), json);
}

#[tokio::test]
async fn a_server_that_fails_at_first_is_tried_again() {
    let fake = Fake::plain(vec![vec![Cut], vec![Cut], vec![list(&["work"])]]).await;
    let console = Script::default();
    let args = ClientArgs { list: true, ..plain(&fake) };
    assert_eq!(code(&args, &desk("stay"), &console).await, 0, "{}", console.said());
    assert!(console.said().contains("trying again (2 of 5 failed)"), "{}", console.said());
}

#[tokio::test]
async fn a_server_that_is_not_there_is_given_up() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let fake = Fake { port, requests: tokio::spawn(async { Vec::new() }) };
    let console = Script::default();
    assert_eq!(code(&plain(&fake), &desk("stay"), &console).await, 2);
    assert!(console.said().contains(&format!("cannot connect to 127.0.0.1:{port}: ")), "{}", console.said());
    assert!(console.said().contains("(4 of 5 failed)"), "{}", console.said());
}

#[tokio::test]
async fn a_peer_that_speaks_another_protocol_is_not_understood() {
    let fake = Fake::plain(vec![vec![Say("SSH-2.0-OpenSSH\r\n"), Wait]]).await;
    let console = Script::default();
    assert_eq!(code(&plain(&fake), &desk("stay"), &console).await, 2);
    assert!(console.said().contains("cannot be understood: it is not HTTP"), "{}", console.said());
}

#[tokio::test]
async fn an_unknown_certificate_needs_consent_which_is_remembered() {
    let fake = Fake::tls(vec![vec![], vec![], vec![list(&["a"])], vec![list(&["a"])]]).await;
    let desk = desk("stay");
    let args = ClientArgs { list: true, ..secure(&fake) };
    let nobody = Script::default();
    assert_eq!(code(&args, &desk, &nobody).await, 3, "without a terminal the answer is no");
    assert!(nobody.said().contains("SHA-256:"), "{}", nobody.said());
    let user = Script::answering(&["always"]);
    assert_eq!(code(&args, &desk, &user).await, 0, "{}", user.said());
    assert!(desk.home.path().join(".qvd/accepted_certs.json").is_file());
    assert_eq!(code(&args, &desk, &nobody).await, 0, "{}", nobody.said());
}

#[tokio::test]
async fn a_changed_certificate_is_refused_loudly() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let configs = Mutex::new((0..3).map(|_| tls_configs().0).collect::<VecDeque<_>>());
    let first = configs.lock().unwrap()[0].clone();
    configs.lock().unwrap()[1] = first;
    let fake = Fake::new(listener, vec![vec![], vec![list(&["a"])], vec![]], move |tcp| {
        let accept = tls::accept(tcp, configs.lock().unwrap().pop_front().unwrap(), PATIENCE);
        async { accept.await.ok().map(Conn::from) }
    });
    let desk = desk("stay");
    let args = ClientArgs { list: true, ..secure(&fake) };
    let user = Script::answering(&["always", "always"]);
    assert_eq!(code(&args, &desk, &user).await, 0, "{}", user.said());
    let args = ClientArgs { ssl_errors: Some("continue".into()), ..args };
    assert_eq!(code(&args, &desk, &user).await, 3);
    assert!(user.said().contains("HAS CHANGED"), "{}", user.said());
}

#[tokio::test]
async fn policies_decide_without_a_user() {
    for (policy, expected) in [("continue", 0), ("abort", 3), ("perhaps", 1)] {
        let fake = Fake::tls(vec![vec![], vec![list(&["a"])]]).await;
        let console = Script::default();
        let args = ClientArgs { list: true, ssl_errors: Some(policy.into()), ..secure(&fake) };
        assert_eq!(code(&args, &desk("stay"), &console).await, expected, "{}", console.said());
        assert!(console.said().contains("cannot be verified") == (expected == 0), "{}", console.said());
    }
}

#[tokio::test]
async fn an_interrupt_ends_the_session_and_even_a_stubborn_nxproxy() {
    let cancel = CancellationToken::new();
    let connect = Answer("GET /qvd/connect_to_vm?id=7&", switching());
    let steps = vec![list(&["a"]), connect, Hear("NXPROXY"), Say("hello"), Cancel(cancel.clone()), Wait];
    let fake = Fake::plain(vec![steps]).await;
    let desk = desk("stubborn");
    let settings = Settings::gather(&plain(&fake), &desk.environment).unwrap();
    let credentials = Credentials::Password { login: "alice".into(), password: "s3cret".into() };
    let server = Server { host: settings.host.clone(), port: settings.port };
    let mut session = Session::open(&server, credentials, None).await.unwrap();
    session.list().await.unwrap();
    let link =
        session.connect(7.into(), &connect::parameters(&settings, &desk.environment), &mut |_| {}).await.unwrap();
    let end = soon(connect::run(link, &settings, &desk.environment, &cancel)).await.unwrap();
    assert!(end.lost.is_none());
    assert!(matches!(end.tunnel.reason, Reason::Cancelled), "{:?}", end.tunnel.reason);
    soon(fake.requests).await.unwrap();
}

#[tokio::test]
async fn an_nxproxy_that_is_missing_or_fails_is_named() {
    let mut without = desk("stay");
    let fake = Fake::plain(vec![]).await;
    let console = Script::default();
    fs::write(without.home.path().join(".qvd/client.conf"), "command.nxproxy = no-such-nxproxy\n").unwrap();
    assert_eq!(code(&plain(&fake), &without, &console).await, 6);
    assert_eq!(console.said(), "no-such-nxproxy is not installed; install the package nxproxy");

    without = desk("stay");
    without.environment.variables.remove("DISPLAY");
    assert_eq!(code(&plain(&fake), &without, &console).await, 6);

    let steps = vec![list(&["work"]), Answer("GET /qvd/connect_to_vm?id=7&", switching()), Wait];
    let fake = Fake::plain(vec![steps]).await;
    assert_eq!(code(&plain(&fake), &desk("fail"), &console).await, 6);
    assert!(
        console.said().contains("nxproxy ended at once (exit status: 1): Error: cannot open display"),
        "{}",
        console.said()
    );
}

#[tokio::test]
async fn a_password_is_asked_for_where_there_is_somebody_to_ask() {
    let fake = Fake::plain(vec![vec![list(&["a"])]]).await;
    let mut desk = desk("stay");
    desk.environment.variables.remove("QVDPASSWORD");
    let args = ClientArgs { list: true, ..plain(&fake) };
    assert_eq!(code(&args, &desk, &Script::default()).await, 1);
    assert_eq!(code(&args, &desk, &Script::answering(&["s3cret"])).await, 0);
}

#[tokio::test]
async fn a_token_is_sent_instead_of_a_password() {
    let answer = Answer("GET /qvd/list_of_vm? HTTP/1.1\r\nAuthorization: Bearer dG9rZW4x\r\n", ok("[]"));
    let fake = Fake::plain(vec![vec![answer]]).await;
    let args = ClientArgs { list: true, user: None, token: Some("token1".into()), ..plain(&fake) };
    assert_eq!(code(&args, &desk("stay"), &Script::default()).await, 0);
}

#[test]
fn the_arguments_make_sense_to_their_parser() {
    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: ClientArgs,
    }
    use clap::{CommandFactory, Parser};
    Command::command().debug_assert();
    let parsed = Command::parse_from(["client", "--username", "a", "--vm-id", "3", "--list-vms", "--json"]).args;
    assert_eq!(
        (parsed.user.as_deref(), parsed.vm.as_deref(), parsed.list, parsed.json),
        (Some("a"), Some("3"), true, true)
    );
    assert!(Command::try_parse_from(["client", "--token", "t", "--user", "u"]).is_err());
}
