//! Other ways to prove who one is, over the wire: tokens, one-time passwords, users that are made when they come, and
//! in which order all that is asked.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use qvd::{
    auth::{
        Attempt, Authenticated, Authenticator, Chain, Hashing, Refusal, Rejection, SplitPassword, Totp, Verdict,
        decode_base32,
    },
    db::Database,
    model::{VmId, config::Config},
};

use super::{
    client::Client,
    stage::{PASSWORD, Stage, authorization, calm, rough_alone},
    strangers::client,
};

const LIST: &str = "/qvd/list_of_vm";

fn get(header: &str) -> String {
    format!("GET {LIST} HTTP/1.1\r\n{header}\r\n")
}

pub fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {}\r\n", BASE64_STANDARD.encode(token))
}

pub async fn status(client: &mut Client, header: &str) -> u16 {
    client.ask(get(header)).await.status
}

/// A chain of our own on the database of the stage.
fn chain(stage: &Stage, settings: &[(&str, &str)]) -> Chain {
    let mut config = Config::default();
    for (key, value) in settings {
        config.set(key, *value).unwrap();
    }
    let database = Database::new(&stage.site.connector("qvd_l7r").unwrap(), 4).unwrap();
    Chain::new(database, Hashing::new(2).unwrap(), &config)
}

async fn login(chain: &Chain, login: &str, password: &str) -> Result<Authenticated, Rejection> {
    chain.password(login, password, vec![]).await
}

/// Puts a token into the database; its text.
pub async fn token(stage: &Stage, user: i32, vm: Option<i32>, lasts: &str, multi_use: bool) -> String {
    let vm = vm.map_or("null".to_owned(), |vm| vm.to_string());
    stage
        .sql(&format!(
            "insert into user_tokens (token, user_id, vm_id, expiration, multi_use)
             select replace(gen_random_uuid()::text || gen_random_uuid(), '-', ''), {user}, {vm},
                 now() + interval '{lasts}', {multi_use} returning token"
        ))
        .await
}

async fn tokens_left(stage: &Stage, token: &str) -> String {
    stage.sql(&format!("select count(*) from user_tokens where token = '{token}'")).await
}

#[tokio::test]
async fn a_token_for_a_single_use_opens_one_connection_and_is_gone_when_it_comes_again() {
    let stage = calm().await;
    let user = stage.user().await;
    let once = token(stage, user.id, None, "5 minutes", false).await;
    let mut client = stage.client().await;
    assert_eq!(status(&mut client, &bearer(&once)).await, 200);
    assert_eq!(status(&mut client, &bearer(&once)).await, 200, "the same connection presents it again");
    assert_eq!(status(&mut stage.client().await, &bearer(&once)).await, 401);
    assert_eq!(tokens_left(stage, &once).await, "0");
    // The connection that had it keeps it, until it presents something else.
    assert_eq!(status(&mut client, &bearer(&once)).await, 200);
    assert_eq!(status(&mut client, &user.authorization()).await, 200);
    assert_eq!(status(&mut client, &bearer(&once)).await, 401);
}

#[tokio::test]
async fn a_token_for_many_uses_lasts_until_its_time_is_over() {
    let stage = calm().await;
    let user = stage.user().await;
    let many = token(stage, user.id, None, "5 minutes", true).await;
    for _ in 0..2 {
        // Also behind a login with a password on the same connection.
        let mut client = stage.client().await;
        assert_eq!(status(&mut client, &user.authorization()).await, 200);
        assert_eq!(status(&mut client, &bearer(&many)).await, 200);
    }
    stage.sql(&format!("update user_tokens set expiration = now() - interval '1 second' where token = '{many}'")).await;
    assert_eq!(status(&mut stage.client().await, &bearer(&many)).await, 401);
    assert_eq!(tokens_left(stage, &many).await, "0");
}

#[tokio::test]
async fn of_many_who_present_a_token_for_a_single_use_at_once_one_gets_in() {
    let stage = calm().await;
    let user = stage.user().await;
    let once = token(stage, user.id, None, "5 minutes", false).await;
    let chain = chain(stage, &[]);
    let tries = futures_util::future::join_all((0..16).map(|_| chain.token(&once))).await;
    assert_eq!(tries.iter().filter(|outcome| outcome.is_ok()).count(), 1);
}

#[tokio::test]
async fn a_token_carries_its_vm_and_what_was_learned_when_it_was_made() {
    let stage = calm().await;
    let desktop = stage.desktop().await;
    let owner = stage.sql(&format!("select user_id from vms where id = {}", desktop.id)).await.parse().unwrap();
    let chain = chain(stage, &[]);
    let bound = token(stage, owner, Some(desktop.id), "5 minutes", false).await;
    stage
        .sql(&format!(
            r#"with made as (insert into user_auth_parameters (parameters)
                   values ('{{"qvd.vm.user.name": "al", "qvd.vm.user.uid": 7}}') returning id)
               update user_tokens set auth_params_id = (select id from made) where token = '{bound}'"#
        ))
        .await;
    let user = chain.token(&bound).await.unwrap();
    assert_eq!((user.user.0, user.login, user.bound_to), (owner, desktop.login.clone(), Some(VmId(desktop.id))));
    let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut parameters = user.parameters;
    parameters.sort();
    assert_eq!(parameters, [text("qvd.vm.user.name", "al"), text("qvd.vm.user.uid", "7")]);
    // What a VM is given opens other VMs, too.
    let of_vm = token(stage, owner, Some(desktop.id), "5 minutes", true).await;
    assert_eq!(chain.token(&of_vm).await.unwrap().bound_to, None);
}

#[tokio::test]
async fn tokens_of_blocked_users_and_tokens_that_are_none_are_refused_and_not_used_up() {
    let stage = calm().await;
    let user = stage.user().await;
    let once = token(stage, user.id, None, "5 minutes", false).await;
    stage.sql(&format!("select user_block('{}')", user.login)).await;
    assert_eq!(status(&mut stage.client().await, &bearer(&once)).await, 401);
    stage.sql(&format!("select user_block('{}', false)", user.login)).await;
    for none in ["", "\0", "'; drop table users; --", &once[1..], &format!("{once}\0")] {
        // Of an address of its own: those that fail too often wait.
        assert_eq!(status(&mut client(stage, 61).await, &bearer(none)).await, 401, "{none:?}");
    }
    assert_eq!(status(&mut stage.client().await, &bearer(&once)).await, 200);
    let log = std::fs::read_to_string(stage.site.log()).unwrap();
    assert!(!log.contains(&once), "a token is in the log");
}

/// A tenant with one user who has one-time passwords, and the secret.
async fn vault(stage: &Stage) -> (String, String, Vec<u8>) {
    let tenant = stage.tenant().await;
    let user = format!("val@{tenant}");
    stage.sql(&format!("select user_create('{user}', '{PASSWORD}')")).await;
    let secret = give_secret(stage, &user).await;
    (tenant, user, secret)
}

/// Gives the first user of a tenant what one-time passwords are made from.
pub async fn give_secret(stage: &Stage, user: &str) -> Vec<u8> {
    const SECRET: &str = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";
    stage
        .sql(&format!(
            "with p as (insert into properties_list (key, tenant_id)
                     select 'l7r.auth.plugin.totp.secret32', tenant_id from users where id = user_id('{user}')
                     returning id),
                 o as (insert into qvd_object_properties_list (property_id, qvd_object)
                     select id, 'user' from p returning id)
             insert into user_properties (user_id, property_id, value) select user_id('{user}'), id, '{SECRET}' from o"
        ))
        .await;
    decode_base32(SECRET).unwrap()
}

#[tokio::test]
async fn a_stop_is_refused_in_the_classic_order_and_a_token_may_follow_a_password() {
    let stage = calm().await;
    let (own, foreign) = (stage.desktop().await, stage.desktop().await);
    let user = stage.sql(&format!("select user_id from vms where id = {}", own.id)).await.parse().unwrap();
    let bound = token(stage, user, Some(own.id), "1 hour", false).await;
    let mut client = stage.client().await;
    assert_eq!(status(&mut client, &own.authorization()).await, 200);
    let none = "The requested virtual machine does not exist";
    let other = "You are not allowed to access requested virtual machine";
    let no_match = "vm_id does not match with provided token";
    for (header, query, code, text) in [
        (String::new(), "", 401, ""),
        (bearer(&bound), "", 403, no_match),
        (bearer(&bound), "?id=nonsense", 403, no_match),
        (bearer(&bound), &format!("?id={}", foreign.id), 403, no_match),
        (bearer(&bound), &format!("?id={}", own.id), 200, "Machine stopped\r\n"),
        (own.authorization(), "?id", 422, "parameter id is missing"),
        (own.authorization(), "?id=nonsense", 404, none),
        (own.authorization(), "?id=99999999999", 404, none),
        (own.authorization(), &format!("?id={}", foreign.id), 403, other),
    ] {
        // A request without credentials forgets whom the connection belonged to, and this token opens but once.
        let answer = client.ask(format!("GET /qvd/stop_vm{query} HTTP/1.1\r\n{header}\r\n")).await;
        assert_eq!(answer.status, code, "{query}: {}", answer.text());
        assert!(text.is_empty() || answer.text() == text, "{query}: {}", answer.text());
    }
}

/// The time since 1970.
pub fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap()
}

#[tokio::test]
async fn a_one_time_password_is_needed_behind_the_password_and_opens_once() {
    let stage = calm().await;
    let (tenant, user, secret) = vault(stage).await;
    // Intervals so long that none ends during the test.
    let settings = [("l7r.auth.plugins.head", "TOTP"), ("l7r.auth.plugin.totp.interval", "100000000")];
    let (chain, mut config) = (chain(stage, &settings), Config::default());
    config.set("l7r.auth.plugin.totp.interval", "100000000").unwrap();
    let totp = Totp::from_config(&config);
    let (step, code) = (totp.step(now()), |step| totp.code(&secret, step));
    let with = |step| format!("{PASSWORD}{}", code(step));
    for wrong in
        [PASSWORD.to_owned(), format!("{PASSWORD}000000"), code(step), with(step + 1), with(step - 2), String::new()]
    {
        assert!(login(&chain, &user, &wrong).await.is_err(), "{wrong}");
    }
    assert!(login(&chain, &user, &format!("wrong{}", code(step))).await.is_err());
    // The interval before is accepted, then this one, but none twice, nor an earlier one after a later.
    assert!(login(&chain, &user, &with(step - 1)).await.is_ok());
    assert!(matches!(login(&chain, &user, &with(step - 1)).await, Err(Rejection::SecondFactor(_))));
    assert!(login(&chain, &user, &with(step)).await.is_ok());
    for used in [step, step - 1] {
        let refused = login(&chain, &user, &with(used)).await.unwrap_err().to_string();
        assert!(refused.contains("used before") && !refused.contains(&code(used)), "{refused}");
    }
    // Who has no secret does not get in without one.
    stage.sql(&format!("select user_create('nosecret@{tenant}', '{PASSWORD}')")).await;
    assert!(login(&chain, &format!("nosecret@{tenant}"), &with(step)).await.is_err());
    assert!(login(&chain, &format!("nosecret@{tenant}"), PASSWORD).await.is_err());
    // A VM is not told.
    stage.sql(&format!("select osf_create('o@{tenant}'), vm_create('{user}', 'v', 'o')")).await;
    let told = format!("select vm_effective_properties(vm_id('{user}/v')) ? 'l7r.auth.plugin.totp.secret32'");
    assert_eq!(stage.sql(&told).await, "f");
}

#[tokio::test]
async fn a_one_time_password_that_was_accepted_serves_its_connection() {
    let stage = calm().await;
    let (tenant, user, secret) = vault(stage).await;
    for (key, value) in [("l7r.auth.plugin.totp.interval", "100000000"), ("l7r.auth.plugins", "TOTP")] {
        stage.sql(&format!("select config_set('{key}', '{value}', tenant => '{tenant}')")).await;
    }
    let mut config = Config::default();
    config.set("l7r.auth.plugin.totp.interval", "100000000").unwrap();
    let totp = Totp::from_config(&config);
    let began = std::time::Instant::now();
    // Until the router knows, the password alone opens.
    while status(&mut stage.client().await, &authorization(&user, PASSWORD)).await == 200 {
        assert!(began.elapsed() < super::stage::PATIENCE, "the router does not ask for one-time passwords");
    }
    let proof = authorization(&user, &format!("{PASSWORD}{}", totp.code(&secret, totp.step(now()))));
    let mut client = stage.client().await;
    assert_eq!(status(&mut client, &proof).await, 200);
    assert_eq!(status(&mut client, &proof).await, 200);
    assert_eq!(status(&mut stage.client().await, &proof).await, 401);
    let other = stage.user().await;
    assert_eq!(status(&mut client, &other.authorization()).await, 200, "another tenant is not concerned");
}

#[tokio::test]
async fn an_administrator_gives_a_user_a_secret_that_works_and_takes_it_away() {
    let stage = calm().await;
    let tenant = stage.tenant().await;
    let user = format!("zoe@{tenant}");
    stage.sql(&format!("select user_create('{user}', '{PASSWORD}')")).await;
    let run = async |arguments: &[&str]| {
        let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_qvd"))
            .args(["admin", "user", "totp", "--database", &stage.site.connection_string("qvd_admin")])
            .args(arguments)
            .output()
            .await
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let json = async |arguments: &[&str]| {
        let (code, said, error) = run(&[arguments, &["--json"]].concat()).await;
        assert_eq!(code, Some(0), "{error}");
        serde_json::from_str::<serde_json::Value>(&said).unwrap()
    };
    for (wrong, why) in [("nobody", "there is no user nobody"), ("zoe@nowhere", "there is no user zoe@nowhere")] {
        let (code, said, error) = run(&[wrong]).await;
        assert!(code == Some(1) && said.is_empty() && error.contains(why), "{error}");
    }
    let first = json(&[&user, "--issuer", "Our School"]).await;
    let secret = first["secret"].as_str().unwrap();
    let uri = format!("otpauth://totp/Our%20School:{user}?secret={secret}&issuer=Our%20School");
    assert_eq!(first, serde_json::json!({ "user": user, "secret": secret, "uri": uri, "required": false }));

    let settings = [("l7r.auth.plugins.head", "TOTP")];
    let chain = chain(stage, &settings);
    let totp = Totp::from_config(&Config::default());
    let code = |secret: &str| totp.code(&decode_base32(secret).unwrap(), totp.step(now()));
    let with = |secret: &str| format!("{PASSWORD}{}", code(secret));
    assert!(login(&chain, &user, &with(secret)).await.is_ok());
    // A new one takes its place at once, even within the interval in which the old one was used.
    let (code, said, _) = run(&[&user]).await;
    assert_eq!(code, Some(0));
    assert!(said.contains("is of no use any more") && said.contains("config_set('l7r.auth.plugins', 'TOTP'"), "{said}");
    let second = said.split_whitespace().nth(1).unwrap();
    assert_ne!(second, secret);
    assert!(login(&chain, &user, &with(secret)).await.is_err());
    assert!(login(&chain, &user, &with(second)).await.is_ok());
    let log = stage.sql("select string_agg(arguments::text, ' ') from log where arguments ? 'totp'").await;
    assert!(!log.contains(second) && log.contains("made"), "{log}");

    stage.sql(&format!("select config_set('l7r.auth.plugins', 'ldap, TOTP', '{tenant}')")).await;
    for had in [true, false] {
        let removed = json(&[&user, "--remove"]).await;
        assert_eq!(removed, serde_json::json!({ "user": user, "removed": had, "required": true }));
    }
    assert!(login(&chain, &user, &with(second)).await.is_err());
}

#[tokio::test]
async fn a_user_who_comes_gets_a_vm_and_only_one() {
    let stage = calm().await;
    let tenant = stage.tenant().await;
    let osf = stage.sql(&format!("select osf_create('desk@{tenant}')")).await;
    let user = format!("ann{osf}");
    let name = format!("{user}@{tenant}");
    stage.sql(&format!("select user_create('{name}', '{PASSWORD}')")).await;
    let chain = chain(stage, &[("l7r.auth.plugins.head", "auto"), ("auth.auto.osf_id", &osf)]);
    let vms = format!(
        "select string_agg(v.name || ' ' || v.di_tag, ',' order by v.name) from vms v join users u on u.id = v.user_id
         join tenants t on t.id = u.tenant_id where t.name = '{tenant}'"
    );
    assert!(login(&chain, &name, "wrong").await.is_err());
    assert_eq!(stage.sql(&vms).await, "", "a VM for a wrong password");
    let tries = futures_util::future::join_all((0..8).map(|_| login(&chain, &name, PASSWORD))).await;
    assert!(tries.iter().all(Result::is_ok));
    assert_eq!(stage.sql(&vms).await, format!("{user}-1 default"));
}

#[tokio::test]
async fn names_of_made_vms_are_free_in_every_tenant_and_run_out() {
    let stage = calm().await;
    let (tenant, other) = (stage.tenant().await, stage.tenant().await);
    let osf = stage.sql(&format!("select osf_create('desk@{tenant}')")).await;
    let login_name = format!("eve{osf}");
    stage
        .sql(&format!(
            "select osf_create('desk@{other}'), user_create('x@{other}'), user_create('{login_name}@{tenant}', '{PASSWORD}');
             select vm_create('x@{other}', '{login_name}-1', 'desk')"
        ))
        .await;
    let name = format!("{login_name}@{tenant}");
    let settings = [("l7r.auth.plugins.tail", "default,auto"), ("auth.auto.osf_id", osf.as_str())];
    let few = chain(stage, &[settings.as_slice(), &[("auth.auto.max_vms", "1")]].concat());
    let refused = login(&few, &name, PASSWORD).await.unwrap_err();
    assert!(refused.is_fault(), "{refused}");
    let more = chain(stage, &[settings.as_slice(), &[("auth.auto.di_tag", "beta")]].concat());
    assert!(login(&more, &name, PASSWORD).await.is_ok());
    let made = format!("select name || ' ' || di_tag from vms where osf_id = {osf}");
    assert_eq!(stage.sql(&made).await, format!("{login_name}-2 beta"));
    // An OSF of another tenant, of nobody, or none at all, is an error of the configuration.
    let foreign = stage.sql(&format!("select osf_id('desk@{other}')")).await;
    for osf in [foreign.as_str(), "999999", "0"] {
        let wrong = chain(stage, &[("l7r.auth.plugins", "auto"), ("auth.auto.osf_id", osf)]);
        assert!(login(&wrong, &name, PASSWORD).await.unwrap_err().is_fault(), "{osf}");
    }
}

/// Writes down what it is asked.
struct Witness {
    name: &'static str,
    accepts_as: Option<&'static str>,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Authenticator for Witness {
    fn split_second_factor(&self, password: &str, _: &Config) -> Option<SplitPassword> {
        let (password, token) = password.split_once('+')?;
        Some(SplitPassword { password: password.to_owned(), token: token.to_owned() })
    }

    fn authenticate<'a>(&'a self, attempt: &'a mut Attempt, password: &'a str) -> Verdict<'a> {
        self.hear(format!("is {password:?} of {} with {:?}", attempt.login, attempt.variables));
        let accepted = self.accepts_as.map(|login| attempt.login = login.to_owned());
        attempt.parameters.insert(self.name.to_owned(), "1".to_owned());
        Box::pin(std::future::ready(accepted.ok_or(Refusal::WrongPassword)))
    }

    fn second_factor<'a>(&'a self, attempt: &'a Attempt, token: &'a str) -> Verdict<'a> {
        self.hear(format!("token {token:?} of {}", attempt.login));
        let right = token == "right" && self.accepts_as.is_some();
        Box::pin(std::future::ready(if right { Ok(()) } else { Err(Refusal::WrongCode) }))
    }

    fn after_authenticate<'a>(&'a self, attempt: &'a mut Attempt) -> Verdict<'a> {
        self.hear(format!("after {}", attempt.login));
        attempt.parameters.insert("after".to_owned(), self.name.to_owned());
        Box::pin(std::future::ready(Ok(())))
    }
}

impl Witness {
    fn hear(&self, what: String) {
        self.heard.lock().unwrap().push(format!("{}: {what}", self.name));
    }
}

#[tokio::test]
async fn authenticators_are_asked_in_order_and_what_one_did_in_vain_is_forgotten() {
    let stage = calm().await;
    let user = stage.user().await;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let witness = |name, accepts_as| Arc::new(Witness { name, accepts_as, heard: heard.clone() });
    let settings = [("l7r.auth.plugins.head", "one"), ("l7r.auth.plugins", "two")];
    let chain = chain(stage, &settings).with("One", witness("One", None)).with("Two", witness("Two", Some("stranger")));
    let variables = || vec![("LANG".to_owned(), "es_ES".to_owned())];
    let login = user.login.as_str();
    let asked = |name: &str| format!(r#"{name}: is "{PASSWORD}" of {login} with [("LANG", "es_ES")]"#);
    let told = |what: &[&str]| what.iter().map(ToString::to_string).collect::<Vec<_>>();

    // Nobody here is called as the second says, so the passwords kept here decide.
    let found = chain.password(login, PASSWORD, variables()).await.unwrap();
    assert_eq!((found.login.as_str(), found.by), (login, "Default"));
    let parameters: Vec<String> = found.parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(parameters, ["after=Two".to_owned(), format!("qvd.vm.user.name={login}")]);
    let after = [format!("One: after {login}"), format!("Two: after {login}")];
    let mut expected = vec![asked("One"), asked("Two")];
    expected.extend(told(&["One: after stranger", "Two: after stranger"]));
    expected.extend(after.clone());
    assert_eq!(heard.lock().unwrap().drain(..).collect::<Vec<_>>(), expected);

    // What follows a login is not done for one whose second factor is wrong, and nobody else is asked.
    let refused = chain.password(login, &format!("{PASSWORD}+wrong"), variables()).await.unwrap_err();
    assert!(matches!(refused, Rejection::SecondFactor(_)), "{refused}");
    let mut expected = vec![asked("One"), asked("Two")];
    expected.extend(told(&[r#"One: token "wrong" of stranger"#, r#"Two: token "wrong" of stranger"#]));
    assert_eq!(heard.lock().unwrap().drain(..).collect::<Vec<_>>(), expected);
    chain.password(login, &format!("{PASSWORD}+right"), variables()).await.unwrap();
}

#[tokio::test]
async fn nobody_gets_past_an_authenticator_that_does_not_exist() {
    let stage = calm().await;
    let user = stage.user().await;
    for plugins in ["totp", "LDAP", "nonsense", "ldap2, default"] {
        let chain = chain(stage, &[("l7r.auth.plugins", plugins)]);
        let refused = login(&chain, &user.login, PASSWORD).await.unwrap_err();
        assert!(matches!(refused, Rejection::UnknownAuthenticator(_)), "{plugins}: {refused}");
    }
    let chain = chain(stage, &[("l7r.auth.plugins", " Default, auTh , ".replace("auTh", "default").as_str())]);
    assert!(login(&chain, &user.login, PASSWORD).await.is_ok());
}

#[tokio::test]
async fn attempts_and_successes_are_counted_and_what_is_remembered_is_not() {
    let (stage, _turn) = rough_alone().await;
    let user = stage.user().await;
    let counted =
        "select auth_attempts || ' ' || auth_ok from host_counters where host_id = (select min(id) from hosts)";
    let mut client = stage.client().await;
    let before: Vec<u64> = stage.sql(counted).await.split(' ').map(|count| count.parse().unwrap()).collect();
    for (header, answer) in [
        (user.authorization(), 200),
        (user.authorization(), 200),
        (authorization(&user.login, "wrong"), 401),
        (user.authorization(), 200),
    ] {
        assert_eq!(status(&mut client, &header).await, answer);
    }
    let reached = format!(
        "select auth_attempts >= {} and auth_ok >= {} from host_counters where host_id = (select min(id) from hosts)",
        before[0] + 3,
        before[1] + 2
    );
    stage.until(&reached, "t").await;
}

#[tokio::test]
async fn a_token_to_come_back_with_is_for_one_desktop_and_one_return_and_lasts_a_while_longer_than_its_session() {
    let stage = calm().await;
    let mut desktop = stage.running().await;
    let second = stage.lent(&desktop.login, "second", "desk").await;
    let connect = async |proof: &str, id: i32, more: &str| {
        // Of an address of its own, so that nobody else has to wait for what is refused here.
        let mut client = client(stage, 60).await;
        let upgrade = format!("Connection: Upgrade\r\nUpgrade: QVD/1.0\r\n{more}");
        client.send(format!("GET /qvd/connect_to_vm?id={id} HTTP/1.1\r\n{proof}{upgrade}\r\n")).await;
        let (_, answer) = client.conclusion().await;
        let token = answer.header("X-QVD-Resume-Token").map(str::to_owned);
        (client, answer.status, token)
    };
    let ask = "X-QVD-Resume: 1\r\n";
    let proof = desktop.authorization();
    // Who does not ask for one hears nothing of it.
    let (first, status_of_first, none) = connect(&proof, desktop.id, "").await;
    assert_eq!((status_of_first, none), (101, None));
    let _nx = desktop.vm.nx().await;
    let (_client, _, one) = connect(&proof, desktop.id, ask).await;
    let (_nx, one) = (desktop.vm.nx().await, one.unwrap());
    drop(first);
    let of_vm = format!("(select id from user_sessions where vm_id = {} order by id desc limit 1)", desktop.id);
    let kept = |what: &str| format!("select {what} from session_resumes where session_id = {of_vm}");
    let digest = stage.sql(&kept("token")).await;
    assert!(digest.len() == 64 && !one.contains(&digest), "only a digest is kept");
    let (session, secret) = one.split_once('.').unwrap();
    let foreign = session.parse::<i64>().unwrap() - 1;
    for forged in [&digest, &format!("{session}.{digest}"), &format!("{foreign}.{secret}"), secret, &"9".repeat(50)] {
        assert_eq!(connect(&bearer(forged), desktop.id, ask).await.1, 401, "{forged}");
    }
    assert_eq!(connect(&bearer(&one), second.id, ask).await.1, 403);
    // What authentication found out goes with it, also when the agent's tokens, with which it was kept, are over.
    stage.sql(&format!("delete from user_tokens where vm_id = {}", desktop.id)).await;
    let found_out = format!("select parameters ->> 'qvd.vm.user.name' from l7r_token_use('{one}')");
    assert_eq!(stage.sql(&found_out).await, desktop.login);
    // A connection that was refused has not used it up; one that came about has.
    let (returned, came, two) = connect(&bearer(&one), desktop.id, ask).await;
    let (_nx, two) = (desktop.vm.nx().await, two.unwrap());
    assert_eq!(came, 101);
    assert_eq!(connect(&bearer(&one), desktop.id, ask).await.1, 401);
    // Who leaves needs no way back.
    drop(returned);
    desktop.freed().await;
    assert_eq!(stage.sql(&kept("count(*)")).await, "0");
    assert_eq!(connect(&bearer(&two), desktop.id, ask).await.1, 401);

    let (_client, _, three) = connect(&proof, desktop.id, ask).await;
    let (_nx, three) = (desktop.vm.nx().await, three.unwrap());
    // What is done for a router that is gone.
    let gone = format!(
        "update vm_runtimes set user_state = 'disconnected' where vm_id = {0};
         update user_sessions set ended_at = now(), end_reason = 'its router died' where vm_id = {0} and ended_at is null",
        desktop.id
    );
    stage.sql(&gone).await;
    let ended = async |ago: &str| {
        stage.sql(&format!("update user_sessions set ended_at = now() - interval '{ago}' where id = {of_vm}")).await;
    };
    ended("4 minutes").await;
    stage.sql(&format!("select user_block('{}')", desktop.login)).await;
    assert_eq!(connect(&bearer(&three), desktop.id, ask).await.1, 401);
    stage.sql(&format!("select user_block('{}', false)", desktop.login)).await;
    let (_client, came, four) = connect(&bearer(&three), desktop.id, ask).await;
    assert_eq!(came, 101);
    let _nx = desktop.vm.nx().await;
    // Nobody ended its session but the one that came after.
    assert_eq!(connect(&bearer(&three), desktop.id, ask).await.1, 401);
    stage.sql(&gone).await;
    ended("5 minutes").await;
    assert_eq!(connect(&bearer(&four.unwrap()), desktop.id, ask).await.1, 401);
}
