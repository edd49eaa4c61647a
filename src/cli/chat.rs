//! `microgpt chat`: a conversation on a terminal or through pipes.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, anyhow};
use rustyline::error::ReadlineError;

use super::failure::Failure;
use super::flags::ChatArgs;
use super::prompts::PromptLines;
use super::{console, model_dir};
use crate::data::{Message, Role, quote_chars};
use crate::engine::{Chat, GenerateOptions, chat_tokens};
use crate::infer::InferenceGpt;
use crate::kernels::cpu::cores;

const COMMANDS_HELP: &str =
    "/clear  start a new conversation\n/quit   exit, as does Ctrl-D\n/help   show this list";

/// Runs `microgpt chat`.
pub fn run(args: ChatArgs) -> Result<(), Failure> {
    let model = model_dir::load(args.model_dir.as_deref())?;
    let session = Session::new(&model, &args.options, args.system.as_deref())?;
    let is_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    let file = args
        .prompt_file
        .or_else(|| (!is_terminal).then(|| PathBuf::from("-")));
    let lines = file.as_deref().map(PromptLines::open).transpose()?;
    let history = match args.no_history {
        true => None,
        false => history_file(),
    };
    model.thread_group(cores())?.run(|| match lines {
        Some(lines) => chat_on_pipes(session, lines),
        None => chat_on_terminal(session, history),
    })
}

/// A conversation with a model.
struct Session<'a> {
    model: &'a InferenceGpt,
    options: &'a GenerateOptions,
    chat: Chat<'a>,
    /// The system message, if there is one, and those since then.
    messages: Vec<Message>,
    /// The number of replies, which seeds the next one.
    replies: u64,
}

/// The result of a line of input.
enum Turn {
    /// No reply.
    Silent,
    Quit,
    /// A reply. The context had no space for the first `tokens_dropped` tokens of the conversation.
    Reply {
        tokens_dropped: usize,
    },
}

/// Reports that the model did not see the whole conversation.
fn report_dropped(tokens_dropped: usize) {
    if tokens_dropped > 0 {
        console::eprintln(format_args!(
            "(the context is full: the model does not see the first {})",
            console::pluralize(tokens_dropped as u64, "token")
        ));
    }
}

impl<'a> Session<'a> {
    fn new(
        model: &'a InferenceGpt,
        options: &'a GenerateOptions,
        system: Option<&str>,
    ) -> Result<Self, Failure> {
        let chat = Chat::new(model)?;
        if system.is_some() && chat_tokens(model)?.system.is_none() {
            return Err(Failure::Error(anyhow!(
                "--system needs a model trained on conversations with system messages"
            )));
        }
        let session = Self {
            model,
            options,
            chat,
            messages: Vec::from_iter(system.map(|text| Message::new(Role::System, text))),
            replies: 0,
        };
        session.report_unknown(system.unwrap_or_default());
        Ok(session)
    }

    /// Reports characters that the model does not see.
    fn report_unknown(&self, text: &str) {
        let tokenizer = &self.model.meta().tokenizer;
        let unknown = tokenizer.unknown_chars([text].into_iter());
        if !unknown.is_empty() {
            console::eprintln(format_args!(
                "(the model doesn't know {}; left out)",
                quote_chars(&unknown)
            ));
        }
    }

    /// Runs a command or replies to a message. `visit` receives the text of the reply as it is
    /// generated, and ends it by returning false.
    fn process(&mut self, line: &str, visit: impl FnMut(&str) -> bool) -> Result<Turn, Failure> {
        match line.trim() {
            "" => return Ok(Turn::Silent),
            "/quit" => return Ok(Turn::Quit),
            "/help" => {
                console::eprintln(format_args!("{COMMANDS_HELP}"));
                return Ok(Turn::Silent);
            }
            "/clear" => {
                self.messages.retain(|message| message.role == Role::System);
                return Ok(Turn::Silent);
            }
            message => self.messages.push(Message::new(Role::User, message)),
        }
        self.report_unknown(line.trim());
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

/// Replies to each line of a file or of standard input.
fn chat_on_pipes(mut session: Session, mut lines: PromptLines) -> Result<(), Failure> {
    let mut output = console::Output::new();
    while let Some(line) = lines.next_line()? {
        let mut reply = String::new();
        let turn = session.process(&line, |text| {
            reply += text;
            true
        })?;
        match turn {
            Turn::Silent => {}
            Turn::Quit => break,
            Turn::Reply { tokens_dropped } => {
                output.write(&(console::single_line(&reply) + "\n"))?;
                output.flush()?;
                report_dropped(tokens_dropped);
            }
        }
    }
    Ok(())
}

/// The file of the line editor's history, in a directory that this creates: `history` in the XDG state
/// directory. None if there is no home directory.
fn history_file() -> Option<PathBuf> {
    let absolute = |name| {
        let path = PathBuf::from(std::env::var_os(name)?);
        path.is_absolute().then_some(path)
    };
    let state =
        absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    let directory = state.join("microgpt");
    // A failure shows when the history is saved.
    let _ = std::fs::create_dir_all(&directory);
    Some(directory.join("history"))
}

/// Prompts for messages with line editing.
fn chat_on_terminal(mut session: Session, history: Option<PathBuf>) -> Result<(), Failure> {
    let interrupted = Arc::new(AtomicBool::new(false));
    // Ctrl-C ends the reply that is being generated. At the prompt, the line editor handles it.
    signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::clone(&interrupted))
        .context("cannot watch for Ctrl-C")?;
    let mut editor =
        rustyline::DefaultEditor::new().context("cannot edit lines on this terminal")?;
    if let Some(path) = &history {
        // There is none before the first chat.
        let _ = editor.load_history(path);
    }
    console::eprintln(format_args!("Type a message; /help lists the commands."));
    loop {
        let line = match editor.readline("> ") {
            Ok(line) => line,
            Err(ReadlineError::Eof) => return Ok(()),
            Err(ReadlineError::Interrupted) => {
                console::eprintln(format_args!("(/quit or Ctrl-D exits)"));
                continue;
            }
            Err(error) => {
                return Err(Failure::Error(
                    anyhow::Error::new(error).context("cannot read the terminal"),
                ));
            }
        };
        // A failure of the history does not affect the chat.
        let _ = editor.add_history_entry(line.as_str());
        if let Some(path) = &history {
            let _ = editor.append_history(path);
        }
        if let Some(command) = line
            .split_whitespace()
            .next()
            .filter(|word| word.starts_with('/'))
            && !["/clear", "/quit", "/help"].contains(&line.trim())
        {
            console::eprintln(format_args!(
                "(unknown command {command}; /help lists the commands)"
            ));
            continue;
        }
        interrupted.store(false, Ordering::Relaxed);
        let mut failed = None;
        let turn = session.process(&line, |text| {
            failed = console::print(text).err();
            failed.is_none() && !interrupted.load(Ordering::Relaxed)
        });
        if let Some(failure) = failed {
            return Err(failure);
        }
        match turn? {
            Turn::Silent => {}
            Turn::Quit => return Ok(()),
            Turn::Reply { tokens_dropped } => {
                console::print("\n")?;
                report_dropped(tokens_dropped);
            }
        }
    }
}
