//! The source of the training text.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::data::{
    BUILT_IN_NAMES, Corpus, CorpusKind, TextReader, built_in_conversations, decode_utf8,
};

/// The maximum size of a training text in bytes. Its tokens take several times as much memory.
const MAX_BYTES: u64 = 256 << 20;

/// A source of training text.
#[derive(PartialEq)]
pub enum Input {
    BuiltIn,
    Stdin,
    File(PathBuf),
}

impl Input {
    /// Returns the source of a path: standard input for `-`, the built-in text without a path.
    pub fn from_name(name: Option<PathBuf>) -> Self {
        match name {
            None => Input::BuiltIn,
            Some(path) if path.as_os_str() == "-" => Input::Stdin,
            Some(path) => Input::File(path),
        }
    }

    /// Reads and parses the text. The corpus borrows from `text`, which this overwrites.
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
            bytes.len() as u64 <= MAX_BYTES,
            "{} has more than {} MiB, the maximum to train on; shorten it, for example with \
            `head -c {1}M`",
            self.describe(kind),
            MAX_BYTES >> 20
        );
        let corpus = decode_utf8(bytes).and_then(|decoded| {
            *text = decoded;
            Corpus::new(text, kind)
        });
        corpus.with_context(|| self.describe(kind))
    }

    /// Returns the name for messages.
    pub fn describe(&self, kind: CorpusKind) -> String {
        match (self, kind) {
            (Input::BuiltIn, CorpusKind::Conversations) => "the built-in conversations".to_string(),
            (Input::BuiltIn, _) => "the built-in names".to_string(),
            (Input::Stdin, _) => "standard input".to_string(),
            (Input::File(path), _) => path.display().to_string(),
        }
    }

    /// Returns the entry in train_state.json: an absolute path, so that a resumed run finds the text
    /// from any directory; `None` for the built-in text.
    pub fn to_state(&self) -> Option<String> {
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

/// Reads at most one byte more than [`MAX_BYTES`].
fn read(source: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let source = TextReader::new(source);
    source.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
