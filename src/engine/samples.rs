//! Samples made by several threads, each of which decodes many sequences at once.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;

use super::pipeline::{Jobs, Pipeline};
use super::{DecodeBatch, Generator, Sample, Sequence};
use crate::infer::{InferenceGpt, MAX_BATCH, ThreadGroup};

/// Blocks in flight per thread and sequence of its batch, which bounds the memory.
const BLOCKS_AHEAD: u64 = 4;

/// The maximum number of samples per block.
const MAX_BLOCK: u64 = 256;

/// Blocks of consecutive samples, each sample converted to a `T`.
pub type Samples<T> = Pipeline<Vec<T>>;

/// Consecutive samples of one prompt.
pub struct SampleBlock {
    pub generator: Arc<Generator>,
    /// The number of the prompt.
    pub prompt: u64,
    /// The indices of the samples.
    pub indices: Range<u64>,
}

/// Starts to make samples of one prompt, from the index `first` on. `convert` gets each sample with its
/// index, on the thread that made it.
///
/// At least `min_count` samples are made; more, without end, unless that is `exact`. Errors if a
/// thread cannot be started.
pub fn start_samples<T: Send + 'static>(
    generator: Generator,
    threads: usize,
    first: u64,
    min_count: u64,
    exact: bool,
    convert: impl Fn(u64, &Sample) -> T + Send + Sync + 'static,
) -> Result<Samples<T>> {
    let model = Arc::clone(generator.model());
    let generator = Arc::new(generator);
    let active = (threads as u64).min(min_count).max(1);
    let per_thread = min_count.div_ceil(active);
    let batch_size = (model.decode_batch_size() as u64).min(per_thread);
    // Delivering a block takes longer than making one sample of a small model.
    let block = match batch_size < MAX_BATCH as u64 {
        true => 1,
        false => (per_thread / 16).clamp(1, MAX_BLOCK),
    };
    let end = match exact {
        true => first.saturating_add(min_count),
        false => u64::MAX,
    };
    let mut next = first;
    let shared = Arc::clone(&generator);
    let source = move |_| {
        let indices = next..end.min(next.saturating_add(block));
        next = indices.end;
        Ok((!indices.is_empty()).then(|| SampleBlock {
            generator: Arc::clone(&generator),
            prompt: 0,
            indices,
        }))
    };
    let workers = Workers {
        threads,
        active: active as usize,
        batch_size: batch_size as usize,
    };
    let convert = move |_, index, sample: &Sample| convert(index, sample);
    workers.start(model, Some(shared), source, convert)
}

/// Starts to make the samples of many prompts. `next_block` returns the next block, and none after the
/// last; if its argument is false, it returns none rather than wait for input. `convert` gets each
/// sample with the number of its prompt and its index. Errors if a thread cannot be started.
pub fn start_prompts<T: Send + 'static>(
    model: Arc<InferenceGpt>,
    threads: usize,
    next_block: impl FnMut(bool) -> Result<Option<SampleBlock>> + Send + 'static,
    convert: impl Fn(u64, u64, &Sample) -> T + Send + Sync + 'static,
) -> Result<Samples<T>> {
    let workers = Workers {
        threads,
        active: threads,
        batch_size: model.decode_batch_size(),
    };
    workers.start(model, None, next_block, convert)
}

/// The threads of a pipeline of samples.
struct Workers {
    threads: usize,
    /// The number of threads with a batch of their own; the others help these.
    active: usize,
    batch_size: usize,
}

impl Workers {
    /// `shared` is the generator of all blocks, if there is only one.
    fn start<T: Send + 'static>(
        self,
        model: Arc<InferenceGpt>,
        shared: Option<Arc<Generator>>,
        source: impl FnMut(bool) -> Result<Option<SampleBlock>> + Send + 'static,
        convert: impl Fn(u64, u64, &Sample) -> T + Send + Sync + 'static,
    ) -> Result<Samples<T>> {
        let Self {
            threads,
            active,
            batch_size,
        } = self;
        let group = |_| model.thread_group(threads / active);
        let groups: Vec<ThreadGroup> = (0..active).map(group).collect::<Result<_>>()?;
        let max_in_flight = BLOCKS_AHEAD * (active * batch_size) as u64;
        Pipeline::start(active, max_in_flight, source, move |index, jobs| {
            let prefix = shared.as_ref().and_then(|generator| generator.prefix());
            let batch = DecodeBatch::new(&model, prefix);
            groups[index].run(|| make_samples(batch, batch_size, jobs, &convert));
        })
    }
}

/// A block in progress.
struct PendingBlock<T> {
    block: SampleBlock,
    samples: Vec<Option<T>>,
    missing: usize,
}

impl<T> PendingBlock<T> {
    fn new(block: SampleBlock) -> Self {
        let size = (block.indices.end - block.indices.start) as usize;
        Self {
            block,
            samples: (0..size).map(|_| None).collect(),
            missing: size,
        }
    }
}

/// Makes the samples of the blocks that it takes, and delivers each block when it is complete.
fn make_samples<T>(
    mut batch: DecodeBatch<(u64, u64)>,
    batch_size: usize,
    jobs: &Jobs<SampleBlock, Vec<T>>,
    convert: &impl Fn(u64, u64, &Sample) -> T,
) {
    let mut pending: BTreeMap<u64, PendingBlock<T>> = BTreeMap::new();
    // The number of the newest block, and its indices that are not in the batch yet.
    let (mut newest, mut indices) = (0, 0..0);
    let mut has_consumer = true;
    while has_consumer {
        while batch.len() < batch_size {
            if indices.is_empty() {
                let job = match batch.is_empty() {
                    true => jobs.take(),
                    false => jobs.try_take(),
                };
                let Some((number, block)) = job else { break };
                (newest, indices) = (number, block.indices.clone());
                pending.insert(number, PendingBlock::new(block));
            }
            let index = indices.start;
            indices.start += 1;
            let generator = &pending[&newest].block.generator;
            batch.add((newest, index), generator.sequence(index));
        }
        if batch.is_empty() {
            return;
        }
        let finished = |(number, index): (u64, u64), sequence: Sequence, _| {
            let PendingBlock {
                block,
                samples,
                missing,
            } = pending.get_mut(&number).expect("the block is in progress");
            let sample = block.generator.decode(&sequence.sampled_before_stop());
            let position = (index - block.indices.start) as usize;
            samples[position] = Some(convert(block.prompt, index, &sample));
            *missing -= 1;
            if *missing == 0
                && let Some(complete) = pending.remove(&number)
            {
                let samples = complete.samples.into_iter().flatten().collect();
                has_consumer &= jobs.deliver(number, Ok(samples));
            }
        };
        batch.step(|_, _, _| true, finished);
    }
}
