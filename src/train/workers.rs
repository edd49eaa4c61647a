//! A pool of threads for the shards of a training step.
//!
//! A step of a small model takes less time than waking a sleeping thread, so idle threads poll
//! before they sleep.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Polling time before a thread sleeps: several steps of a small model.
const POLL_TIME: Duration = Duration::from_micros(300);

type Job = Box<dyn FnOnce() + Send>;

/// A pool of threads that includes the calling one. Dropping it ends the others.
pub struct Workers {
    /// The job queues of the spawned threads.
    queues: Vec<Sender<Job>>,
}

impl Workers {
    /// Starts `threads - 1` threads.
    pub fn start(threads: usize) -> Result<Self> {
        let spawn = |_| {
            let (queue, jobs) = channel::<Job>();
            thread::Builder::new().spawn(move || {
                while let Some(job) = receive(&jobs) {
                    job();
                }
            })?;
            Ok(queue)
        };
        let queues = (1..threads).map(spawn).collect::<std::io::Result<_>>();
        Ok(Self {
            queues: queues
                .with_context(|| format!("cannot start the threads of --threads {threads}"))?,
        })
    }

    /// The number of threads, the calling one included.
    pub fn count(&self) -> usize {
        self.queues.len() + 1
    }

    /// Applies `function` to each item, round robin over the threads. Returns the results in the
    /// order of the items; errors if a thread panicked.
    pub fn map<T, R>(
        &self,
        items: Vec<T>,
        function: impl Fn(T) -> R + Send + Sync + 'static,
    ) -> Result<Vec<R>>
    where
        T: Send + 'static,
        R: Send + 'static,
    {
        let function = Arc::new(function);
        let (sender, receiver) = channel();
        let mut results: Vec<Option<R>> = items.iter().map(|_| None).collect();
        let mut own_items = Vec::new();
        for (i, item) in items.into_iter().enumerate() {
            let Some(thread) = (i % self.count()).checked_sub(1) else {
                own_items.push((i, item));
                continue;
            };
            let (function, sender) = (Arc::clone(&function), sender.clone());
            // Sending fails only after this call has returned with an error.
            let job: Job = Box::new(move || drop(sender.send((i, function(item)))));
            let sent = self.queues[thread].send(job);
            sent.ok().context("a training thread panicked")?;
        }
        drop(sender);
        let sent_items = results.len() - own_items.len();
        for (i, item) in own_items {
            results[i] = Some(function(item));
        }
        for _ in 0..sent_items {
            let (i, result) = receive(&receiver).context("a training thread panicked")?;
            results[i] = Some(result);
        }
        Ok(results.into_iter().flatten().collect())
    }
}

/// Polls for the next message, then sleeps until it comes. Returns `None` if all senders are gone.
fn receive<T>(messages: &Receiver<T>) -> Option<T> {
    let start = Instant::now();
    while start.elapsed() < POLL_TIME {
        for _ in 0..100 {
            match messages.try_recv() {
                Ok(message) => return Some(message),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => std::hint::spin_loop(),
            }
        }
        // On a busy machine, the sender may wait for this core.
        thread::yield_now();
    }
    messages.recv().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_the_order_of_the_items() {
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
    fn worker_panic_is_an_error() {
        let workers = Workers::start(2).unwrap();
        let results = workers.map(vec![0, 1], |i| assert_eq!(i, 0, "intended panic"));
        assert!(results.is_err());
    }
}
