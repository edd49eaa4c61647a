//! Samples made by several threads, each of which decodes many sequences at once.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::Result;

use super::pipeline::{Jobs, Pipeline};
use super::{DecodeBatch, Generator, Sample, Sequence};
use crate::infer::{MAX_BATCH, ThreadGroup};

/// Blocks in flight per thread and sequence of its batch, which bounds the memory.
const BLOCKS_AHEAD: u64 = 4;

/// The maximum number of samples per block.
const MAX_BLOCK: u64 = 256;

/// Blocks of consecutive samples, each sample converted to a `T`.
pub type Samples<T> = Pipeline<Vec<T>>;

/// Starts to make samples. `convert` gets each sample with its index, on the thread that made it.
///
/// At least `min_count` samples are made; more, without end, unless that is `exact`. Errors if a
/// thread cannot be started.
pub fn start_samples<T: Send + 'static>(
    generator: Generator,
    threads: usize,
    min_count: u64,
    exact: bool,
    convert: impl Fn(u64, &Sample) -> T + Send + Sync + 'static,
) -> Result<Samples<T>> {
    let all_threads = threads;
    let threads = (threads as u64).min(min_count).max(1);
    let per_thread = min_count.div_ceil(threads);
    let batch_size = (generator.model().decode_batch_size() as u64).min(per_thread);
    // Delivering a block takes longer than making one sample of a small model.
    let block = match batch_size < MAX_BATCH as u64 {
        true => 1,
        false => (per_thread / 16).clamp(1, MAX_BLOCK),
    };
    // Threads without a sample of their own help those that have one.
    let group = |_| {
        generator
            .model()
            .thread_group(all_threads / threads as usize)
    };
    let groups: Vec<ThreadGroup> = (0..threads).map(group).collect::<Result<_>>()?;
    let end = if exact { min_count } else { u64::MAX };
    let mut first: u64 = 0;
    let source = move || {
        let samples = first..end.min(first.saturating_add(block));
        first = samples.end;
        Ok((!samples.is_empty()).then_some(samples))
    };
    let max_in_flight = threads * BLOCKS_AHEAD * batch_size;
    Pipeline::start(
        threads as usize,
        max_in_flight,
        source,
        move |index, jobs| {
            groups[index]
                .run(|| make_samples(&generator, &convert, jobs, block, batch_size as usize));
        },
    )
}

/// A block in progress.
struct Block<T> {
    samples: Vec<Option<T>>,
    missing: usize,
}

impl<T> Block<T> {
    fn new(size: usize) -> Self {
        Self {
            samples: (0..size).map(|_| None).collect(),
            missing: size,
        }
    }
}

/// Makes the samples of the blocks that it takes, and delivers each block when it is complete.
fn make_samples<T>(
    generator: &Generator,
    convert: &impl Fn(u64, &Sample) -> T,
    jobs: &Jobs<Range<u64>, Vec<T>>,
    block_size: u64,
    batch_size: usize,
) {
    let mut batch = DecodeBatch::new(generator.model(), generator.prefix());
    let mut blocks: BTreeMap<u64, Block<T>> = BTreeMap::new();
    let mut indices = 0..0;
    let mut has_consumer = true;
    while has_consumer {
        while batch.len() < batch_size {
            if indices.is_empty() {
                let job = match batch.is_empty() {
                    true => jobs.take(),
                    false => jobs.try_take(),
                };
                let Some((number, samples)) = job else { break };
                blocks.insert(number, Block::new((samples.end - samples.start) as usize));
                indices = samples;
            }
            let index = indices.start;
            indices.start += 1;
            batch.add(index, generator.sequence(index));
        }
        if batch.is_empty() {
            return;
        }
        let finished = |index: u64, sequence: Sequence, _| {
            let (number, position) = (index / block_size, index % block_size);
            let block = blocks.get_mut(&number).expect("the block is in progress");
            let sample = generator.decode(sequence.sampled());
            block.samples[position as usize] = Some(convert(index, &sample));
            block.missing -= 1;
            if block.missing == 0
                && let Some(block) = blocks.remove(&number)
            {
                let samples = block.samples.into_iter().flatten().collect();
                has_consumer &= jobs.deliver(number, Ok(samples));
            }
        };
        batch.step(|_, _| true, finished);
    }
}
