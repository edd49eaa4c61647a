//! `microgpt generate`: samples, one per line, on all cores, in the order of their indices.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use serde_json::{Value, json};

use super::failure::Failure;
use super::flags::GenerateArgs;
use super::prompts::{PromptBlocks, PromptLines};
use super::{console, model_dir};
use crate::data::{CorpusKind, Message, parse_conversation};
use crate::engine::{Generator, Sample, Samples, start_prompts, start_samples};

/// The number of samples in a row that `--unique` and `--not-in` pass over before they stop.
const MAX_PASSED_OVER: u64 = 10_000;

/// Runs `microgpt generate`.
pub fn run(args: GenerateArgs) -> Result<(), Failure> {
    let (count, threads) = (args.count(), args.threads.count());
    let model = model_dir::load(args.model_dir.as_deref())?;
    let kind = model.meta().tokenizer.kind();
    let sample_format = match (args.json, args.null) {
        (true, _) => SampleFormat::Json,
        (_, true) => SampleFormat::Null,
        _ => SampleFormat::plain(kind),
    };
    if let Some(path) = &args.prompt_file {
        let format = move |prompt: u64, index, sample: &Sample| {
            sample_format.format_of_prompt(args.first, prompt, index, sample)
        };
        let indices = args.first..args.first.saturating_add(count);
        let lines = PromptLines::open(path)?;
        let mut blocks = PromptBlocks::new(lines, Arc::clone(&model), args.options, indices);
        let next_block = move |may_wait| blocks.next(may_wait);
        return print_all(start_prompts(model, threads, next_block, format)?);
    }
    if !args.not_in.is_empty() && kind == CorpusKind::Continuous {
        return Err(Failure::Error(anyhow!(
            "--not-in is for samples that may be whole lines, and this model continues one long text"
        )));
    }
    let excluded = read_excluded(&args.not_in, kind)?;
    let generator = Generator::new(model, args.options)?;
    if args.unique || !excluded.is_empty() {
        let format = move |index, sample: &Sample| {
            let hash = hash(sample);
            (hash, sample_format.format(args.first, index, sample))
        };
        let samples = start_samples(generator, threads, args.first, count, false, format)?;
        print_filtered(samples, count, excluded, args.unique)
    } else {
        let format = move |index, sample: &Sample| sample_format.format(args.first, index, sample);
        print_all(start_samples(
            generator, threads, args.first, count, true, format,
        )?)
    }
}

/// The hashes of the documents or conversations in the lines of the files.
fn read_excluded(files: &[PathBuf], kind: CorpusKind) -> Result<HashSet<u128>, Failure> {
    let mut hashes = HashSet::new();
    for path in files {
        let mut lines = PromptLines::open(path)?;
        while let Some(line) = lines.next_line()? {
            let sample = match kind {
                CorpusKind::Conversations => {
                    let messages = parse_conversation(&line);
                    Sample::Conversation(messages.with_context(|| lines.place())?)
                }
                _ => Sample::Text(line.trim().to_string()),
            };
            hashes.insert(hash(&sample));
        }
    }
    Ok(hashes)
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

    /// Formats the sample of this index. A blank line separates those of several lines, the first of
    /// which is at `first`.
    pub fn format(self, first: u64, index: u64, sample: &Sample) -> String {
        let blank = if index > first { "\n" } else { "" };
        self.format_with(blank, json!({ "index": index }), sample)
    }

    /// Formats the sample of a prompt, as [`Self::format`].
    fn format_of_prompt(self, first: u64, prompt: u64, index: u64, sample: &Sample) -> String {
        let blank = if prompt > 0 || index > first {
            "\n"
        } else {
            ""
        };
        self.format_with(blank, json!({ "line": prompt + 1, "index": index }), sample)
    }

    /// Formats a sample after `blank`; as JSON, adds it to an object of its place.
    fn format_with(self, blank: &str, mut json: Value, sample: &Sample) -> String {
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
                json["text"] = json!(text);
                format!("{json}\n")
            }
            (SampleFormat::Json, Sample::Conversation(messages)) => {
                json["messages"] = json!(messages);
                format!("{json}\n")
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

/// Prints `count` samples that are not excluded, each different one once if they are to be `unique`.
/// Keeps only the hashes of those printed.
fn print_filtered(
    mut samples: Samples<(u128, String)>,
    count: u64,
    mut excluded: HashSet<u128>,
    unique: bool,
) -> Result<(), Failure> {
    let mut output = console::Output::new();
    let (mut printed, mut passed_over) = (0, 0);
    while let Some(batch) = samples.next_result()? {
        for (hash, text) in batch {
            let is_new = match unique {
                true => excluded.insert(hash),
                false => !excluded.contains(&hash),
            };
            if is_new {
                output.write(&text)?;
                (printed, passed_over) = (printed + 1, 0);
            } else {
                passed_over += 1;
            }
            if printed == count || passed_over == MAX_PASSED_OVER {
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

/// Reports that there are fewer new samples than requested.
fn report_missing(printed: u64, count: u64) {
    if printed < count {
        console::eprintln(format_args!(
            "microgpt: found {} different samples of {}, and no new one among the last {}; a higher \
            --temperature gives more",
            console::group_thousands(printed),
            console::group_thousands(count),
            console::group_thousands(MAX_PASSED_OVER),
        ));
    }
}

fn hash(sample: &Sample) -> u128 {
    match sample {
        Sample::Text(text) => hash_texts([&**text]),
        Sample::Conversation(messages) => hash_texts(messages.iter().map(|m| &*m.content)),
    }
}

/// A hash of 128 bits, so that collisions do not occur in practice.
fn hash_texts<'a>(texts: impl IntoIterator<Item = &'a str, IntoIter: Clone>) -> u128 {
    let texts = texts.into_iter();
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        texts.clone().for_each(|text| text.hash(&mut hasher));
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}
