//! Bytes that callers may make a server hold, all together and each address its share.

use crate::places::Caller;
use bytes::Bytes;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A number of bytes. A caller holds at most a quarter of them.
#[derive(Debug)]
pub struct Budget {
    total: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    bytes: usize,
    by_caller: HashMap<Caller, usize>,
}

/// What one request holds of a budget; given back when dropped.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<Budget>,
    caller: Caller,
    bytes: usize,
}

impl Budget {
    /// A budget of this many bytes.
    #[must_use]
    pub fn new(total: usize) -> Arc<Self> {
        Arc::new(Self { total, held: Mutex::default() })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A charge of nothing yet.
    #[must_use]
    pub fn charge(self: &Arc<Self>, caller: Caller) -> Charge {
        Charge { budget: Arc::clone(self), caller, bytes: 0 }
    }

    /// Bytes held now.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.held().bytes
    }
}

impl Charge {
    /// Ties the charge to these bytes: it is given back when the last use of them ends.
    #[must_use]
    pub fn hold(self, data: impl AsRef<[u8]> + Send + 'static) -> Bytes {
        Bytes::from_owner(Charged { data, _charge: self })
    }

    /// Holds `bytes` more, if the budget and the caller's share of it allow that.
    #[must_use]
    pub fn grow(&mut self, bytes: usize) -> bool {
        let mut held = self.budget.held();
        let own = held.by_caller.get(&self.caller).copied().unwrap_or_default();
        let fits =
            |used: usize, most: usize| used.checked_add(bytes).is_some_and(|wanted| wanted <= most);
        if !fits(held.bytes, self.budget.total) || !fits(own, self.budget.total / 4) {
            return false;
        }
        if bytes > 0 {
            held.bytes += bytes;
            held.by_caller.insert(self.caller, own + bytes);
            self.bytes += bytes;
        }
        true
    }
}

/// Bytes with the charge that they are held under.
struct Charged<T> {
    data: T,
    _charge: Charge,
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Charged<T> {
    fn as_ref(&self) -> &[u8] {
        self.data.as_ref()
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let mut held = self.budget.held();
        held.bytes -= self.bytes;
        if let Some(own) = held.by_caller.get_mut(&self.caller) {
            *own -= self.bytes;
            if *own == 0 {
                held.by_caller.remove(&self.caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    #[test]
    fn a_caller_holds_its_share_and_gives_it_back() {
        let budget = Budget::new(400);
        let caller = |last| Caller::from(IpAddr::from([10, 0, 0, last]));
        let mut first = budget.charge(caller(1));
        assert!(first.grow(60) && first.grow(40) && !first.grow(1));
        assert!(!budget.charge(caller(1)).grow(1), "a second request shares the share");
        let others: Vec<Charge> = (2..5)
            .map(|last| {
                let mut charge = budget.charge(caller(last));
                assert!(charge.grow(100));
                charge
            })
            .collect();
        assert!(!budget.charge(caller(9)).grow(1), "the total is a bound");
        assert!(!budget.charge(caller(9)).grow(usize::MAX));
        let answer = first.hold(vec![1; 100]);
        drop(others);
        assert_eq!(budget.in_use(), 100);
        let part = answer.slice(..1);
        drop(answer);
        assert_eq!((part.len(), budget.in_use()), (1, 100));
        drop(part);
        assert_eq!((budget.in_use(), budget.held().by_caller.len()), (0, 0));
    }
}
