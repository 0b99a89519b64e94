//! hkd in this process, on VMs that do as they are told and outlive it.

use std::sync::Arc;

use qvd::{
    hkd::{self, End, HkdError},
    hypervisor::Nothing,
    model::config::Config,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{database::Db, host::Host};

/// A running hkd.
pub struct Inside {
    stop: CancellationToken,
    hkd: JoinHandle<Result<End, HkdError>>,
}

impl Inside {
    /// Starts it with the configuration of `host` and waits until it takes VMs.
    pub async fn start(db: &Db, host: &Host<'_>, vms: &Nothing) -> Self {
        let mut config = Config::default();
        config.add_file("node.conf", &std::fs::read_to_string(host.config()).unwrap()).unwrap();
        let (stop, hypervisor) = (CancellationToken::new(), vms.clone());
        let hkd = tokio::spawn(hkd::run(config, move |_, _, _| Ok(Arc::new(hypervisor)), stop.clone()));
        db.wait_for("select state from host_list", "running").await;
        Self { stop, hkd }
    }

    /// Ends it as a signal would; VMs go on.
    pub async fn end(self) {
        self.stop.cancel();
        assert_eq!(self.hkd.await.unwrap().unwrap(), End::Told);
    }

    /// Waits until it ends because its node has stopped.
    pub async fn stopped(self) {
        assert_eq!(self.hkd.await.unwrap().unwrap(), End::Ordered);
    }
}
