//! The table of places: which connection has one, and which one gives way when the port is full.

use crate::{exchange::Exchange, limits::Limits};
use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;

/// How long a reader may stand still before its place may go to another caller.
const PATIENCE: Duration = Duration::from_secs(1);

/// The address that a connection is counted under: an IPv4 address or an IPv6 /64. A request
/// carries its caller in its extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Caller(IpAddr);

impl From<IpAddr> for Caller {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
            v4 => v4,
        })
    }
}

#[derive(Debug)]
pub(crate) struct Places {
    limits: Limits,
    table: Mutex<Table>,
    pub(crate) freed: Notify,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    /// In the order in which the connections were opened.
    open: BTreeMap<u64, Entry>,
    by_caller: HashMap<Caller, usize>,
    handshakes: HashMap<u64, Caller>,
}

#[derive(Debug)]
struct Entry {
    caller: Caller,
    exchange: Arc<Exchange>,
}

/// What a new connection gets.
#[derive(Debug)]
pub(crate) enum Taken {
    Seat(Seat),
    /// Its address has its whole share, all of it at work.
    Share,
    /// All places are at work.
    Full,
}

/// The place of one connection; given back when dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    number: u64,
    pub(crate) caller: Caller,
    pub(crate) exchange: Arc<Exchange>,
    places: Arc<Places>,
}

/// A TLS handshake in progress.
#[derive(Debug)]
pub(crate) struct Handshake {
    number: u64,
    places: Arc<Places>,
}

impl Table {
    fn remove(&mut self, number: u64) -> Option<Entry> {
        let entry = self.open.remove(&number)?;
        if let Some(count) = self.by_caller.get_mut(&entry.caller) {
            *count -= 1;
            if *count == 0 {
                self.by_caller.remove(&entry.caller);
            }
        }
        Some(entry)
    }

    /// The oldest connection that gives way, of the caller with the most of them.
    fn victim(&self, grace: Duration, only: Option<Caller>) -> Option<u64> {
        let mut found: Option<(usize, u64)> = None;
        for (number, entry) in &self.open {
            if only.is_some_and(|only| only != entry.caller)
                || !entry.exchange.gives_way(grace, PATIENCE)
            {
                continue;
            }
            let held = self.by_caller.get(&entry.caller).copied().unwrap_or_default();
            if found.is_none_or(|(most, _)| held > most) {
                found = Some((held, *number));
            }
        }
        found.map(|(_, number)| number)
    }

    /// Closes that connection. Its place is free at once, its socket when its task is polled.
    fn evict(&mut self, grace: Duration, only: Option<Caller>) -> bool {
        let entry = self.victim(grace, only).and_then(|number| self.remove(number));
        if let Some(entry) = &entry {
            entry.exchange.evicted.notify_one();
        }
        entry.is_some()
    }
}

impl Places {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, table: Mutex::default(), freed: Notify::new() })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn take(self: &Arc<Self>, address: IpAddr) -> Taken {
        let caller = Caller::from(address);
        let mut table = self.table();
        let held = table.by_caller.get(&caller).copied().unwrap_or_default();
        if held >= self.limits.share && !table.evict(self.limits.grace, Some(caller)) {
            return if self.limits.share < self.limits.places { Taken::Share } else { Taken::Full };
        }
        if table.open.len() >= self.limits.places && !table.evict(self.limits.grace, None) {
            return Taken::Full;
        }
        let number = table.next;
        table.next += 1;
        let exchange = Arc::new(Exchange::new());
        table.open.insert(number, Entry { caller, exchange: Arc::clone(&exchange) });
        *table.by_caller.entry(caller).or_default() += 1;
        Taken::Seat(Seat { number, caller, exchange, places: Arc::clone(self) })
    }

    #[cfg(test)]
    fn open(&self) -> usize {
        self.table().open.len()
    }
}

impl Seat {
    /// Begins a TLS handshake, if neither all of them nor this caller's share are in progress.
    pub(crate) fn handshake(&self) -> Option<Handshake> {
        let limits = self.places.limits;
        let mut table = self.places.table();
        let own = table.handshakes.values().filter(|caller| **caller == self.caller).count();
        if table.handshakes.len() >= limits.handshakes || own >= limits.handshakes.div_ceil(4) {
            return None;
        }
        table.handshakes.insert(self.number, self.caller);
        Some(Handshake { number: self.number, places: Arc::clone(&self.places) })
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.places.table().handshakes.remove(&self.number);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // An evicted connection is not in the table any more.
        let left = self.places.table().remove(self.number).is_some();
        tracing::trace!(left, "a connection ended");
        self.places.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]
    use super::*;

    /// No time of grace.
    fn limits(places: usize) -> Limits {
        Limits { grace: Duration::ZERO, ..Limits::new(places) }
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, last])
    }

    fn seat(places: &Arc<Places>, last: u8) -> Seat {
        match places.take(address(last)) {
            Taken::Seat(seat) => seat,
            refused => panic!("{refused:?}"),
        }
    }

    fn at_work(seat: &Seat) {
        seat.exchange.begin();
        seat.exchange.arrived();
    }

    async fn evicted(seat: &Seat) -> bool {
        tokio::time::timeout(Duration::from_millis(1), seat.exchange.evicted.notified())
            .await
            .is_ok()
    }

    #[tokio::test]
    async fn the_oldest_without_a_request_gives_way_and_none_at_work_does() {
        let places = Places::new(Limits { share: 4, ..limits(4) });
        let seats: Vec<Seat> = (0..4).map(|_| seat(&places, 1)).collect();
        at_work(&seats[0]);
        let newcomer = seat(&places, 2);
        assert!(evicted(&seats[1]).await && !evicted(&seats[2]).await);
        assert_eq!(places.open(), 4);
        for seat in seats[2..].iter().chain([&newcomer]) {
            at_work(seat);
        }
        assert!(matches!(places.take(address(3)), Taken::Full));
        drop(seats);
        assert_eq!(places.open(), 1);
        drop(newcomer);
        assert_eq!((places.open(), places.table().by_caller.len()), (0, 0));
    }

    #[tokio::test]
    async fn a_new_connection_has_a_moment_to_send_its_request() {
        let hour = Duration::from_secs(3_600);
        let places = Places::new(Limits { share: 1, grace: hour, ..limits(1) });
        let new = seat(&places, 1);
        assert!(matches!(places.take(address(2)), Taken::Full));
        assert!(!evicted(&new).await);
    }

    #[tokio::test]
    async fn an_address_over_its_share_loses_its_own_places_only() {
        let places = Places::new(Limits { share: 2, ..limits(8) });
        let honest = seat(&places, 1);
        let flood: Vec<Seat> = (0..2).map(|_| seat(&places, 2)).collect();
        let third = seat(&places, 2);
        assert!(evicted(&flood[0]).await && !evicted(&honest).await);
        at_work(&third);
        at_work(&flood[1]);
        assert!(matches!(places.take(address(2)), Taken::Share));
        drop(seat(&places, 3));
    }

    #[tokio::test]
    async fn a_full_port_takes_from_the_address_that_has_most() {
        let places = Places::new(Limits { share: 3, ..limits(4) });
        let honest = seat(&places, 1);
        let flood: Vec<Seat> = (0..3).map(|_| seat(&places, 2)).collect();
        drop(seat(&places, 3));
        assert!(evicted(&flood[0]).await && !evicted(&honest).await);
    }

    #[test]
    fn an_address_has_a_quarter_of_the_handshakes() {
        let places = Places::new(Limits { handshakes: 8, ..limits(64) });
        let flood: Vec<Seat> = (0..3).map(|_| seat(&places, 2)).collect();
        let held: Vec<_> = flood.iter().map(Seat::handshake).collect();
        assert_eq!(held.iter().filter(|held| held.is_some()).count(), 2);
        assert!(seat(&places, 1).handshake().is_some());
        drop(held);
        assert!(flood[2].handshake().is_some());
    }

    #[test]
    fn one_ipv6_network_is_one_caller() {
        let of = |text: &str| Caller::from(text.parse::<IpAddr>().unwrap_or(address(1)));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }
}
