//! The configuration as logins need it: for everybody, and with a tenant's own values over that.

use std::{collections::HashMap, sync::Arc};

use crate::model::{
    TenantId,
    config::{Config, ConfigError},
};

/// What is configured, for everybody and per tenant.
pub struct Settings {
    global: Arc<Config>,
    tenants: HashMap<TenantId, Arc<Config>>,
}

impl Settings {
    /// From the configuration for everybody and the tenants' rows. Rows that cannot be used are left out and returned.
    pub fn new(global: Arc<Config>, rows: Vec<(TenantId, String, String)>) -> (Self, Vec<(TenantId, ConfigError)>) {
        let mut of_tenant: HashMap<TenantId, Vec<(String, String)>> = HashMap::new();
        for (tenant, key, value) in rows {
            of_tenant.entry(tenant).or_default().push((key, value));
        }
        let mut refused = Vec::new();
        let mut tenants = HashMap::with_capacity(of_tenant.len());
        for (tenant, rows) in of_tenant {
            let mut config = Config::clone(&global);
            refused.extend(config.add_rows(rows).into_iter().map(|error| (tenant, error)));
            tenants.insert(tenant, Arc::new(config));
        }
        (Self { global, tenants }, refused)
    }

    /// What is configured for everybody.
    pub fn global(&self) -> &Arc<Config> {
        &self.global
    }

    /// What is configured for a tenant.
    pub fn of(&self, tenant: TenantId) -> &Arc<Config> {
        self.tenants.get(&tenant).unwrap_or(&self.global)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::keys;

    #[test]
    fn a_tenant_has_its_own_values_and_everybodys_where_it_has_none() {
        let mut global = Config::default();
        global.set("auth.ldap.base", "dc=all").unwrap();
        let rows = [(7, "auth.ldap.host", "ldap7"), (7, "auth.ldap.timeout", "soon"), (8, "auth.ldap.base", "dc=8")];
        let rows = rows.map(|(tenant, key, value)| (TenantId(tenant), key.to_owned(), value.to_owned()));
        let (settings, refused) = Settings::new(Arc::new(global), rows.to_vec());
        assert!(matches!(&refused[..], [(TenantId(7), ConfigError::Value { .. })]), "{refused:?}");
        let read = |tenant| {
            let config = settings.of(TenantId(tenant));
            (config.get(&keys::LDAP_HOST), config.get(&keys::LDAP_BASE))
        };
        assert_eq!(read(7), (vec!["ldap7".to_owned()], "dc=all".to_owned()));
        assert_eq!(read(8), (vec![], "dc=8".to_owned()));
        assert_eq!(read(9), (vec![], "dc=all".to_owned()));
    }
}
