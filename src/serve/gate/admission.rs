//! Admission control: a limited number of lanes, and a limited queue before them.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, MutexGuard};

/// Lends lanes in the order of the requests.
pub struct Admission<L> {
    max_waiting: usize,
    state: Mutex<State<L>>,
}

struct State<L> {
    /// The number of all lanes, lent and idle.
    lanes: usize,
    idle: Vec<L>,
    /// Requests that wait for a lane. Empty while a lane is idle.
    waiting: VecDeque<Sender<L>>,
}

/// A lane that is lent to one request. Dropping it lends the lane to the next one.
pub struct Lent<'a, L> {
    /// Present until the drop.
    lane: Option<L>,
    admission: &'a Admission<L>,
}

impl<L> Admission<L> {
    /// An admission without lanes.
    pub fn new(max_waiting: usize) -> Self {
        let state = State {
            lanes: 0,
            idle: Vec::new(),
            waiting: VecDeque::new(),
        };
        Self {
            max_waiting,
            state: Mutex::new(state),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<L>> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub fn add(&self, lane: L) {
        self.lock().lanes += 1;
        self.release(lane);
    }

    /// Waits for a lane. Returns none at once if the queue is full.
    pub fn acquire(&self) -> Option<Lent<'_, L>> {
        let mut state = self.lock();
        let lane = match state.idle.pop() {
            Some(lane) => lane,
            None if state.waiting.len() >= self.max_waiting => return None,
            None => {
                let (sender, receiver) = channel();
                state.waiting.push_back(sender);
                drop(state);
                receiver.recv().ok()?
            }
        };
        Some(Lent {
            lane: Some(lane),
            admission: self,
        })
    }

    fn release(&self, lane: L) {
        let mut state = self.lock();
        match state.waiting.pop_front() {
            // A waiting request never leaves the queue by itself.
            Some(sender) => drop(sender.send(lane)),
            None => state.idle.push(lane),
        }
    }

    /// The number of lent lanes and of waiting requests.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.lock();
        (state.lanes - state.idle.len(), state.waiting.len())
    }
}

impl<L> Deref for Lent<'_, L> {
    type Target = L;

    fn deref(&self) -> &L {
        self.lane.as_ref().expect("present until the drop")
    }
}

impl<L> DerefMut for Lent<'_, L> {
    fn deref_mut(&mut self) -> &mut L {
        self.lane.as_mut().expect("present until the drop")
    }
}

impl<L> Drop for Lent<'_, L> {
    fn drop(&mut self) {
        if let Some(lane) = self.lane.take() {
            self.admission.release(lane);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn lanes_are_lent_first_come_first_served() {
        let admission = Admission::new(3);
        admission.add('a');
        admission.add('b');
        let [first, second] = [(); 2].map(|()| admission.acquire().unwrap());
        assert_eq!((*first, *second), ('b', 'a'));
        let (sender, order) = channel();
        thread::scope(|scope| {
            for i in 0..3 {
                let (admission, sender) = (&admission, sender.clone());
                scope.spawn(move || {
                    let lane = admission.acquire().unwrap();
                    sender.send((i, *lane)).unwrap();
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
            let order: Vec<_> = order.iter().collect();
            assert_eq!(order, [(0, 'a'), (1, 'a'), (2, 'a')]);
        });
        drop(first);
        assert_eq!(admission.counts(), (0, 0));
    }
}
