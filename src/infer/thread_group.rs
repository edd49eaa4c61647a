//! Threads that make a single text together.
//!
//! The next token of one text is mostly waiting for weights, keys and values to come from memory.
//! So each member of a team goes through the whole model by itself, in step with the others, and
//! computes always the same rows of each matrix and the same heads, which stay near its processor.
//! The ranks exchange their results at a [`Barrier`]. Whole rows and heads are the same
//! whoever computes them, bit for bit.

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

/// Threads that go through a model together, one text at a time.
pub struct ThreadGroup(Option<Mutex<ThreadPool>>);

impl ThreadGroup {
    /// Errors where the threads can't be started.
    pub fn start(threads: usize) -> Result<Self> {
        let pool = || ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = (threads > 1).then(pool).transpose();
        let pool = pool.with_context(|| format!("cannot start {threads} threads"))?;
        Ok(Self(pool.map(Mutex::new)))
    }

    /// Does some work, in which each pass through a model is the work of all threads.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.0 {
            // Members that wait for each other can't wait for those of another text.
            Some(pool) => {
                let pool = pool.lock().unwrap_or_else(PoisonError::into_inner);
                pool.install(work)
            }
            None => work(),
        }
    }
}

/// The number of ranks of a pass through a model on this thread.
pub fn group_size() -> usize {
    match rayon::current_thread_index() {
        Some(_) => rayon::current_num_threads(),
        None => 1,
    }
}

/// Does the work of each member, all at the same time.
pub fn run_ranks<W: Kernel<Output = ()> + Send>(works: impl Iterator<Item = W>) {
    let mut works: Vec<_> = works.map(|work| Mutex::new(Some(work))).collect();
    let take = |work: &mut Option<W>| simd::run(work.take().expect("each is done once"));
    match &mut works[..] {
        [work] => take(work.get_mut().unwrap_or_else(PoisonError::into_inner)),
        works => {
            let works = &*works;
            rayon::broadcast(|thread| {
                let mut work = works[thread.index()].lock();
                take(work.as_mut().unwrap_or_else(|error| error.get_mut()));
            });
        }
    }
}

/// The barrier at which ranks meet and exchange their results.
///
/// On a processor that has other work to do, members are seldom there at the same time. Where they
/// wait too much, some passes are made by one of them alone.
#[derive(Debug, Default)]
pub struct Barrier {
    /// The number of ranks of this pass.
    members: usize,
    /// The accumulated wait beyond the spins, in nanoseconds, decayed until the last pass began.
    waited: AtomicU64,
    last: Option<Instant>,
    arrivals: Arrivals,
    /// A rank panicked: no other may wait for it.
    broken: AtomicBool,
    /// Two exchange buffers, as bits of f64: one is written while some ranks still read the other.
    values: [Vec<AtomicU64>; 2],
}

/// On lines of memory of their own, as everything else is only read while members wait here.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Arrivals(AtomicUsize);

impl Barrier {
    /// Begins a pass in which up to `most` numbers are exchanged at a time. Says how many members take part.
    pub fn begin(&mut self, most: usize) -> usize {
        self.members = group_size();
        if self.members > 1 && self.have_waited() > MAX_WAIT {
            self.members = 1;
        }
        if self.members > 1 {
            *self.arrivals.0.get_mut() = 0;
            *self.broken.get_mut() = false;
            for values in &mut self.values {
                values.resize_with(most.max(values.len()), AtomicU64::default);
            }
        }
        self.members
    }

    /// The accumulated wait, after its decay.
    fn have_waited(&mut self) -> Duration {
        let now = Instant::now();
        let since = now - self.last.replace(now).unwrap_or(now);
        let waited = Duration::from_nanos(*self.waited.get_mut());
        let waited = waited.saturating_sub(since / WAIT_DECAY);
        *self.waited.get_mut() = waited.as_nanos() as u64;
        waited
    }

    /// Those who take part in this pass.
    pub fn members(&self) -> impl Iterator<Item = Rank<'_>> {
        (0..self.members).map(|number| Rank {
            number,
            exchange: self,
            meetings: 0,
        })
    }
}

/// One of a team, or the only one.
#[derive(Debug)]
pub struct Rank<'a> {
    number: usize,
    exchange: &'a Barrier,
    /// The number of barriers that this rank has passed.
    meetings: usize,
}

impl Rank<'_> {
    fn is_alone(&self) -> bool {
        self.exchange.members == 1
    }

    /// Which of `count` rows, or heads, are this member's: some of them, none or all.
    pub fn share(&self, count: usize) -> Range<usize> {
        share(count, self.number, self.exchange.members)
    }

    /// Puts `out` together of what each member has of its rows: this one `part`, `[columns, own]`. What
    /// is in `part` afterwards is of no use.
    pub fn all_gather(
        &mut self,
        part: &mut Vec<f64>,
        own: Range<usize>,
        [columns, rows]: [usize; 2],
        out: &mut Vec<f64>,
    ) {
        if self.is_alone() {
            std::mem::swap(part, out);
            return;
        }
        out.resize(columns * rows, 0.0);
        let values = &self.exchange.values[self.meetings % 2][..out.len()];
        if !own.is_empty() {
            let parts = part.chunks_exact(own.len());
            for (part, values) in parts.zip(values.chunks_exact(rows)) {
                for (part, value) in part.iter().zip(&values[own.clone()]) {
                    value.store(part.to_bits(), Ordering::Relaxed);
                }
            }
        }
        self.meet();
        for (out, value) in out.iter_mut().zip(values) {
            *out = f64::from_bits(value.load(Ordering::Relaxed));
        }
    }

    /// Waits until all members are here, and with them what they have stored.
    fn meet(&mut self) {
        let Barrier {
            members,
            waited,
            arrivals,
            broken,
            ..
        } = self.exchange;
        self.meetings += 1;
        arrivals.0.fetch_add(1, Ordering::AcqRel);
        let others_are_missing = || {
            let broken = broken.load(Ordering::Relaxed);
            assert!(!broken, "a member of the team failed");
            arrivals.0.load(Ordering::Acquire) < self.meetings * members
        };
        for _ in 0..SPIN_LIMIT {
            if !others_are_missing() {
                return;
            }
            spin_loop();
        }
        let since = Instant::now();
        while others_are_missing() {
            thread::yield_now();
        }
        let nanoseconds = since.elapsed().as_nanos() as u64;
        waited.fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

impl Drop for Rank<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.exchange.broken.store(true, Ordering::Relaxed);
        }
    }
}

/// Which of `count` things are those of member `number` of some.
pub fn share(count: usize, number: usize, members: usize) -> Range<usize> {
    count * number / members..count * (number + 1) / members
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::kernels::simd::Simd;

    /// What a member does: it gathers two columns of five numbers, other ones each time. One member may
    /// fail before the last.
    struct Gathering<'a> {
        member: Rank<'a>,
        failing: Option<usize>,
        gathered: &'a AtomicUsize,
    }

    impl Kernel for Gathering<'_> {
        type Output = ();

        fn run<S: Simd>(mut self, _: S) {
            let own = self.member.share(5);
            let mut all = Vec::new();
            for time in 0..100 {
                let failing = time == 99 && self.failing == Some(self.member.number);
                assert!(!failing, "this member fails");
                let column = |first: usize| own.clone().map(move |row| (time + first + row) as f64);
                let mut part: Vec<f64> = column(0).chain(column(5)).collect();
                self.member
                    .all_gather(&mut part, own.clone(), [2, 5], &mut all);
                assert!(
                    (time..time + 10)
                        .map(|number| number as f64)
                        .eq(all.iter().copied())
                );
                self.gathered.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Returns the number of gathers of all ranks.
    fn all_gather(team: &ThreadGroup, failing: Option<usize>) -> usize {
        let gathered = AtomicUsize::new(0);
        let mut exchange = Barrier::default();
        team.run(|| {
            exchange.begin(10);
            run_ranks(exchange.members().map(|member| Gathering {
                member,
                failing,
                gathered: &gathered,
            }));
        });
        gathered.into_inner()
    }

    #[test]
    fn members_hear_what_the_others_have() {
        for members in [1, 2, 3, 7] {
            assert_eq!(
                all_gather(&ThreadGroup::start(members).unwrap(), None),
                members * 100
            );
        }
    }

    #[test]
    fn nobody_waits_for_a_member_that_failed() {
        let team = ThreadGroup::start(3).unwrap();
        for failing in 0..3 {
            let failed = catch_unwind(AssertUnwindSafe(|| all_gather(&team, Some(failing))));
            assert!(failed.is_err());
            assert_eq!(all_gather(&team, None), 300);
        }
    }

    #[test]
    fn a_team_whose_members_wait_too_much_leaves_the_work_to_one() {
        let mut exchange = Barrier::default();
        let mut members = |waited: Duration| {
            *exchange.waited.get_mut() = waited.as_nanos() as u64;
            exchange.begin(1)
        };
        ThreadGroup::start(2).unwrap().run(|| {
            assert_eq!(members(MAX_WAIT / 2), 2);
            assert_eq!(members(Duration::from_secs(3600)), 1);
            // Some of it is forgotten.
            thread::sleep(Duration::from_millis(1));
            assert_eq!(members(MAX_WAIT + Duration::from_micros(1)), 2);
        });
    }
}
