//! Training data and lines to score.

use std::io::{self, Read};
use std::sync::{Arc, LazyLock};

use anyhow::Result;

use super::support::{accepted, small_model};
use crate::cli::score_on_this_thread;
use crate::data::{
    Corpus, CorpusKind, Dataset, TextReader, Tokenizer, chat_prompt, decode_utf8,
    parse_conversation,
};
use crate::engine::{GenerateOptions, Generator, Sample};
use crate::infer::InferenceGpt;

/// The context size of the datasets.
const BLOCK_SIZE: usize = 8;

/// Documents and continuous text: encoding and decoding is the identity, every line is printed
/// with its score and unchanged but for its end, UTF-8 or not, and a sample starts with its prompt.
pub fn text(input: &[u8]) {
    static MODELS: LazyLock<[Arc<InferenceGpt>; 2]> =
        LazyLock::new(|| [CorpusKind::Documents, CorpusKind::Continuous].map(small_model));
    for model in &*MODELS {
        score(model, input);
    }
    let Some(text) = accepted(read(input).and_then(decode_utf8)) else {
        return;
    };
    for model in &*MODELS {
        let kind = model.meta().tokenizer.kind();
        if let Some(corpus) = accepted(Corpus::new(&text, kind)) {
            let tokenizer = corpus.tokenizer();
            let decoded = corpus.for_each_text(|text| {
                assert_eq!(tokenizer.decode(&tokenizer.encode(text)), text);
                Ok(())
            });
            decoded.expect("the text was read before");
            train_on(&corpus, &tokenizer);
        }
        let options = GenerateOptions {
            prompt: text.clone(),
            max_tokens: Some(3),
            ..Default::default()
        };
        if let Some(generator) = accepted(Generator::new(Arc::clone(model), options)) {
            let Sample::Text(sample) = generator.sample(0) else {
                panic!("these models do not chat");
            };
            assert!(sample.starts_with(&text));
        }
    }
}

/// Conversations: each is decoded from its tokens unchanged, and truncated to any budget.
pub fn conversations(input: &[u8]) {
    static MODEL: LazyLock<Arc<InferenceGpt>> =
        LazyLock::new(|| small_model(CorpusKind::Conversations));
    score(&MODEL, input);
    let Some(text) = accepted(read(input).and_then(decode_utf8)) else {
        return;
    };
    let Some(corpus) = accepted(Corpus::new(&text, CorpusKind::Conversations)) else {
        return;
    };
    let tokenizer = corpus.tokenizer();
    let chat = tokenizer.chat_tokens().expect("its kind has them");
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    for messages in lines.map(parse_conversation) {
        let messages = &messages.expect("the corpus was accepted");
        let tokens = tokenizer.encode_conversation(chat, messages);
        let read = tokenizer.decode_conversation(&tokens);
        assert_eq!(&read, messages);
        for budget in 0..10 {
            let fitted = chat_prompt(&tokenizer, chat, messages, budget);
            assert!(fitted.tokens.len() <= budget.max(2));
            // What is left, and what the last `bos` and the role that asks for a reply stand for.
            assert_eq!(fitted.tokens.len() + fitted.dropped, tokens.len());
        }
    }
    train_on(&corpus, &tokenizer);
}

/// Builds batches of a corpus, with a validation set and without.
fn train_on(corpus: &Corpus, tokenizer: &Tokenizer) {
    assert!(
        tokenizer
            .unknown_chars([corpus.characters()].into_iter())
            .is_empty()
    );
    for fraction in [0.0, 0.3] {
        let dataset = Dataset::new(corpus, tokenizer, BLOCK_SIZE, 1);
        let mut dataset = dataset.expect("the tokenizer is this corpus'");
        let held_out = match fraction {
            0.0 => None,
            fraction => match accepted(dataset.split_validation(fraction)) {
                None => continue,
                held_out => held_out,
            },
        };
        let held_out = held_out.iter().flat_map(|held_out| held_out.batches(20));
        let batches = dataset.batch(3, 5, 2).expect("it is in memory");
        for batch in held_out.chain(batches.into_iter().map(Ok)) {
            let batch = batch.expect("it is in memory");
            assert!(!batch.tokens.is_empty());
            assert_eq!(batch.tokens.len(), batch.targets.len());
            let all = batch.tokens.iter().chain(&*batch.targets);
            assert!(all.max() < Some(&(tokenizer.vocab_size() as u32)));
            assert!(batch.positions.iter().max() < Some(&(BLOCK_SIZE as u32)));
        }
    }
}

/// Reads a text at once.
fn read(input: &[u8]) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    TextReader::new(input).read_to_end(&mut text)?;
    Ok(text)
}

/// Scores lines read in small chunks.
fn score(model: &InferenceGpt, input: &[u8]) {
    let Some(text) = accepted(read(input)) else {
        assert!(score_on_this_thread(model, &mut Trickle(input)).is_err());
        return;
    };
    let lines = text.split(|&byte| byte == b'\n');
    let count = lines.clone().count();
    let Some(printed) = accepted(score_on_this_thread(model, &mut Trickle(input))) else {
        assert!(model.meta().is_chat(), "any line is a text");
        return;
    };
    let printed = printed.split(|&byte| byte == b'\n');
    // The last line may lack a line feed; an empty rest is not a line.
    let lines = lines
        .clone()
        .take(count - usize::from(text.is_empty() || text.ends_with(b"\n")));
    let mut count = 0;
    for (line, printed) in lines.clone().zip(printed) {
        let tab = printed.iter().position(|&byte| byte == b'\t');
        let (score, rest) = printed.split_at(tab.expect("a score stands before a tab"));
        assert_eq!(&rest[1..], line);
        let score: f64 = str::from_utf8(score)
            .ok()
            .and_then(|s| s.parse().ok())
            .expect("a number");
        assert!(score >= 0.0, "{score}");
        count += 1;
    }
    assert_eq!(count, lines.count(), "every line is there");
}

/// A reader that returns at most 7 bytes per call.
struct Trickle<'a>(&'a [u8]);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(7);
        self.0.read(&mut buffer[..length])
    }
}
