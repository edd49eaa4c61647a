//! `microgpt chat`: a conversation, on a terminal or through pipes.

use std::io::{self, BufRead, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use rustyline::error::ReadlineError;

use super::{Failure, Words, console, load_model, sampling};
use crate::data::{Message, Role};
use crate::engine::{Chat, GenerateOptions, list_chars};
use crate::infer::InferenceGpt;
use crate::kernels::cpu::cores;

const COMMANDS_HELP: &str =
    "/clear  forget the conversation\n/quit   end (Ctrl-D does too)\n/help   show this";

pub fn run(words: &Words) -> Result<(), Failure> {
    let options = GenerateOptions {
        sampling: sampling::sampling_options(words)?,
        seed: sampling::seed(words)?,
        max_tokens: words.count("max-tokens")?,
        prompt: String::new(),
    };
    let model = load_model(words)?;
    let session = Session::new(&model, &options)?;
    model.thread_group(cores())?.run(|| {
        if io::stdin().is_terminal() && io::stdout().is_terminal() {
            on_terminal(session)
        } else {
            on_pipes(session)
        }
    })
}

/// A conversation so far, and the model that takes part in it.
struct Session<'a> {
    model: &'a InferenceGpt,
    options: &'a GenerateOptions,
    chat: Chat<'a>,
    messages: Vec<Message>,
    /// How many replies were made; each has random numbers of its own.
    replies: u64,
}

/// What a line of input leads to.
enum Turn {
    /// There is nothing to say to it.
    Nothing,
    Quit,
    /// The model's answer, and how many tokens of the conversation it did not see any more.
    Reply {
        tokens_dropped: usize,
    },
}

/// Tells that the model has not seen all of the conversation.
fn note_dropped(tokens_dropped: usize) {
    if tokens_dropped > 0 {
        console::eprintln(format_args!(
            "(the context is full: the first {tokens_dropped} tokens were dropped)"
        ));
    }
}

impl<'a> Session<'a> {
    fn new(model: &'a InferenceGpt, options: &'a GenerateOptions) -> Result<Self, Failure> {
        Ok(Self {
            model,
            options,
            chat: Chat::new(model)?,
            messages: Vec::new(),
            replies: 0,
        })
    }

    /// Does what a line asks for; `visit` sees a reply's characters as they come, and ends it by
    /// returning false.
    fn take(&mut self, line: &str, visit: impl FnMut(char) -> bool) -> Result<Turn, Failure> {
        match line.trim() {
            "" => return Ok(Turn::Nothing),
            "/quit" => return Ok(Turn::Quit),
            "/help" => {
                console::eprintln(format_args!("{COMMANDS_HELP}"));
                return Ok(Turn::Nothing);
            }
            "/clear" => {
                self.messages.clear();
                return Ok(Turn::Nothing);
            }
            message => self.messages.push(Message::new(Role::User, message)),
        }
        let unknown = self
            .model
            .meta()
            .tokenizer
            .unknown_chars([line.trim()].into_iter());
        if !unknown.is_empty() {
            console::eprintln(format_args!(
                "(the model doesn't know {}; left out)",
                list_chars(&unknown)
            ));
        }
        let reply = self
            .chat
            .reply(&self.messages, self.options, self.replies, visit)?;
        self.replies += 1;
        self.messages
            .push(Message::new(Role::Assistant, reply.text));
        Ok(Turn::Reply {
            tokens_dropped: reply.tokens_dropped,
        })
    }
}

fn on_pipes(mut session: Session) -> Result<(), Failure> {
    let mut output = console::Output::new();
    for (number, line) in io::stdin().lock().split(b'\n').enumerate() {
        let line = line.context("cannot read standard input")?;
        let line = String::from_utf8(line).map_err(|_| {
            anyhow::anyhow!("line {} of standard input is not UTF-8 text", number + 1)
        })?;
        let mut reply = String::new();
        let turn = session.take(&line, |c| {
            reply.push(c);
            true
        })?;
        match turn {
            Turn::Nothing => {}
            Turn::Quit => break,
            Turn::Reply { tokens_dropped } => {
                output.write(&(console::single_line(&reply) + "\n"))?;
                output.flush()?;
                note_dropped(tokens_dropped);
            }
        }
    }
    Ok(())
}

fn on_terminal(mut session: Session) -> Result<(), Failure> {
    let interrupted = Arc::new(AtomicBool::new(false));
    // While a reply is made, Ctrl-C ends the reply. At the prompt, the line editor sees it first.
    signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::clone(&interrupted))
        .context("cannot watch for Ctrl-C")?;
    let mut editor =
        rustyline::DefaultEditor::new().context("cannot edit lines on this terminal")?;
    console::eprintln(format_args!("Say something; /help shows the commands."));
    loop {
        let line = match editor.readline("> ") {
            Ok(line) => line,
            Err(ReadlineError::Eof) => return Ok(()),
            Err(ReadlineError::Interrupted) => {
                console::eprintln(format_args!("(/quit or Ctrl-D ends the chat)"));
                continue;
            }
            Err(error) => {
                return Err(Failure::Error(
                    anyhow::Error::new(error).context("cannot read the terminal"),
                ));
            }
        };
        // A line that the history cannot keep is still a line.
        let _ = editor.add_history_entry(line.as_str());
        if let Some(command) = line
            .split_whitespace()
            .next()
            .filter(|word| word.starts_with('/'))
            && !["/clear", "/quit", "/help"].contains(&line.trim())
        {
            console::eprintln(format_args!(
                "(there is no command {command}; /help shows those there are)"
            ));
            continue;
        }
        interrupted.store(false, Ordering::Relaxed);
        let mut failed = None;
        let turn = session.take(&line, |c| {
            failed = console::print(c.encode_utf8(&mut [0; 4])).err();
            failed.is_none() && !interrupted.load(Ordering::Relaxed)
        });
        if let Some(failure) = failed {
            return Err(failure);
        }
        match turn? {
            Turn::Nothing => {}
            Turn::Quit => return Ok(()),
            Turn::Reply { tokens_dropped } => {
                console::print("\n")?;
                note_dropped(tokens_dropped);
            }
        }
    }
}
