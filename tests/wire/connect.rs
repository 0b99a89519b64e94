//! The way from the request to the tunnel, and what is kept of it.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::stage::{calm, rough_alone};

#[tokio::test]
async fn a_stopped_desktop_is_started_and_each_step_is_told() {
    let stage = calm().await;
    let mut desktop = stage.desktop().await;
    let id = desktop.id;
    let mut client = desktop.ask().await;
    let (mut texts, answer) = client.conclusion().await;
    assert_eq!(answer.status, 101);
    texts.dedup();
    let expected = [
        format!("Session acquired for VM_ID: {id}"),
        format!("Assigning VM {id} to host"),
        "Starting virtual machine".to_owned(),
        "Waiting for VM to reach state 'running'".to_owned(),
        format!("Starting X session at VM {id}"),
        format!("Waiting for X session to come up on VM {id}"),
        format!("Connecting X session for VM_ID: {id}"),
        "Connection established".to_owned(),
    ];
    assert_eq!(texts, expected);
    desktop.vm.nx().await;
    assert_eq!(desktop.user_state().await, "connected");
}

#[tokio::test]
async fn a_running_desktop_is_reached_without_starting_anything() {
    let stage = calm().await;
    for classic in [false, true] {
        let mut desktop = stage.running().await;
        let id = desktop.id;
        desktop.vm.x("provisioning");
        if classic {
            desktop.vm.classic();
        }
        let mut client = desktop.ask().await;
        let expected = [
            format!("Session acquired for VM_ID: {id}"),
            format!("Starting X session at VM {id}"),
            format!("Waiting for X session to come up on VM {id}"),
        ];
        for text in expected {
            client.told(&text).await;
        }
        let method = if classic { "x_state" } else { "x_wait" };
        desktop.vm.called("x_wait", 1).await;
        desktop.vm.x("starting");
        desktop.vm.called(method, desktop.vm.calls(method) + 1).await;
        desktop.vm.x("listening");
        let (texts, answer) = client.conclusion().await;
        assert_eq!(answer.status, 101);
        let last: Vec<_> = texts.into_iter().filter(|text| !text.starts_with("Waiting")).collect();
        assert_eq!(last, [format!("Connecting X session for VM_ID: {id}"), "Connection established".to_owned()]);
        desktop.vm.nx().await;
    }
}

#[tokio::test]
async fn a_desktop_is_reached_by_ipv6() {
    let mut desktop = calm().await.desktop_of_ipv6().await;
    desktop.start().await;
    let (_, answer) = desktop.ask().await.conclusion().await;
    assert_eq!(answer.status, 101);
    desktop.vm.called("x_start", 1).await;
    desktop.vm.nx().await;
}

#[tokio::test]
async fn a_classic_agent_is_polled_fast_at_first_and_again_when_something_has_changed() {
    let stage = calm().await;
    let mut desktop = stage.running().await;
    desktop.vm.classic();
    desktop.vm.x("provisioning");
    let mut client = desktop.ask().await;
    desktop.vm.called("x_state", 7).await;
    let pauses = desktop.vm.pauses("x_state");
    for (pause, shortest) in pauses[1..].iter().zip([20, 40, 80, 160, 320]) {
        assert!(pause.as_millis() >= shortest, "{pauses:?}");
    }
    let before = desktop.vm.calls("x_state");
    desktop.vm.x("starting");
    // The next question finds the change.
    desktop.vm.called("x_state", before + 4).await;
    let pauses = desktop.vm.pauses("x_state");
    let soonest = pauses[before..].iter().min().unwrap();
    assert!(soonest.as_millis() < 300, "{pauses:?}");
    desktop.vm.x("listening");
    assert_eq!(client.conclusion().await.1.status, 101);
    desktop.vm.nx().await;
    assert_eq!(desktop.vm.calls("x_wait"), 1, "an agent that does not know the extension is asked again");
}

#[tokio::test]
async fn the_agent_gets_all_parameters_the_later_overriding_the_earlier() {
    let stage = calm().await;
    let mut desktop = stage.running().await;
    let id = desktop.id;
    let osf = format!("own{id}");
    stage.sql(&format!("select osf_create('{osf}'), di_create('{osf}', 'a'), vm_stop({id})")).await;
    stage.site.wait_vm(&desktop.name(), "stopped").await.unwrap();
    stage.sql(&format!("update vms set osf_id = osf_id('{osf}') where id = {id}")).await;
    desktop.start().await;
    // Whoever is later in this list sets fewer keys, so each has the last word on one.
    let owners = [("osf", "v.osf_id"), ("di", "r.current_di_id"), ("user", "v.user_id"), ("vm", "v.id")];
    let ours = ["qvd.vm.user.name", "qvd.slave.key", "auth_token", "host_address"].map(str::to_owned);
    for (rank, (object, column)) in owners.iter().enumerate() {
        for key in (rank + 1..=4).map(|last| format!("custom.rank{last}")).chain(ours.clone()) {
            stage
                .sql(&format!(
                    "insert into properties_list (key, tenant_id) values ('{key}', 1) on conflict do nothing;
                     insert into qvd_object_properties_list (property_id, qvd_object)
                     select id, '{object}' from properties_list where key = '{key}' and tenant_id = 1
                     on conflict do nothing;
                     insert into {object}_properties ({object}_id, property_id, value)
                     select {column}, o.id, '{object}' from vms v join vm_runtimes r on r.vm_id = v.id,
                         qvd_object_properties_list o join properties_list l on l.id = o.property_id
                     where v.id = {id} and l.key = '{key}' and o.qvd_object = '{object}'"
                ))
                .await;
        }
    }
    let mut client = stage.client().await;
    let sent = "&custom.rank0=client&custom.rank1=client&custom.rank4=client&qvd.client.os=linux";
    client.send(desktop.connect_request(sent)).await;
    let (_, answer) = client.conclusion().await;
    assert_eq!(answer.status, 101, "{}", answer.text());
    desktop.vm.nx().await;
    let call = desktop.vm.called("x_start", 1).await;
    for (name, value) in [
        ("custom.rank0", "client"),
        ("qvd.client.os", "linux"),
        ("custom.rank1", "osf"),
        ("custom.rank2", "di"),
        ("custom.rank3", "user"),
        ("custom.rank4", "vm"),
        // A property may say what the host's address and the token are, but not who the user is.
        ("auth_token", "vm"),
        ("host_address", "vm"),
        ("qvd.vm.user.name", &desktop.login),
        ("qvd.slave.key", answer.header("X-QVD-Slave-Key").unwrap()),
    ] {
        assert_eq!(call.parameter(name), Some(value), "{name}");
    }
}

#[tokio::test]
async fn the_agent_learns_the_address_of_the_host_and_gets_a_token_of_the_user() {
    let stage = calm().await;
    let mut desktop = stage.running().await;
    desktop.connected().await;
    let call = desktop.vm.called("x_start", 1).await;
    assert_eq!(call.parameter("host_address"), Some("10.213.1.1"));
    let token = call.parameter("auth_token").unwrap();
    assert!(token.len() >= 43 && token.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{token}");
    let owner = format!(
        "select u.login || ' ' || (t.vm_id = {}) || ' ' || t.multi_use || ' ' || (p.parameters ->> 'qvd.vm.user.name')
         from user_tokens t join users u on u.id = t.user_id join user_auth_parameters p on p.id = t.auth_params_id
         where token = '{token}' and expiration between now() + '23 hours' and now() + '25 hours'",
        desktop.id
    );
    assert_eq!(stage.sql(&owner).await, format!("{0} true true {0}", desktop.login));
}

#[tokio::test]
async fn a_session_is_on_record_with_who_where_bytes_and_why_it_ended() {
    let stage = calm().await;
    let mut desktop = stage.running().await;
    let mut tunnel = desktop.connected().await;
    let session = tunnel.session;
    let row = format!(
        "select concat_ws(' ', vm, client, host, router, tunnel, connected_at is not null, ended_at is not null)
         from session_list where id = {session}"
    );
    let name = format!("{}@default/desk", desktop.login);
    assert_eq!(stage.sql(&row).await, format!("{name} 127.0.0.1 tw1 tw1 user t f"));
    // What a router writes when the tunnel goes another way than was said.
    let tunnel_of = format!("select tunnel from session_list where id = {session}");
    stage.sql(&format!("select l7r_way({session}, 'splice')::text")).await;
    assert_eq!(stage.sql(&tunnel_of).await, "splice");
    let up = vec![7; 100_000];
    tunnel.client.send(&up).await;
    let mut heard = vec![0; up.len()];
    tunnel.nx.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, up);
    tunnel.nx.write_all(&[9; 5000]).await.unwrap();
    assert_eq!(tunnel.client.read(5000).await, [9; 5000]);
    // Each direction ends on its own.
    tunnel.client.finish().await;
    assert_eq!(tunnel.nx.read(&mut [0]).await.unwrap(), 0);
    tunnel.nx.write_all(b"bye").await.unwrap();
    drop(tunnel.nx);
    assert_eq!(tunnel.client.read(3).await, b"bye");
    assert!(tunnel.client.ended().await && tunnel.client.goodbye);
    desktop.freed().await;
    let end = format!("select concat_ws(' ', bytes_up, bytes_down, end_reason) from session_list where id = {session}");
    assert_eq!(stage.sql(&end).await, "100000 5003 the client left");
    let mut again = desktop.connected().await;
    drop(again.nx);
    assert!(again.client.ended().await && again.client.goodbye);
    again.client.finish().await;
    desktop.freed().await;
    assert_eq!(desktop.end_reason().await, "the desktop ended the connection");
}

#[tokio::test]
async fn the_node_counts_what_it_was_asked_and_the_router_ends_its_sessions_when_it_is_stopped() {
    let (stage, _alone) = rough_alone().await;
    let mut desktop = stage.running().await;
    restart_router(stage).await;
    let counters = "select concat_ws(' ', http_requests, auth_attempts, auth_ok, nx_attempts, nx_ok, short_sessions) from host_counters where host_id = (select min(id) from hosts)";
    let read = |text: String| text.split(' ').map(|n| n.parse::<i64>().unwrap()).collect::<Vec<_>>();
    let before = read(stage.sql(counters).await);

    let mut client = stage.client().await;
    client.ask("GET /qvd/ping HTTP/1.1\r\n\r\n").await;
    client.ask("GET /qvd/list_of_vm HTTP/1.1\r\n\r\n").await;
    client.ask(desktop.get("/qvd/list_of_vm")).await;
    client.ask(desktop.get("/qvd/list_of_vm")).await;
    client.ask(desktop.get("/qvd/connect_to_vm?id=1")).await;
    desktop.vm.reply("x_start", Some(super::vm::Reply::Refuse("no")));
    let (_, answer) = desktop.ask().await.conclusion().await;
    assert_eq!(answer.status, 503);
    desktop.vm.reply("x_start", None);
    let mut tunnel = desktop.connected().await;
    restart_router(stage).await;

    assert!(tunnel.client.ended().await);
    assert_eq!(desktop.user_state().await, "disconnected");
    assert_eq!(desktop.end_reason().await, "the router was stopped");
    let after = read(stage.sql(counters).await);
    let grown: Vec<i64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
    // Requests but ping; logins checked, the one without credentials not being any; two attempts, one of which came
    // about and was short.
    assert_eq!(grown, [6, 3, 3, 2, 1, 1]);
    desktop.connected().await;
}

#[tokio::test]
async fn tunnels_are_counted_by_their_way_while_they_last_and_sessions_by_why_they_end() {
    let (stage, _alone) = rough_alone().await;
    let mut desktop = stage.running().await;
    restart_router(stage).await;
    let tunnels = "select coalesce(sum(tunnels), 0) || ' ' || coalesce(sum(bytes_up), 0) || ' ' ||
                       coalesce(sum(bytes_down), 0) from tunnel_list where tunnel in ('user', 'ktls')";
    let ends = "select coalesce(jsonb_object_agg(reason, sessions), '{}') from end_list";
    let read = |text: String| text.split(' ').map(|n| n.parse::<i64>().unwrap()).collect::<Vec<_>>();
    let ended = async || serde_json::from_str::<serde_json::Value>(&stage.sql(ends).await).unwrap();
    let (before, ends_before) = (read(stage.sql(tunnels).await), ended().await);

    // While it lasts.
    let mut tunnel = desktop.connected().await;
    tunnel.client.send("hello").await;
    tunnel.nx.read_exact(&mut [0; 5]).await.unwrap();
    tunnel.nx.write_all(b"how are you").await.unwrap();
    tunnel.client.read(11).await;
    let now = format!("{} {} {}", before[0] + 1, before[1] + 5, before[2] + 11);
    stage.until(tunnels, &now).await;
    // Others come, each with an end of its own, and the last is ended with the router.
    let mut second = desktop.connected().await;
    assert!(tunnel.client.ended().await);
    second.client.send("bye").await;
    second.nx.read_exact(&mut [0; 3]).await.unwrap();
    drop(second.nx);
    assert!(second.client.ended().await);
    second.client.finish().await;
    desktop.freed().await;
    let mut third = desktop.connected().await;
    third.client.finish().await;
    assert_eq!(third.nx.read(&mut [0]).await.unwrap(), 0);
    drop(third.nx);
    desktop.freed().await;
    desktop.vm.reply("x_start", Some(super::vm::Reply::Refuse("no")));
    assert_eq!(desktop.ask().await.conclusion().await.1.status, 503);
    desktop.vm.reply("x_start", None);
    let mut last = desktop.connected().await;
    stage.sql(&format!("select vm_disconnect('{}')", desktop.name())).await;
    assert!(last.client.ended().await);
    desktop.freed().await;
    let _held = desktop.connected().await;
    restart_router(stage).await;
    assert_eq!(read(stage.sql(tunnels).await), [before[0] + 5, before[1] + 8, before[2] + 11]);
    let after = ended().await;
    let grown = |reason: &str| after[reason].as_i64().unwrap_or(0) - ends_before[reason].as_i64().unwrap_or(0);
    for reason in [
        "taken over",
        "desktop ended the connection",
        "client left",
        "not connected",
        "disconnected by an administrator",
        "router stopped",
    ] {
        assert_eq!(grown(reason), 1, "{reason}: {ends_before} became {after}");
    }
    // What a router could not count, the next one does.
    let _lost = desktop.connected().await;
    let pid = stage.l7r_pid().await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    let counted = "select sum(sessions) from end_list where reason = 'its router died'";
    let died = after["its router died"].as_i64().unwrap_or(0) + 1;
    stage.until(counted, &died.to_string()).await;
    stage.site.wait_node().await.unwrap();
}

async fn restart_router(stage: &super::stage::Stage) {
    let pid = stage.l7r_pid().await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM).unwrap();
    stage.until(&format!("select count(*) from l7r_instances where ended_at is null and pid <> {pid}"), "1").await;
    stage.site.wait_node().await.unwrap();
}
