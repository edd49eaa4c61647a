//! The definitions of commands and options. The parser, help, the man page and the shell completions
//! follow them.

mod options;

use super::{
    Failure, Words, chat, completions, export, generate, help, info, man, score, serve, train,
};
use options::*;

/// Where models are unless somebody says otherwise.
pub const DEFAULT_MODEL_DIR: &str = "microgpt-model";

/// What the program is, in a line.
pub const SUMMARY: &str = "small language models of your own, from a text file to new text";

/// What the program is, in a few sentences.
pub const DESCRIPTION: &str = "microgpt trains character-level GPT language models on text (a document a line, or one \
    continuous text) or on conversations, makes new text with them, and serves them over HTTP. \
    Results go to standard output and everything else to standard error, so that it can be used \
    in pipelines. A model is a directory.";

/// A command of the program.
pub struct Command {
    pub name: &'static str,
    /// What it does, in a line.
    pub summary: &'static str,
    /// What else there is to know.
    pub details: &'static str,
    /// What it takes beside options.
    pub operand: Option<Operand>,
    /// The options under their headings.
    pub groups: &'static [Group],
    /// Command lines that work, each with what it does.
    pub examples: &'static [(&'static str, &'static str)],
    pub run: fn(&Words) -> Result<(), Failure>,
}

/// A heading, and the options beneath it.
pub type Group = (&'static str, &'static [Opt]);

/// A word on the command line that is not an option.
pub struct Operand {
    /// What help calls it.
    pub name: &'static str,
    pub required: bool,
    pub takes: Operands,
}

/// What may stand in an operand's place.
pub enum Operands {
    /// One of some words.
    OneOf(fn() -> Vec<&'static str>),
    /// Any number of files.
    Files,
}

impl Operands {
    /// The words that there are to choose from; none where there is no such choice.
    pub fn choices(&self) -> Option<Vec<&'static str>> {
        match self {
            Operands::OneOf(choices) => Some(choices()),
            Operands::Files => None,
        }
    }
}

impl Command {
    /// All options, in the order in which help lists them.
    pub fn options(&self) -> impl Iterator<Item = &'static Opt> + Clone {
        let groups: &'static [Group] = self.groups;
        groups.iter().flat_map(|(_, options)| options.iter())
    }

    /// The option of this name.
    pub fn option(&self, name: &str) -> Option<&'static Opt> {
        self.options().find(|option| option.name == name)
    }

    /// How it is called: `microgpt help [COMMAND]`.
    pub fn synopsis(&self) -> String {
        let operand = match &self.operand {
            None => String::new(),
            Some(operand) => match operand.takes {
                Operands::OneOf(_) if operand.required => format!(" {}", operand.name),
                Operands::OneOf(_) => format!(" [{}]", operand.name),
                Operands::Files => format!(" [{} ...]", operand.name),
            },
        };
        format!("microgpt {} [options]{operand}", self.name)
    }
}

/// An option of one or more commands.
#[derive(Clone, Copy)]
pub struct Opt {
    /// The long name, without the dashes.
    pub name: &'static str,
    pub short: Option<char>,
    pub takes: Takes,
    /// What holds when it is not given, as help shows it; empty where there is nothing to say.
    pub default: &'static str,
    /// What it does, in a line.
    pub help: &'static str,
    /// What else there is to know.
    pub details: &'static str,
    /// Whether the short help only names it.
    pub rare: bool,
    /// What other programs call it: somebody who tries that is told ours.
    pub elsewhere: &'static [&'static str],
}

/// What kind of value an option takes, and what help calls it.
#[derive(Clone, Copy)]
pub enum Takes {
    Nothing,
    /// A number or some text.
    Value(&'static str),
    File,
    Dir,
    OneOf(&'static [&'static str]),
}

impl Takes {
    /// What help calls the value; none for an option without one.
    pub fn placeholder(&self) -> Option<String> {
        match self {
            Takes::Nothing => None,
            Takes::Value(name) => Some(name.to_string()),
            Takes::File => Some("FILE".to_string()),
            Takes::Dir => Some("DIR".to_string()),
            Takes::OneOf(choices) => Some(choices.join("|")),
        }
    }
}

/// The environment variables that the program looks at.
pub const ENVIRONMENT: &[(&str, &str)] = &[
    (
        "MODEL_DIR",
        "The default of --model-dir; without it, microgpt-model.",
    ),
    ("PORT", "The default of --port; without it, 8080."),
    ("NO_COLOR", "If set to anything, no colour on a terminal."),
];

/// The exit codes.
pub const EXIT_STATUS: &[(&str, &str)] = &[
    ("0", "It did what it was asked to."),
    ("1", "It failed while running."),
    ("2", "The command line was wrong."),
    (
        "130",
        "Ctrl-C stopped it; train finished its step and saved before. 143 after SIGTERM.",
    ),
];

/// What a model directory holds.
pub const FILES: &[(&str, &str)] = &[
    (
        "weights.safetensors",
        "The weights: f32, or f16 after `export --half`.",
    ),
    ("meta.json", "The model's size and characters."),
    (
        "train_state.json",
        "How far training has come, and with which options.",
    ),
    (
        "optimizer_m.safetensors, optimizer_v.safetensors",
        "Adam's moments.",
    ),
    (
        "best",
        "While training with --validation-fraction: the best model so far, a model directory too.",
    ),
    (
        "train.lock",
        "While a run writes here: its process. One that is left behind by a kill holds up nobody.",
    ),
];

/// All commands, in the order in which help lists them.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "train",
        summary: "Train a model on text or conversations",
        details: "Says what it does on stderr, and prints some samples of the new model on \
            stdout. Ctrl-C finishes the step, saves, and says how to go on; a second one stops at \
            once.",
        operand: None,
        groups: TRAIN,
        examples: &[
            (
                "microgpt train",
                "a model of first names, in microgpt-model",
            ),
            (
                "microgpt train --input names.txt --output names-model",
                "a model of your own lines",
            ),
            (
                "microgpt train --resume names-model --steps 500",
                "500 steps more",
            ),
            (
                "zcat app.log.gz | microgpt train --input - --block-size 64",
                "a model of what a pipe brings",
            ),
            (
                "microgpt train --text --input book.txt --validation-fraction 0.1 --n-embd 64 \
                --block-size 64",
                "a model of one long text, tested on its last tenth",
            ),
            (
                "microgpt train --chat --input chats.jsonl --output chat-model --block-size 256",
                "a model that answers",
            ),
        ],
        run: train::run,
    },
    Command {
        name: "generate",
        summary: "Make new text with a model",
        details: "Prints a sample a line. A chat model's sample is a conversation, a message a \
            line, with a blank line between samples. Line breaks within those are printed as \\n. \
            A model of a continuous text (`train --text`) goes on from --prompt, or from the \
            beginning of a line, and its samples are lines with a blank line between samples.",
        operand: None,
        groups: GENERATE,
        examples: &[
            ("microgpt generate", "20 samples"),
            (
                "microgpt generate -n 1000 --unique | sort",
                "1,000 different ones, sorted",
            ),
            (
                "microgpt generate --prompt el --temperature 1",
                "samples that begin with \"el\"",
            ),
        ],
        run: generate::run,
    },
    Command {
        name: "chat",
        summary: "Talk to a model that was trained on conversations",
        details: "On a terminal, `/clear` forgets the conversation, `/quit` (or Ctrl-D) ends it, \
            and `/help` shows the commands. Otherwise a line in is a message, and a line out is \
            the reply.",
        operand: None,
        groups: CHAT,
        examples: &[
            ("microgpt chat --model-dir chat-model", "a conversation"),
            (
                "echo 'hello' | microgpt chat --model-dir chat-model",
                "one reply",
            ),
        ],
        run: chat::run,
    },
    Command {
        name: "score",
        summary: "Tell how odd each line is",
        details: "Prints, for each line of the files or of standard input, the bits that the model \
            needs for a token of it, a tab, and the line: the mean of -log2 p over its characters \
            and its end; inf where the model doesn't know a character. A line that is longer than \
            the context is read through a window that moves by half of it. For a chat model, a \
            line is a conversation, as JSON.",
        operand: Some(Operand {
            name: "FILE",
            required: false,
            takes: Operands::Files,
        }),
        groups: SCORE,
        examples: &[
            (
                "microgpt score < app.log | sort -rn | head",
                "the ten oddest lines",
            ),
            (
                "microgpt score --summary held-out.txt",
                "how well the model knows a file",
            ),
        ],
        run: score::run,
    },
    Command {
        name: "info",
        summary: "Show what a model is",
        details: "",
        operand: None,
        groups: INFO,
        examples: &[(
            "microgpt info --json | jq .parameters",
            "how many weights it has",
        )],
        run: info::run,
    },
    Command {
        name: "export",
        summary: "Copy a model without what only training needs",
        details: "",
        operand: None,
        groups: EXPORT,
        examples: &[(
            "microgpt export --half --output small-model",
            "in a sixth of the space",
        )],
        run: export::run,
    },
    Command {
        name: "serve",
        summary: "Serve a model over HTTP",
        details: "Says which address it listens on, and then a line a request, on stderr. Ctrl-C \
            or SIGTERM finishes what is under way.",
        operand: None,
        groups: SERVE,
        examples: &[(
            "microgpt serve --model-dir chat-model --port 8080",
            "an API, for OpenAI's clients too, and a web page",
        )],
        run: serve::run,
    },
    Command {
        name: "help",
        summary: "Show all there is to know about a command",
        details: "The same as the command's --help; its -h is a summary.",
        operand: Some(Operand {
            name: "COMMAND",
            required: false,
            takes: Operands::OneOf(|| COMMANDS.iter().map(|command| command.name).collect()),
        }),
        groups: HELP_ONLY,
        examples: &[("microgpt help train", "all options of train")],
        run: help::run,
    },
    Command {
        name: "man",
        summary: "Print the man page",
        details: "In roff, as `man` reads it.",
        operand: None,
        groups: HELP_ONLY,
        examples: &[("microgpt man | man -l -", "read it")],
        run: man::run,
    },
    Command {
        name: "completions",
        summary: "Print the completions of a shell",
        details: "",
        operand: Some(Operand {
            name: "SHELL",
            required: true,
            takes: Operands::OneOf(|| completions::SHELLS.to_vec()),
        }),
        groups: HELP_ONLY,
        examples: &[
            (
                "eval \"$(microgpt completions bash)\"",
                "complete in this bash",
            ),
            (
                "microgpt completions fish > ~/.config/fish/completions/microgpt.fish",
                "in every fish",
            ),
        ],
        run: completions::run,
    },
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_command_has_two_options_of_one_name() {
        for command in COMMANDS {
            let names: HashSet<_> = command.options().map(|o| o.name).collect();
            let short = command.options().filter_map(|o| o.short);
            assert_eq!(names.len(), command.options().count(), "{}", command.name);
            assert_eq!(
                short.clone().collect::<HashSet<_>>().len(),
                short.count(),
                "{}",
                command.name
            );
        }
    }
}
