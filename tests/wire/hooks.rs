//! What authenticators may say once a user is known: at which requests each is asked, in which order, with what, and
//! what comes of it. The pool of VMs that open files is the one that classic QVD has.

use std::sync::{Arc, Mutex};

use qvd::{
    auth::{
        Attempt, Authenticated, Authenticator, Chain, FoundTenant, Hashing, Purpose, Refusal, Rejection, Verdict, Visit,
    },
    db::{Database, ListedVm},
    model::{TenantId, UserId, VmId, VmState, config::Config},
};

use super::{
    client::Client,
    stage::{Desktop, PASSWORD, Stage, User, authorization, calm},
};

/// Writes down what it is asked, and answers as it is told.
#[derive(Default)]
struct Witness {
    name: &'static str,
    lists: Option<i32>,
    allows: Option<i32>,
    fails: Option<&'static str>,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Witness {
    fn hear(&self, hook: &'static str, what: &str) -> Result<(), Refusal> {
        self.heard.lock().unwrap().push(format!("{} {hook} {what}", self.name));
        if self.fails == Some(hook) { Err(Refusal::Directory("it is night".to_owned())) } else { Ok(()) }
    }
}

impl Authenticator for Witness {
    fn find_tenant(&self, typed: &str, _: &Config) -> Option<FoundTenant> {
        let (tenant, login) = typed.split_once('\\')?;
        Some(FoundTenant { tenant: tenant.to_owned(), login: login.to_owned() })
    }

    fn normalise_tenant(&self, tenant: String, _: &Config) -> String {
        tenant.replace("acme", &format!("{}acme", self.name))
    }

    fn normalise_login(&self, login: String, _: &Config) -> String {
        format!("{}{login}", self.name)
    }

    fn authenticate<'a>(&'a self, attempt: &'a mut Attempt, _: &'a str) -> Verdict<'a> {
        let _ = self.hear("authenticate", &format!("{}@{}", attempt.login, attempt.tenant_name));
        Box::pin(std::future::ready(Err(Refusal::WrongPassword)))
    }

    fn before_list<'a>(&'a self, visit: &'a mut Visit) -> Verdict<'a> {
        let said = self.hear("before_list", &format!("{:?} {:?}", visit.query, visit.user.variables));
        visit.user.learn("custom.hook", self.name);
        Box::pin(std::future::ready(said))
    }

    fn list<'a>(&'a self, visit: &'a mut Visit, applications: bool) -> Verdict<'a, Vec<ListedVm>> {
        let said = self.hear("list", &format!("{} applications={applications}", visit.user.login));
        let listed = said.and_then(|()| self.lists.ok_or(Refusal::Silent));
        let listed = listed.map(|vm| {
            let (vm, name) = (VmId(vm), "theirs".to_owned());
            vec![ListedVm { vm, name, state: VmState::Stopped, blocked: false, is_application: true }]
        });
        Box::pin(std::future::ready(listed))
    }

    fn allow<'a>(&'a self, _: &'a mut Visit, vm: VmId, purpose: Purpose) -> Verdict<'a> {
        let said = self.hear("allow", &format!("{vm} {purpose:?}"));
        let allowed = said.and_then(|()| if self.allows == Some(vm.0) { Ok(()) } else { Err(Refusal::NotYours) });
        Box::pin(std::future::ready(allowed))
    }

    fn before_connect<'a>(&'a self, visit: &'a mut Visit, vm: VmId) -> Verdict<'a> {
        let said = self.hear("before_connect", &vm.to_string());
        visit.user.learn("custom.hook", "connect");
        Box::pin(std::future::ready(said))
    }
}

fn chain(stage: &Stage, links: Vec<Witness>) -> Chain {
    let mut config = Config::default();
    config.set("l7r.auth.plugins", "one,two").unwrap();
    let database = Database::new(&stage.site.connector("qvd_l7r").unwrap(), 2).unwrap();
    let chain = Chain::new(database, Hashing::new(2).unwrap(), &config);
    links.into_iter().fold(chain, |chain, link| chain.with(link.name, Arc::new(link)))
}

fn somebody(user: &User) -> Authenticated {
    Authenticated {
        user: UserId(user.id),
        tenant: TenantId(1),
        login: user.login.clone(),
        parameters: vec![],
        variables: vec![("LANG".to_owned(), "es".to_owned())],
        chain: TenantId(1),
        bound_to: None,
        by: "Default",
    }
}

#[tokio::test]
async fn authenticators_are_asked_in_order_about_what_a_known_user_wants() {
    let stage = calm().await;
    let user = stage.user().await;
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let witness = |name| Witness { name, heard: heard.clone(), ..Witness::default() };
    let said = || heard.lock().unwrap().drain(..).collect::<Vec<_>>();
    let query = || vec![("file_name".to_owned(), "/a".to_owned())];

    let one = Witness { allows: Some(9), ..witness("One") };
    let two = Witness { lists: Some(7), allows: Some(8), ..witness("Two") };
    let asked = chain(stage, vec![one, two]);
    let mut visit = asked.visit(somebody(&user), query());
    assert!(asked.before_list(&mut visit).await.unwrap());
    let what = r#"before_list [("file_name", "/a")] [("LANG", "es")]"#;
    assert_eq!(said(), [format!("One {what}"), format!("Two {what}")]);
    assert_eq!(visit.user.parameters, [("custom.hook".to_owned(), "Two".to_owned())]);

    let listed = asked.list(&mut visit, true).await.unwrap().unwrap();
    assert_eq!(listed.iter().map(|vm| vm.vm).collect::<Vec<_>>(), [VmId(7)]);
    let what = format!("list {} applications=true", user.login);
    assert_eq!(said(), [format!("One {what}"), format!("Two {what}")]);

    for (vm, allowed, by) in [(9, true, vec!["One"]), (8, true, vec!["One", "Two"]), (7, false, vec!["One", "Two"])] {
        assert_eq!(asked.allow(&mut visit, VmId(vm), Purpose::Stop).await.unwrap(), allowed);
        assert_eq!(said(), by.iter().map(|by| format!("{by} allow {vm} Stop")).collect::<Vec<_>>());
    }
    asked.before_connect(&mut visit, VmId(5)).await.unwrap();
    assert_eq!(said(), ["One before_connect 5", "Two before_connect 5"]);

    // A failure ends it, and those behind are not asked.
    for hook in ["before_list", "list", "before_connect"] {
        let failing = chain(stage, vec![Witness { fails: Some(hook), ..witness("One") }, witness("Two")]);
        let mut visit = failing.visit(somebody(&user), vec![]);
        let refused = match hook {
            "before_list" => failing.before_list(&mut visit).await.err(),
            "list" => failing.list(&mut visit, false).await.err(),
            _ => failing.before_connect(&mut visit, VmId(5)).await.err(),
        };
        assert!(matches!(&refused, Some(error @ Rejection::Hook { by: "One", .. }) if error.is_fault()), "{refused:?}");
        assert_eq!(said().len(), 1, "{hook}");
    }
    // Whose token it is is known to everybody's chain alone.
    let mut by_token = asked.visit(Authenticated { chain: TenantId(0), ..somebody(&user) }, vec![]);
    asked.before_list(&mut by_token).await.unwrap();
    assert_eq!(said().len(), 2);
}

#[tokio::test]
async fn the_first_says_which_tenant_is_meant_and_all_how_names_are_written() {
    let stage = calm().await;
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let witness = |name| Witness { name, heard: heard.clone(), ..Witness::default() };
    let tenant = stage.tenant().await;
    let chain = chain(stage, vec![witness("One"), witness("Two")]);
    let typed = format!(" {tenant}ACME\\Alice");
    // Each writes its name in front of what it is given.
    let expected = format!("{tenant}OneTwoacme");
    let refused = chain.password(&typed, PASSWORD, vec![]).await.unwrap_err();
    assert_eq!(refused.to_string(), format!("there is no tenant {expected:?}"));
    stage.sql(&format!("select tenant_create('{expected}')")).await;
    chain.password(&typed, PASSWORD, vec![]).await.unwrap_err();
    let asked = heard.lock().unwrap().clone();
    assert_eq!(asked, ["One", "Two"].map(|name| format!("{name} authenticate TwoOnealice@{expected}")));
}

/// A tenant whose users may use two VMs of a pool.
struct Pool {
    stage: &'static Stage,
    tenant: String,
    writer: Desktop,
    painter: Desktop,
}

impl Pool {
    async fn found() -> Self {
        let stage = calm().await;
        let tenant = stage.tenant().await;
        stage
            .sql(&format!(
                "select osf_create('app@{tenant}'), di_create('app@{tenant}', 'app-{tenant}.tar');
                 update osfs set is_application = true where id = osf_id('app@{tenant}');
                 select user_create('pool@{tenant}'), user_create('ann@{tenant}', '{PASSWORD}'),
                     user_create('ben@{tenant}', '{PASSWORD}')"
            ))
            .await;
        let writer = stage.lent(&format!("pool@{tenant}"), "writer", &format!("app@{tenant}")).await;
        let painter = stage.lent(&format!("pool@{tenant}"), "painter", &format!("app@{tenant}")).await;
        for (vm, extensions) in [(&writer, "odt, .DOC"), (&painter, "png;jpg")] {
            stage
                .sql(&format!(
                    "insert into properties_list (key, tenant_id) values ('qvd.app.file_exts', tenant_id('{tenant}'))
                     on conflict do nothing;
                     insert into qvd_object_properties_list (property_id, qvd_object)
                     select id, 'vm' from properties_list where key = 'qvd.app.file_exts'
                         and tenant_id = tenant_id('{tenant}') on conflict do nothing;
                     insert into vm_properties (vm_id, property_id, value)
                     select {}, o.id, '{extensions}' from qvd_object_properties_list o
                         join properties_list l on l.id = o.property_id
                     where l.key = 'qvd.app.file_exts' and l.tenant_id = tenant_id('{tenant}') and o.qvd_object = 'vm'",
                    vm.id
                ))
                .await;
        }
        stage
            .sql(&format!(
                "select config_set('l7r.auth.plugins', 'default,VMPoolAppServerAuthenticator', '{tenant}'),
                     config_set('l7r.auth.plugin.vm_pool.ephemeral_vm_owner_id', user_id('pool@{tenant}')::text, '{tenant}')"
            ))
            .await;
        let pool = Self { stage, tenant, writer, painter };
        let began = std::time::Instant::now();
        while pool.list(&mut stage.client().await, "ann", "?file_name=a.png").await.is_empty() {
            assert!(began.elapsed() < super::stage::PATIENCE, "the router does not lend anything");
        }
        pool
    }

    fn get(&self, login: &str, target: &str, headers: &str) -> String {
        let authorization = authorization(&format!("{login}@{}", self.tenant), PASSWORD);
        format!("GET {target} HTTP/1.1\r\n{authorization}{headers}\r\n")
    }

    /// The ids of the VMs that somebody is shown.
    async fn list(&self, client: &mut Client, login: &str, query: &str) -> Vec<i64> {
        let list = client.ask(self.get(login, &format!("/qvd/list_of_vm{query}"), "")).await.text();
        let list: Vec<serde_json::Value> = serde_json::from_str(&list).unwrap_or_else(|_| panic!("{list}"));
        list.iter().map(|vm| vm["id"].as_i64().unwrap()).collect()
    }

    fn connect(&self, login: &str, vm: &Desktop) -> String {
        let upgrade = "Connection: Upgrade\r\nUpgrade: QVD/1.0\r\n";
        self.get(login, &format!("/qvd/connect_to_vm?id={}", vm.id), upgrade)
    }
}

#[tokio::test]
async fn a_file_is_opened_in_a_vm_of_the_pool_that_is_ones_own_until_it_stops() {
    let mut pool = Pool::found().await;
    let (writer, painter) = (i64::from(pool.writer.id), i64::from(pool.painter.id));
    let (mut ann, mut ben) = (pool.stage.client().await, pool.stage.client().await);
    for (query, wanted) in [
        ("", vec![]),
        ("?file_name=", vec![]),
        ("?file_name=/home/ann/a.xyz", vec![]),
        ("?file_name=README", vec![]),
        ("?file_name=C%3A\\b.JPG", vec![painter]),
        ("?file_name=/home/ann/my%20letter.odt", vec![writer]),
    ] {
        assert_eq!(pool.list(&mut ann, "ann", query).await, wanted, "{query}");
    }
    ann.send(pool.connect("ann", &pool.writer)).await;
    let (_, answer) = ann.conclusion().await;
    assert_eq!(answer.status, 101, "{}", answer.text());
    pool.writer.vm.nx().await;
    let call = pool.writer.vm.called("x_start", 1).await;
    assert_eq!(call.parameter("qvd.client.open_file"), Some("/home/ann/my letter.odt"));
    assert_eq!(call.parameter("qvd.vm.user.name"), Some("ann"));

    // It is ann's now, whether she is connected or not.
    for connected in [true, false] {
        assert_eq!(pool.list(&mut ben, "ben", "?file_name=x.doc").await, [0; 0], "{connected}");
        let refused = ben.ask(pool.connect("ben", &pool.writer)).await;
        assert_eq!(refused.status, 503);
        assert!(refused.text().contains("You are not allowed to access requested virtual machine"));
        let stop = pool.get("ben", &format!("/qvd/stop_vm?id={writer}"), "");
        assert_eq!(ben.ask(stop).await.status, 403);
        if connected {
            std::mem::replace(&mut ann, pool.stage.client().await).cut();
            pool.writer.freed().await;
        }
    }
    // What nobody has yet cannot be stopped by anybody; what one has can, and then it is the next one's.
    assert_eq!(ben.ask(pool.get("ben", &format!("/qvd/stop_vm?id={painter}"), "")).await.status, 403);
    let stop = pool.get("ann", &format!("/qvd/stop_vm?id={writer}"), "");
    assert_eq!(ann.ask(stop).await.text(), "Machine stopped\r\n");
    assert_eq!(pool.list(&mut ben, "ben", "?file_name=x.doc").await, [writer]);
    ben.send(pool.connect("ben", &pool.writer)).await;
    assert_eq!(ben.conclusion().await.1.status, 101);
    assert_eq!(ann.ask(pool.connect("ann", &pool.writer)).await.status, 503);
    // A stranger to the tenant has no part in it.
    let stranger = pool.stage.user().await;
    let request = pool.connect("x", &pool.painter);
    let own = authorization(&format!("x@{}", pool.tenant), PASSWORD);
    let refused = pool.stage.client().await.ask(request.replace(&own, &stranger.authorization())).await;
    assert_eq!(refused.status, 503);
}

#[tokio::test]
async fn of_many_who_want_the_same_vm_of_the_pool_one_gets_it() {
    let pool = Pool::found().await;
    let taken = futures_util::future::join_all((0..8).map(|number| {
        let (pool, login) = (&pool, if number % 2 == 0 { "ann" } else { "ben" });
        async move {
            let sql = format!(
                "select l7r_pool_take({}, user_id('pool@{1}'), user_id('{login}@{1}'))",
                pool.painter.id, pool.tenant
            );
            (login, pool.stage.sql(&sql).await == "t")
        }
    }))
    .await;
    let lucky = taken.iter().find(|(_, got)| *got).unwrap().0;
    assert!(taken.iter().all(|(login, got)| *got == (*login == lucky)), "{taken:?}");
}

#[tokio::test]
async fn the_router_asks_at_the_places_where_classic_does() {
    let stage = calm().await;
    let mut desktop = stage.in_tenant(&[("l7r.auth.plugins", "authTester")]).await;
    let user = stage.sql(&format!("select user_id from vms where id = {}", desktop.id)).await;
    // What the log says about this user since it was looked at last.
    let seen = std::cell::Cell::new(0);
    let hooks = || {
        let log = std::fs::read_to_string(stage.site.log()).unwrap();
        let of_user = |line: &&str| line.contains(&format!("user={user}"));
        let lines = log.lines().filter(|line| line.contains("authTester is asked")).filter(of_user);
        let lines: Vec<String> = lines.map(str::to_owned).collect();
        let new = lines[seen.replace(lines.len())..].iter();
        let word = |line: &String, key: &str| {
            let rest = line.split_once(&format!("{key}=")).map(|(_, rest)| rest.trim_start_matches('"').to_owned());
            rest.map(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>())
        };
        new.map(|line| word(line, "hook").unwrap()).collect::<Vec<_>>()
    };
    let mut client = stage.client().await;
    let began = std::time::Instant::now();
    let list = |more: &str| format!("GET /qvd/list_of_vm?a=b HTTP/1.1\r\n{}{more}\r\n", desktop.authorization());
    while {
        assert_eq!(client.ask(list("")).await.status, 200);
        hooks().is_empty()
    } {
        // A connection keeps what it has proved, not the chain that was asked: each request sees the newest.
        assert!(began.elapsed() < super::stage::PATIENCE, "the router does not ask");
    }
    for (target, asked) in [
        ("/qvd/list_of_vm", vec!["before_list", "list"]),
        ("/qvd/list_of_applications", vec!["before_list", "list"]),
        ("/qvd/authenticate_user", vec!["before_list"]),
        ("/qvd/create_auth_token", vec!["before_list"]),
        ("/qvd/connect_to_vm", vec![]),
        ("/qvd/stop_vm?id=999999", vec![]),
    ] {
        client.ask(desktop.get(target)).await;
        assert_eq!(hooks(), asked, "{target}");
    }
    // What the client sends along is heard, also with later requests of a connection.
    client.ask(list("Auth-4c414e47: ZXM=\r\n")).await;
    client.ask(list("")).await;
    let log = std::fs::read_to_string(stage.site.log()).unwrap();
    let heard = log.lines().filter(|line| line.contains(&format!("user={user}")) && line.contains(r#""LANG", "es""#));
    assert!(heard.count() >= 2);
    assert_eq!(hooks().len(), 4);
    // Between the take-over and the start.
    client.send(desktop.connect_request("")).await;
    client.told("Starting virtual machine").await;
    assert_eq!(hooks(), ["before_connect"]);
    assert_eq!(client.conclusion().await.1.status, 101);
    desktop.vm.nx().await;
    // Those of others are asked about.
    let foreign = stage.desktop().await;
    let mut client = stage.client().await;
    for path in ["connect_to_vm", "stop_vm"] {
        let upgrade = "Connection: Upgrade\r\nUpgrade: QVD/1.0\r\n";
        let authorization = desktop.authorization();
        let request = format!("GET /qvd/{path}?id={} HTTP/1.1\r\n{authorization}{upgrade}\r\n", foreign.id);
        client.ask(request).await;
        assert_eq!(hooks(), ["allow"], "{path}");
    }
    let log = std::fs::read_to_string(stage.site.log()).unwrap();
    assert!(!log.contains(PASSWORD), "a password is in the log");
}

#[tokio::test]
async fn what_a_client_sends_along_and_nobody_can_read_is_left_out_and_harms_nobody() {
    let stage = calm().await;
    let desktop = stage.in_tenant(&[("l7r.auth.plugins", "authTester")]).await;
    let request = |headers: &str| format!("GET /qvd/list_of_vm HTTP/1.1\r\n{}{headers}\r\n", desktop.authorization());
    // The headers, with one behind them that can be read, and what the authenticators then hear.
    let heard = async |headers: &str, mark: &str| {
        let readable: String = mark.bytes().map(|byte| format!("{byte:02x}")).collect();
        let answer = stage.client().await.ask(request(&format!("{headers}Auth-{readable}: eWVz\r\n"))).await;
        assert_eq!(answer.status, 200, "{headers:?}");
        let log = std::fs::read_to_string(stage.site.log()).unwrap();
        let line = log.lines().filter(|line| line.contains(mark)).find_map(|line| line.split_once("variables="));
        line.map(|(_, variables)| variables.to_owned())
    };
    let began = std::time::Instant::now();
    while heard("", &format!("first{}", desktop.id)).await.is_none() {
        assert!(began.elapsed() < super::stage::PATIENCE, "the authenticators are not asked");
    }
    for (number, bad) in [
        "Auth-: Qg==",
        "Auth-4: Qg==",
        "Auth-zz: Qg==",
        "Auth-4142434g: Qg==",
        "Auth-ff: Qg==",
        "Auth-41: ?",
        "Auth-41: Q",
        "Auth-41: =Qg=",
        "Auth-41: Qg==\r\n  Qg==",
        "Auth-41: /w==",
        "Auth-41: Q\u{e9}==",
        "Auth-41-42: Qg==",
        "Auth--41: Qg==",
        "Auth_41: Qg==",
    ]
    .iter()
    .enumerate()
    {
        let mark = format!("mark{number}of{}", desktop.id);
        let variables = heard(&format!("{bad}\r\n"), &mark).await.expect("the authenticators are not asked");
        assert!(variables.starts_with(&format!(r#"[("{mark}", "yes")]"#)), "{bad:?}: {variables}");
    }
    // What is no header at all is no request.
    for broken in ["Auth-41", "Auth 41: Qg==", "Auth-\u{e9}: Qg==", "Auth-41\0: Qg==", "Auth-41: Q\u{1b}g=="] {
        let mut client = stage.client().await;
        assert_eq!(client.ask(request(&format!("{broken}\r\n"))).await.status, 400, "{broken:?}");
        assert!(client.ended().await);
    }
}
