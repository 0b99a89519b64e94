//! How many connections strangers may have before they have proved anything. Every question is answered in memory, before
//! a handshake is done. What a refused client is told is not decided here.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    auth::network,
    model::config::{Config, keys},
};

/// Connections that have not proved anything yet, altogether and by address.
#[derive(Debug, Default)]
pub struct Strangers {
    counted: Mutex<Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    all: u32,
    by_network: HashMap<IpAddr, u32>,
}

/// How many connections may be open without having proved anything; 0 means any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crowd {
    /// Altogether.
    pub all: u32,
    /// From one address.
    pub address: u32,
}

impl Crowd {
    /// As configured.
    pub fn from_config(config: &Config) -> Self {
        Self { all: config.get(&keys::L7R_STRANGERS), address: config.get(&keys::L7R_STRANGERS_ADDRESS) }
    }
}

/// One connection that counts until this is dropped.
#[derive(Debug)]
pub struct Stranger {
    strangers: Arc<Strangers>,
    network: Option<IpAddr>,
}

impl Strangers {
    /// Lets a connection in that says nothing about its address yet, because that comes from a proxy. `None`: there
    /// are too many.
    pub fn enter(self: &Arc<Self>, crowd: Crowd) -> Option<Stranger> {
        let mut counted = lock(&self.counted);
        if crowd.all > 0 && counted.all >= crowd.all {
            return None;
        }
        counted.all += 1;
        Some(Stranger { strangers: self.clone(), network: None })
    }
}

impl Stranger {
    /// Now the address is known. Whether there is room for another connection from there.
    pub fn comes_from(&mut self, address: IpAddr, crowd: Crowd) -> bool {
        let network = network(address);
        let mut counted = lock(&self.strangers.counted);
        let from_there = counted.by_network.entry(network).or_default();
        if crowd.address > 0 && *from_there >= crowd.address {
            return false;
        }
        *from_there += 1;
        self.network = Some(network);
        true
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut counted = lock(&self.strangers.counted);
        counted.all = counted.all.saturating_sub(1);
        let Some(network) = self.network else { return };
        let left = counted.by_network.get_mut(&network).map(|count| {
            *count = count.saturating_sub(1);
            *count
        });
        if left == Some(0) {
            counted.by_network.remove(&network);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_from_one_address_leaves_room_for_others() {
        let crowd = Crowd { all: 5, address: 2 };
        let strangers = Arc::<Strangers>::default();
        let enter = |address: &str| {
            let mut stranger = strangers.enter(crowd)?;
            stranger.comes_from(address.parse().unwrap(), crowd).then_some(stranger)
        };
        let held: Vec<_> = (0..2).map(|_| enter("192.0.2.1").unwrap()).collect();
        assert!(enter("192.0.2.1").is_none() && enter("::ffff:192.0.2.1").is_none());
        let others: Vec<_> = (2..5).map(|last| enter(&format!("192.0.2.{last}")).unwrap()).collect();
        assert!(enter("192.0.2.9").is_none());
        drop(held);
        enter("192.0.2.1").unwrap();
        drop(others);
        let counted = lock(&strangers.counted);
        assert!(counted.all == 0 && counted.by_network.is_empty());
    }
}
