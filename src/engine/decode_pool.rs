//! A pool of worker threads that decode the sequences of all callers.
//!
//! Each worker has a batch. A submitted sequence joins the smallest batch at that worker's next
//! step; the other sequences there do not affect its text. A sequence that is alone in the
//! pool is decoded by a thread group instead. Unlike a `Pipeline`, the pool has many callers, and
//! each waits for its own sequences only.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

use anyhow::{Context, Result};

use super::{DecodeBatch, FinishReason, Sequence, StopFilter, TokenLogprob};
use crate::data::TextDecoder;
use crate::infer::{InferenceGpt, ThreadGroup};

/// Decode steps for a lone sequence before polling the queue: starting the thread group takes as
/// long as one or two of them.
const LONE_STEPS: usize = 16;

/// The output of a finished sequence.
pub struct Completion {
    /// The sampled text up to a stop sequence.
    pub text: String,
    /// The number of tokens that begin in the text.
    pub text_tokens: usize,
    /// The sampled tokens.
    pub tokens: Vec<u32>,
    /// Their log-probabilities, if the sequence records them.
    pub logprobs: Vec<TokenLogprob>,
    pub finish: FinishReason,
}

/// The loss of a sequence to a panic of its worker, which is reported on stderr.
#[derive(Debug)]
pub struct WorkerPanicked;

/// The workers and their queue.
pub struct DecodePool {
    shared: Arc<Shared>,
}

/// A sequence that is queued or being decoded.
pub struct CompletionHandle(Receiver<Update>);

/// The progress of a sequence.
enum Update {
    /// Further text of a streamed sequence, and the log-probabilities recorded since the last update.
    Text(String, Vec<TokenLogprob>),
    Finished(Completion),
}

/// The receiving side of a sequence in a batch.
struct DecodeJob {
    decoder: TextDecoder,
    filter: StopFilter,
    /// The position in the decoded text at which each token begins, in characters.
    starts: Vec<usize>,
    /// The length of the decoded text in characters.
    decoded: usize,
    streamed: bool,
    /// The number of characters and tokens sent.
    sent: (usize, usize),
    /// Those that a streamed sequence has not sent yet.
    logprobs: Vec<TokenLogprob>,
    updates: Sender<Update>,
}

struct Shared {
    model: Arc<InferenceGpt>,
    /// The threads of a lone sequence.
    thread_group: ThreadGroup,
    generated_tokens: AtomicU64,
    queue: Mutex<Queue>,
    /// Signals a new job.
    submitted: Condvar,
}

struct Queue {
    jobs: VecDeque<(DecodeJob, Sequence)>,
    /// The number of sequences per worker.
    batch_sizes: Vec<usize>,
}

impl DecodePool {
    /// Starts the workers. Errors where a thread cannot be started.
    pub fn start(model: Arc<InferenceGpt>, workers: usize) -> Result<Self> {
        let queue = Queue {
            jobs: VecDeque::new(),
            batch_sizes: vec![0; workers],
        };
        let shared = Arc::new(Shared {
            thread_group: model.thread_group(workers)?,
            model,
            generated_tokens: AtomicU64::new(0),
            queue: Mutex::new(queue),
            submitted: Condvar::new(),
        });
        for worker in 0..workers {
            let shared = Arc::clone(&shared);
            thread::Builder::new()
                .spawn(move || shared.run_worker(worker))
                .context("cannot start a thread")?;
        }
        Ok(Self { shared })
    }

    /// Queues a sequence, which ends before the first occurrence of a string in `stop`.
    pub fn submit(&self, sequence: Sequence, stop: &[String]) -> CompletionHandle {
        self.enqueue(sequence, stop, false)
    }

    /// Decodes a sequence and passes its text to `visit` as it is generated. Returns none where
    /// `visit` returned false, which cancels the sequence.
    pub fn stream(
        &self,
        sequence: Sequence,
        stop: &[String],
        mut visit: impl FnMut(&str, &[TokenLogprob]) -> bool,
    ) -> Result<Option<Completion>, WorkerPanicked> {
        let CompletionHandle(updates) = self.enqueue(sequence, stop, true);
        for update in updates {
            match update {
                Update::Text(text, logprobs) if visit(&text, &logprobs) => {}
                Update::Text(..) => return Ok(None),
                Update::Finished(completion) => return Ok(Some(completion)),
            }
        }
        Err(WorkerPanicked)
    }

    /// The number of tokens that all finished sequences sampled.
    pub fn generated_tokens(&self) -> u64 {
        self.shared.generated_tokens.load(Ordering::Relaxed)
    }

    fn enqueue(&self, sequence: Sequence, stop: &[String], streamed: bool) -> CompletionHandle {
        let (updates, receiver) = channel();
        let job = DecodeJob {
            decoder: TextDecoder::default(),
            filter: StopFilter::new(stop.to_vec()),
            starts: Vec::new(),
            decoded: 0,
            streamed,
            sent: (0, 0),
            logprobs: Vec::new(),
            updates,
        };
        self.shared.lock_queue().jobs.push_back((job, sequence));
        // Only workers without sequences wait, and any of them takes the job.
        self.shared.submitted.notify_one();
        CompletionHandle(receiver)
    }
}

impl CompletionHandle {
    /// Waits for the end of the sequence.
    pub fn wait(self) -> Result<Completion, WorkerPanicked> {
        match self.0.recv() {
            Ok(Update::Finished(completion)) => Ok(completion),
            _ => Err(WorkerPanicked),
        }
    }
}

impl Shared {
    fn lock_queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|error| error.into_inner())
    }

    fn run_worker(&self, worker: usize) {
        let mut batch = DecodeBatch::new(&self.model, None);
        loop {
            let is_lone = self.take_jobs(worker, &mut batch);
            let decode = || match is_lone {
                true => self.thread_group.run(|| self.decode_lone(&mut batch)),
                false => self.step(&mut batch),
            };
            // Dropping the batch drops its senders, which tells the receivers.
            if catch_unwind(AssertUnwindSafe(decode)).is_err() {
                batch = DecodeBatch::new(&self.model, None);
            }
        }
    }

    /// Moves jobs into the batch while no other batch is smaller, and waits for one if the batch is
    /// empty. Returns whether the batch holds the only sequence of several workers.
    fn take_jobs(&self, worker: usize, batch: &mut DecodeBatch<DecodeJob>) -> bool {
        let mut queue = self.lock_queue();
        loop {
            queue.batch_sizes[worker] = batch.len();
            let min_size = queue.batch_sizes.iter().min();
            if min_size == Some(&batch.len())
                && let Some((job, sequence)) = queue.jobs.pop_front()
            {
                batch.add(job, sequence);
            } else if batch.is_empty() {
                let waited = self.submitted.wait(queue);
                queue = waited.unwrap_or_else(|error| error.into_inner());
            } else {
                let sizes = &queue.batch_sizes;
                return sizes.len() > 1 && sizes.iter().sum::<usize>() == 1;
            }
        }
    }

    fn decode_lone(&self, batch: &mut DecodeBatch<DecodeJob>) {
        for _ in 0..LONE_STEPS {
            self.step(batch);
            if batch.is_empty() {
                return;
            }
        }
    }

    /// Decodes one token per sequence of the batch.
    fn step(&self, batch: &mut DecodeBatch<DecodeJob>) {
        let tokenizer = &self.model.meta().tokenizer;
        let visit = |job: &mut DecodeJob, token, logprob: Option<&TokenLogprob>| {
            tokenizer
                .bytes_of(token)
                .is_none_or(|bytes| job.push(bytes, logprob))
        };
        let done = |job: DecodeJob, sequence: Sequence, finish| {
            let tokens = sequence.sampled().to_vec();
            self.generated_tokens
                .fetch_add(tokens.len() as u64, Ordering::Relaxed);
            job.finish(tokens, sequence.into_logprobs(), finish);
        };
        batch.step(visit, done);
    }
}

impl DecodeJob {
    /// Takes the bytes of a token. Returns whether the sequence continues: a stop sequence ends it, and
    /// a caller that no longer listens.
    fn push(&mut self, bytes: &[u8], logprob: Option<&TokenLogprob>) -> bool {
        self.starts.push(self.decoded);
        if self.streamed {
            self.logprobs.extend(logprob.cloned());
        }
        let text = self.decoder.push(bytes);
        self.push_text(&text) && !self.filter.stopped
    }

    /// Takes decoded text, and sends what cannot belong to a stop sequence. Returns whether the caller
    /// listens.
    fn push_text(&mut self, text: &str) -> bool {
        let mut certain = String::new();
        for c in text.chars() {
            self.decoded += 1;
            certain += &self.filter.push(c);
            if self.filter.stopped {
                break;
            }
        }
        self.send(certain)
    }

    /// Sends the text of a streamed sequence with the log-probabilities of the tokens that begin in it.
    /// Returns whether the caller listens.
    fn send(&mut self, text: String) -> bool {
        if !self.streamed || text.is_empty() {
            return true;
        }
        let (characters, tokens) = &mut self.sent;
        *characters += text.chars().count();
        let begun = self.starts.partition_point(|start| start < characters);
        let count = (begun - *tokens).min(self.logprobs.len());
        *tokens = begun;
        let logprobs = self.logprobs.drain(..count).collect();
        self.updates.send(Update::Text(text, logprobs)).is_ok()
    }

    /// Sends the end of the sequence. A caller that no longer listens is not an error.
    fn finish(mut self, tokens: Vec<u32>, logprobs: Vec<TokenLogprob>, finish: FinishReason) {
        if !self.filter.stopped {
            let incomplete = self.decoder.finish();
            self.push_text(&incomplete);
        }
        let rest = self.filter.finish();
        self.send(rest);
        let characters = self.filter.text.chars().count();
        let _ = self.updates.send(Update::Finished(Completion {
            text_tokens: self.starts.partition_point(|start| *start < characters),
            text: self.filter.text,
            tokens,
            logprobs,
            finish,
        }));
    }
}
