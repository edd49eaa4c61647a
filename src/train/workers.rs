//! The threads that a training step is split over.
//!
//! A step of a small model takes less time than waking a sleeping thread, so they look for work a
//! little while before they go to sleep.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How long a thread looks for work before it sleeps: some steps of a small model.
const PATIENCE: Duration = Duration::from_micros(300);

type Work = Box<dyn FnOnce() + Send>;

/// Threads that wait for work. The one that asks for it is one of them; the others end with this.
pub struct Workers {
    helpers: Vec<Sender<Work>>,
}

impl Workers {
    /// As many threads as asked for, this one included.
    pub fn start(threads: usize) -> Result<Self> {
        let helper = |_| {
            let (sender, work) = channel::<Work>();
            thread::Builder::new().spawn(move || {
                while let Some(work) = receive(&work) {
                    work();
                }
            })?;
            Ok(sender)
        };
        let helpers = (1..threads).map(helper).collect::<std::io::Result<_>>();
        Ok(Self {
            helpers: helpers.with_context(|| format!("cannot start {threads} threads"))?,
        })
    }

    /// How many threads there are.
    pub fn count(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Applies `work` to each item, and gives the results in the order of the items. The items are
    /// dealt to the threads in turn.
    pub fn map<T, R>(
        &self,
        items: Vec<T>,
        work: impl Fn(T) -> R + Send + Sync + 'static,
    ) -> Result<Vec<R>>
    where
        T: Send + 'static,
        R: Send + 'static,
    {
        let work = Arc::new(work);
        let (done, found) = channel();
        let mut results: Vec<Option<R>> = items.iter().map(|_| None).collect();
        let mut own = Vec::new();
        for (i, item) in items.into_iter().enumerate() {
            let turn = i % self.count();
            if turn == 0 {
                own.push((i, item));
                continue;
            }
            let (work, done) = (Arc::clone(&work), done.clone());
            // Nobody waits any more where this fails.
            let job: Work = Box::new(move || drop(done.send((i, work(item)))));
            let sent = self.helpers[turn - 1].send(job);
            sent.ok().context("a training thread ended")?;
        }
        drop(done);
        let helped = results.len() - own.len();
        for (i, item) in own {
            results[i] = Some(work(item));
        }
        for _ in 0..helped {
            let (i, result) = receive(&found).context("a training thread ended")?;
            results[i] = Some(result);
        }
        Ok(results.into_iter().flatten().collect())
    }
}

/// The next message, looked for a while before the thread sleeps; none where no more can come.
fn receive<T>(messages: &Receiver<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        for _ in 0..100 {
            match messages.try_recv() {
                Ok(message) => return Some(message),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => std::hint::spin_loop(),
            }
        }
        if start.elapsed() > PATIENCE {
            return messages.recv().ok();
        }
        // On a busy machine, what this thread waits for may be waiting for its processor.
        thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_items() {
        for threads in [1, 2, 5] {
            let workers = Workers::start(threads).unwrap();
            assert_eq!(workers.count(), threads);
            for items in [0usize, 1, 3, 40] {
                let squares = workers.map((0..items).collect(), |i: usize| i * i);
                let expected: Vec<usize> = (0..items).map(|i| i * i).collect();
                assert_eq!(squares.unwrap(), expected);
            }
        }
    }

    #[test]
    fn a_thread_that_panics_is_an_error() {
        let workers = Workers::start(2).unwrap();
        let results = workers.map(vec![0, 1], |i| {
            assert_eq!(i, 0, "this panics, as it should")
        });
        assert!(results.is_err());
    }
}
