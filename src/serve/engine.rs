//! The threads that make the texts of all requests: each makes those it has together, and a new one
//! joins at the next token. A text is the same whatever others there are.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

use anyhow::{Context, Result};

use super::http::HttpError;
use super::metrics::Metrics;
use crate::engine::{DecodeBatch, FinishReason, Sequence, StopFilter};
use crate::infer::{InferenceGpt, ThreadGroup};

/// A text that was made.
pub struct Completion {
    /// The characters that were sampled, up to a stop sequence.
    pub text: String,
    /// The tokens that were sampled.
    pub sampled: Vec<u32>,
    pub finish: FinishReason,
}

/// What happens to a text that was ordered.
enum Event {
    /// There are some more characters, for who wants them as they come.
    Text(String),
    End(Completion),
}

/// A text that is wanted, and who waits for it.
struct Job {
    text: Sequence,
    filter: StopFilter,
    streamed: bool,
    events: Sender<Event>,
}

/// How many tokens of the only text are made before a look at what has come: fetching the threads
/// that make it together takes as long as a token or two.
const STEPS_ALONE: usize = 16;

/// The threads, and the orders that wait for them.
pub struct Engine {
    shared: Arc<Shared>,
}

/// A text that was ordered and is not there yet.
pub struct CompletionHandle(Receiver<Event>);

impl Engine {
    /// Errors where a thread can't be started.
    pub fn start(model: Arc<InferenceGpt>, metrics: Arc<Metrics>, threads: usize) -> Result<Self> {
        let state = State {
            waiting: VecDeque::new(),
            making: vec![0; threads],
        };
        let shared = Arc::new(Shared {
            team: model.thread_group(threads)?,
            model,
            metrics,
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        for number in 0..threads {
            let shared = Arc::clone(&shared);
            thread::Builder::new()
                .spawn(move || shared.work(number))
                .context("cannot start a thread")?;
        }
        Ok(Self { shared })
    }

    /// Orders a text that ends before the first of the sequences in `stop`.
    pub fn order(&self, text: Sequence, stop: &[String]) -> CompletionHandle {
        self.submit(text, stop, false)
    }

    /// Makes a text whose characters `visit` sees as they come, and which it ends by returning
    /// false. Gives nothing where it did. Errors where the thread that made it failed.
    pub fn stream(
        &self,
        text: Sequence,
        stop: &[String],
        mut visit: impl FnMut(&str) -> bool,
    ) -> Result<Option<Completion>, HttpError> {
        let CompletionHandle(events) = self.submit(text, stop, true);
        for event in events {
            match event {
                Event::Text(text) if visit(&text) => {}
                Event::Text(_) => return Ok(None),
                Event::End(made) => return Ok(Some(made)),
            }
        }
        Err(lost())
    }

    fn submit(&self, text: Sequence, stop: &[String], streamed: bool) -> CompletionHandle {
        let (events, pending) = channel();
        let order = Job {
            text,
            filter: StopFilter::new(stop.to_vec()),
            streamed,
            events,
        };
        self.shared.lock().waiting.push_back(order);
        self.shared.changed.notify_all();
        CompletionHandle(pending)
    }
}

impl CompletionHandle {
    /// Waits for the text. Errors where the thread that made it failed.
    pub fn wait(self) -> Result<Completion, HttpError> {
        match self.0.recv() {
            Ok(Event::End(made)) => Ok(made),
            _ => Err(lost()),
        }
    }
}

fn lost() -> HttpError {
    HttpError::new(500, "the server failed; its log says more")
}

struct Shared {
    model: Arc<InferenceGpt>,
    /// Who makes a text that is the only one.
    team: ThreadGroup,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    /// Orders came.
    changed: Condvar,
}

struct State {
    waiting: VecDeque<Job>,
    /// How many texts each thread is making.
    making: Vec<usize>,
}

/// What a text's owner keeps while it is made.
type Owner = (StopFilter, bool, Sender<Event>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|error| error.into_inner())
    }

    /// A thread's life.
    fn work(&self, number: usize) {
        let mut batch = DecodeBatch::new(&self.model, None);
        loop {
            let alone = self.take(number, &mut batch);
            let steps = || match alone {
                true => self.team.run(|| self.steps_alone(&mut batch)),
                false => self.step(&mut batch),
            };
            // The panic itself is reported on stderr. Who waits for this thread's texts learns that
            // they are lost.
            if catch_unwind(AssertUnwindSafe(steps)).is_err() {
                batch = DecodeBatch::new(&self.model, None);
            }
        }
    }

    /// Takes orders while no other thread makes fewer texts; waits for one where it makes none. Says
    /// whether there is one text to make now, and other threads have none.
    fn take(&self, number: usize, batch: &mut DecodeBatch<Owner>) -> bool {
        let mut state = self.lock();
        state.making[number] = batch.len();
        loop {
            while state
                .making
                .iter()
                .all(|&other| state.making[number] <= other)
                && let Some(order) = state.waiting.pop_front()
            {
                state.making[number] += 1;
                let owner = (order.filter, order.streamed, order.events);
                batch.add(owner, order.text);
            }
            if !batch.is_empty() {
                return state.making.len() > 1 && state.making.iter().sum::<usize>() == 1;
            }
            let waited = self.changed.wait(state);
            state = waited.unwrap_or_else(|error| error.into_inner());
        }
    }

    /// Makes some tokens of the only text there is. Another that comes meanwhile is another thread's.
    fn steps_alone(&self, batch: &mut DecodeBatch<Owner>) {
        for _ in 0..STEPS_ALONE {
            self.step(batch);
            if batch.is_empty() {
                return;
            }
        }
    }

    /// Makes a token of each text.
    fn step(&self, batch: &mut DecodeBatch<Owner>) {
        let tokenizer = &self.model.meta().tokenizer;
        let visit = |(filter, streamed, events): &mut Owner, token| {
            let Some(c) = tokenizer.char_of(token) else {
                return true;
            };
            let text = filter.push(c);
            let heard = !*streamed || text.is_empty() || events.send(Event::Text(text)).is_ok();
            heard && !filter.stopped
        };
        let done = |(mut filter, streamed, events): Owner, text: Sequence, finish| {
            let rest = filter.finish();
            // Who has gone needs no more.
            if streamed && !rest.is_empty() {
                let _ = events.send(Event::Text(rest));
            }
            let sampled = text.sampled().to_vec();
            let tokens = sampled.len() as u64;
            self.metrics
                .generated_tokens
                .fetch_add(tokens, Ordering::Relaxed);
            let _ = events.send(Event::End(Completion {
                text: filter.text,
                sampled,
                finish,
            }));
        };
        batch.step(visit, done);
    }
}
