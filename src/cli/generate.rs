//! `microgpt generate`: samples, one a line, on all cores, in their order.

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::Context;
use rayon::prelude::*;
use serde_json::json;

use super::{Failure, Words, console, load_model, sampling};
use crate::data::Message;
use crate::model::{GenerateOptions, Generator, Sample};

/// How many samples are made before they are printed: enough to keep the threads busy, few enough
/// to come soon.
const CHUNK_PER_THREAD: u64 = 32;

/// `--unique` gives up after this many samples in a row that were there before.
const UNIQUE_PATIENCE: u64 = 10_000;

pub fn run(words: &Words) -> Result<(), Failure> {
    let count = words.count("num-samples")?.unwrap_or(20) as u64;
    let options = GenerateOptions {
        sampling: sampling::sampling_options(words)?,
        seed: sampling::seed(words)?,
        max_tokens: words.count("max-tokens")?,
        prompt: words.text("prompt")?.unwrap_or_default().to_string(),
    };
    let threads = words
        .threads()?
        .min(usize::try_from(count).unwrap_or(usize::MAX));
    let model = load_model(words)?;
    let generator = Generator::new(Arc::clone(&model), options)?;
    words.not_together("null", "json", "JSON is an object a line")?;
    let style = match (words.has("json"), words.has("null")) {
        (true, _) => Style::Json,
        (_, true) => Style::Null,
        _ => Style::Lines,
    };
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .with_context(|| format!("cannot start {threads} threads"))?;
    let samples = Samples {
        generator: &generator,
        pool: &pool,
        threads: threads as u64,
    };
    if words.has("unique") {
        print_unique(&samples, style, count)
    } else {
        print_all(&samples, style, count)
    }
}

/// Samples made on several threads, chunk by chunk.
struct Samples<'a> {
    generator: &'a Generator,
    pool: &'a rayon::ThreadPool,
    threads: u64,
}

impl Samples<'_> {
    /// The samples from number `first` on, at most up to number `end`.
    fn chunk(&self, first: u64, end: u64) -> Vec<Sample> {
        let end = end.min(first.saturating_add(CHUNK_PER_THREAD * self.threads));
        if end - first == 1 {
            return vec![self.generator.sample(first)];
        }
        self.pool.install(|| {
            (first..end)
                .into_par_iter()
                .map(|index| self.generator.sample(index))
                .collect()
        })
    }
}

/// How a sample is printed.
#[derive(Clone, Copy)]
pub enum Style {
    Lines,
    /// Text as it is, with NUL at its end.
    Null,
    Json,
}

impl Style {
    /// How the sample of this index is printed.
    pub fn format(self, index: u64, sample: &Sample) -> String {
        let blank = if index > 0 { "\n" } else { "" };
        match (self, sample) {
            (Style::Lines, Sample::Text(text)) => console::single_line(text) + "\n",
            (Style::Lines, Sample::Passage(text)) => {
                let end = if text.ends_with('\n') { "" } else { "\n" };
                format!("{blank}{text}{end}")
            }
            (Style::Lines, Sample::Conversation(messages)) => {
                let line = |message: &Message| console::single_line(&message.content) + "\n";
                blank.to_string() + &messages.iter().map(line).collect::<String>()
            }
            (Style::Null, Sample::Text(text) | Sample::Passage(text)) => format!("{text}\0"),
            (Style::Null, Sample::Conversation(messages)) => {
                let contents: Vec<&str> = messages.iter().map(|m| m.content.as_str()).collect();
                contents.join("\n") + "\0"
            }
            (Style::Json, Sample::Text(text) | Sample::Passage(text)) => {
                format!("{}\n", json!({ "index": index, "text": text }))
            }
            (Style::Json, Sample::Conversation(messages)) => {
                format!("{}\n", json!({ "index": index, "messages": messages }))
            }
        }
    }
}

fn print_all(samples: &Samples, style: Style, count: u64) -> Result<(), Failure> {
    let mut output = console::Output::new();
    let mut index = 0;
    while index < count {
        for sample in samples.chunk(index, count) {
            output.write(&style.format(index, &sample))?;
            index += 1;
        }
        output.flush()?;
    }
    Ok(())
}

fn print_unique(samples: &Samples, style: Style, count: u64) -> Result<(), Failure> {
    let mut output = console::Output::new();
    let mut seen = HashSet::new();
    let (mut index, mut printed, mut in_vain) = (0, 0, 0);
    while printed < count && in_vain < UNIQUE_PATIENCE {
        for sample in samples.chunk(index, u64::MAX) {
            // Samples are told apart by what is printed of them.
            if seen.insert(Style::Lines.format(0, &sample)) {
                output.write(&style.format(index, &sample))?;
                (printed, in_vain) = (printed + 1, 0);
            } else {
                in_vain += 1;
            }
            index += 1;
            if printed == count || in_vain == UNIQUE_PATIENCE {
                break;
            }
        }
        output.flush()?;
    }
    if printed < count {
        console::note(format_args!(
            "microgpt: found {} different samples of {}, and none that is new among the last {}; \
            a higher --temperature gives more",
            console::thousands(printed),
            console::thousands(count),
            console::thousands(UNIQUE_PATIENCE),
        ));
    }
    Ok(())
}
