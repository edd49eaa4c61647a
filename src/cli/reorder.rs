//! What threads finish in any order, given on in the order of its numbers.

use std::collections::BTreeMap;

/// Things with numbers from 0 on, each kept until its turn.
pub struct Reorder<T> {
    next: u64,
    waiting: BTreeMap<u64, T>,
}

impl<T> Reorder<T> {
    pub fn new() -> Self {
        Self {
            next: 0,
            waiting: BTreeMap::new(),
        }
    }

    /// The number of the thing whose turn it is.
    pub fn next_number(&self) -> u64 {
        self.next
    }

    pub fn insert(&mut self, number: u64, thing: T) {
        self.waiting.insert(number, thing);
    }

    /// Whether the thing whose turn it is is there.
    pub fn is_ready(&self) -> bool {
        self.waiting.contains_key(&self.next)
    }

    /// The thing whose turn it is, if it is there.
    pub fn take(&mut self) -> Option<T> {
        let thing = self.waiting.remove(&self.next)?;
        self.next += 1;
        Some(thing)
    }
}
