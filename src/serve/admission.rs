//! Whose turn it is to be answered: so many requests at once, and the others in the order in which
//! they came, in a line of bounded length.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Condvar, Mutex, MutexGuard};

use super::metrics::Metrics;

/// Gives out admission.
pub struct Admission {
    at_once: u64,
    most_waiting: u64,
    state: Mutex<State>,
    next: Condvar,
}

/// How many admission have ever been asked for, and how many of these are over.
#[derive(Default)]
struct State {
    asked: u64,
    over: u64,
}

/// A turn, which is over when this is dropped.
pub struct Permit<'a> {
    admission: &'a Admission,
    metrics: &'a Metrics,
}

impl Admission {
    pub fn new(at_once: usize, most_waiting: usize) -> Self {
        Self {
            at_once: at_once as u64,
            most_waiting: most_waiting as u64,
            state: Mutex::default(),
            next: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Waits for a turn; none where too many wait already.
    pub fn wait<'a>(&'a self, metrics: &'a Metrics) -> Option<Permit<'a>> {
        let mut state = self.state();
        if state.asked - state.over >= self.at_once + self.most_waiting {
            return None;
        }
        let mine = state.asked;
        state.asked += 1;
        metrics.queued.fetch_add(1, Relaxed);
        while mine >= state.over + self.at_once {
            state = self.next.wait(state).unwrap_or_else(|e| e.into_inner());
        }
        metrics.queued.fetch_sub(1, Relaxed);
        metrics.in_progress.fetch_add(1, Relaxed);
        Some(Permit {
            admission: self,
            metrics,
        })
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let mut state = self.admission.state();
        state.over += 1;
        self.metrics.in_progress.fetch_sub(1, Relaxed);
        if state.asked > state.over + self.admission.at_once - 1 {
            self.admission.next.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    #[test]
    fn turns_come_in_the_order_in_which_they_were_asked_for() {
        let (admission, metrics) = (Admission::new(2, 3), Metrics::default());
        let (admission, metrics) = (&admission, &metrics);
        let [first, second] = [(); 2].map(|()| admission.wait(metrics).unwrap());
        let (sender, order) = channel();
        thread::scope(|scope| {
            for i in 0..3 {
                let sender = sender.clone();
                scope.spawn(move || {
                    let turn = admission.wait(metrics);
                    sender.send(i).unwrap();
                    drop(turn);
                });
                while metrics.queued.load(Relaxed) <= i {
                    thread::yield_now();
                }
            }
            assert!(admission.wait(metrics).is_none(), "three wait already");
            assert!(order.try_recv().is_err());
            drop(second);
            drop(sender);
            assert_eq!(order.iter().collect::<Vec<_>>(), [0, 1, 2]);
        });
        drop(first);
        assert_eq!(metrics.in_progress.load(Relaxed), 0);
        assert_eq!(metrics.queued.load(Relaxed), 0);
    }
}
