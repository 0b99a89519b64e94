//! Two tenants on one installation, each with an administrator who logs in to the database with a role of his own.

use super::database::{Db, Session};

const VERIFIER: &str = "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==$mJTZdcdnTgPwFuaRU5BnW2nQO6qmL5lNvSZQ1RjwLGo=:mJTZdcdnTgPwFuaRU5BnW2nQO6qmL5lNvSZQ1RjwLGo=";

/// Tenants `acme` and `beta`, each with user `alice`, OSF `desk`, an image and VMs `d1` …; administrators `ann` and `ben`.
pub struct Two {
    pub db: Db,
    pub ann: Session,
    pub ben: Session,
}

impl Two {
    pub async fn new(vms: u32, role: &str) -> Self {
        let db = Db::new().await;
        for tenant in ["acme", "beta"] {
            db.sql(&format!(
                "select tenant_create('{tenant}'), osf_create('desk@{tenant}'), di_create('desk@{tenant}', '{tenant}.tar'),
                     user_create('alice@{tenant}', 'pass-word')"
            ))
            .await;
            db.sql(&format!("select vm_create('alice@{tenant}', 'd' || n, 'desk') from generate_series(1, {vms}) n"))
                .await;
        }
        db.sql("select host_create('n1', '10.9.0.1')").await;
        let ann = administrator(&db, "ann", "acme", role).await;
        let ben = administrator(&db, "ben", "beta", role).await;
        Self { db, ann, ben }
    }
}

/// Makes an administrator with a role and a login, and logs him in. Whatever `role` is: a template is inherited by a role of his own.
pub async fn administrator(db: &Db, name: &str, tenant: &str, role: &str) -> Session {
    let made = format!(
        "select object_create('role', jsonb_build_object('name', 'of {name}', 'tenant', '{tenant}', 'roles', array['{role}'])),
             object_create('administrator', jsonb_build_object('name', '{name}', 'tenant', '{tenant}', 'password', 'pass-word',
                 'roles', array['of {name}']))"
    );
    let id = db.rows(&made).await[0][1].clone();
    let login = db.sql(&format!("select administrator_role({id}, '{VERIFIER}')")).await.unwrap();
    let session = db.session(&login).await;
    session.sql("set search_path = qvd, public").await;
    session
}
