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
