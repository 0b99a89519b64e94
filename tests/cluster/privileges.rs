//! What each role may do, tried out on every table and function.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use super::database::Db;

const ROLES: [&str; 4] = ["qvd_node", "qvd_l7r", "qvd_admin", "qvd_readonly"];
/// What administrators with a login of their own, and the web tool, are members of.
const GROUP: &str = "qvd_administrators";

/// Whether a role gets past the permission check of a statement, whatever comes of it; nothing does.
const TRIED: &str = "
    create function pg_temp.tried(who text, statement text) returns boolean language plpgsql as $$
    begin
        perform set_config('role', who, true);
        execute statement;
        raise exception 'undo';
    exception
        when insufficient_privilege then return false;
        when others then return true;
    end $$";

/// What may be done with which tables; for columns when it is not all of them.
const TABLES: &[(&str, &[&str])] = &[
    ("qvd_node", &["select: configs versions"]),
    ("qvd_l7r", &["select: configs versions"]),
    (
        "qvd_admin",
        &[
            "select: acl_list acl_role_relations acls administrator_list beat config_keys config_list di_imports
             di_list di_runtimes end_counters end_list host_changes host_counters host_list l7r_instances log log_fields log_list newest_dis
             osf_list property_list role_acls role_administrator_relations role_list role_role_relations roles
             session_fields session_list staging staging_list startable_dis storage_reports tenant_list tunnel_counters tunnel_list
             user_counted_fields user_fields user_list user_sessions versions view_list vm_counters vm_fields vm_list vm_progress vm_running_fields",
            "select update insert delete: configs di_properties di_tags dis host_properties hosts osf_properties osfs
             properties_list qvd_object_properties_list tenants user_properties views_setups vm_properties vms",
            "select update(blocked cmd): host_runtimes",
            "select update(blocked vm_cmd user_cmd vm_expiration_soft vm_expiration_hard): vm_runtimes",
            "select(id tenant_id login blocked description language has_password created_at) update insert delete: users",
            "select(id tenant_id name language block description role_name): administrators",
            "update insert delete: ssl_configs",
        ],
    ),
    (
        "qvd_readonly",
        &[
            "select: acl_list acl_role_relations acls administrator_list beat config_keys config_list configs
             di_imports di_list di_properties di_runtimes di_tags dis end_counters end_list host_changes host_counters
             host_list host_properties host_runtimes hosts l7r_instances log log_fields log_list newest_dis osf_list osf_properties osfs
             properties_list property_list qvd_object_properties_list role_acls role_administrator_relations role_list
             role_role_relations roles session_fields session_list staging staging_list startable_dis storage_reports tenant_list
             tenants tunnel_counters tunnel_list user_counted_fields user_fields user_list user_properties user_sessions versions view_list
             views_setups vm_counters vm_fields vm_list vm_progress vm_properties vm_running_fields vm_runtimes vms",
            "select(id tenant_id login blocked description language has_password created_at): users",
            "select(id tenant_id name language block description role_name): administrators",
        ],
    ),
    (
        "qvd_administrators",
        &[
            "select: acl_list acl_role_relations acls administrator_list beat config_keys config_list di_imports
             di_list di_runtimes di_tags end_counters end_list host_changes host_counters host_list hosts
             l7r_instances log log_fields log_list newest_dis osf_list property_list role_acls role_administrator_relations role_list
             role_role_relations roles session_fields session_list staging staging_list startable_dis storage_reports tenant_list
             tenants tunnel_counters tunnel_list user_counted_fields user_fields user_list user_sessions versions view_list views_setups vm_counters
             vm_fields vm_list vm_progress vm_running_fields",
            "select insert delete: qvd_object_properties_list",
            "select update(blocked cmd): host_runtimes",
            "select update(blocked vm_cmd user_cmd vm_expiration_soft vm_expiration_hard): vm_runtimes",
            "select update(description): dis",
            "select update(key description) insert delete: properties_list",
            "select update(name di_tag description keep_running) delete: vms",
            "select update(name memory use_overlay user_storage_size description cpus) insert delete: osfs",
            "select update(value) insert delete: configs di_properties host_properties osf_properties user_properties
             vm_properties",
            "select(id tenant_id login blocked description language has_password created_at) update(password blocked description
             language) insert delete: users",
            "select(id tenant_id name language block description role_name): administrators",
        ],
    ),
];

/// Which functions may be called.
const FUNCTIONS: &[(&str, &[&str])] = &[
    (
        "qvd_node",
        &["announce beat_try epoch_is_over is_secret merged node_address node_addresses node_adopt node_claim
               node_console node_consoles
               node_di_failed node_di_paths node_di_progress node_di_ready node_di_removed node_duties node_former
               node_images node_lease node_peers node_program node_progress node_routers node_routers_gone node_serves
               node_staging node_start node_state node_status node_stopping node_storage node_take_over node_vm_state
               node_vm_told node_vms retention_apply vms_restart wake wake_payload"],
    ),
    (
        "qvd_l7r",
        &["is_secret l7r_aborted l7r_acquire l7r_auth_parameters_keep l7r_auto l7r_connected l7r_count
               l7r_count_refused l7r_count_sessions l7r_end l7r_gone l7r_host l7r_instances_of l7r_list
               l7r_listens l7r_nodes l7r_passage l7r_password_upgrade l7r_pool_find l7r_pool_has l7r_pool_take l7r_problem l7r_road l7r_session l7r_session_end
               l7r_sessions l7r_ssl l7r_start l7r_tenant l7r_token_create l7r_token_use l7r_totp_secret l7r_totp_use
               l7r_traffic l7r_user l7r_vm l7r_vm_start l7r_vm_stop l7r_way"],
    ),
    ("qvd_admin", &[SEEING, LOOKING_UP, CHANGING]),
    ("qvd_readonly", &[SEEING, LOOKING_UP]),
    (GROUP, &[SEEING, CHANGING]),
    ("qvd_wat", &[SEEING, CHANGING, "act_as vm_spy vm_spy_check wat_administrator wat_login_log wat_password_upgrade"]),
];

/// What changes nothing and tells nothing that tables and lists do not.
const SEEING: &str =
    "acl_check acls_of can created di_id host_names host_transition_allowed is_secret list_fields mac_tail me my_tenant
    cluster_status name_and_tenant osf_id overview reaches restarts_due sees_all statistics tenant_id user_id user_transition_allowed
    vm_command_allowed vm_id vm_mac vm_name vm_transition_allowed vm_verbs vm_why vm_why_facts watch";
/// The same, of all tenants.
const LOOKING_UP: &str = "config_get di_for vm_address_free vm_effective_properties";
/// What asks for ACLs and changes.
const CHANGING: &str = "announce config_problem config_reset config_set config_ssl config_ssl_clients
    config_ssl_reset di_affected di_block di_create di_delete di_import di_publish di_retry di_rollout di_tag di_untag
    dis_block dis_publish
    host_block host_create host_release host_stop hosts_block hosts_stop hosts_stop_vms merged me_update
    my_tenant_update object_create object_fields object_hold objects_delete objects_update osf_create password_hash staging_log
    staging_refresh
    tenant_create tenant_purge tenants_block user_block user_create user_password user_totp users_block
    users_delete view_columns view_reset view_set vm_block vm_console vm_console_watch vm_create vm_disconnect vm_expire vm_start vm_stop vms_block
    vms_delete vms_disconnect vms_expire vms_start vms_stop wake wake_payload";

#[tokio::test]
async fn each_role_may_do_with_tables_what_it_needs_and_nothing_else() {
    let db = Db::new().await;
    db.sql(TRIED).await;
    for role in ROLES.into_iter().chain([GROUP]) {
        let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let relations = "select relname, relkind = 'r' from pg_class
            where relnamespace = 'qvd'::regnamespace and relkind in ('r', 'v') order by relname";
        for relation in db.rows(relations).await {
            let (table, writable) = (&relation[0], relation[1] == "t");
            let rights = rights(&db, role, table, writable).await;
            if !rights.is_empty() {
                tables.entry(rights).or_default().push(table.clone());
            }
        }
        let found: Vec<String> =
            tables.iter().map(|(rights, tables)| format!("{rights}: {}", tables.join(" "))).collect();
        assert_eq!(found, expected(TABLES, role), "{role}");
    }
}

async fn rights(db: &Db, role: &str, table: &str, writable: bool) -> String {
    let tried = async |statement: String| {
        db.sql(&format!("select pg_temp.tried('{role}', $q${statement}$q$)")).await.unwrap() == "t"
    };
    let columns = format!(
        "select quote_ident(attname) from pg_attribute where attrelid = 'qvd.{table}'::regclass and attnum > 0 and not attisdropped order by attnum"
    );
    let columns: Vec<String> = db.rows(&columns).await.into_iter().flatten().collect();
    let (mut read, mut written) = (Vec::new(), Vec::new());
    for column in &columns {
        if tried(format!("select {column} from {table} limit 0")).await {
            read.push(column.as_str());
        }
        if writable && tried(format!("update {table} set {column} = default where false")).await {
            written.push(column.as_str());
        }
    }
    let mut rights = String::new();
    let mut add = |right: &str, on: &[&str]| {
        let space = if rights.is_empty() { "" } else { " " };
        let _ = match on.len() {
            0 => Ok(()),
            all if all == columns.len() => write!(rights, "{space}{right}"),
            _ => write!(rights, "{space}{right}({})", on.join(" ")),
        };
    };
    let all: Vec<&str> = columns.iter().map(String::as_str).collect();
    add("select", &read);
    add("update", &written);
    if writable && tried(format!("insert into {table} default values")).await {
        add("insert", &all);
    }
    if writable && tried(format!("delete from {table} where false")).await {
        add("delete", &all);
    }
    rights
}

#[tokio::test]
async fn each_role_may_call_the_functions_it_needs_and_no_others() {
    let db = Db::new().await;
    db.sql(TRIED).await;
    for role in ROLES.into_iter().chain([GROUP, "qvd_wat"]) {
        // A function that is granted must also work inside; nulls go through its whole way of permissions.
        let calls = format!(
            "select distinct proname from pg_proc p,
                 lateral (select string_agg(format('(select null::%s)', format_type(t, null)), ', ') from unnest(proargtypes) t) a (nulls)
             where pronamespace = 'qvd'::regnamespace and prorettype <> 'trigger'::regtype
                 and pg_temp.tried('{role}', format('select qvd.%I(%s)', proname, nulls))"
        );
        let found: BTreeSet<String> = db.rows(&calls).await.into_iter().flatten().collect();
        let wanted: BTreeSet<String> =
            expected(FUNCTIONS, role).iter().flat_map(|line| line.split_whitespace()).map(str::to_owned).collect();
        let (more, less): (Vec<_>, Vec<_>) = (found.difference(&wanted).collect(), wanted.difference(&found).collect());
        assert!(more.is_empty() && less.is_empty(), "{role} may also call {more:?} and may not call {less:?}");
    }
}

fn expected(matrix: &[(&str, &[&str])], role: &str) -> Vec<String> {
    let (_, lines) = matrix.iter().find(|(of, _)| *of == role).unwrap_or(&("", &[]));
    lines.iter().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[tokio::test]
async fn nobody_reads_what_could_be_used_to_become_somebody() {
    let db = Db::with_vms(1).await;
    for role in ROLES {
        let session = db.session(role).await;
        let secrets = [
            "select password from users",
            "select u from users u",
            "select * from users",
            "update users set login = login returning password",
            "select secret from vm_specs",
            "select secret from node_vm",
            "select token from user_tokens",
            "select parameters from session_resumes",
            "select value from ssl_configs",
            "select crypt('guess', 'salt')",
            "set role postgres",
            "alter table users disable trigger all",
        ];
        for secret in secrets {
            assert_eq!(session.refused(secret).await.code, "42501", "{role}: {secret}");
        }
    }
}

#[tokio::test]
async fn secrets_among_other_things_are_read_by_the_router_alone() {
    let db = Db::with_vms(1).await;
    let owner = "select login from users limit 1";
    let login = db.sql(owner).await.unwrap();
    db.sql(&format!("select user_totp('{login}', 'GEZDGNBVGY3TQOJQ')")).await;
    db.sql("select config_set('auth.ldap.bindpass', 'sesame'), config_set('auth.ldap.binddn', 'cn=x')").await;
    db.sql("select config_set('auth.ldap.bindpass', 'sesame', tenant => 'default')").await;
    let secrets = "select string_agg(value, ' ') from configs where key = 'auth.ldap.bindpass'";
    let others = "select value from configs where key = 'auth.ldap.binddn'";
    for (role, read) in
        [("qvd_node", None), ("qvd_admin", None), ("qvd_readonly", None), ("qvd_l7r", Some("sesame sesame"))]
    {
        let session = db.session(role).await;
        assert_eq!(session.sql(secrets).await.as_deref(), read, "{role}");
        assert_eq!(session.sql(others).await.as_deref(), Some("cn=x"), "{role}");
    }
    for role in ["qvd_admin", "qvd_readonly"] {
        let session = db.session(role).await;
        for (nothing, found) in [
            ("select config_get('auth.ldap.bindpass')", None),
            ("select config_get('auth.ldap.bindpass', 1)", None),
            ("select count(*)::text from user_properties", Some("0")),
            ("select count(*)::text from log l where l::text ~ 'sesame|GEZDG'", Some("0")),
            ("select count(*)::text from vms where vm_effective_properties(id)::text ~ 'GEZDG'", Some("0")),
        ] {
            assert_eq!(session.sql(nothing).await.as_deref(), found, "{role}: {nothing}");
        }
    }
    // Nor by way of changing something.
    let admin = db.session("qvd_admin").await;
    for (trick, code) in [
        ("update properties_list set key = 'custom.open'", "QV014"),
        (
            "insert into properties_list (key, tenant_id) values ('custom.open', 1);
          update qvd_object_properties_list set property_id = (select max(id) from properties_list)",
            "QV014",
        ),
        ("update qvd_object_properties_list set id = id + 1000", "QV014"),
        (
            "insert into configs values (-1, 'auth.ldap.bindpass', 'x') on conflict (tenant_id, key) do update set key = 'custom.open'",
            "42501",
        ),
    ] {
        assert_eq!(admin.refused(trick).await.code, code, "{trick}");
    }
    admin.sql("with changed as (update configs set key = 'custom.open' || tenant_id where key !~ 'binddn' returning 1) select count(*)::text from changed").await;
    admin.sql("update configs set key = 'custom.' || key || tenant_id returning key").await;
    admin.sql("update user_properties set value = value || '!' returning value").await;
    assert_eq!(db.sql(secrets).await.as_deref(), Some("sesame sesame"));
    assert_eq!(db.sql("select value from user_properties").await.as_deref(), Some("GEZDGNBVGY3TQOJQ"));
    // An administrator still sets it and takes it away.
    admin.sql("select config_set('auth.ldap.bindpass', 'other')").await;
    assert_eq!(
        db.sql("select value from configs where key = 'auth.ldap.bindpass' and tenant_id = -1").await.unwrap(),
        "other"
    );
    admin.sql("select config_reset('auth.ldap.bindpass')").await;
    admin.sql(&format!("select user_totp('{login}', null)")).await;
    assert_eq!(db.sql("select count(*) from user_properties").await.unwrap(), "0");
}

#[tokio::test]
async fn a_stranger_cannot_even_connect() {
    let db = Db::empty().await;
    db.connector().migrate().await.unwrap();
    let may = "select string_agg(rolname, ' ' order by rolname) from pg_roles
               where has_database_privilege(oid, current_database(), 'connect') and not rolsuper and rolname !~ '^pg_'
               -- The logins of nodes are members, and those of other tests are on this server too.
               and not exists (select from pg_auth_members m where m.member = pg_roles.oid and m.roleid::regrole::text ~ '^qvd_')";
    assert_eq!(db.sql(may).await.unwrap(), "qvd_admin qvd_administrators qvd_l7r qvd_node qvd_readonly");
    assert_eq!(db.sql("select has_schema_privilege('pg_monitor', 'qvd', 'usage')").await.unwrap(), "f");
    let powers = "select count(*) from pg_roles where rolname ~ '^qvd_'
                  and (rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls)";
    assert_eq!(db.sql(powers).await.unwrap(), "0");
}

/// Beyond the tables and functions above, a role may do only what is listed here: (what, role, object).
const ELSE: &[(&str, &str, &str)] = &[
    ("connect", "qvd_node", "the database"),
    ("connect", "qvd_l7r", "the database"),
    ("connect", "qvd_admin", "the database"),
    ("connect", "qvd_readonly", "the database"),
    ("usage of language", "qvd_admin", "plpgsql"),
    ("usage of schema", "qvd_node", "qvd"),
    ("usage of schema", "qvd_l7r", "qvd"),
    ("usage of schema", "qvd_admin", "qvd"),
    ("usage of schema", "qvd_readonly", "qvd"),
    ("usage of sequences", "qvd_admin", "all"),
];

/// Every object of the catalogue that a role might do something with, and does not need the tables above for.
const CATALOGUE: &str = "
    with role as (select oid, rolname from pg_roles where rolname in ('qvd_node', 'qvd_l7r', 'qvd_admin', 'qvd_readonly')),
    ours as (select oid, nspname from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema'),
    sequence as (select oid, relname from pg_class where relkind = 'S' and relnamespace in (select oid from ours)),
    may (what, role, object) as (
        select p || ' of table', rolname, relname from role, pg_class c, unnest(array['truncate', 'references', 'trigger']) p
        where relkind in ('r', 'p', 'v', 'm', 'f') and relnamespace in (select oid from ours)
            and has_table_privilege(role.oid, c.oid, p)
        union all
        select p || ' of table', rolname, relname
        from role, pg_class c, unnest(array['select', 'insert', 'update', 'delete']) p
        where relkind in ('r', 'p', 'v', 'm', 'f') and relnamespace in (select oid from ours where nspname <> 'qvd')
            and has_table_privilege(role.oid, c.oid, p)
        union all
        -- Settings of the session are written through a view.
        select p || ' of catalogue', rolname, relname
        from role, pg_class c, unnest(array['insert', 'update', 'delete', 'truncate', 'trigger']) p
        where relkind in ('r', 'v') and relnamespace not in (select oid from ours) and relname <> 'pg_settings'
            and has_table_privilege(role.oid, c.oid, p)
        union all
        select 'insert into columns', rolname, relname || '.' || attname
        from role, pg_class c join pg_attribute a on attrelid = c.oid
        where relkind in ('r', 'v') and relnamespace = 'qvd'::regnamespace and attnum > 0 and not attisdropped
            and has_column_privilege(role.oid, c.oid, attnum, 'insert') and not has_table_privilege(role.oid, c.oid, 'insert')
        union all
        select p || ' of sequence', rolname, relname from role, sequence s, unnest(array['select', 'update']) p
        where has_sequence_privilege(role.oid, s.oid, p)
        union all
        select 'usage of sequences', rolname, case when every(has_sequence_privilege(role.oid, s.oid, 'usage')) then 'all' else 'some' end
        from role, sequence s group by rolname having bool_or(has_sequence_privilege(role.oid, s.oid, 'usage'))
        union all
        select p || ' of schema', rolname, nspname from role, pg_namespace n, unnest(array['usage', 'create']) p
        where has_schema_privilege(role.oid, n.oid, p)
            and not (p = 'usage' and nspname in ('pg_catalog', 'information_schema', 'public'))
        union all
        select 'usage of language', rolname, lanname from role, pg_language l
        where lanpltrusted and lanname <> 'sql' and has_language_privilege(role.oid, l.oid, 'usage')
        union all
        select p, rolname, 'the database' from role, unnest(array['connect', 'create', 'temporary']) p
        where has_database_privilege(role.oid, current_database(), p)
        union all
        select 'create in tablespace', rolname, spcname from role, pg_tablespace t
        where has_tablespace_privilege(role.oid, t.oid, 'create')
        union all
        select 'execute', rolname, p.oid::regprocedure::text from role, pg_proc p
        where pronamespace in (select oid from ours where nspname <> 'qvd') and has_function_privilege(role.oid, p.oid, 'execute')
        union all
        select 'execute', rolname, p.oid::regprocedure::text from role, pg_proc p
        where pronamespace = 'pg_catalog'::regnamespace and has_function_privilege(role.oid, p.oid, 'execute')
            and proname in ('lo_creat', 'lo_create', 'lo_from_bytea', 'lo_import', 'lo_export', 'pg_read_file',
                'pg_read_binary_file', 'pg_ls_dir', 'pg_stat_file', 'pg_reload_conf', 'pg_promote', 'pg_switch_wal',
                'pg_create_restore_point', 'pg_logfile_rotate', 'pg_stat_reset', 'pg_ls_waldir', 'query_to_xml_and_file')
        union all
        select 'owner of', rolname, o.what from role join lateral (
            select relowner as owner, relname::text as what from pg_class union all select proowner, proname from pg_proc
            union all select nspowner, nspname from pg_namespace union all select datdba, datname from pg_database
            union all select typowner, typname from pg_type) o on o.owner = role.oid
        union all
        select 'member of', rolname, roleid::regrole::text from role join pg_auth_members on member = role.oid
        union all
        select 'default privilege', rolname, defaclobjtype::text from role, pg_default_acl d, aclexplode(d.defaclacl) a
        where a.grantee in (role.oid, 0)
    ) select distinct what, role, object from may order by 1, 2, 3";

#[tokio::test]
async fn with_everything_else_a_role_may_do_nothing() {
    let db = Db::empty().await;
    db.connector().migrate().await.unwrap();
    let found: BTreeSet<(String, String, String)> =
        db.rows(CATALOGUE).await.into_iter().map(|row| <[String; 3]>::try_from(row).unwrap().into()).collect();
    let owned = |&(what, role, object): &(&str, &str, &str)| (what.to_owned(), role.to_owned(), object.to_owned());
    let wanted: BTreeSet<(String, String, String)> = ELSE.iter().map(owned).collect();
    let (more, less): (Vec<_>, Vec<_>) = (found.difference(&wanted).collect(), wanted.difference(&found).collect());
    assert!(more.is_empty() && less.is_empty(), "more than it should: {more:#?}, less: {less:#?}");
}

#[tokio::test]
async fn what_a_role_may_not_do_is_refused_when_it_tries() {
    let db = Db::empty().await;
    db.connector().migrate().await.unwrap();
    for role in ROLES {
        let session = db.session(role).await;
        for attempt in [
            "create table mine ()",
            "create temporary table mine ()",
            "create schema mine",
            "create table public.mine ()",
            "create function public.mine() returns integer language sql as 'select 1'",
            "create database mine",
            "create role mine",
            "alter role qvd_node superuser",
            "set session authorization postgres",
            "alter system set archive_command = 'id'",
            "truncate qvd.log",
            "begin; lock table qvd.vm_runtimes in access exclusive mode",
            "alter table qvd.vms add column mine integer",
            "drop function qvd.vm_start(integer)",
            "comment on table qvd.vms is 'mine'",
            "insert into qvd.migrations (number, name) values (1000, 'mine')",
            "update qvd.versions set version = '1000'",
            "select setval('qvd.vms_id_seq', 1)",
            "copy (select 1) to program 'id'",
            "copy qvd.configs from '/etc/passwd'",
            "select pg_read_file('/etc/passwd')",
            "select lo_create(0)",
            "select pg_reload_conf()",
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'postgres' and datname = current_database()",
            "create publication mine for all tables",
            "create extension hstore",
        ] {
            let refusal = session.refused(attempt).await;
            assert_eq!(refusal.code, "42501", "{role}: {attempt}: {refusal:?}");
        }
        if role != "qvd_admin" {
            assert_eq!(session.refused("do $$begin null; end$$").await.code, "42501", "{role}");
        }
    }
}
