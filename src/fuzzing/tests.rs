//! Runs the targets on stable Rust, over the files of their corpora and mutations of them.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use fastrand::Rng;

use super::support::small_meta;
use crate::data::CorpusKind;
use crate::store::{Precision, TensorFile};

/// Mutated inputs per target.
const MUTATIONS: usize = 400;

macro_rules! targets {
    ($($target:ident)*) => {
        $(
            #[test]
            fn $target() {
                run(stringify!($target), super::$target);
            }
        )*
    };
}

targets!(weights meta tokenizer train_state conversations text command_line http_body http_requests);

fn run(name: &str, target: fn(&[u8])) {
    let Some(corpus) = corpus(name) else { return };
    for input in &corpus {
        check(target, input);
    }
    let mut rng = Rng::with_seed(1);
    for _ in 0..MUTATIONS {
        let mut input = corpus[rng.usize(..corpus.len())].clone();
        for _ in 0..rng.usize(1..5) {
            mutate(&mut input, &corpus, &mut rng);
        }
        check(target, &input);
    }
}

/// Without valid files, the target would test only rejection.
#[test]
fn weights_corpus_has_valid_f32_and_f16_files() {
    let Some(corpus) = corpus("weights") else {
        return;
    };
    let meta = small_meta(CorpusKind::Documents);
    let files = corpus.into_iter().filter_map(|bytes| {
        let file = TensorFile::new(bytes.into(), meta.tensors(), true);
        Some(file.ok()?.precision)
    });
    let precisions: Vec<Precision> = files.collect();
    assert!(precisions.contains(&Precision::F32) && precisions.contains(&Precision::F16));
}

/// The files of a target's corpus, or `None` in a published package, which does not contain fuzz/.
fn corpus(name: &str) -> Option<Vec<Vec<u8>>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !root.join("fuzz").exists() && root.join("Cargo.toml.orig").exists() {
        return None;
    }
    let dir = root.join("fuzz/corpus").join(name);
    let files = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", dir.display());
    Some(paths.iter().map(|path| fs::read(path).unwrap()).collect())
}

fn check(target: fn(&[u8]), input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| target(input))).is_err() {
        panic!("the input was b\"{}\"", input.escape_ascii());
    }
}

/// Flips, replaces, truncates, repeats or splices bytes of an input.
fn mutate(input: &mut Vec<u8>, corpus: &[Vec<u8>], rng: &mut Rng) {
    let at = rng.usize(..=input.len());
    let end = rng.usize(at..=input.len());
    match rng.u8(..5) {
        0 if at < input.len() => input[at] ^= 1 << rng.u8(..8),
        1 if at < input.len() => input[at] = rng.u8(..),
        2 => input.truncate(at),
        3 => {
            let slice = input[at..end].to_vec();
            input.splice(at..at, slice);
        }
        _ => {
            let other = &corpus[rng.usize(..corpus.len())];
            let from = rng.usize(..=other.len());
            input.splice(at.., other[from..].iter().copied());
        }
    }
}
