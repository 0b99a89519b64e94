//! Tickets to a desktop: made with the page that shows it, good once, for the VM and the mode of that page, and only for a moment.
//! Not every browser sends the password with a WebSocket, and only our own page can read its ticket.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::db::Administrator;

use super::rfb::Mode;

/// For so long a page may take to be shown.
const GOOD: Duration = Duration::from_secs(60);
/// More are not kept; the oldest goes.
const MOST: usize = 1024;

/// Who looks at what.
#[derive(Clone, Debug)]
pub struct Look {
    pub who: Arc<Administrator>,
    pub address: IpAddr,
    pub vm: i32,
    pub mode: Mode,
}

/// Those that were not used.
#[derive(Default)]
pub struct Tickets(Mutex<HashMap<String, (Look, Instant)>>);

impl Tickets {
    /// A new one.
    pub fn give(&self, look: Look, now: Instant) -> String {
        let ticket = format!("{:032x}", rand::random::<u128>());
        let mut tickets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tickets.retain(|_, (_, until)| *until > now);
        if tickets.len() >= MOST {
            let oldest = tickets.iter().min_by_key(|(_, (_, until))| *until).map(|(ticket, _)| ticket.clone());
            oldest.and_then(|oldest| tickets.remove(&oldest));
        }
        tickets.insert(ticket.clone(), (look, now + GOOD));
        ticket
    }

    /// What it is for, if it is good for this VM; it is good no more.
    pub fn take(&self, ticket: &str, vm: i32, now: Instant) -> Option<Look> {
        let (look, until) = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(ticket)?;
        (look.vm == vm && until > now).then_some(look)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(vm: i32) -> Look {
        let who = Administrator {
            id: 1,
            name: "ann".into(),
            tenant_id: 1,
            tenant: "acme".into(),
            language: "en".into(),
            block: 10,
            acls: Vec::new(),
        };
        Look { who: Arc::new(who), address: IpAddr::from([127, 0, 0, 1]), vm, mode: Mode::Watch }
    }

    #[test]
    fn a_ticket_is_good_once_for_its_vm_and_for_a_moment() {
        let (tickets, now) = (Tickets::default(), Instant::now());
        let ticket = tickets.give(look(7), now);
        assert_eq!(tickets.take(&ticket, 7, now).map(|look| look.vm), Some(7));
        assert!(tickets.take(&ticket, 7, now).is_none(), "used");
        let ticket = tickets.give(look(7), now);
        assert!(tickets.take(&ticket, 8, now).is_none() && tickets.take(&ticket, 7, now).is_none(), "another VM's");
        let ticket = tickets.give(look(7), now);
        assert!(tickets.take(&ticket, 7, now + GOOD).is_none(), "late");
        assert!(tickets.take("", 7, now).is_none());
    }

    #[test]
    fn there_are_never_many() {
        let (tickets, now) = (Tickets::default(), Instant::now());
        let first = tickets.give(look(1), now);
        let last = (0..MOST).map(|_| tickets.give(look(1), now + Duration::from_millis(1))).last().unwrap();
        assert!(tickets.take(&first, 1, now).is_none() && tickets.take(&last, 1, now).is_some());
    }
}
