//! Work on a single text, shared between threads.
//!
//! The next token of one text is mostly waiting for weights to come from memory, and two threads
//! wait for twice as many at a time; a prompt is arithmetic, which two do in half the time. It is
//! shared where it is done inside a pool of rayon's, each of whose threads takes what the others
//! have not begun. A piece computes whole rows, columns or heads, so that the result is the same, bit
//! for bit.

use anyhow::{Context, Result};
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::lanes::{self, Work};

/// Pieces that read fewer bytes are not worth another thread's coming.
pub const PIECE: usize = 128 << 10;

/// Work that can be cut in two.
pub trait Share: Work<Output = ()> + Send + Sized {
    /// How many bytes it reads.
    fn bytes(&self) -> usize;

    /// Both halves, or the work itself where it cannot be cut.
    fn halves(self) -> Result<(Self, Self), Self>;
}

/// Threads that share the work on each text.
pub struct Team(Option<ThreadPool>);

impl Team {
    /// Errors where the threads can't be started.
    pub fn start(threads: usize) -> Result<Self> {
        let pool = || ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = (threads > 1).then(pool).transpose();
        Ok(Self(pool.with_context(|| {
            format!("cannot start {threads} threads")
        })?))
    }

    /// Does some work, in which each pass through a model is the work of all threads.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.0 {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }
}

/// Whether there are threads to share work with.
pub fn has_help() -> bool {
    rayon::current_thread_index().is_some() && rayon::current_num_threads() > 1
}

/// Does some work in pieces.
pub fn share<S: Share>(work: S) {
    if work.bytes() <= PIECE {
        return lanes::run(work);
    }
    match work.halves() {
        Err(work) => lanes::run(work),
        Ok((lower, upper)) => {
            rayon::join(|| share(lower), || share(upper));
        }
    }
}
