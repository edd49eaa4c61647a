//! `microgpt generate`: samples, one a line, on all cores, in their order.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::json;

use super::{Failure, Words, console, load_model, sampling};
use crate::data::Message;
use crate::engine::{GenerateOptions, Generator, Sample, Samples, start_samples};

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
    let threads = words.threads()?;
    words.not_together("null", "json", "JSON is an object a line")?;
    let style = match (words.has("json"), words.has("null")) {
        (true, _) => Style::Json,
        (_, true) => Style::Null,
        _ => Style::Lines,
    };
    let generator = Generator::new(load_model(words)?, options)?;
    if words.has("unique") {
        let made = move |index, sample: &Sample| (hash(sample), style.format(index, sample));
        let samples = start_samples(generator, threads, count, false, made)?;
        print_unique(samples, count)
    } else {
        let made = move |index, sample: &Sample| style.format(index, sample);
        let samples = start_samples(generator, threads, count, true, made)?;
        print_all(samples)
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

/// Prints the samples as they are made.
pub fn print_all(mut samples: Samples<String>) -> Result<(), Failure> {
    let mut output = console::Output::new();
    while let Some(texts) = samples.next()? {
        for text in texts {
            output.write(&text)?;
        }
        if !samples.is_ready() {
            output.flush()?;
        }
    }
    output.flush()
}

/// Prints each sample once. Of those that were there, only their hashes are kept.
fn print_unique(mut samples: Samples<(u128, String)>, count: u64) -> Result<(), Failure> {
    let mut output = console::Output::new();
    let mut seen = HashSet::new();
    let (mut printed, mut in_vain) = (0, 0);
    while let Some(made) = samples.next()? {
        for (hash, text) in made {
            if seen.insert(hash) {
                output.write(&text)?;
                (printed, in_vain) = (printed + 1, 0);
            } else {
                in_vain += 1;
            }
            if printed == count || in_vain == UNIQUE_PATIENCE {
                output.flush()?;
                return {
                    note_missing(printed, count);
                    Ok(())
                };
            }
        }
        if !samples.is_ready() {
            output.flush()?;
        }
    }
    output.flush()
}

/// Says where there are fewer different samples than were asked for.
fn note_missing(printed: u64, count: u64) {
    if printed < count {
        console::eprintln(format_args!(
            "microgpt: found {} different samples of {}, and none that is new among the last {}; \
            a higher --temperature gives more",
            console::group_thousands(printed),
            console::group_thousands(count),
            console::group_thousands(UNIQUE_PATIENCE),
        ));
    }
}

/// What tells samples apart: long enough that no two of the samples that anyone will ever make have
/// the same.
fn hash(sample: &Sample) -> u128 {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        match sample {
            Sample::Text(text) | Sample::Passage(text) => text.hash(&mut hasher),
            Sample::Conversation(messages) => {
                let contents = messages.iter().map(|m| &m.content);
                contents.for_each(|content| content.hash(&mut hasher));
            }
        }
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}
