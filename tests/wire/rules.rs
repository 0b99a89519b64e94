//! The byte rules of the classic HTTP dialogue. The client of these tests holds each answer against those for answers;
//! here are those for requests, and what they lead to.

use tokio::io::AsyncReadExt;

use super::{
    client::Client,
    stage::{Desktop, calm},
};

#[tokio::test]
async fn bare_line_feeds_no_host_header_and_blank_lines_before_a_request_are_accepted() {
    let stage = calm().await;
    let user = stage.user().await;
    let mut client = stage.client().await;
    let authorization = user.authorization();
    for request in [
        format!("GET /qvd/list_of_vm? HTTP/1.1\n{}\n", authorization.replace("\r\n", "\n")),
        format!("\r\n\n\r\nGET /qvd/list_of_vm HTTP/1.1\r\n{authorization}\n"),
        format!("GET /qvd/list_of_vm HTTP/1.1\n{authorization}\r\n"),
        format!("GET /qvd/list_of_vm HTTP/1.1\r\nX: a\r\n \tb\r\n{}\r\n", authorization.replace("Auth", "AUTH")),
    ] {
        let answer = client.ask(&request).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "[]"), "{request:?}");
        assert_eq!(answer.header("Content-Type"), Some("application/json"));
    }
}

#[tokio::test]
async fn a_request_may_arrive_in_pieces_and_several_may_arrive_at_once() {
    let stage = calm().await;
    let mut client = stage.client().await;
    for byte in "GET /qvd/ping HTTP/1.1\r\n\r\n".bytes() {
        client.send([byte]).await;
    }
    assert_eq!(client.answer().await.status, 200);
    client
        .send("GET /qvd/ping HTTP/1.1\r\n\r\nGET /nothing HTTP/1.1\n\nGET /qvd/ping HTTP/1.1\r\n\r\nGET /qvd/p")
        .await;
    for status in [200, 404, 200] {
        assert_eq!(client.answer().await.status, status);
    }
    assert_eq!(client.ask("ing HTTP/1.1\r\n\r\n").await.text(), "I am alive!\r\n");
}

#[tokio::test]
async fn a_connection_carries_any_number_of_requests_one_by_one_or_all_at_once() {
    let stage = calm().await;
    let desktop = stage.desktop().await;
    let (list, nothing) = (desktop.get("/qvd/list_of_vm?"), desktop.get("/qvd/nothing"));
    let mut client = stage.client().await;
    for _ in 0..100 {
        assert_eq!(client.ask(&list).await.status, 200);
    }
    client.send(format!("{list}{nothing}").repeat(100)).await;
    for _ in 0..100 {
        assert!(client.answer().await.text().contains("desk"));
        assert_eq!(client.answer().await.status, 404);
    }
}

#[tokio::test]
async fn any_other_method_or_path_is_404_with_a_body_and_the_connection_stays() {
    let stage = calm().await;
    let mut client = stage.client().await;
    for line in
        ["HEAD /qvd/ping", "POST /qvd/ping", "OPTIONS *", "get /qvd/ping", "GET /", "GET /QVD/ping", "GET /qvd/ping/"]
    {
        let answer = client.ask(format!("{line} HTTP/1.1\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(answer.status, 404, "{line}");
        assert_eq!(answer.header("Content-Type"), Some("text/plain"));
    }
    assert_eq!(client.ask("GET /qvd/ping?a=b HTTP/1.1\r\n\r\n").await.status, 200);
}

#[tokio::test]
async fn what_is_no_request_is_refused_with_a_sentence_and_the_connection_ends() {
    let stage = calm().await;
    for (sent, status) in [
        ("GET /qvd/ping HTTP/1.0\r\n\r\n", 505),
        ("GET /qvd/ping HTTP/2\r\n\r\n", 505),
        ("GET /qvd/ping\r\n\r\n", 505),
        ("hello\r\n", 400),
        ("\x16\x03\x01\x02\x00\x01\r\n", 400),
        ("GET /qvd/ping HTTP/1.1\r\nno header\r\n\r\n", 400),
        ("GET /qvd/ping HTTP/1.1\r\n continued\r\n\r\n", 400),
        ("GET /qvd/ping HTTP/1.1\r\nX\0Y: z\r\n\r\n", 400),
    ] {
        let mut client = stage.client().await;
        let answer = client.ask(sent).await;
        assert_eq!(answer.status, status, "{sent:?}");
        assert!(client.ended().await && client.goodbye, "{sent:?}");
    }
}

#[tokio::test]
async fn heads_of_20_kib_and_more_are_served_and_those_of_64_kib_end_in_431_while_the_router_lives_on() {
    let stage = calm().await;
    let user = stage.user().await;
    let mut client = stage.client().await;
    let many: String = (0..400).map(|i| format!("Auth-{i:04x}: {}\r\n", "QUJD".repeat(12))).collect();
    for headers in [many, format!("X: {}\r\n", "x".repeat(40 * 1024))] {
        let request = format!("GET /qvd/list_of_vm? HTTP/1.1\r\n{headers}{}\r\n", user.authorization());
        assert_eq!(client.ask(request).await.status, 200);
    }
    assert_eq!(client.ask(format!("GET /qvd/ping?{} HTTP/1.1\r\n\r\n", "y".repeat(40 * 1024))).await.status, 200);
    for endless in [
        format!("GET /qvd/ping HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(64 * 1024)),
        format!("GET /{}", "z".repeat(200_000)),
        format!("GET / HTTP/1.1\r\n{}", "a: b\r\n".repeat(40_000)),
    ] {
        let mut greedy = stage.client().await;
        assert_eq!(greedy.ask(endless).await.status, 431);
        assert!(greedy.ended().await);
    }
    assert_eq!(client.ask("GET /qvd/ping HTTP/1.1\r\n\r\n").await.status, 200);
}

#[tokio::test]
async fn a_connection_is_a_tunnel_only_when_both_headers_say_so_exactly() {
    let stage = calm().await;
    let desktop = stage.desktop().await;
    let mut client = stage.client().await;
    for headers in [
        "",
        "Upgrade: QVD/1.0\r\n",
        "Connection: Upgrade\r\n",
        "Connection: upgrade\r\nUpgrade: QVD/1.0\r\n",
        "Connection: Upgrade\r\nUpgrade: qvd/1.0\r\n",
    ] {
        let request =
            format!("GET /qvd/connect_to_vm?id={} HTTP/1.1\r\n{}{headers}\r\n", desktop.id, desktop.authorization());
        assert_eq!(client.ask(request).await.status, 426, "{headers:?}");
    }
}

/// Over both versions of TLS, since records are cut by another part of the library in each.
#[tokio::test]
async fn each_interim_answer_and_the_101_is_a_record_of_its_own() {
    let stage = calm().await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut desktop = stage.running().await;
        let mut client = Client::connect_with(stage.site.port(), version).await;
        client.send(desktop.connect_request("")).await;
        // The client of these tests fails on anything in the record of a 102 or a 101 but the head.
        let (texts, answer) = client.conclusion().await;
        assert!(texts.len() >= 5, "{texts:?}");
        assert_eq!(answer.status, 101);
        let key = answer.header("X-QVD-Slave-Key").unwrap();
        assert!(key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{key}");
        carries(&mut desktop, &mut client).await;
    }
}

async fn carries(desktop: &mut Desktop, client: &mut Client) {
    let mut nx = desktop.vm.nx().await;
    client.send("NXPROXY-3.5.0 ").await;
    let mut heard = [0; 14];
    nx.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"NXPROXY-3.5.0 ");
    tokio::io::AsyncWriteExt::write_all(&mut nx, b"NXAGENT").await.unwrap();
    assert_eq!(client.read(7).await, b"NXAGENT");
}

#[tokio::test]
async fn what_is_sent_behind_the_request_reaches_the_desktop_first() {
    let stage = calm().await;
    let mut desktop = stage.running().await;
    let mut client = stage.client().await;
    client.send(format!("{}first ", desktop.connect_request(""))).await;
    client.told("Session acquired").await;
    client.send("second ").await;
    assert_eq!(client.conclusion().await.1.status, 101);
    client.send("third").await;
    let mut nx = desktop.vm.nx().await;
    let mut heard = [0; 18];
    nx.read_exact(&mut heard).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&heard), "first second third");
}

#[tokio::test]
async fn parameters_may_be_escaped_or_not_even_with_blanks() {
    let stage = calm().await;
    let mut desktop = stage.running().await;
    let mut client = stage.client().await;
    let sent = "&qvd.client.keyboard=pc105/en&qvd.client.nxagent.extra_args=-a 1 -b HTTP/2&custom.a=%C3%A9+%2b&custom.empty=&qvd.client.flag";
    client.send(desktop.connect_request(sent)).await;
    assert_eq!(client.conclusion().await.1.status, 101);
    desktop.vm.nx().await;
    let call = desktop.vm.called("x_start", 1).await;
    for (name, value) in [
        ("qvd.client.keyboard", "pc105/en"),
        ("qvd.client.nxagent.extra_args", "-a 1 -b HTTP/2"),
        ("custom.a", "é +"),
        ("custom.empty", ""),
        ("qvd.client.flag", ""),
    ] {
        assert_eq!(call.parameter(name), Some(value), "{name}");
    }
    assert_eq!(call.parameter("id"), None);
}

/// As each client writes it, byte for byte but for who and which.
#[tokio::test]
async fn the_connect_requests_of_all_known_clients_are_understood() {
    let stage = calm().await;
    let mut desktop = stage.running().await;
    let (id, login) = (desktop.id, desktop.authorization());
    let qt = login.replace("\r\n", "\n");
    let perl = format!(
        "GET /qvd/connect_to_vm?id={id}&qvd.client.keyboard=pc105%2Fes&qvd.client.os=windows&qvd.client.link=adsl&\
         qvd.client.geometry=1024x768&qvd.client.fullscreen=&qvd.client.nxagent.extra_args=&qvd.client.printing.enabled=1&\
         qvd.client.printing.flavor=slave4&qvd.client.usb.enabled=0&qvd.client.usb.implementation=USBIP&\
         qvd.client.audio.compression.enable=0&qvd.client.audio.redirect.enable=1&qvd.client.audio.redirect.server=a&\
         qvd.client.audio.redirect.port=4713&qvd.client.os.name=Windows+10&qvd.client.os.version=10.0&\
         qvd.client.hostname=PC-1 HTTP/1.1\r\n{login}Connection: Upgrade\r\nUpgrade: QVD/1.0\r\n\r\n"
    );
    let qt = format!(
        "GET /qvd/connect_to_vm?id={id}&qvd.client.keyboard=pc105/es&qvd.client.os=winnt&qvd.client.link=1m&\
         qvd.client.geometry=1024x768&qvd.client.fullscreen=1&qvd.client.nxagent.extra_args=-a b -c&\
         qvd.client.printing.enabled=0&qvd.client.usb.enabled=1&qvd.client.usb.implementation=usbip&\
         qvd.client.audio.sound.enable=1&qvd.client.audio.microphone.enable=0&qvd.client.timezone=Europe/Madrid&\
         qvd.client.type=qt HTTP/1.1\n{qt}Connection: Upgrade\nUpgrade: QVD/1.0\n\n"
    );
    let lib = format!(
        "GET /qvd/connect_to_vm?id={id}&qvd.client.os=linux&qvd.client.fullscreen=0&qvd.client.geometry=800x600&\
         qvd.client.link=local&qvd.client.keyboard=pc105/en&qvd.client.unheard.of=x HTTP/1.1\n{login}\
         Connection: Upgrade\nUpgrade: QVD/1.0\n\n"
    );
    let expected: [(&str, &[(&str, &str)]); 3] = [
        (
            &perl,
            &[("qvd.client.keyboard", "pc105/es"), ("qvd.client.os.name", "Windows 10"), ("qvd.client.fullscreen", "")],
        ),
        (&qt, &[("qvd.client.nxagent.extra_args", "-a b -c"), ("qvd.client.timezone", "Europe/Madrid")]),
        (&lib, &[("qvd.client.keyboard", "pc105/en"), ("qvd.client.unheard.of", "x")]),
    ];
    for (number, (request, parameters)) in expected.into_iter().enumerate() {
        let mut client = stage.client().await;
        client.send(request).await;
        let (_, answer) = client.conclusion().await;
        assert_eq!(answer.status, 101, "{request}: {}", answer.text());
        carries(&mut desktop, &mut client).await;
        let call = desktop.vm.called("x_start", number + 1).await;
        for (name, value) in parameters {
            assert_eq!(call.parameter(name), Some(*value), "{name}");
        }
    }
    // One of them asks to stop without saying what, with the headers of a tunnel.
    let stop = format!("GET /qvd/stop_vm HTTP/1.1\n{login}Connection: Upgrade\nUpgrade: QVD/1.0\n\n");
    let answer = stage.client().await.ask(stop).await;
    assert_eq!((answer.status, answer.text().as_str()), (422, "parameter id is missing"));
}
