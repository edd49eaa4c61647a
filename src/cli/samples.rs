//! Samples made on several threads, as many together on each as is fastest, and given in their order
//! as they are made.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

use anyhow::{Context, Result};

use super::reorder::Reorder;
use crate::engine::{DecodeBatch, Generator, Sample, Sequence};
use crate::infer::MAX_BATCH;

/// How many blocks may be under way for each thread, so that memory is bounded.
const BLOCKS_AHEAD: u64 = 4;

/// How many samples are wanted.
#[derive(Clone, Copy)]
pub enum Count {
    Known(u64),
    /// At least so many; nobody knows how many it takes.
    Unknown(u64),
}

/// Samples in their order, each already made into a `T`.
pub struct Samples<T> {
    blocks: Receiver<(u64, Vec<T>)>,
    in_order: Reorder<Vec<T>>,
    plan: Arc<Plan>,
}

impl<T: Send + 'static> Samples<T> {
    /// Starts making samples. `make` gets each on the thread that made it. Errors where a thread
    /// can't be started.
    pub fn start(
        generator: Generator,
        threads: usize,
        count: Count,
        make: impl Fn(u64, &Sample) -> T + Send + Sync + 'static,
    ) -> Result<Self> {
        let (least, end) = match count {
            Count::Known(count) => (count, count),
            Count::Unknown(count) => (count, u64::MAX),
        };
        let all_threads = threads;
        let threads = (threads as u64).min(least).max(1);
        let share = least.div_ceil(threads);
        let together = (generator.model().decode_batch_size() as u64).min(share);
        let plan = Arc::new(Plan {
            // Handing over takes longer than making a sample of a small model.
            block: if together < MAX_BATCH as u64 {
                1
            } else {
                (share / 16).clamp(1, 256)
            },
            end,
            ahead: threads * BLOCKS_AHEAD * together,
            together: together as usize,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let (sender, blocks) = channel();
        let work = Arc::new((generator, make));
        for _ in 0..threads {
            let (work, plan, sender) = (Arc::clone(&work), Arc::clone(&plan), sender.clone());
            // Threads that get no sample of their own help those that do.
            let team = work
                .0
                .model()
                .thread_group(all_threads / threads as usize)?;
            thread::Builder::new()
                .spawn(move || team.run(|| make_samples(&work.0, &work.1, &plan, &sender)))
                .with_context(|| format!("cannot start {threads} threads"))?;
        }
        Ok(Self {
            blocks,
            in_order: Reorder::new(),
            plan,
        })
    }

    /// The next block of samples; none after the last. Errors where a thread failed.
    pub fn next(&mut self) -> Result<Option<Vec<T>>> {
        if self.in_order.next_number().saturating_mul(self.plan.block) >= self.plan.end {
            return Ok(None);
        }
        let block = loop {
            if let Some(block) = self.in_order.take() {
                break block;
            }
            let (number, block) = self.blocks.recv().context("a thread failed")?;
            self.in_order.insert(number, block);
        };
        self.plan.lock().given = self.in_order.next_number();
        self.plan.changed.notify_all();
        Ok(Some(block))
    }

    /// Whether `next` would have to wait.
    pub fn none_is_ready(&mut self) -> bool {
        for (number, block) in self.blocks.try_iter() {
            self.in_order.insert(number, block);
        }
        !self.in_order.is_ready()
    }
}

/// Which samples are to be made, in blocks of the same size.
struct Plan {
    block: u64,
    /// How many samples there are.
    end: u64,
    /// How many blocks may be taken before the first of them was given out.
    ahead: u64,
    /// How many samples a thread makes together.
    together: usize,
    state: Mutex<State>,
    changed: Condvar,
}

/// How far things are, in blocks.
#[derive(Default)]
struct State {
    taken: u64,
    given: u64,
}

impl Plan {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|error| error.into_inner())
    }

    /// The number of the next block, and its samples. Where too many are under way, this waits, or
    /// gives none.
    fn take(&self, wait: bool) -> Option<(u64, Range<u64>)> {
        let mut state = self.lock();
        while state.taken >= state.given + self.ahead {
            if !wait {
                return None;
            }
            let waited = self.changed.wait(state);
            state = waited.unwrap_or_else(|error| error.into_inner());
        }
        let first = state.taken.checked_mul(self.block)?;
        if first >= self.end {
            return None;
        }
        state.taken += 1;
        let end = self.end.min(first.saturating_add(self.block));
        Some((state.taken - 1, first..end))
    }
}

/// A block that is being made.
struct Block<T> {
    made: Vec<Option<T>>,
    missing: usize,
}

/// A thread's life: takes blocks, makes their samples together, and hands over each block that is
/// complete. Ends when there are no more, or nobody wants them.
fn make_samples<T>(
    generator: &Generator,
    make: &impl Fn(u64, &Sample) -> T,
    plan: &Plan,
    sender: &Sender<(u64, Vec<T>)>,
) {
    let mut batch = DecodeBatch::new(generator.model(), generator.prefix());
    let mut blocks: BTreeMap<u64, Block<T>> = BTreeMap::new();
    let mut indices = 0..0;
    let mut wanted = true;
    while wanted {
        while batch.len() < plan.together {
            if indices.is_empty() {
                let Some((number, samples)) = plan.take(batch.is_empty()) else {
                    break;
                };
                indices = samples;
                let missing = (indices.end - indices.start) as usize;
                let made = (0..missing).map(|_| None).collect();
                blocks.insert(number, Block { made, missing });
            }
            let index = indices.start;
            indices.start += 1;
            batch.add(index, generator.text(index));
        }
        if batch.is_empty() {
            return;
        }
        let done = |index: u64, text: Sequence, _| {
            let number = index / plan.block;
            let block = blocks.get_mut(&number).expect("its samples are being made");
            let place = (index % plan.block) as usize;
            block.made[place] = Some(make(index, &generator.sample_of(text.sampled())));
            block.missing -= 1;
            if block.missing == 0
                && let Some(block) = blocks.remove(&number)
            {
                wanted &= sender
                    .send((number, block.made.into_iter().flatten().collect()))
                    .is_ok();
            }
        };
        batch.step(|_, _| true, done);
    }
}
