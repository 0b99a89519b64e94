//! One fail-over as a user sees it: the node under the desktop loses power, and the user comes back through another one.

use std::{
    fs, io,
    time::{Duration, SystemTime},
};

use super::{Hosts, Node, Tunnel, Witness};
use crate::{demo::site::SiteError, model::VmId};

/// Between two attempts of a user.
const ATTEMPTS: Duration = Duration::from_millis(50);
/// For everything that a fail-over takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long a user was without a desktop.
#[derive(Clone, Copy, Debug)]
pub struct Outage {
    /// From the last sign of life, on the storage or in the database.
    pub since_sign: Duration,
    /// From the loss of power.
    pub since_off: Duration,
}

impl Hosts {
    /// Lets the node die that the desktop of user `number` lives on, and connects again and again through the routers of the
    /// others until there is an answer. The node is left off.
    pub async fn fail_over(&self, witness: &Witness, number: usize, vm: VmId) -> Result<(Outage, &Node), SiteError> {
        let mut nodes = self.nodes().iter().cycle().skip(number % self.nodes().len());
        self.reach(&mut nodes, number, vm).await?;
        let at = witness.place(vm);
        let victim = self.nodes().iter().find(|node| at.as_deref() == Some(node.name()));
        let victim = victim.ok_or_else(|| SiteError::Node(io::Error::other("the desktop lives nowhere")))?;
        let off = SystemTime::now();
        victim.power_off().map_err(SiteError::Node)?;
        let sign = self.last_sign(victim).await?;
        let mut others = nodes.filter(|node| node.name() != victim.name());
        self.reach(&mut others, number, vm).await?;
        let now = SystemTime::now();
        let since = |then: SystemTime| now.duration_since(then).unwrap_or_default();
        Ok((Outage { since_sign: since(sign), since_off: since(off) }, victim))
    }

    /// Tries one node after the other, again and again, until the desktop answers.
    async fn reach<'a>(
        &self,
        nodes: &mut impl Iterator<Item = &'a Node>,
        number: usize,
        vm: VmId,
    ) -> Result<(), SiteError> {
        let mut last = None;
        let tries = async {
            for node in nodes {
                match Tunnel::open(node, self.token(number), vm).await {
                    Ok(mut tunnel) => match tunnel.ping(PATIENCE).await {
                        Ok(()) => return true,
                        Err(error) => last = Some(error.to_string()),
                    },
                    Err(error) => last = Some(error.to_string()),
                }
                tokio::time::sleep(ATTEMPTS).await;
            }
            false
        };
        if tokio::time::timeout(PATIENCE, tries).await == Ok(true) {
            return Ok(());
        }
        let what = "the user did not get the desktop".to_owned();
        Err(SiteError::Patience { what, seconds: PATIENCE.as_secs(), last })
    }

    async fn last_sign(&self, node: &Node) -> Result<SystemTime, SiteError> {
        let beat = self.storage("hosts").join(format!("{}.beat", node.name()));
        let beat = fs::metadata(beat).and_then(|beat| beat.modified()).map_err(SiteError::Node)?;
        let lease = format!(
            "select extract(epoch from ok_ts) from host_runtimes join hosts on id = host_id where name = '{}'",
            node.name()
        );
        let lease = self.sql(&lease).await?.and_then(|seconds| seconds.parse().ok()).unwrap_or_default();
        Ok(beat.max(SystemTime::UNIX_EPOCH + Duration::from_secs_f64(lease)))
    }
}
