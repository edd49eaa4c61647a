//! Where the training text comes from.

use std::io::{self, Read};
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::data::{BUILT_IN_NAMES, Corpus, built_in_conversations, decode_utf8};

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
    pub fn read<'a>(&self, chat: bool, text: &'a mut String) -> Result<Corpus<'a>> {
        let bytes = match self {
            Input::BuiltIn if chat => return built_in_conversations(),
            Input::BuiltIn => return Corpus::documents(BUILT_IN_NAMES),
            Input::Stdin => {
                let mut bytes = Vec::new();
                io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
            }
            Input::File(path) => std::fs::read(path),
        };
        let bytes = bytes.with_context(|| format!("cannot read {}", self.describe(chat)))?;
        let corpus = decode_utf8(bytes).and_then(|decoded| {
            *text = decoded;
            if chat {
                Corpus::conversations(text)
            } else {
                Corpus::documents(text)
            }
        });
        corpus.with_context(|| self.describe(chat))
    }

    /// What messages call it.
    pub fn describe(&self, chat: bool) -> String {
        match self {
            Input::BuiltIn if chat => "the built-in conversations".to_string(),
            Input::BuiltIn => "the built-in names".to_string(),
            Input::Stdin => "standard input".to_string(),
            Input::File(path) => path.display().to_string(),
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
