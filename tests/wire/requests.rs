//! What each request answers, who may ask it, and in which order refusals come.

use base64::{Engine, prelude::BASE64_STANDARD};

use super::{
    client::Answer,
    stage::{Desktop, PASSWORD, authorization, calm, rough, rough_alone},
};

const FOREIGN: &str = "The requested virtual machine is not available: You are not allowed to access requested virtual \
                       machine, retry later.";

#[tokio::test]
async fn anybody_may_ask_whether_the_router_is_alive() {
    let answer = calm().await.client().await.ask("GET /qvd/ping HTTP/1.1\r\n\r\n").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "I am alive!\r\n"));
    assert_eq!(answer.header("Content-Type"), Some("text/plain"));
}

#[tokio::test]
async fn the_list_has_the_types_that_classic_clients_unpack() {
    let stage = calm().await;
    let desktop = stage.desktop().await;
    let id = desktop.id;
    stage.sql(&format!("update vms set name = 'Büro' where id = {id}")).await;
    let mut client = stage.client().await;
    let list = client.ask(desktop.get("/qvd/list_of_vm?")).await.text();
    let expected =
        serde_json::json!([{ "id": id, "state": "stopped", "name": "Büro", "blocked": 0, "is_application": 0 }]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&list).unwrap(), expected);
    stage.sql(&format!("select vm_block('{}/Büro')", desktop.login)).await;
    let list = client.ask(desktop.get("/qvd/list_of_vm?file_name=/a")).await.text();
    assert!(list.replace(' ', "").contains(r#""blocked":1,"#), "{list}");
    assert_eq!(client.ask(desktop.get("/qvd/list_of_applications")).await.text(), "[]");
    stage.sql(&format!("update osfs set is_application = true where id = (select osf_create('app{id}'))")).await;
    let osf = format!("(select id from osfs where name = 'app{id}')");
    stage.sql(&format!("update vms set osf_id = {osf} where id = {id}")).await;
    stage.sql(&format!("update osfs set is_application = true where id = {osf}")).await;
    let list = client.ask(desktop.get("/qvd/list_of_applications")).await.text();
    assert!(list.replace(' ', "").contains(r#""is_application":1"#), "{list}");
    assert_eq!(client.ask(desktop.get("/qvd/list_of_vm")).await.text(), "[]");
}

#[tokio::test]
async fn every_refused_login_reads_the_same() {
    let stage = calm().await;
    let (alice, blocked) = (stage.user().await, stage.user().await);
    stage.sql(&format!("select user_block('{}')", blocked.login)).await;
    let tenant = format!("shut{}", alice.id);
    stage
        .sql(&format!(
            "select tenant_create('{tenant}'), user_create('carol@{tenant}', 'pw'), user_create('nopw@{tenant}');
             update tenants set blocked = true where name = '{tenant}'"
        ))
        .await;
    let mut seen = Vec::new();
    let raw = |value: &str| format!("Authorization: {value}\r\n");
    let plain = |text: &str| BASE64_STANDARD.encode(text);
    for header in [
        String::new(),
        authorization(&alice.login, "wrong"),
        authorization(&alice.login, ""),
        authorization("nobody", PASSWORD),
        authorization("", ""),
        blocked.authorization(),
        authorization(&format!("carol@{tenant}"), "pw"),
        authorization(&format!("nopw@{tenant}"), ""),
        authorization(&format!("{}@nowhere", alice.login), PASSWORD),
        authorization(&format!("{}@*", alice.login), PASSWORD),
        raw("Basic"),
        raw("Basic %%%%"),
        raw(&format!("Basic {}", plain("no colon"))),
        raw("Basic /////w=="),
        raw(&format!("Digest {}", plain("a:b"))),
        raw(&format!("Bearer {}", plain("a token that nobody has"))),
        raw(&plain(&format!("{}:{PASSWORD}", alice.login))),
    ] {
        let mut client = stage.client().await;
        let answer = client.ask(format!("GET /qvd/list_of_vm HTTP/1.1\r\n{header}\r\n")).await;
        assert_eq!(answer.status, 401, "{header}");
        assert_eq!(answer.header("WWW-Authenticate"), Some("Basic realm=\"QVD\""));
        seen.push((answer.headers, answer.body));
        // The connection stays, and who knows the password now is let in.
        let request = format!("GET /qvd/list_of_vm HTTP/1.1\r\n{}\r\n", alice.authorization());
        assert_eq!(client.ask(request).await.status, 200, "{header}");
    }
    seen.dedup();
    assert_eq!(seen.len(), 1, "the answers differ: {seen:?}");
}

#[tokio::test]
async fn credentials_are_checked_anew_when_they_change_on_a_connection() {
    let stage = calm().await;
    let (alice, bob) = (stage.desktop().await, stage.user().await);
    let mut client = stage.client().await;
    assert!(client.ask(alice.get("/qvd/list_of_vm")).await.text().contains("desk"));
    assert_eq!(client.ask(format!("GET /qvd/list_of_vm HTTP/1.1\r\n{}\r\n", bob.authorization())).await.text(), "[]");
    let wrong = authorization(&alice.login, "wrong");
    assert_eq!(client.ask(format!("GET /qvd/list_of_vm HTTP/1.1\r\n{wrong}\r\n")).await.status, 401);
    assert_eq!(client.ask("GET /qvd/list_of_vm HTTP/1.1\r\n\r\n").await.status, 401);
}

fn connect(query: &str, headers: &str) -> String {
    format!("GET /qvd/connect_to_vm{query} HTTP/1.1\r\n{headers}Connection: Upgrade\r\nUpgrade: QVD/1.0\r\n\r\n")
}

#[tokio::test]
async fn a_connection_is_refused_in_the_classic_order() {
    let stage = calm().await;
    let (own, foreign) = (stage.desktop().await, stage.desktop().await);
    stage.sql(&format!("select vm_block('{}')", own.name())).await;
    let before = own.record().await;
    let login = own.authorization();
    let mut client = stage.client().await;
    let (none, maintenance) =
        ("The requested virtual machine does not exist", "The requested virtual machine is offline for maintenance");
    let (missing, blocked) = ("parameter id is missing", own.id);
    for (request, status, text) in [
        // Each has the faults of the next one, too.
        (connect("?evil=1", ""), 401, ""),
        (format!("GET /qvd/connect_to_vm?evil=1 HTTP/1.1\r\n{login}\r\n"), 426, ""),
        (connect("?evil=1", &login), 422, missing),
        (connect("", &login), 422, missing),
        (connect("?id&custom.a=1", &login), 422, missing),
        (
            connect("?id=nonsense&evil=1&custom.a=b&qvd.vm.user.name=root", &login),
            403,
            "Invalid parameters evil, qvd.vm.user.name",
        ),
        (connect("?id=nonsense", &login), 404, none),
        (connect("?id=", &login), 404, none),
        (connect("?id=99999999999", &login), 404, none),
        (connect("?id=-1", &login), 404, none),
        (connect("?id=999999", &login), 404, none),
        (connect(&format!("?id={blocked}"), &login), 403, maintenance),
        (connect(&format!("?id={}", foreign.id), &login), 503, FOREIGN),
    ] {
        let answer = client.ask(&request).await;
        assert_eq!(answer.status, status, "{request}");
        assert!(text.is_empty() || answer.text() == text, "{request}: {}", answer.text());
    }
    stage.sql(&format!("select vm_block('{}')", foreign.name())).await;
    let answer = client.ask(connect(&format!("?id={}", foreign.id), &login)).await;
    assert_eq!((answer.status, answer.text().as_str()), (403, maintenance));
    assert_eq!(own.record().await, before, "a refused request has written something");
}

#[tokio::test]
async fn a_foreign_desktop_is_refused_and_nothing_is_written() {
    let stage = calm().await;
    let mut victim = stage.running().await;
    let stranger = stage.user().await;
    for connected in [false, true] {
        let tunnel = if connected { Some(victim.connected().await) } else { None };
        let before = victim.record().await;
        let mut client = stage.client().await;
        let answer = client.ask(connect(&format!("?id={}", victim.id), &stranger.authorization())).await;
        assert_eq!((answer.status, answer.text().as_str()), (503, FOREIGN));
        let request = format!("GET /qvd/stop_vm?id={} HTTP/1.1\r\n{}\r\n", victim.id, stranger.authorization());
        assert_eq!(client.ask(request).await.status, 403);
        assert_eq!(victim.record().await, before);
        if let Some(tunnel) = tunnel {
            let request =
                format!("GET /qvd/session_end?id={} HTTP/1.1\r\n{}\r\n", tunnel.session, stranger.authorization());
            assert_eq!(client.ask(request).await.text(), r#"{"reason":null}"#);
        }
    }
    assert_eq!(victim.vm.calls("x_start"), 1);
}

#[tokio::test]
async fn a_user_stops_a_desktop_and_is_told_when_it_has_stopped() {
    let stage = calm().await;
    let mut desktop = stage.running().await;
    let mut tunnel = desktop.connected().await;
    let mut client = stage.client().await;
    for (target, status) in [
        ("/qvd/stop_vm".to_owned(), 422),
        ("/qvd/stop_vm?id=".to_owned(), 404),
        ("/qvd/stop_vm?id=999999".to_owned(), 404),
    ] {
        assert_eq!(client.ask(desktop.get(&target)).await.status, status, "{target}");
    }
    let request = desktop.get(&format!("/qvd/stop_vm?id={}", desktop.id));
    client.send(&request).await;
    let (texts, answer) = client.conclusion().await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "Machine stopped\r\n"));
    assert_eq!(texts.first().unwrap(), "Stopping virtual machine");
    assert!(texts[1..].iter().all(|text| text == "Waiting for VM to reach state 'stopped'"), "{texts:?}");
    assert!(tunnel.client.ended().await);
    desktop.freed().await;
    client.send(&request).await;
    let (texts, answer) = client.conclusion().await;
    assert!(texts.is_empty() && answer.text() == "Machine stopped\r\n", "{texts:?}");
}

#[tokio::test]
async fn a_desktop_that_does_not_stop_in_time_is_408_and_one_that_cannot_is_503() {
    let (stage, _turn) = rough().await;
    let desktop = stage.desktop().await;
    let id = desktop.id;
    // On a host whose daemon never comes.
    stage
        .sql(&format!(
            "select host_create('ghost{id}', '10.98.{}.{}');
             update vm_runtimes set host_id = (select id from hosts where name = 'ghost{id}'), vm_state = 'starting'
             where vm_id = {id}",
            id / 256 % 256,
            id % 256
        ))
        .await;
    let mut client = stage.client().await;
    let request = desktop.get(&format!("/qvd/stop_vm?id={id}"));
    client.send(&request).await;
    let (texts, answer) = client.conclusion().await;
    assert_eq!((answer.status, answer.text().as_str()), (408, "VM didn't reach state 'stopped'. Timeout"));
    assert_eq!(texts.first().unwrap(), "Stopping virtual machine");
    stage.sql(&format!("update vm_runtimes set vm_state = 'zombie' where vm_id = {id}")).await;
    let answer = client.ask(&request).await;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (503, "The requested virtual machine is in an unstoppable state (zombie)")
    );
    stage
        .sql(&format!(
            "update vm_runtimes set vm_state = 'stopped' where vm_id = {id}; delete from hosts where name = 'ghost{id}'"
        ))
        .await;
    assert_eq!(client.ask(&request).await.text(), "Machine stopped\r\n");
}

#[tokio::test]
async fn a_desktop_that_is_debugged_can_be_stopped_and_others_wait_with_the_first() {
    let (stage, _turn) = rough().await;
    let desktop = stage.desktop().await;
    let id = desktop.id;
    let becomes = |state: &str| format!("update vm_runtimes set vm_state = '{state}' where vm_id = {id};");
    // On a host whose daemon never comes.
    stage
        .sql(&format!(
            "select host_create('ghost{id}', '10.97.{}.{}');
             update vm_runtimes set host_id = (select id from hosts where name = 'ghost{id}'), vm_state = 'starting'
             where vm_id = {id}; {} {}",
            id / 256 % 256,
            id % 256,
            becomes("running"),
            becomes("debugging"),
        ))
        .await;
    let request = desktop.get(&format!("/qvd/stop_vm?id={id}"));
    let mut first = stage.client().await;
    first.send(&request).await;
    first.told("Stopping virtual machine").await;
    stage.until(&format!("select vm_cmd from vm_runtimes where vm_id = {id}"), "stop").await;
    stage.sql(&format!("update vm_runtimes set vm_cmd = null, vm_state = 'stopping' where vm_id = {id}")).await;
    let mut second = stage.client().await;
    second.send(&request).await;
    second.told("Waiting for VM to reach state 'stopped'").await;
    stage.sql(&format!("{} delete from hosts where name = 'ghost{id}'", becomes("stopped"))).await;
    for client in [&mut first, &mut second] {
        let (texts, answer) = client.conclusion().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "Machine stopped\r\n"));
        assert!(!texts.iter().any(|text| text == "Stopping virtual machine"), "{texts:?}");
    }
}

fn json(answer: &Answer) -> serde_json::Value {
    assert_eq!((answer.status, answer.header("Content-Type")), (200, Some("application/json")), "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

#[tokio::test]
async fn a_user_is_authenticated_for_others_and_what_was_found_out_is_kept_on_demand() {
    let stage = calm().await;
    let user = stage.user().await;
    let get = |query: &str| format!("GET /qvd/authenticate_user{query} HTTP/1.1\r\n{}\r\n", user.authorization());
    let mut client = stage.client().await;
    for query in ["", "?", "?store_auth", "?store_auth=", "?store_auth=0"] {
        assert_eq!(json(&client.ask(get(query)).await), serde_json::json!({}), "{query}");
    }
    assert_eq!(stage.sql(&format!("select count(*) from user_auth_parameters where user_id = {}", user.id)).await, "0");
    let kept = json(&client.ask(get("?store_auth=1")).await);
    let id = kept["auth_params_id"].as_i64().unwrap();
    assert_eq!(kept, serde_json::json!({ "auth_params_id": id }));
    let parameters = stage.sql(&format!("select parameters from user_auth_parameters where id = {id}")).await;
    assert_eq!(parameters, format!(r#"{{"qvd.vm.user.name": "{}"}}"#, user.login));
    assert_ne!(json(&client.ask(get("?store_auth=1")).await)["auth_params_id"], id);
    for request in ["/qvd/authenticate_user?store_auth=1", "/qvd/create_auth_token"] {
        let wrong = authorization(&user.login, "wrong");
        assert_eq!(client.ask(format!("GET {request} HTTP/1.1\r\n{wrong}\r\n")).await.status, 401);
    }
    // What is old and no token stands upon goes; the rest stays.
    stage.sql(&format!("update user_auth_parameters set kept_since = now() - interval '8 days' where id = {id}")).await;
    json(&client.ask(get("?store_auth=1")).await);
    assert_eq!(stage.sql(&format!("select count(*) from user_auth_parameters where user_id = {}", user.id)).await, "2");
}

#[tokio::test]
async fn a_token_is_made_for_a_day_of_any_number_of_uses_and_goes_when_it_has_expired() {
    let stage = calm().await;
    let user = stage.user().await;
    let request = format!("GET /qvd/create_auth_token HTTP/1.1\r\n{}\r\n", user.authorization());
    let mut client = stage.client().await;
    let created = json(&client.ask(&request).await);
    let token = String::from_utf8(BASE64_STANDARD.decode(created["auth_token"].as_str().unwrap()).unwrap()).unwrap();
    assert!(token.len() == 43 && token.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{token}");
    let row = format!(
        "select concat_ws(' ', t.user_id, t.vm_id is null, t.multi_use, t.auth_params_id, p.parameters,
             expiration between now() + '23 hours 59 minutes' and now() + '24 hours')
         from user_tokens t join user_auth_parameters p on p.id = t.auth_params_id where token = '{token}'"
    );
    let expected =
        format!(r#"{} t t {} {{"qvd.vm.user.name": "{}"}} t"#, user.id, created["auth_params_id"], user.login);
    assert_eq!(stage.sql(&row).await, expected);
    stage
        .sql(&format!("update user_tokens set expiration = now() - interval '1 second' where token = '{token}'"))
        .await;
    json(&client.ask(&request).await);
    let left = format!(
        "select (select count(*) from user_tokens where user_id = {0}) || ' ' ||
             (select count(*) from user_auth_parameters where user_id = {0})",
        user.id
    );
    assert_eq!(stage.sql(&left).await, "1 1");
}

async fn refusals(desktop: &Desktop) -> [(u16, String); 7] {
    let mut client = desktop.stage.client().await;
    let mut seen = Vec::new();
    for request in [
        "GET /qvd/ping HTTP/1.1\r\n\r\n".to_owned(),
        desktop.get("/qvd/list_of_vm"),
        desktop.get("/qvd/authenticate_user?store_auth=1"),
        desktop.get("/qvd/create_auth_token"),
        // Its other faults come later.
        desktop.get("/qvd/connect_to_vm?evil=1"),
        desktop.connect_request(""),
        "GET /qvd/list_of_vm HTTP/1.1\r\n\r\n".to_owned(),
    ] {
        let answer = client.ask(request).await;
        seen.push((answer.status, answer.text()));
    }
    seen.try_into().unwrap()
}

#[tokio::test]
async fn a_host_out_of_service_says_so_after_the_login() {
    let (stage, _alone) = rough_alone().await;
    let desktop = stage.desktop().await;
    let before = desktop.record().await;
    let host = "(select id from hosts)";
    let unblock = format!("update host_runtimes set blocked = false where host_id = {host}");
    for (break_it, mend_it, text) in [
        ("select host_block('tw2')".to_owned(), unblock, "Server is blocked"),
        (
            format!("update host_runtimes set state = 'stopping' where host_id = {host}"),
            format!(
                "update host_runtimes set state = 'starting' where host_id = {host};
                 update host_runtimes set state = 'running' where host_id = {host}"
            ),
            "Server is stopping",
        ),
    ] {
        stage.sql(&break_it).await;
        let seen = refusals(&desktop).await;
        stage.sql(&mend_it).await;
        let [answers @ .., stranger] = seen;
        for (status, said) in answers {
            assert_eq!((status, said.as_str()), (503, text));
        }
        assert_eq!(stranger.0, 401);
    }
    assert_eq!(desktop.record().await, before, "a refused request has written something");
}
