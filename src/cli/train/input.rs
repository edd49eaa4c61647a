//! The source of the training text.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::preparation_progress::PreparationProgress;
use crate::data::{
    BUILT_IN_NAMES, ByteStore, ByteStoreWriter, Corpus, CorpusKind, SpillOptions,
    built_in_conversations,
};

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

    /// Reads the text once, to check and count it. What is not a file of known size is copied first,
    /// as it can be read only once.
    pub fn read(
        &self,
        kind: CorpusKind,
        spill: &SpillOptions,
        progress: &PreparationProgress,
    ) -> Result<Corpus<'static>> {
        let source = self.describe(kind);
        let cannot_read = || format!("cannot read {source}");
        let text = match (self, kind) {
            (Input::BuiltIn, CorpusKind::Conversations) => {
                ByteStore::Memory(built_in_conversations()?.into_bytes())
            }
            (Input::BuiltIn, _) => ByteStore::Borrowed(BUILT_IN_NAMES.as_bytes()),
            (Input::Stdin, _) => {
                copy(io::stdin().lock(), spill, progress).with_context(cannot_read)?
            }
            (Input::File(path), _) => {
                let file = File::open(path).with_context(cannot_read)?;
                let metadata = file.metadata().with_context(cannot_read)?;
                match metadata.len() {
                    // Files in /proc have no size before they are read.
                    len if metadata.is_file() && len > 0 => ByteStore::File { file, len },
                    _ => copy(file, spill, progress).with_context(cannot_read)?,
                }
            }
        };
        let progress = progress.pass("reading", text.len());
        Corpus::read(text, kind, &progress).with_context(|| source.clone())
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

/// Copies a text that can be read only once.
fn copy(
    mut source: impl Read,
    spill: &SpillOptions,
    progress: &PreparationProgress,
) -> Result<ByteStore<'static>> {
    let progress = progress.pass("copying", 0);
    let mut writer = ByteStoreWriter::new(spill);
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = match source.read(&mut buffer) {
            Ok(0) => return writer.finish(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        writer.push(&buffer[..count])?;
        progress(writer.len());
    }
}
