//! The threads that a training step is split over. Each takes a part of the batch through the whole
//! forward and backward pass, so they meet only once a step.
//!
//! A step of a small model takes less time than waking a sleeping thread, so the threads look for
//! work a little while before they go to sleep.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use candle_core::backprop::GradStore;

use crate::data::Batch;
use crate::model::TensorGpt;

/// How long a thread looks for work before it sleeps: some steps of a small model.
const PATIENCE: Duration = Duration::from_micros(300);

/// What is to be computed of a part of a batch.
#[derive(Clone, Copy, PartialEq)]
pub enum Task {
    Loss,
    Gradients,
}

/// The share of a part in the loss of the whole, and, if asked for, its gradients.
pub type Share = (f32, Option<GradStore>);

/// A part, with the number of predictions in the whole.
struct Job {
    batch: Batch,
    count: usize,
    task: Task,
}

/// Threads that each have one model in view. The thread that asks is one of them.
pub struct Workers {
    model: Arc<TensorGpt>,
    helpers: Vec<Helper>,
}

/// Another thread: where its work goes, and where what it found comes from. It ends when nobody can
/// send it work any more.
struct Helper {
    jobs: Sender<Job>,
    shares: Receiver<candle_core::Result<Share>>,
}

impl Workers {
    /// As many threads as asked for, this one included.
    pub fn start(model: &Arc<TensorGpt>, threads: usize) -> Result<Self> {
        let helpers = (1..threads).map(|_| Helper::start(Arc::clone(model)));
        Ok(Self {
            model: Arc::clone(model),
            helpers: helpers
                .collect::<std::io::Result<_>>()
                .with_context(|| format!("cannot start {threads} threads"))?,
        })
    }

    /// How many threads there are.
    pub fn count(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Computes the shares of the parts of a whole with `count` predictions, in the order of the
    /// parts, whichever is done first.
    pub fn compute(&self, parts: Vec<Batch>, count: usize, task: Task) -> Result<Vec<Share>> {
        let mut shares = Vec::with_capacity(parts.len());
        let mut parts = parts.into_iter();
        while let Some(own) = parts.next() {
            let mut asked = 0;
            for helper in &self.helpers {
                let Some(batch) = parts.next() else { break };
                let job = Job { batch, count, task };
                helper.jobs.send(job).context("a training thread ended")?;
                asked += 1;
            }
            shares.push(compute(&self.model, &own, count, task)?);
            for helper in &self.helpers[..asked] {
                let share = receive(&helper.shares).context("a training thread ended")?;
                shares.push(share?);
            }
        }
        Ok(shares)
    }
}

impl Helper {
    fn start(model: Arc<TensorGpt>) -> std::io::Result<Self> {
        let (jobs, to_do) = channel::<Job>();
        let (done, shares) = channel();
        thread::Builder::new().spawn(move || {
            while let Some(job) = receive(&to_do) {
                let share = compute(&model, &job.batch, job.count, job.task);
                if done.send(share).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self { jobs, shares })
    }
}

fn compute(
    model: &TensorGpt,
    batch: &Batch,
    count: usize,
    task: Task,
) -> candle_core::Result<Share> {
    let loss = model.loss(batch, count)?;
    let gradients = match task {
        Task::Loss => None,
        Task::Gradients => Some(loss.backward()?),
    };
    Ok((loss.to_scalar()?, gradients))
}

/// The next message, looked for awhile before the thread sleeps; none where no more can come.
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
    }
}
