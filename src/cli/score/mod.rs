//! `microgpt score`: bits per token or byte of each line, on all cores, in the order of the lines.
//!
//! The threads take turns in reading a chunk of lines, which each then scores. So a line from a slow
//! pipe is scored as it arrives, and memory holds a few chunks, or the longest line.

mod line_format;
mod line_reader;
mod top_lines;
mod total;

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};

use self::line_format::LineFormat;
use self::line_reader::{LineChunk, LineReader, open};
use self::top_lines::TopLines;
use self::total::Total;
use super::failure::Failure;
use super::flags::{ColorChoice, ScoreArgs};
use super::{console, model_dir};
use crate::data::CorpusKind;
use crate::engine::{Pipeline, Score, ScoreOptions, ScoreUnit, Scorer};
use crate::infer::InferenceGpt;

/// Chunks in flight per thread, which bounds the memory.
const CHUNKS_AHEAD: u64 = 4;

/// Runs `microgpt score`.
pub fn run(args: ScoreArgs) -> Result<(), Failure> {
    let options = ChunkOptions::new(&args);
    let unit = args.unit();
    let model = model_dir::load(args.model_dir.as_deref())?;
    let mut chunks = start(args.files, model, args.threads.count(), options)?;
    let mut output = console::Output::new();
    let mut total = Total::default();
    let mut top = args.top.map(TopLines::new);
    while let Some(chunk) = chunks.next_result()? {
        chunk.scores.iter().for_each(|score| total.add(score));
        match &mut top {
            Some(top) => chunk.add_to(top, unit),
            None => output.write(&chunk.text)?,
        }
        if !chunks.is_ready() {
            output.flush()?;
        }
    }
    for line in top.into_iter().flat_map(TopLines::into_outputs) {
        output.write(line)?;
    }
    if args.summary {
        output.write(total.describe(args.json, unit))?;
    }
    output.flush()
}

/// The options of the output for a chunk.
#[derive(Clone, Copy)]
struct ChunkOptions {
    scoring: ScoreOptions,
    /// `None` if no line is printed.
    format: Option<LineFormat>,
    /// The unit of the bits that are compared.
    unit: ScoreUnit,
    /// The minimum bits per unit of a line that is printed.
    threshold: f64,
}

impl ChunkOptions {
    fn new(args: &ScoreArgs) -> Self {
        let wants_shades = match args.color {
            ColorChoice::Auto => console::stdout_has_colour(),
            ColorChoice::Always => true,
            ColorChoice::Never => false,
        };
        let shade = wants_shades && !args.json && !args.summary;
        let format = LineFormat {
            json: args.json,
            unit: args.unit(),
            tokens: args.tokens,
            shade,
        };
        Self {
            scoring: ScoreOptions {
                unknown: args.unknown,
                keep_token_bits: args.tokens || shade,
                threads: args.threads.count(),
            },
            format: (!args.summary).then_some(format),
            unit: args.unit(),
            threshold: args.threshold.unwrap_or(0.0),
        }
    }
}

/// The output for a chunk, and the scores of its lines.
struct ScoredChunk {
    text: Vec<u8>,
    /// Without the bits of tokens.
    scores: Vec<Score>,
    /// The end of each line's output in `text`.
    ends: Vec<usize>,
}

impl ScoredChunk {
    /// Adds the output of the lines that are printed.
    fn add_to(&self, top: &mut TopLines, unit: ScoreUnit) {
        let mut start = 0;
        for (score, &end) in self.scores.iter().zip(&self.ends) {
            if end > start {
                top.add(score.bits_per(unit), &self.text[start..end]);
            }
            start = end;
        }
    }
}

/// Starts to score the lines of the files, or of standard input if there are none.
fn start(
    mut files: Vec<PathBuf>,
    model: Arc<InferenceGpt>,
    threads: usize,
    options: ChunkOptions,
) -> Result<Pipeline<ScoredChunk>> {
    if files.is_empty() {
        files.push(PathBuf::from("-"));
    }
    let mut files = files.into_iter();
    let mut lines: Option<LineReader<Box<dyn Read + Send>>> = None;
    let source = move |_| {
        loop {
            if let Some(lines) = &mut lines
                && let Some(chunk) = lines.next_chunk()?
            {
                return Ok(Some(chunk));
            }
            let Some(path) = files.next() else {
                return Ok(None);
            };
            lines = Some(open(&path)?);
        }
    };
    let max_in_flight = CHUNKS_AHEAD * threads as u64;
    Pipeline::start(threads, max_in_flight, source, move |_, jobs| {
        let mut scorer = Scorer::new(&model, options.scoring);
        while let Some((number, chunk)) = jobs.take() {
            let scored = score_chunk(&mut scorer, &chunk, options);
            let scored = scored.with_context(|| chunk.source.to_string());
            if !jobs.deliver(number, scored) {
                return;
            }
        }
    })
}

fn score_chunk(
    scorer: &mut Scorer,
    chunk: &LineChunk,
    options: ChunkOptions,
) -> Result<ScoredChunk> {
    let text = chunk.text.strip_suffix(b"\n").unwrap_or(&chunk.text);
    let lines: Vec<&[u8]> = text.split(|&byte| byte == b'\n').collect();
    // What is not UTF-8 becomes a character that hardly any model knows.
    let texts: Vec<_> = lines
        .iter()
        .map(|line| String::from_utf8_lossy(line))
        .collect();
    let kind = scorer.tokenizer().kind();
    let trimmed = texts.iter().map(|text| match kind {
        // As training takes them.
        CorpusKind::Documents | CorpusKind::Conversations => text.trim(),
        CorpusKind::Continuous => text,
    });
    let trimmed: Vec<&str> = trimmed.collect();
    let mut scores = scorer.score(&trimmed, chunk.first_line)?;
    let (mut printed, mut ends) = (Vec::new(), Vec::with_capacity(lines.len()));
    for ((score, line), text) in scores.iter_mut().zip(&lines).zip(&texts) {
        if let Some(format) = options.format
            && score.bits_per(options.unit) >= options.threshold
        {
            format.write(line, text, score, scorer.tokenizer(), &mut printed)?;
        }
        score.token_bits = Vec::new();
        ends.push(printed.len());
    }
    Ok(ScoredChunk {
        text: printed,
        scores,
        ends,
    })
}

/// Returns what is printed for a text, all scored on this thread.
#[cfg(any(test, fuzzing))]
pub fn score_on_this_thread(model: &InferenceGpt, text: &mut dyn Read) -> Result<Vec<u8>> {
    let mut lines = LineReader::new("the text", text);
    let options = ChunkOptions::new(&ScoreArgs {
        color: ColorChoice::Never,
        ..Default::default()
    });
    let mut scorer = Scorer::new(model, options.scoring);
    let mut printed = Vec::new();
    while let Some(chunk) = lines.next_chunk()? {
        printed.extend(score_chunk(&mut scorer, &chunk, options)?.text);
    }
    Ok(printed)
}
