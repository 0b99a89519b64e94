//! What starts read is kept equal to what it comes from, whoever changes what, and when.

use super::database::Db;

/// VMs whose row in `vm_specs` is not what it has to be.
const WRONG: &str = "select count(*) from vm_specs_due d full join vm_specs s using (vm_id)
    where (s.name, s.tenant_id, s.tenant, s.user_id, s.login, s.osf_id, s.memory, s.user_storage_size, s.di_tag, s.ip,
            s.di_id, s.di_path, s.cpus, s.agent)
        is distinct from (d.name, d.tenant_id, d.tenant, d.user_id, d.login, d.osf_id, d.memory, d.user_storage_size,
            d.di_tag, d.ip, d.di_id, d.di_path, d.cpus, d.agent)";

#[tokio::test]
async fn every_change_of_what_a_start_needs_is_there_for_the_next_start() {
    let db = Db::with_vms(3).await;
    let changes = [
        "update vms set name = 'renamed' where name = 'd1'",
        "update vms set di_tag = 'stable' where name = 'd2'",
        "update vms set ip = '10.0.7.7' where name = 'd3'",
        "update users set login = 'alicia'",
        "update tenants set name = 'academy' where name = 'default'",
        "update osfs set memory = 777, user_storage_size = 5",
        "update osfs set cpus = 3",
        "select di_create(name, 'newer.tar') from osfs",
        "insert into di_tags (di_id, tag) select max(id), 'stable' from dis",
        "update di_tags set tag = 'other' where tag = 'stable'",
        "update dis set path = 'elsewhere.tar'",
        "update dis set agent = 'image'",
        "update dis set blocked = true where id = (select max(id) from dis)",
        "update dis set blocked = false",
        "update di_runtimes set state = 'retired'",
        "update di_runtimes set state = 'ready'",
        "delete from dis",
        "select di_create(name, 'again.tar') from osfs",
        "delete from di_tags where tag = 'default'",
        "delete from vms where name = 'd2'",
    ];
    for change in changes {
        let before = db.rows("select (s.*)::text from vm_specs s order by vm_id").await;
        db.sql(change).await;
        assert_eq!(db.sql(WRONG).await.unwrap(), "0", "{change}");
        let after = db.rows("select (s.*)::text from vm_specs s order by vm_id").await;
        assert_ne!(before, after, "{change} means something for a start");
    }
    assert_eq!(db.sql("select count(distinct vm_id) from vm_specs").await.unwrap(), "2");
}

#[tokio::test]
async fn a_vm_that_is_made_while_an_image_is_published_is_started_from_it() {
    let db = Db::with_vms(1).await;
    let publisher = db.session("postgres").await;
    publisher.sql("begin; select di_create(name, 'newer.tar') from osfs").await;
    let maker = db.session("postgres").await;
    let made = maker.sql("select vm_create('alice', 'late', (select name from osfs))");
    let finish = async {
        let waiting = "select count(*) > 0 from pg_stat_activity
                       where datname = current_database() and query like '%late%' and wait_event_type = 'Lock'";
        db.wait_for(waiting, "t").await;
        publisher.sql("commit").await;
    };
    tokio::join!(made, finish);
    assert_eq!(db.sql(WRONG).await.unwrap(), "0");
    let path = "select di_path from vm_specs where name = 'late'";
    assert_eq!(db.sql(path).await.unwrap(), "newer.tar");
}
