//! A bounded, ordered pipeline: worker threads take numbered jobs from one source, and a consumer
//! gets their results in the order of the jobs.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;

use anyhow::{Context, Result, anyhow};

/// Produces the jobs: none after the last. If its argument is false, it returns none rather than wait
/// for input.
type Source<J> = Box<dyn FnMut(bool) -> Result<Option<J>> + Send>;

/// A job's number and result, or nothing but the failure of a worker thread.
type WorkerMessage<T> = Result<(u64, Result<T>)>;

/// The consumer's end of a pipeline. Dropping it ends the workers.
pub struct Pipeline<T> {
    messages: Receiver<WorkerMessage<T>>,
    /// Results that are not delivered yet, by number.
    results: BTreeMap<u64, Result<T>>,
    progress: Arc<Progress>,
    /// The number of the next result.
    next: u64,
}

/// A worker's end of a pipeline.
pub struct Jobs<J, T> {
    source: Arc<Mutex<Source<J>>>,
    progress: Arc<Progress>,
    messages: Sender<WorkerMessage<T>>,
}

impl<T: Send + 'static> Pipeline<T> {
    /// Starts `threads` threads, each of which runs `work` with its index until there are no more
    /// jobs. At most `max_in_flight` jobs are taken and not delivered. Errors if a thread cannot be
    /// started.
    pub fn start<J: Send + 'static>(
        threads: usize,
        max_in_flight: u64,
        source: impl FnMut(bool) -> Result<Option<J>> + Send + 'static,
        work: impl Fn(usize, &Jobs<J, T>) + Send + Sync + 'static,
    ) -> Result<Self> {
        let (sender, messages) = channel();
        let source: Arc<Mutex<Source<J>>> = Arc::new(Mutex::new(Box::new(source)));
        let progress = Arc::new(Progress::new(max_in_flight));
        let work = Arc::new(work);
        for index in 0..threads {
            let jobs = Jobs {
                source: Arc::clone(&source),
                progress: Arc::clone(&progress),
                messages: sender.clone(),
            };
            let work = Arc::clone(&work);
            thread::Builder::new()
                .spawn(move || {
                    // The panic itself is reported on stderr.
                    if catch_unwind(AssertUnwindSafe(|| work(index, &jobs))).is_err() {
                        let _ = jobs.messages.send(Err(anyhow!("a worker thread failed")));
                    }
                })
                .context("cannot start a thread")?;
        }
        Ok(Self {
            messages,
            results: BTreeMap::new(),
            progress,
            next: 0,
        })
    }

    /// Waits for the next result; none after the last. Errors if its job or a thread failed.
    pub fn next_result(&mut self) -> Result<Option<T>> {
        let result = loop {
            if let Some(result) = self.results.remove(&self.next) {
                break result;
            }
            match self.messages.recv() {
                Ok(message) => {
                    let (number, result) = message?;
                    self.results.insert(number, result);
                }
                // All workers have ended, so that every result was delivered.
                Err(_) => return Ok(None),
            }
        };
        self.next += 1;
        self.progress.deliver();
        result.map(Some)
    }

    /// Returns whether [`Self::next_result`] would return without waiting for a worker.
    pub fn is_ready(&mut self) -> bool {
        for message in self.messages.try_iter() {
            match message {
                Ok((number, result)) => self.results.insert(number, result),
                Err(error) => self.results.insert(self.next, Err(error)),
            };
        }
        self.results.contains_key(&self.next)
    }
}

impl<T> Drop for Pipeline<T> {
    fn drop(&mut self) {
        self.progress.close();
    }
}

impl<J, T> Jobs<J, T> {
    /// Waits for the next job; none after the last, or if nobody consumes results any more.
    pub fn take(&self) -> Option<(u64, J)> {
        let source = self.source.lock();
        let mut source = source.unwrap_or_else(PoisonError::into_inner);
        self.progress
            .wait_for_space()
            .then(|| self.take_from(&mut source, true))?
    }

    /// Takes the next job, unless that would mean to wait.
    pub fn try_take(&self) -> Option<(u64, J)> {
        let mut source = match self.source.try_lock() {
            Ok(source) => source,
            Err(TryLockError::Poisoned(error)) => error.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        self.progress
            .has_space()
            .then(|| self.take_from(&mut source, false))?
    }

    fn take_from(&self, source: &mut Source<J>, may_wait: bool) -> Option<(u64, J)> {
        let job = source(may_wait).transpose()?;
        let number = self.progress.take();
        match job {
            Ok(job) => Some((number, job)),
            Err(error) => {
                self.progress.close();
                self.deliver(number, Err(error));
                None
            }
        }
    }

    /// Delivers the result of a job. Returns whether anybody consumes results still.
    pub fn deliver(&self, number: u64, result: Result<T>) -> bool {
        self.messages.send(Ok((number, result))).is_ok()
    }
}

/// The numbers of taken and of delivered jobs.
struct Progress {
    max_in_flight: u64,
    counts: Mutex<Counts>,
    changed: Condvar,
}

#[derive(Default)]
struct Counts {
    taken: u64,
    delivered: u64,
    /// No more jobs are to be taken.
    closed: bool,
}

impl Progress {
    fn new(max_in_flight: u64) -> Self {
        Self {
            max_in_flight,
            counts: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_full(&self, counts: &Counts) -> bool {
        counts.taken - counts.delivered >= self.max_in_flight
    }

    /// Waits until another job may be taken. Returns false if none may any more.
    fn wait_for_space(&self) -> bool {
        let mut counts = self.lock();
        while self.is_full(&counts) && !counts.closed {
            let waited = self.changed.wait(counts);
            counts = waited.unwrap_or_else(PoisonError::into_inner);
        }
        !counts.closed
    }

    fn has_space(&self) -> bool {
        let counts = self.lock();
        !self.is_full(&counts) && !counts.closed
    }

    fn take(&self) -> u64 {
        let mut counts = self.lock();
        counts.taken += 1;
        counts.taken - 1
    }

    fn deliver(&self) {
        self.lock().delivered += 1;
        self.changed.notify_all();
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// A source of the jobs 0 to `count`, and the number of jobs taken from it.
    fn numbers(count: u64) -> (impl FnMut(bool) -> Result<Option<u64>>, Arc<AtomicU64>) {
        let taken = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&taken);
        let source = move |_| {
            let number = counter.fetch_add(1, Ordering::SeqCst);
            Ok((number < count).then_some(number))
        };
        (source, taken)
    }

    fn square_all(_: usize, jobs: &Jobs<u64, u64>) {
        while let Some((number, job)) = jobs.take() {
            // The later of two neighbours is often finished first.
            if job % 2 == 0 {
                thread::yield_now();
            }
            jobs.deliver(number, Ok(job * job));
        }
    }

    #[test]
    fn results_come_in_the_order_of_the_jobs() {
        for threads in [1, 2, 5] {
            for count in [0, 1, 100] {
                let (source, _) = numbers(count);
                let mut pipeline = Pipeline::start(threads, 7, source, square_all).unwrap();
                for number in 0..count {
                    assert_eq!(pipeline.next_result().unwrap(), Some(number * number));
                }
                assert_eq!(pipeline.next_result().unwrap(), None);
            }
        }
    }

    #[test]
    fn jobs_in_flight_are_bounded() {
        let (source, taken) = numbers(1000);
        let mut pipeline = Pipeline::start(3, 5, source, square_all).unwrap();
        for delivered in 1..=100 {
            pipeline.next_result().unwrap();
            assert!(taken.load(Ordering::SeqCst) <= delivered + 5);
        }
    }

    #[test]
    fn source_error_comes_after_the_results_before_it() {
        let mut next = 0;
        let source = move |_| {
            next += 1;
            anyhow::ensure!(next < 4, "job {next} is malformed");
            Ok(Some(next))
        };
        let mut pipeline = Pipeline::start(2, 8, source, square_all).unwrap();
        for expected in [1, 4, 9] {
            assert_eq!(pipeline.next_result().unwrap(), Some(expected));
        }
        let error = pipeline.next_result().unwrap_err().to_string();
        assert_eq!(error, "job 4 is malformed");
    }

    #[test]
    fn panicking_worker_is_an_error() {
        let (source, _) = numbers(u64::MAX);
        let work = |index: usize, jobs: &Jobs<u64, u64>| {
            if index == 0 {
                let _job = jobs.take();
                std::panic::resume_unwind(Box::new("no message on stderr"));
            }
            square_all(index, jobs);
        };
        let mut pipeline = Pipeline::start(2, 4, source, work).unwrap();
        let error = loop {
            match pipeline.next_result() {
                Ok(result) => assert!(result.is_some()),
                Err(error) => break error.to_string(),
            }
        };
        assert_eq!(error, "a worker thread failed");
    }

    #[test]
    fn dropping_the_consumer_ends_the_workers() {
        let (source, taken) = numbers(u64::MAX);
        let mut pipeline = Pipeline::start(2, 4, source, square_all).unwrap();
        pipeline.next_result().unwrap();
        drop(pipeline);
        // The workers hold the source, and with it the counter.
        while Arc::strong_count(&taken) > 1 {
            thread::yield_now();
        }
    }
}
