//! Threads that compute the forward passes of a single sequence together.
//!
//! Decoding one sequence mostly waits for weights, keys and values to come from memory. So each rank
//! computes the whole pass in step with the others, always with the same rows of each matrix and the
//! same heads, which stay in its core's caches. The ranks gather their results at a [`Barrier`]. Whole
//! rows and heads have the same bits whichever rank computes them.

use std::hint::spin_loop;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::kernels::simd::{self, Kernel};

/// Spins on a barrier before a rank yields its CPU.
const SPIN_LIMIT: usize = 2000;

/// The accumulated wait beyond which one rank computes the pass alone. It decays at 1/16 of wall
/// time. Without it, decoding beside two programs that never rest took ten times as long.
const MAX_WAIT: Duration = Duration::from_millis(20);
const WAIT_DECAY: u32 = 16;

/// Threads that share the forward passes of one caller at a time.
pub struct ThreadGroup(Option<Mutex<ThreadPool>>);

impl ThreadGroup {
    /// Errors if the threads cannot be started.
    pub fn start(threads: usize) -> Result<Self> {
        let pool = || ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = (threads > 1).then(pool).transpose();
        let pool = pool.with_context(|| format!("cannot start a group of {threads} threads"))?;
        Ok(Self(pool.map(Mutex::new)))
    }

    /// Runs a function whose forward passes are shared by all threads.
    pub fn run<R: Send>(&self, function: impl FnOnce() -> R + Send) -> R {
        match &self.0 {
            // Ranks that wait for each other cannot wait for those of another caller.
            Some(pool) => {
                let pool = pool.lock().unwrap_or_else(PoisonError::into_inner);
                pool.install(function)
            }
            None => function(),
        }
    }
}

/// The number of threads of the group that this thread belongs to.
pub fn group_size() -> usize {
    match rayon::current_thread_index() {
        Some(_) => rayon::current_num_threads(),
        None => 1,
    }
}

/// Runs the kernel of each rank on a thread of its own, all at the same time.
pub fn run_ranks<K: Kernel<Output = ()> + Send>(kernels: impl Iterator<Item = K>) {
    let mut kernels: Vec<_> = kernels.map(|kernel| Mutex::new(Some(kernel))).collect();
    let run = |kernel: &mut Option<K>| simd::run(kernel.take().expect("each runs once"));
    match &mut kernels[..] {
        [kernel] => run(kernel.get_mut().unwrap_or_else(PoisonError::into_inner)),
        kernels => {
            let kernels = &*kernels;
            rayon::broadcast(|thread| {
                let mut kernel = kernels[thread.index()].lock();
                run(kernel.as_mut().unwrap_or_else(|error| error.get_mut()));
            });
        }
    }
}

/// The barrier at which the ranks of a pass wait for each other and exchange their results.
///
/// On a CPU with other work to do, the threads are seldom scheduled at the same time. If they wait
/// too much, one rank computes whole passes alone.
#[derive(Debug, Default)]
pub struct Barrier {
    /// The number of ranks of this pass.
    ranks: usize,
    /// The accumulated wait beyond the spins, in nanoseconds, decayed until the last pass began.
    waited: AtomicU64,
    last_pass: Option<Instant>,
    arrivals: Arrivals,
    /// A rank panicked: no other may wait for it.
    broken: AtomicBool,
    /// Two exchange buffers, as bits of f64: one is written while ranks still read the other.
    buffers: [Vec<AtomicU64>; 2],
}

/// On cache lines of its own, as everything else is only read while ranks wait.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Arrivals(AtomicUsize);

impl Barrier {
    /// Begins a pass that gathers at most `max_elements` elements at a time. Returns the number of its
    /// ranks.
    pub fn begin(&mut self, max_elements: usize) -> usize {
        self.ranks = group_size();
        if self.ranks > 1 && self.decayed_wait() > MAX_WAIT {
            self.ranks = 1;
        }
        if self.ranks > 1 {
            *self.arrivals.0.get_mut() = 0;
            *self.broken.get_mut() = false;
            for buffer in &mut self.buffers {
                buffer.resize_with(max_elements.max(buffer.len()), AtomicU64::default);
            }
        }
        self.ranks
    }

    /// The accumulated wait after its decay.
    fn decayed_wait(&mut self) -> Duration {
        let now = Instant::now();
        let since = now - self.last_pass.replace(now).unwrap_or(now);
        let waited = Duration::from_nanos(*self.waited.get_mut());
        let waited = waited.saturating_sub(since / WAIT_DECAY);
        *self.waited.get_mut() = waited.as_nanos() as u64;
        waited
    }

    /// The ranks of the pass that has begun.
    pub fn ranks(&self) -> impl Iterator<Item = Rank<'_>> {
        (0..self.ranks).map(|index| Rank {
            index,
            barrier: self,
            waits: 0,
        })
    }
}

/// One of the threads of a pass, or the only one.
#[derive(Debug)]
pub struct Rank<'a> {
    index: usize,
    barrier: &'a Barrier,
    /// The number of barriers that this rank has passed.
    waits: usize,
}

impl Rank<'_> {
    /// The range of `count` rows or heads that this rank computes; it may be empty.
    pub fn partition(&self, count: usize) -> Range<usize> {
        partition(count, self.index, self.barrier.ranks)
    }

    /// Gathers `out` `[columns, rows]` from all ranks: this one has `partial` `[columns, own]`, which
    /// has no defined content afterwards.
    pub fn all_gather(
        &mut self,
        partial: &mut Vec<f64>,
        own: Range<usize>,
        [columns, rows]: [usize; 2],
        out: &mut Vec<f64>,
    ) {
        if self.barrier.ranks == 1 {
            std::mem::swap(partial, out);
            return;
        }
        out.resize(columns * rows, 0.0);
        let buffer = &self.barrier.buffers[self.waits % 2][..out.len()];
        if !own.is_empty() {
            let partials = partial.chunks_exact(own.len());
            for (partial, buffer) in partials.zip(buffer.chunks_exact(rows)) {
                for (element, shared) in partial.iter().zip(&buffer[own.clone()]) {
                    shared.store(element.to_bits(), Ordering::Relaxed);
                }
            }
        }
        self.wait();
        for (out, shared) in out.iter_mut().zip(buffer) {
            *out = f64::from_bits(shared.load(Ordering::Relaxed));
        }
    }

    /// Waits until all ranks are here, and with them what they have stored.
    fn wait(&mut self) {
        let Barrier {
            ranks,
            waited,
            arrivals,
            broken,
            ..
        } = self.barrier;
        self.waits += 1;
        arrivals.0.fetch_add(1, Ordering::AcqRel);
        let is_incomplete = || {
            let broken = broken.load(Ordering::Relaxed);
            assert!(!broken, "another rank panicked");
            arrivals.0.load(Ordering::Acquire) < self.waits * ranks
        };
        for _ in 0..SPIN_LIMIT {
            if !is_incomplete() {
                return;
            }
            spin_loop();
        }
        let since = Instant::now();
        while is_incomplete() {
            thread::yield_now();
        }
        let nanoseconds = since.elapsed().as_nanos() as u64;
        waited.fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

impl Drop for Rank<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.barrier.broken.store(true, Ordering::Relaxed);
        }
    }
}

/// The range of `count` items that belongs to one of `ranks` ranks.
pub fn partition(count: usize, rank: usize, ranks: usize) -> Range<usize> {
    count * rank / ranks..count * (rank + 1) / ranks
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::kernels::simd::Simd;

    /// Gathers two columns of five elements, different ones each time. One rank may panic before the
    /// last time.
    struct Gather<'a> {
        rank: Rank<'a>,
        panicking: Option<usize>,
        gathered: &'a AtomicUsize,
    }

    impl Kernel for Gather<'_> {
        type Output = ();

        fn run<S: Simd>(mut self, _: S) {
            let own = self.rank.partition(5);
            let mut all = Vec::new();
            for round in 0..100 {
                let panics = round == 99 && self.panicking == Some(self.rank.index);
                assert!(!panics, "this rank panics");
                let column =
                    |first: usize| own.clone().map(move |row| (round + first + row) as f64);
                let mut partial: Vec<f64> = column(0).chain(column(5)).collect();
                self.rank
                    .all_gather(&mut partial, own.clone(), [2, 5], &mut all);
                let expected = (round..round + 10).map(|element| element as f64);
                assert!(expected.eq(all.iter().copied()));
                self.gathered.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Returns the number of gathers of all ranks.
    fn all_gather(group: &ThreadGroup, panicking: Option<usize>) -> usize {
        let gathered = AtomicUsize::new(0);
        let mut barrier = Barrier::default();
        group.run(|| {
            barrier.begin(10);
            run_ranks(barrier.ranks().map(|rank| Gather {
                rank,
                panicking,
                gathered: &gathered,
            }));
        });
        gathered.into_inner()
    }

    #[test]
    fn all_gather_returns_the_elements_of_all_ranks() {
        for ranks in [1, 2, 3, 7] {
            let group = ThreadGroup::start(ranks).unwrap();
            assert_eq!(all_gather(&group, None), ranks * 100);
        }
    }

    #[test]
    fn panic_of_a_rank_ends_the_pass_of_all() {
        let group = ThreadGroup::start(3).unwrap();
        for panicking in 0..3 {
            let result = catch_unwind(AssertUnwindSafe(|| all_gather(&group, Some(panicking))));
            assert!(result.is_err());
            assert_eq!(all_gather(&group, None), 300);
        }
    }

    #[test]
    fn one_rank_computes_alone_after_too_much_waiting() {
        let mut barrier = Barrier::default();
        let mut ranks = |waited: Duration| {
            *barrier.waited.get_mut() = waited.as_nanos() as u64;
            barrier.begin(1)
        };
        ThreadGroup::start(2).unwrap().run(|| {
            assert_eq!(ranks(MAX_WAIT / 2), 2);
            assert_eq!(ranks(Duration::from_secs(3600)), 1);
            // Time for the wait to decay.
            thread::sleep(Duration::from_millis(1));
            assert_eq!(ranks(MAX_WAIT + Duration::from_micros(1)), 2);
        });
    }
}
