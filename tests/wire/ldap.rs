//! Logins that a directory decides, against a real slapd: each case of classic QVD, servers that fail in every way,
//! and logins that try to be more than a login.

use std::time::{Duration, Instant};

use qvd::{
    auth::{Authenticated, Chain, Hashing, Rejection},
    db::Database,
    model::config::Config,
};

use super::{
    slapd::{Door, PEOPLE, SECRET, SUFFIX, Slapd, WEIRD, babbling, closed, dying, silent},
    stage::{Stage, authorization, calm},
};

/// A tenant whose users are in a directory.
struct School {
    stage: &'static Stage,
    tenant: String,
}

impl School {
    async fn found() -> Self {
        let stage = calm().await;
        let tenant = stage.tenant().await;
        let accounts = ["alice", "bob", WEIRD].map(|login| format!("('{login}')"));
        let accounts = format!(
            "insert into users (tenant_id, login) select t.id, l.login from tenants t, (values {}) l (login)
             where t.name = '{tenant}'",
            accounts.join(", ")
        );
        stage.sql(&accounts).await;
        Self { stage, tenant }
    }

    /// Logins pass LDAP, with these settings, and then the passwords kept here, of which there are none.
    fn chain(&self, settings: &[(&str, &str)]) -> Chain {
        let mut config = Config::default();
        for (key, value) in [("l7r.auth.plugins", "ldap")].iter().chain(settings) {
            config.set(key, *value).unwrap();
        }
        let database = Database::new(&self.stage.site.connector("qvd_l7r").unwrap(), 2).unwrap();
        Chain::new(database, Hashing::new(2).unwrap(), &config)
    }

    async fn login(&self, chain: &Chain, login: &str, password: &str) -> Result<Authenticated, Rejection> {
        chain.password(&format!("{login}@{}", self.tenant), password, vec![]).await
    }

    async fn admits(&self, chain: &Chain, login: &str, password: &str) -> bool {
        self.reason(chain, login, password).await.is_none()
    }

    /// Why somebody is not let in.
    async fn reason(&self, chain: &Chain, login: &str, password: &str) -> Option<String> {
        self.login(chain, login, password).await.err().map(|rejection| {
            assert!(!rejection.is_fault(), "{rejection}");
            let reason = rejection.to_string();
            assert!(password.len() < 2 || !reason.contains(password), "a password is told: {reason}");
            reason
        })
    }
}

#[tokio::test]
async fn every_case_of_classic_comes_out_the_same() {
    let (school, slapd) = (School::found().await, Slapd::start());
    let url = slapd.url();
    let base = [("auth.ldap.host", url.as_str()), ("auth.ldap.base", PEOPLE), ("auth.ldap.scope", "sub")];
    let with = |more: &[(&str, &str)]| school.chain(&[base.as_slice(), more].concat());
    let binddn = ("auth.ldap.binddn", format!("uid=bob,{PEOPLE}"));
    let binddn = (binddn.0, binddn.1.as_str());
    let own_dn = ("auth.ldap.binddn", format!("uid=%u,{PEOPLE}"));
    let own_dn = (own_dn.0, own_dn.1.as_str());
    let pattern = ("auth.ldap.userbindpattern", format!("uid=%u,{PEOPLE}"));
    let pattern = (pattern.0, pattern.1.as_str());
    let nowhere = format!("127.0.0.1:{}", closed());
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [(&'a str, &'a str, bool)]);
    let cases: &[Case<'_>] = &[
        ("search", &[], &[("alice", SECRET, true), ("alice", SECRET, true)]),
        ("search", &[], &[("alice", SECRET, true), ("alice", "x", false), ("alice", SECRET, true)]),
        ("search", &[], &[("nobody", SECRET, false), ("alice", "", false), ("Alice", SECRET, true)]),
        ("closed port", &[("auth.ldap.host", &nowhere)], &[("alice", SECRET, false)]),
        ("bind first", &[binddn, ("auth.ldap.bindpass", SECRET)], &[("alice", SECRET, true), ("alice", "x", false)]),
        ("bind first, wrong", &[binddn, ("auth.ldap.bindpass", "x")], &[("alice", SECRET, false)]),
        ("bind as the user", &[own_dn], &[("alice", SECRET, true), ("alice", "x", false)]),
        (
            "pattern",
            &[pattern],
            &[("alice", SECRET, true), ("alice", SECRET, true), ("alice", "x", false), ("nobody", SECRET, false)],
        ),
        ("wrong base", &[("auth.ldap.base", "ou=none,dc=example,dc=org")], &[("alice", SECRET, false)]),
        ("base that is no name", &[("auth.ldap.base", "nonsense")], &[("alice", SECRET, false)]),
        ("RACF, no match", &[("auth.ldap.racf_allowregex", "R004109")], &[("alice", "x", false)]),
        ("RACF", &[("auth.ldap.racf_allowregex", ".*")], &[("alice", "x", true), ("nobody", "x", false)]),
        ("RACF, empty password", &[("auth.ldap.racf_allowregex", ".*")], &[("alice", "", false)]),
        ("twins", &[("auth.ldap.filter", "(|(uid=%u)(cn=twin))")], &[("alice", SECRET, false), ("bob", SECRET, false)]),
        ("no such filter", &[("auth.ldap.filter", "((%u")], &[("alice", SECRET, false)]),
        ("filter for anybody", &[("auth.ldap.filter", "(uid=bob)")], &[("alice", SECRET, false)]),
        ("one level", &[("auth.ldap.scope", "one")], &[("alice", SECRET, true)]),
        ("base only", &[("auth.ldap.scope", "base")], &[("alice", SECRET, false)]),
        ("one level above", &[("auth.ldap.scope", "one"), ("auth.ldap.base", SUFFIX)], &[("alice", SECRET, false)]),
        ("strange words", &[("auth.ldap.scope", "all"), ("auth.ldap.deref", "x")], &[("alice", SECRET, false)]),
    ];
    for (name, settings, logins) in cases {
        let chain = with(settings);
        for (login, password, admitted) in *logins {
            let reason = school.reason(&chain, login, password).await;
            assert_eq!(reason.is_none(), *admitted, "{name}: {login} with {password:?}: {reason:?}");
        }
    }
}

#[tokio::test]
async fn the_agent_learns_what_the_directory_knows() {
    let (school, slapd) = (School::found().await, Slapd::start());
    let url = slapd.url();
    let base = [("auth.ldap.host", url.as_str()), ("auth.ldap.base", SUFFIX), ("auth.ldap.scope", "sub")];
    let learned = async |more: &[(&str, &str)], login: &str, password: &str| {
        let chain = school.chain(&[base.as_slice(), more].concat());
        let user = school.login(&chain, login, password).await.unwrap();
        assert_eq!((user.by, user.bound_to), ("Ldap", None));
        let parameters: Vec<String> = user.parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
        (user.login, parameters)
    };
    let known = ["qvd.vm.user.gid=2001", "qvd.vm.user.ldap.home=/home/2000", "qvd.vm.user.ldap.name=alice"];
    let named = ["qvd.vm.user.name=alice", "qvd.vm.user.uid=2000"];
    let expected = |more: &[&str]| {
        let mut all: Vec<String> = [known.as_slice(), &named, more].concat().iter().map(ToString::to_string).collect();
        all.sort();
        ("alice".to_owned(), all)
    };
    assert_eq!(learned(&[], "alice", SECRET).await, expected(&[]));
    let home = [("auth.ldap.home.set", "1")];
    assert_eq!(learned(&home, "alice", SECRET).await, expected(&["qvd.vm.user.home=/home/2000"]));
    for key in ["auth.ldap.name.normalize", "auth.ldap.normalize.name"] {
        let by_name = [("auth.ldap.filter", "(cn=%u)"), (key, "1")];
        assert_eq!(learned(&by_name, "Alice Liddell", SECRET).await, expected(&[]), "{key}");
    }
    let racf = [("auth.ldap.racf_allowregex", "^$")];
    let error = ["qvd.auth.ldap.racf_detailed_error="];
    assert_eq!(learned(&racf, "alice", "expired").await, expected(&error));
    // By its name alone nothing is read.
    let pattern = format!("uid=%u,{PEOPLE}");
    let pattern = [("auth.ldap.userbindpattern", pattern.as_str())];
    assert_eq!(learned(&pattern, "alice", SECRET).await.1, ["qvd.vm.user.name=alice"]);
}

#[tokio::test]
async fn a_login_is_never_more_than_a_login() {
    let (school, slapd) = (School::found().await, Slapd::start());
    let (url, pattern) = (slapd.url(), format!("uid=%u,{PEOPLE}"));
    let base = [("auth.ldap.host", url.as_str()), ("auth.ldap.base", PEOPLE), ("auth.ldap.scope", "sub")];
    let search = school.chain(&base);
    let name = school.chain(&[base.as_slice(), &[("auth.ldap.userbindpattern", pattern.as_str())]].concat());
    for chain in [&search, &name] {
        assert_eq!(school.reason(chain, WEIRD, SECRET).await, None);
        assert!(!school.admits(chain, WEIRD, "x").await);
        for login in [
            "*",
            "ali*",
            "alice)(uid=*",
            "*)(uid=alice",
            "alice)(|(uid=*",
            "alice,ou=people",
            "alice+cn=x",
            "alice\\",
            r"\61lice",
            "alice\0",
            "",
            " ",
            "%u",
            "cn=admin,dc=example,dc=org",
        ] {
            assert!(!school.admits(chain, login, SECRET).await, "{login:?}");
        }
        for password in ["", "\0", "wonderland\0x"] {
            assert!(!school.admits(chain, "alice", password).await, "{password:?}");
        }
    }
}

#[tokio::test]
async fn nobody_rides_on_the_bind_of_another() {
    let (school, slapd) = (School::found().await, Slapd::start());
    let url = slapd.url();
    let settings = [("auth.ldap.host", url.as_str()), ("auth.ldap.base", PEOPLE), ("auth.ldap.scope", "sub")];
    let chain = school.chain(&settings);
    let logins = (0..40).map(|number| {
        let (login, password) = if number % 2 == 0 { ("alice", SECRET) } else { ("bob", "wrong") };
        let (school, chain) = (&school, &chain);
        async move { (login, school.login(chain, login, password).await.map(|user| user.login).ok()) }
    });
    for (login, admitted) in futures_util::future::join_all(logins).await {
        assert_eq!(admitted.as_deref(), (login == "alice").then_some("alice"));
    }
}

#[tokio::test]
async fn a_password_can_travel_encrypted_and_only_to_whom_it_is_meant_for() {
    let (school, slapd) = (School::found().await, Slapd::start());
    let stranger = Slapd::start();
    let (plain, tls, ca, foreign) =
        (slapd.url(), slapd.tls_url(), slapd.ca().display().to_string(), stranger.ca().display().to_string());
    let base = [("auth.ldap.base", PEOPLE), ("auth.ldap.scope", "sub")];
    let with = |more: &[(&str, &str)]| school.chain(&[base.as_slice(), more].concat());
    for (host, starttls) in [(&tls, "0"), (&tls, "1"), (&plain, "1")] {
        let reach = [("auth.ldap.host", host.as_str()), ("auth.ldap.starttls", starttls)];
        let chain = with(&[reach.as_slice(), &[("auth.ldap.ca", ca.as_str())]].concat());
        assert_eq!(school.reason(&chain, "alice", SECRET).await, None, "{host}");
        assert!(!school.admits(&chain, "alice", "x").await);
        for ca in [foreign.as_str(), "", "/nonexistent", "/dev/null"] {
            let chain = with(&[reach.as_slice(), &[("auth.ldap.ca", ca)]].concat());
            assert!(!school.admits(&chain, "alice", SECRET).await, "{host} trusted with {ca:?}");
        }
    }
    // Without encryption on the server's side there is no login, rather than one in the open.
    let chain = with(&[("auth.ldap.host", &format!("ldaps://127.0.0.1:{}", slapd.port)), ("auth.ldap.ca", &ca)]);
    assert!(!school.admits(&chain, "alice", SECRET).await);
}

#[tokio::test]
async fn a_server_that_fails_is_left_for_the_next_and_asked_last_for_a_while() {
    // A server that is not silent answers well before, also on a busy machine.
    const LIMIT: Duration = Duration::from_secs(2);
    let (school, slapd) = (School::found().await, Slapd::start());
    let (closed, silent, dying, babbling) = (closed(), silent().await, dying().await, babbling().await);
    let hosts = |ports: &[u16]| ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(" , ");
    let with = |ports: &[u16]| {
        school.chain(&[
            ("auth.ldap.host", hosts(ports).as_str()),
            ("auth.ldap.base", PEOPLE),
            ("auth.ldap.scope", "sub"),
            ("auth.ldap.timeout", "2"),
        ])
    };
    let chain = with(&[silent, dying, babbling, closed, slapd.port]);
    let timed = async |password: &str| {
        let began = Instant::now();
        (school.admits(&chain, "alice", password).await, began.elapsed())
    };
    let (admitted, took) = timed(SECRET).await;
    assert!(admitted && took >= LIMIT, "{took:?}");
    let (admitted, took) = timed(SECRET).await;
    assert!(admitted && took < LIMIT, "the silent server was asked first again: {took:?}");
    // A server's no is a no; the silent one is not asked for another opinion.
    let (admitted, took) = timed("x").await;
    assert!(!admitted && took < LIMIT, "{took:?}");
    for port in [closed, silent, dying, babbling] {
        let began = Instant::now();
        assert!(!school.admits(&with(&[port]), "alice", SECRET).await);
        assert!(began.elapsed() < Duration::from_secs(5));
        let reason = school.reason(&with(&[port]), "alice", SECRET).await.unwrap();
        assert!(reason.contains("no server answers"), "{reason}");
    }
}

#[tokio::test]
async fn references_are_not_followed_and_do_not_disturb() {
    let elsewhere = format!("ldap://127.0.0.1:{}/dc=elsewhere", closed());
    let referral = |dn: &str| {
        format!("dn: {dn}\nobjectClass: referral\nobjectClass: extensibleObject\nou: x\nref: {elsewhere}\n\n")
    };
    let slapd = Slapd::with(&referral(&format!("ou=branch,{SUFFIX}")), 0);
    let (school, url) = (School::found().await, slapd.url());
    let with = |base: &str, more: &[(&str, &str)]| {
        let base = [("auth.ldap.host", url.as_str()), ("auth.ldap.base", base), ("auth.ldap.scope", "sub")];
        school.chain(&[base.as_slice(), more].concat())
    };
    assert_eq!(school.reason(&with(SUFFIX, &[]), "alice", SECRET).await, None);
    assert!(!school.admits(&with(SUFFIX, &[]), "nobody", SECRET).await);
    let branch = format!("ou=branch,{SUFFIX}");
    assert!(!school.admits(&with(&branch, &[]), "alice", SECRET).await);
    let pattern = format!("uid=%u,{branch}");
    let pattern = [("auth.ldap.userbindpattern", pattern.as_str())];
    assert_eq!(school.reason(&with(SUFFIX, &pattern), "alice", SECRET).await, None);
    assert!(!school.admits(&with(&branch, &pattern), "alice", SECRET).await);
}

#[tokio::test]
async fn one_among_ten_thousand_is_found_and_ten_thousand_are_not_fetched() {
    let slapd = Slapd::with("", 10_000);
    let (school, url) = (School::found().await, slapd.url());
    school.stage.sql(&format!("select user_create('user7777@{}')", school.tenant)).await;
    let base = [("auth.ldap.host", url.as_str()), ("auth.ldap.base", PEOPLE), ("auth.ldap.scope", "sub")];
    let chain = school.chain(&base);
    assert_eq!(school.reason(&chain, "user7777", SECRET).await, None);
    assert!(!school.admits(&chain, "user7777", "x").await);
    let all = school.chain(&[base.as_slice(), &[("auth.ldap.filter", "(|(uid=%u)(objectClass=person))")]].concat());
    let reason = school.reason(&all, "user7777", SECRET).await.unwrap();
    assert!(reason.contains("several"), "{reason}");
}

#[tokio::test]
async fn who_has_no_account_here_is_passed_on_to_the_next_authenticator() {
    let (school, slapd) = (School::found().await, Slapd::start());
    let url = slapd.url();
    let chain =
        school.chain(&[("auth.ldap.host", url.as_str()), ("auth.ldap.base", PEOPLE), ("auth.ldap.scope", "sub")]);
    let reason = school.reason(&chain, "carol", SECRET).await.unwrap();
    assert_eq!(
        reason,
        "nobody accepts it (Ldap: it accepts, but there is no such account here; Default: there is no such user)"
    );
    // What the tail knows still opens the door.
    school.stage.sql(&format!("select user_create('dave@{}', 'kept here')", school.tenant)).await;
    assert_eq!(school.login(&chain, "dave", "kept here").await.unwrap().by, "Default");
    school.stage.sql(&format!("select user_block('alice@{}')", school.tenant)).await;
    assert_eq!(school.reason(&chain, "alice", SECRET).await.unwrap(), "the user or the tenant is blocked");
}

#[tokio::test]
async fn who_is_known_to_the_directory_alone_gets_an_account_and_a_vm_when_auto_says_so() {
    let (school, slapd) = (School::found().await, Slapd::start());
    let (url, tenant) = (slapd.url(), &school.tenant);
    let osf = school.stage.sql(&format!("select osf_create('desk@{tenant}')")).await;
    let settings = [
        ("auth.ldap.host", url.as_str()),
        ("auth.ldap.base", PEOPLE),
        ("auth.ldap.scope", "sub"),
        ("auth.auto.osf_id", osf.as_str()),
    ];
    for plugins in ["auto,ldap", "ldap,auto"] {
        let chain = school.chain(&[settings.as_slice(), &[("l7r.auth.plugins", plugins)]].concat());
        assert!(!school.admits(&chain, "carol", "x").await);
        let logins = futures_util::future::join_all((0..8).map(|_| school.reason(&chain, "carol", SECRET))).await;
        assert_eq!(logins, vec![None; 8], "{plugins}");
        let made = format!(
            "select count(*) || ' ' || count(distinct u.id) || ' ' || count(u.password) from users u
             join tenants t on t.id = u.tenant_id join vms v on v.user_id = u.id
             where u.login = 'carol' and t.name = '{tenant}' and v.name = 'carol-1' and v.osf_id = {osf}"
        );
        assert_eq!(school.stage.sql(&made).await, "1 1 0");
    }
}

#[tokio::test]
async fn each_tenant_has_its_directory_and_everything_travels_over_the_wire() {
    let (school, slapd) = (School::found().await, Slapd::start());
    let (stage, tenant) = (school.stage, &school.tenant);
    let list = async |login: &str, password: &str| {
        let request = format!("GET /qvd/list_of_vm HTTP/1.1\r\n{}\r\n", authorization(login, password));
        stage.client().await.ask(request).await.status
    };
    let alice = format!("alice@{tenant}");
    assert_eq!(list(&alice, SECRET).await, 401);
    for (key, value) in [
        ("auth.ldap.host", slapd.url()),
        ("auth.ldap.base", PEOPLE.to_owned()),
        ("auth.ldap.scope", "sub".to_owned()),
        ("l7r.auth.plugins", "ldap".to_owned()),
    ] {
        stage.sql(&format!("select config_set('{key}', '{value}', tenant => '{tenant}')")).await;
    }
    let began = Instant::now();
    while list(&alice, SECRET).await != 200 {
        assert!(began.elapsed() < super::stage::PATIENCE, "the router does not ask the directory");
    }
    assert_eq!(list(&alice, "x").await, 401);
    // Another tenant's alice has nothing to do with it.
    let other = stage.tenant().await;
    stage.sql(&format!("select user_create('alice@{other}')")).await;
    assert_eq!(list(&format!("alice@{other}"), SECRET).await, 401);
    assert_eq!(list(&alice, SECRET).await, 200);
    let log = std::fs::read_to_string(stage.site.log()).unwrap();
    assert!(log.contains("the password is wrong") && !log.contains(SECRET), "the log does not tell, or tells too much");
}

#[tokio::test]
async fn a_crowd_of_logins_is_not_one_in_the_directory_and_nobody_waits_for_ever() {
    let (school, slapd) = (School::found().await, Slapd::start());
    let door = Door::before(slapd.port).await;
    let host = format!("127.0.0.1:{}", door.port);
    let with = |more: &[(&str, &str)]| {
        let base = [
            ("auth.ldap.host", host.as_str()),
            ("auth.ldap.base", PEOPLE),
            ("auth.ldap.scope", "sub"),
            ("auth.ldap.connections", "3"),
        ];
        school.chain(&[base.as_slice(), more].concat())
    };
    let chain = with(&[]);
    let logins = (0..30).map(|_| school.reason(&chain, "alice", SECRET));
    assert_eq!(futures_util::future::join_all(logins).await, vec![None; 30]);
    // The door sees somebody leave a little later than the next one may come.
    assert!((3..=6).contains(&door.most()), "{} connections at once", door.most());

    // While the directory says nothing, those who come too late give up in time and open nothing.
    door.shut();
    let chain = with(&[("auth.ldap.timeout", "0.5")]);
    let logins = (0..9).map(|_| school.reason(&chain, "alice", SECRET));
    let reasons = futures_util::future::join_all(logins).await;
    let gave_up = reasons.iter().flatten().filter(|reason| reason.contains("too many wait")).count();
    assert!(gave_up >= 1 && reasons.iter().all(Option::is_some), "{reasons:?}");
    door.open();
    assert_eq!(school.reason(&chain, "alice", SECRET).await, None);
}
