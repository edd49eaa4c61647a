//! Where the training text comes from.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::data::{BUILT_IN_NAMES, Corpus, CorpusKind, built_in_conversations, decode_utf8};

/// The longest text that is trained on, in bytes: it is kept in memory several times over.
const LONGEST: u64 = 256 << 20;

/// A source of training text.
#[derive(PartialEq)]
pub enum Input {
    BuiltIn,
    Stdin,
    File(PathBuf),
}

impl Input {
    /// The source of this name, `-` being standard input; without one, what is built in.
    pub fn from_name(name: Option<PathBuf>) -> Self {
        match name {
            None => Input::BuiltIn,
            Some(path) if path.as_os_str() == "-" => Input::Stdin,
            Some(path) => Input::File(path),
        }
    }

    /// Reads the source; `text` keeps what the corpus points into.
    pub fn read<'a>(&self, kind: CorpusKind, text: &'a mut String) -> Result<Corpus<'a>> {
        let bytes = match (self, kind) {
            (Input::BuiltIn, CorpusKind::Conversations) => {
                return built_in_conversations().map(Corpus::Conversations);
            }
            (Input::BuiltIn, _) => return Corpus::new(BUILT_IN_NAMES, kind),
            (Input::Stdin, _) => read(io::stdin().lock()),
            (Input::File(path), _) => File::open(path).and_then(read),
        };
        let bytes = bytes.with_context(|| format!("cannot read {}", self.describe(kind)))?;
        ensure!(
            bytes.len() as u64 <= LONGEST,
            "{} has more than {} MiB, which is the most to train on; take a part of it, as \
            `head -c {1}M` does",
            self.describe(kind),
            LONGEST >> 20
        );
        let corpus = decode_utf8(bytes).and_then(|decoded| {
            *text = decoded;
            Corpus::new(text, kind)
        });
        corpus.with_context(|| self.describe(kind))
    }

    /// What messages call it.
    pub fn describe(&self, kind: CorpusKind) -> String {
        match (self, kind) {
            (Input::BuiltIn, CorpusKind::Conversations) => "the built-in conversations".to_string(),
            (Input::BuiltIn, _) => "the built-in names".to_string(),
            (Input::Stdin, _) => "standard input".to_string(),
            (Input::File(path), _) => path.display().to_string(),
        }
    }

    /// What train_state.json says, so that a resumed run finds the text again from wherever it is
    /// started; nothing for what is built in.
    pub fn recorded(&self) -> Option<String> {
        match self {
            Input::BuiltIn => None,
            Input::Stdin => Some("-".to_string()),
            Input::File(path) => {
                let path = path.canonicalize().unwrap_or_else(|_| path.clone());
                Some(path.to_string_lossy().into_owned())
            }
        }
    }
}

/// Reads a text, or one byte more than the longest one has.
fn read(source: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(LONGEST + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
