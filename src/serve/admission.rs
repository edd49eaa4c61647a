//! Admission control: a limited number of active requests, and a limited queue before them.

use std::sync::{Condvar, Mutex, MutexGuard};

/// Issues permits in the order of the requests.
pub struct Admission {
    max_active: u64,
    max_waiting: u64,
    tickets: Mutex<Tickets>,
    released: Condvar,
}

/// The number of requests that ever entered the queue, and of those that ended.
#[derive(Default)]
struct Tickets {
    issued: u64,
    released: u64,
}

/// The right to run a request. Dropping it admits the next one.
pub struct Permit<'a>(&'a Admission);

impl Admission {
    pub fn new(max_active: usize, max_waiting: usize) -> Self {
        Self {
            max_active: max_active as u64,
            max_waiting: max_waiting as u64,
            tickets: Mutex::default(),
            released: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Tickets> {
        self.tickets.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Waits for a permit. Returns none at once if the queue is full.
    pub fn acquire(&self) -> Option<Permit<'_>> {
        let mut tickets = self.lock();
        if tickets.issued - tickets.released >= self.max_active + self.max_waiting {
            return None;
        }
        let ticket = tickets.issued;
        tickets.issued += 1;
        while ticket >= tickets.released + self.max_active {
            let waited = self.released.wait(tickets);
            tickets = waited.unwrap_or_else(|e| e.into_inner());
        }
        Some(Permit(self))
    }

    /// The number of active and of waiting requests.
    pub fn counts(&self) -> (u64, u64) {
        let tickets = self.lock();
        let total = tickets.issued - tickets.released;
        let active = total.min(self.max_active);
        (active, total - active)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let mut tickets = self.0.lock();
        tickets.released += 1;
        if tickets.issued >= tickets.released + self.0.max_active {
            self.0.released.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    #[test]
    fn permits_are_issued_first_come_first_served() {
        let admission = Admission::new(2, 3);
        let [first, second] = [(); 2].map(|()| admission.acquire().unwrap());
        let (sender, order) = channel();
        thread::scope(|scope| {
            for i in 0..3 {
                let (admission, sender) = (&admission, sender.clone());
                scope.spawn(move || {
                    let permit = admission.acquire();
                    sender.send(i).unwrap();
                    drop(permit);
                });
                while admission.counts().1 <= i {
                    thread::yield_now();
                }
            }
            assert_eq!(admission.counts(), (2, 3));
            assert!(admission.acquire().is_none(), "the queue is full");
            assert!(order.try_recv().is_err());
            drop(second);
            drop(sender);
            assert_eq!(order.iter().collect::<Vec<_>>(), [0, 1, 2]);
        });
        drop(first);
        assert_eq!(admission.counts(), (0, 0));
    }
}
