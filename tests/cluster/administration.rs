//! Administration by SQL, as `qvd_admin` from psql.

use qvd::model::config::{Config, KEYS};

use super::database::{Db, Session};

async fn administrator() -> (Db, Session) {
    let db = Db::new().await;
    let admin = db.session("qvd_admin").await;
    (db, admin)
}

/// Code and message of a refusal that says what to do about it.
async fn told(admin: &Session, statement: &str) -> (String, String) {
    let refusal = admin.refused(statement).await;
    assert_ne!(refusal.hint, "", "{refusal:?}");
    (refusal.code, refusal.message)
}

async fn code(admin: &Session, statement: &str) -> String {
    admin.refused(statement).await.code
}

#[tokio::test]
async fn an_administrator_makes_everything_with_functions_and_sees_it_in_lists() {
    let (db, admin) = administrator().await;
    let made = "select tenant_create('acme'), host_create('n1', '10.9.0.1'), user_create('Alice@acme', 'pass-word'),
                    osf_create('desk@acme', 512, 100), di_create('desk@acme', 'desk.tar', 'v1'),
                    vm_create('alice@acme', 'd1', 'desk')";
    admin.sql(made).await;
    let row = async |query: &str| admin.rows(query).await.into_iter().flatten().collect::<Vec<_>>().join(" ");
    let vm = row("select vm, state, user_state, command, host, osf, tag, ip from vm_list").await;
    assert_eq!(vm, "alice@acme/d1 stopped disconnected   desk default 10.0.255.254");
    assert_eq!(row("select host, state, blocked, address, vms from host_list").await, "n1 stopped f 10.9.0.1 0");
    assert_eq!(row(r#"select "user", blocked, has_password, vms from user_list"#).await, "alice@acme f t 1");
    let di = row("select osf, version, path, state, tags from di_list").await;
    assert_eq!(di, "desk@acme v1 desk.tar published {default,head,v1}");
    let rows = "select count(*) from vms join vm_runtimes r on r.vm_id = id join vm_counters c on c.vm_id = id
                join hosts h on true join host_runtimes hr on hr.host_id = h.id join host_counters hc on hc.host_id = h.id";
    assert_eq!(row(rows).await, "1", "objects come with their runtime and counter rows");

    // The audit tells who did what; what must stay secret is neither there nor anywhere in clear.
    let done = "select string_agg(action || ' ' || qvd_object, ', ' order by id), min(actor) from log";
    assert_eq!(row(done).await, "create tenant, create host, create user, create osf, create di, create vm qvd_admin");
    let kept = "select password like '$2%' and password = crypt('pass-word', password)
                and not exists (select from log where log::text like '%pass-word%') from users";
    assert_eq!(db.sql(kept).await.unwrap(), "t");
    admin.sql("select user_password('alice@acme', 'another')").await;
    assert_eq!(db.sql("select password = crypt('another', password) from users").await.unwrap(), "t");
}

#[tokio::test]
async fn a_hash_that_an_administrator_makes_by_hand_is_a_password() {
    let (db, admin) = administrator().await;
    admin.sql("insert into users (tenant_id, login, password) values (1, 'alice', password_hash('secret'))").await;
    assert_eq!(db.sql("select password = crypt('secret', password) from users").await.unwrap(), "t");
}

#[tokio::test]
async fn a_vm_gets_the_highest_free_address_until_none_is_left() {
    let (_db, admin) = administrator().await;
    admin.sql("select osf_create('desk'), user_create('alice'), host_create('n1', '10.9.0.5')").await;
    admin.sql("select config_set('vm.network.ip.start', '10.9.0.3'), config_set('vm.network.netmask', '29')").await;
    let make = async |name: &str| {
        admin.sql(&format!("select vm_create('alice', '{name}', 'desk')")).await;
        admin.sql(&format!("select host(ip) from vms where name = '{name}'")).await.unwrap()
    };
    assert_eq!(make("a").await, "10.9.0.6", "the last below the broadcast address");
    assert_eq!(make("b").await, "10.9.0.4", "not that of a host");
    assert_eq!(make("c").await, "10.9.0.3");
    let (state, message) = told(&admin, "select vm_create('alice', 'd', 'desk')").await;
    assert_eq!((state.as_str(), message.as_str()), ("QV032", "no address is free between 10.9.0.3 and 10.9.0.6"));
    admin.sql("delete from vms where name = 'b'").await;
    admin.sql("select config_set('vm.network.netmask', '255.255.255.248')").await;
    assert_eq!(make("d").await, "10.9.0.4", "that of a VM that is gone");
    assert_eq!(code(&admin, "select vm_create('alice', 'e', 'desk', ip => '10.9.0.4')").await, "QV013");

    assert_eq!(code(&admin, "select config_set('vm.network.ip.start', 'fd00::x')").await, "QV014");
    admin.sql("select config_set('vm.network.ip.start', 'fd00:9::100')").await;
    let refused = told(&admin, "select vm_create('alice', 'f', 'desk')").await;
    assert_eq!((refused.0.as_str(), refused.1.as_str()), ("QV014", "255.255.255.248 is no netmask of IPv6"));
    admin.sql("select config_set('vm.network.netmask', '64')").await;
    assert_eq!(make("f").await, "fd00:9::100:fe");
    assert_eq!(make("g").await, "fd00:9::100:fd");
}

#[tokio::test]
async fn names_are_taken_once_and_unknown_ones_are_told() {
    let (_db, admin) = administrator().await;
    let made = [
        "select tenant_create('acme')",
        "select user_create('alice')",
        "select host_create('n1', '10.9.0.1')",
        "select osf_create('desk')",
        "select di_create('desk', 'desk.tar', 'v1')",
        "select vm_create('alice', 'd1', 'desk')",
    ];
    for make in made {
        admin.sql(make).await;
        assert_eq!(code(&admin, make).await, "QV013", "{make}");
    }
    assert_eq!(code(&admin, "select user_create('ALICE')").await, "QV013", "logins do not differ by case");
    assert_eq!(code(&admin, "select host_create('n2', '10.9.0.1')").await, "QV013");

    let unknown = [
        ("select user_create('bob@nobody')", "there is no tenant nobody"),
        ("select user_password('bob', 'x')", "there is no user bob"),
        ("select vm_create('bob', 'd1', 'desk')", "there is no user bob"),
        ("select vm_create('alice', 'd2', 'none')", "there is no OSF none in the tenant of alice"),
        ("select di_create('none', 'x.tar')", "there is no OSF none"),
        ("select vm_start('alice/none')", "there is no VM alice/none"),
        ("select vm_start('alice@acme/d1')", "there is no VM alice@acme/d1"),
        ("select vm_stop('alice')", "alice names no VM"),
        ("select vm_disconnect(7)", "there is no VM 7"),
        ("select vm_block('alice/none')", "there is no VM alice/none"),
        ("select user_block('bob')", "there is no user bob"),
        ("select host_block('n9')", "there is no host n9"),
        ("select config_set('l7r.port', '1', 'nobody')", "there is no tenant nobody"),
    ];
    for (statement, wanted) in unknown {
        assert_eq!(told(&admin, statement).await, ("QV010".to_owned(), wanted.to_owned()), "{statement}");
    }
    for name in ["", " alice", "a/b", "a#b", "a\tb"] {
        assert_eq!(code(&admin, &format!("select user_create(e'{name}')")).await, "23514", "{name:?}");
    }
}

#[tokio::test]
async fn an_ambiguous_name_is_refused_with_the_candidates() {
    let (_db, admin) = administrator().await;
    admin.sql("select tenant_create('acme')").await;
    for tenant in ["default", "acme"] {
        let made = format!(
            "select user_create('alice@{tenant}'), osf_create('desk@{tenant}'), di_create('desk@{tenant}', 'desk.tar'),
                 vm_create('alice@{tenant}', 'd1', 'desk')"
        );
        admin.sql(&made).await;
    }
    let ambiguous = [
        ("select vm_start('alice/d1')", "VM alice/d1 is ambiguous: alice@acme/d1, alice@default/d1"),
        ("select user_block('alice')", "user alice is ambiguous: alice@acme, alice@default"),
        ("select di_create('desk', 'x.tar')", "OSF desk is ambiguous: desk@acme, desk@default"),
    ];
    for (statement, wanted) in ambiguous {
        assert_eq!(told(&admin, statement).await, ("QV011".to_owned(), wanted.to_owned()));
    }
    assert_eq!(admin.sql("select vm_name(vm_id('alice@acme/d1'))").await.unwrap(), "alice@acme/d1");
}

#[tokio::test]
async fn a_password_is_never_empty() {
    let (db, admin) = administrator().await;
    assert_eq!(told(&admin, "select user_create('alice', '')").await.0, "QV014");
    admin.sql("select user_create('alice')").await;
    assert_eq!(db.sql("select password is null from users").await.unwrap(), "t", "none is not an empty one");
    assert_eq!(code(&admin, "select user_password('alice', '')").await, "QV014");
    assert_eq!(code(&admin, "select user_password('alice', null)").await, "QV014");
}

#[tokio::test]
async fn a_vm_stays_within_one_tenant() {
    let (_db, admin) = administrator().await;
    admin.sql("select tenant_create('acme'), user_create('alice'), user_create('bob@acme'), osf_create('desk')").await;
    assert_eq!(told(&admin, "select vm_create('bob@acme', 'd1', 'desk')").await.0, "QV010");
    assert_eq!(told(&admin, "select vm_create('bob@acme', 'd1', 'desk@default')").await.0, "QV010");
    let by_hand =
        "insert into vms (name, user_id, osf_id, ip) values ('d1', user_id('bob'), osf_id('desk'), '10.0.0.9')";
    assert_eq!(code(&admin, by_hand).await, "QV023");
    admin.sql("select vm_create('alice', 'd1', 'desk')").await;
    assert_eq!(code(&admin, "update vms set user_id = user_id('bob')").await, "QV023");
}

#[tokio::test]
async fn what_is_in_use_is_not_deleted() {
    let db = Db::with_vms(1).await;
    let admin = db.session("qvd_admin").await;
    let node = db.node_runs().await;
    db.sql(&format!("select vm_start('alice/d1'); select node_claim({node}, 3030, 4100)")).await;
    let in_use = [
        ("delete from vms", "VM alice@default/d1 is not stopped"),
        ("delete from hosts", "host n1 is in use"),
        ("delete from dis", "a VM runs from image desk.tar"),
    ];
    for (statement, wanted) in in_use {
        assert_eq!(told(&admin, statement).await, ("QV022".to_owned(), wanted.to_owned()), "{statement}");
    }
    for held in ["users where login = 'alice'", "osfs", "tenants where id = 1"] {
        assert_eq!(code(&admin, &format!("delete from {held}")).await, "23503", "{held}");
    }
    db.sql("update vm_runtimes set vm_state = 'stopped'").await;
    db.sql(&format!("select node_state({node}, 'stopped')")).await;
    admin.sql("delete from vms; delete from hosts; delete from dis; delete from osfs; delete from users").await;
}

#[tokio::test]
async fn the_database_accepts_a_value_of_a_key_if_the_programs_do() {
    let (db, _) = administrator().await;
    let values = [
        "",
        "0",
        "1",
        "yes",
        "OFF",
        "x",
        "-1",
        "1.5",
        ".5",
        "1.",
        "+1",
        "1e3",
        " 1",
        "08",
        "65535",
        "65536",
        "99999999999",
        "4294967296",
        "10.0.0.1",
        "300.1.1.1",
        "10.0.0",
        "010.0.0.1",
        "/run",
        "a,b",
    ];
    for key in KEYS {
        for value in values {
            let ours = Config::default().set(key.name, value).is_ok();
            let theirs = db.sql(&format!("select config_problem('{}', '{value}') is null", key.name)).await.unwrap();
            let strict = theirs == "f" && ours;
            let lax = theirs == "t" && !ours;
            assert!(!lax, "the database lets {} be {value:?}, the programs do not", key.name);
            let odd = matches!(value, ".5" | "1." | "+1" | "1e3" | "99999999999" | "08");
            assert!(!strict || odd, "the programs let {} be {value:?}, the database does not", key.name);
        }
    }
}

#[tokio::test]
async fn configuration_is_set_checked_and_reset() {
    let (_db, admin) = administrator().await;
    let value =
        async |tenant: &str| admin.sql(&format!("select config_get('osf.default.memory', {tenant})")).await.unwrap();
    assert_eq!(value("1").await, "256", "the programs' default");
    admin.sql("select tenant_create('acme'), config_set('osf.default.memory', '512')").await;
    admin.sql("select config_set('osf.default.memory', '1024', 'acme')").await;
    assert_eq!(value("1").await, "512");
    assert_eq!(value("tenant_id('acme')").await, "1024");
    admin.sql("select config_reset('osf.default.memory', 'acme'), config_reset('osf.default.memory')").await;
    assert_eq!(value("tenant_id('acme')").await, "256");

    let refusal = admin.refused("select config_set('l7r.port', 'many')").await;
    assert_eq!(
        (refusal.code.as_str(), refusal.message.as_str()),
        ("QV014", "l7r.port = many: expected a port number from 1 to 65535")
    );
    assert_eq!(code(&admin, "insert into configs values (-1, 'l7r.port', '0')").await, "QV014");
    assert_eq!(code(&admin, "select config_set('database.host', 'db2')").await, "QV014", "only in the file");
    admin.sql("select config_set('some.program.key', 'x')").await;
    assert_eq!(admin.sql("select config_get('some.program.key')").await.unwrap(), "x", "another program's");

    assert_eq!(code(&admin, "select config_ssl('x', '-----BEGIN PRIVATE KEY-----')").await, "QV014");
    assert_eq!(code(&admin, "select config_ssl('-----BEGIN CERTIFICATE-----', 'x')").await, "QV014");
}

#[tokio::test]
async fn a_new_version_of_an_image_takes_the_moving_tags_over() {
    let (_db, admin) = administrator().await;
    let image = async |version: &str| {
        let tags = format!("select tags from di_list where version = '{version}'");
        let used = "select version from dis where id = di_for(vm_id('alice/d1'))";
        (admin.sql(&tags).await.unwrap_or_default(), admin.sql(used).await.unwrap_or_default())
    };
    admin.sql("select user_create('alice'), osf_create('desk'), vm_create('alice', 'd1', 'desk')").await;
    admin.sql("select di_create('desk', 'one.tar', 'v1')").await;
    assert_eq!(image("v1").await, ("{default,head,v1}".to_owned(), "v1".to_owned()));
    admin.sql("select di_create('desk', 'two.tar', 'v2')").await;
    assert_eq!(image("v1").await, ("{v1}".to_owned(), "v2".to_owned()));
    assert_eq!(image("v2").await.0, "{default,head,v2}");
    // Back to the first by hand; and what is blocked is not used.
    admin.sql("delete from di_tags where tag = 'default'; insert into di_tags (di_id, tag) select id, 'default' from dis where version = 'v1'").await;
    assert_eq!(image("v2").await, ("{head,v2}".to_owned(), "v1".to_owned()));
    admin.sql("update dis set blocked = true where version = 'v1'").await;
    assert_eq!(image("v2").await.1, "");
    // Without a version it is the day and a number.
    admin.sql("select di_create('desk', 'a.tar'), di_create('desk', 'b.tar')").await;
    let named = "select count(*) from dis where version ~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}-00[01]$'";
    assert_eq!(admin.sql(named).await.unwrap(), "2");
}

#[tokio::test]
async fn the_path_of_an_image_never_leaves_the_directory_of_images() {
    let (_db, admin) = administrator().await;
    admin.sql("select osf_create('desk')").await;
    for path in ["../x", "a/../x", "a/..", "..", "/etc/passwd", "", "a\\nb"] {
        let make = format!("select di_create('desk', e'{path}', 'v')");
        assert_eq!(code(&admin, &make).await, "23514", "{path:?}");
    }
    admin.sql("select di_create('desk', 'linux/desk..2.tar.gz', 'v1')").await;
    assert_eq!(code(&admin, "update dis set path = '../x'").await, "23514");
}
