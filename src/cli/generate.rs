//! `microgpt generate`: samples, one per line, on all cores, in the order of their indices.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::json;

use super::failure::Failure;
use super::flags::GenerateArgs;
use super::{console, model_dir};
use crate::data::{CorpusKind, Message};
use crate::engine::{Generator, Sample, Samples, start_samples};

/// The number of duplicates in a row after which `--unique` stops.
const MAX_DUPLICATES: u64 = 10_000;

/// Runs `microgpt generate`.
pub fn run(args: GenerateArgs) -> Result<(), Failure> {
    let (count, threads) = (args.num_samples as u64, args.threads.count());
    let model = model_dir::load(args.model_dir.as_deref())?;
    let sample_format = match (args.json, args.null) {
        (true, _) => SampleFormat::Json,
        (_, true) => SampleFormat::Null,
        _ => SampleFormat::plain(model.meta().tokenizer.kind()),
    };
    let generator = Generator::new(model, args.options)?;
    if args.unique {
        let format =
            move |index, sample: &Sample| (hash(sample), sample_format.format(index, sample));
        let samples = start_samples(generator, threads, count, false, format)?;
        print_unique(samples, count)
    } else {
        let format = move |index, sample: &Sample| sample_format.format(index, sample);
        let samples = start_samples(generator, threads, count, true, format)?;
        print_all(samples)
    }
}

/// The output format of samples.
#[derive(Clone, Copy)]
pub enum SampleFormat {
    /// Each document, or each message of a conversation, on one line.
    Lines,
    /// Passages of continuous text, separated by blank lines.
    Passages,
    /// Verbatim text, terminated by NUL.
    Null,
    Json,
}

impl SampleFormat {
    /// The format for people to read.
    pub fn plain(kind: CorpusKind) -> Self {
        match kind {
            CorpusKind::Continuous => SampleFormat::Passages,
            CorpusKind::Documents | CorpusKind::Conversations => SampleFormat::Lines,
        }
    }

    /// Formats the sample of this index.
    pub fn format(self, index: u64, sample: &Sample) -> String {
        let blank = if index > 0 { "\n" } else { "" };
        match (self, sample) {
            (SampleFormat::Lines, Sample::Text(text)) => console::single_line(text) + "\n",
            (SampleFormat::Passages, Sample::Text(text)) => {
                let end = if text.ends_with('\n') { "" } else { "\n" };
                format!("{blank}{text}{end}")
            }
            (SampleFormat::Lines | SampleFormat::Passages, Sample::Conversation(messages)) => {
                let line = |message: &Message| console::single_line(&message.content) + "\n";
                blank.to_string() + &messages.iter().map(line).collect::<String>()
            }
            (SampleFormat::Null, Sample::Text(text)) => format!("{text}\0"),
            (SampleFormat::Null, Sample::Conversation(messages)) => {
                let contents: Vec<&str> = messages.iter().map(|m| m.content.as_str()).collect();
                contents.join("\n") + "\0"
            }
            (SampleFormat::Json, Sample::Text(text)) => {
                format!("{}\n", json!({ "index": index, "text": text }))
            }
            (SampleFormat::Json, Sample::Conversation(messages)) => {
                format!("{}\n", json!({ "index": index, "messages": messages }))
            }
        }
    }
}

/// Prints the samples as they are generated.
pub fn print_all(mut samples: Samples<String>) -> Result<(), Failure> {
    let mut output = console::Output::new();
    while let Some(texts) = samples.next_result()? {
        for text in texts {
            output.write(&text)?;
        }
        if !samples.is_ready() {
            output.flush()?;
        }
    }
    output.flush()
}

/// Prints each different sample once. Keeps only the hashes of those printed.
fn print_unique(mut samples: Samples<(u128, String)>, count: u64) -> Result<(), Failure> {
    let mut output = console::Output::new();
    let mut seen = HashSet::new();
    let (mut printed, mut duplicates) = (0, 0);
    while let Some(batch) = samples.next_result()? {
        for (hash, text) in batch {
            if seen.insert(hash) {
                output.write(&text)?;
                (printed, duplicates) = (printed + 1, 0);
            } else {
                duplicates += 1;
            }
            if printed == count || duplicates == MAX_DUPLICATES {
                output.flush()?;
                report_missing(printed, count);
                return Ok(());
            }
        }
        if !samples.is_ready() {
            output.flush()?;
        }
    }
    output.flush()
}

/// Reports that there are fewer different samples than requested.
fn report_missing(printed: u64, count: u64) {
    if printed < count {
        console::eprintln(format_args!(
            "microgpt: found {} different samples of {}, and no new one among the last {}; a higher \
            --temperature gives more",
            console::group_thousands(printed),
            console::group_thousands(count),
            console::group_thousands(MAX_DUPLICATES),
        ));
    }
}

/// A hash of a sample, of 128 bits so that collisions do not occur in practice.
fn hash(sample: &Sample) -> u128 {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        match sample {
            Sample::Text(text) => text.hash(&mut hasher),
            Sample::Conversation(messages) => {
                let contents = messages.iter().map(|m| &m.content);
                contents.for_each(|content| content.hash(&mut hasher));
            }
        }
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}
