//! Lists as programs get them, which read other views than people do: with the same rows and fields for everybody.

use std::pin::pin;

use futures_util::TryStreamExt;
use qvd::{
    db::{Acting, Connector, Database, List, Query},
    model::filter::{Comparison, Condition, Filter},
};

use super::{
    database::Db,
    tenants::{Two, administrator},
};

const LONG: [&str; 4] = ["vm", "user", "log", "session"];

async fn values(list: &List<'_>, query: &Query) -> Vec<Option<String>> {
    let mut rows = pin!(list.rows(query).await.unwrap());
    let mut values = Vec::new();
    while let Some(row) = rows.try_next().await.unwrap() {
        values.push(row.get::<_, Option<&str>>(0).map(str::to_owned));
    }
    values
}

fn by(field: &str, descending: bool) -> Query {
    Query {
        filter: Filter::All(Vec::new()),
        columns: vec![field.to_owned()],
        order: vec![(field.to_owned(), descending)],
        limit: None,
        offset: 0,
    }
}

async fn acting(db: &Db, name: &str) -> Acting {
    let id = db.sql(&format!("select id from administrators where name = '{name}'")).await.unwrap();
    let wat = Database::new(&Connector::from_url(&db.url("qvd_wat"), "test").unwrap(), 1).unwrap();
    wat.acting_as(id.parse().unwrap(), "192.0.2.1".parse().unwrap(), "test").await.unwrap()
}

/// Two tenants with VMs, some of which are on a host and in use, and administrators of all kinds.
async fn stage() -> Two {
    let two = Two::new(12, "Root").await;
    two.db
        .sql(
            "select object_create('role', '{\"name\": \"narrow\", \"tenant\": \"acme\", \"roles\": [\"VMs Reader\"]}');
             select * from objects_update('role', array(select id from roles where name = 'narrow'),
                '{\"acls\": {\"deny\": [\"vm.see.ip.\", \"vm.see.state.\", \"vm.see.user.\", \"vm.see.properties.\"]}}')",
        )
        .await;
    administrator(&two.db, "nat", "acme", "narrow").await;
    two.db
        .sql(
            "select object_create('administrator', '{\"name\": \"sue\", \"tenant\": \"*\", \"roles\": [\"Root\"]}');
             insert into properties_list (key, tenant_id) select 'room', id from tenants where name = 'acme';
             insert into qvd_object_properties_list (property_id, qvd_object) select id, 'vm' from properties_list;
             insert into vm_properties (vm_id, property_id, value)
             select v.id, o.id, 'B ' || v.name from vms v join tenants t on t.id = v.tenant_id, qvd_object_properties_list o
             where t.name = 'acme';
             set session_replication_role = replica;
             insert into l7r_instances (host_id, boot_id, pid, pid_start) select id, gen_random_uuid(), 1, 1 from hosts;
             insert into user_sessions (vm_id, vm_name, user_id, login, tenant_id, host_id, l7r_host_id, l7r_instance, client_address)
             select v.id, v.name, v.user_id, 'alice', v.tenant_id, i.host_id, i.host_id, i.id, '192.0.2.1'
             from vms v, l7r_instances i where v.id % 3 = 0;
             update vm_runtimes set vm_state = 'running', host_id = (select id from hosts), vm_address = '10.3.0.1'
             where vm_id % 2 = 0;
             set session_replication_role = origin",
        )
        .await;
    two
}

#[tokio::test]
async fn a_page_is_the_part_of_the_list_that_it_says_by_whatever_it_is_ordered() {
    let two = stage().await;
    for name in ["sue", "ann", "nat"] {
        let acting = acting(&two.db, name).await;
        for kind in LONG {
            let list = acting.list(kind).await.unwrap();
            for field in list.fields() {
                for descending in [false, true] {
                    let whole = values(&list, &by(field, descending)).await;
                    let page = values(&list, &Query { limit: Some(5), offset: 2, ..by(field, descending) }).await;
                    let part: Vec<_> = whole.iter().skip(2).take(5).cloned().collect();
                    assert_eq!(page, part, "{name} {kind} {field} {descending}");
                }
            }
        }
    }
}

#[tokio::test]
async fn programs_meet_the_rows_and_fields_that_people_meet_in_the_views() {
    let two = stage().await;
    for (name, vms) in [("sue", 24), ("ann", 12), ("nat", 12)] {
        let acting = acting(&two.db, name).await;
        let id = two.db.sql(&format!("select id from administrators where name = '{name}'")).await.unwrap();
        let people = two.db.session("qvd_wat").await;
        people.sql("set search_path = qvd, public").await;
        for kind in LONG {
            let list = acting.list(kind).await.unwrap();
            let fields: Vec<&str> = list.columns().collect();
            let counts = fields.iter().map(|field| format!("count(\"{field}\")")).collect::<Vec<_>>().join(", ");
            let asked =
                format!("begin; select act_as({id}, '192.0.2.1', 'test'); select {counts} from {kind}_list; commit");
            let seen = people.rows(&asked).await.last().unwrap().clone();
            for (field, seen) in fields.iter().zip(seen) {
                let filled = values(&list, &by(field, false)).await.into_iter().flatten().count();
                assert_eq!(filled.to_string(), seen, "{name} {kind} {field}");
            }
        }
        let list = acting.list("vm").await.unwrap();
        assert_eq!(list.count(&Filter::All(Vec::new())).await.unwrap(), vms);
        assert_eq!(list.count_to(&Filter::All(Vec::new()), 5).await.unwrap(), 5);
        let running = Filter::Field("state".to_owned(), Condition::Is(Comparison::Equal, "running".to_owned()));
        let found = if name == "nat" { 0 } else { vms / 2 };
        assert_eq!(list.count(&running).await.unwrap(), found, "what {name} does not see, he does not find");
    }
}

/// A hundred thousand users with a VM each, a few with more and some connected.
async fn many() -> Db {
    let db = Db::with_vms(1).await;
    db.sql(
        "set session_replication_role = replica;
         insert into users (id, tenant_id, login, created_at)
         select 20000 + n, 1, 'u' || n, '2020-01-01'::timestamptz + n * interval '1 minute' from generate_series(1, 100000) n;
         insert into vms (id, tenant_id, name, user_id, osf_id, ip, created_at)
         select 20000 + n, 1, 'd' || n, 20000 + n - case when n % 1000 = 1 then 0 when n % 1000 < 5 then n % 1000 - 1 else 0 end,
             (select id from osfs), inet '10.64.0.0' + n, '2020-01-01'::timestamptz + n * interval '1 minute'
         from generate_series(1, 100000) n;
         insert into vm_runtimes (vm_id, tenant_id, user_state, session_id, l7r_instance)
         select id, 1, 'disconnected'::user_state, null, null from vms where id > 20000 and id % 5 > 0
         union all select id, 1, 'connected', id, id from vms where id > 20000 and id % 5 = 0;
         set session_replication_role = origin",
    )
    .await;
    db.sql("vacuum analyze").await;
    db
}

#[tokio::test]
async fn what_is_looked_for_among_a_hundred_thousand_is_found_by_indexes_or_counted_at_one_go() {
    let db = many().await;
    db.sql(
        "select object_create('administrator', '{\"name\": \"sue\", \"tenant\": \"*\", \"roles\": [\"Root\"]}'),
             object_create('administrator', '{\"name\": \"ann\", \"tenant\": \"default\", \"roles\": [\"Root\"]}')",
    )
    .await;
    let mac = db.sql("select mac from vm_list where name = 'd70007'").await.unwrap();
    let is = |field: &str, comparison, value: &str| {
        Filter::Field(field.to_owned(), Condition::Is(comparison, value.to_owned()))
    };
    let all = Filter::All(Vec::new());
    for name in ["sue", "ann"] {
        let acting = acting(&db, name).await;
        for (kind, filter, order, found) in [
            ("vm", is("mac", Comparison::Equal, &mac), "id", 1),
            ("vm", Filter::Field("mac".to_owned(), Condition::OneOf(vec![mac.clone(), "no".to_owned()])), "id", 1),
            ("vm", is("creation_date", Comparison::Less, "2020-01-01 00:10:30+00"), "id", 10),
            ("user", is("creation_date", Comparison::Less, "2020-01-01 00:10:30+00"), "id", 10),
            ("user", is("number_of_vms", Comparison::Greater, "3"), "id", 100),
            ("user", all.clone(), "number_of_vms", 50),
            ("user", all.clone(), "number_of_vms_connected", 50),
        ] {
            let list = acting.list(kind).await.unwrap();
            let query = Query {
                filter: filter.clone(),
                columns: vec!["name".to_owned()],
                order: vec![(order.to_owned(), true)],
                limit: Some(50),
                offset: 0,
            };
            let rows = values(&list, &query).await.len();
            let count = list.count_to(&filter, 1051).await.unwrap();
            assert_eq!(
                (rows, count),
                (found.min(50), if filter == all { 1051 } else { found as i64 }),
                "{kind} {filter:?}"
            );
        }
    }
    for index in ["vms_by_mac", "vms_by_creation", "users_by_creation"] {
        let used = format!("select (idx_scan > 0)::text from pg_stat_user_indexes where indexrelname = '{index}'");
        db.wait_for(&used, "true").await;
    }
    // What such a list asks for, as PostgreSQL goes about it.
    let people = db.session("qvd_wat").await;
    people.sql("set search_path = qvd, public").await;
    let ann = db.sql("select id from administrators where name = 'ann'").await.unwrap();
    for (rows, index) in [
        (
            format!(
                "vm_fields l where l.tenant_id = 1 and l.mac_tail = any(array(select mac_tail(v) from unnest(array['{mac}']) v)) and l.mac = '{mac}'"
            ),
            "vms_by_mac",
        ),
        (
            "vm_fields l where l.tenant_id = 1 and l.creation_date < '2020-01-01 00:10:30+00'".to_owned(),
            "vms_by_creation",
        ),
        (
            "user_fields l where l.tenant_id = 1 and l.creation_date < '2020-01-01 00:10:30+00'".to_owned(),
            "users_by_creation",
        ),
    ] {
        let asked =
            format!("begin; select act_as({ann}, '192.0.2.1', 'test'); explain select l.id from {rows}; commit");
        let plan = people.rows(&asked).await.concat().join("\n");
        assert!(
            plan.contains(index) && !plan.contains("Seq Scan on vms") && !plan.contains("Seq Scan on users"),
            "{plan}"
        );
    }
    let asked = format!(
        "begin; select act_as({ann}, '192.0.2.1', 'test');
         explain select l.id from user_counted_fields l where l.tenant_id = 1 order by l.number_of_vms desc limit 50; commit"
    );
    let plan = people.rows(&asked).await.concat().join("\n");
    assert!(!plan.contains("SubPlan"), "counted at one go: {plan}");
}
