//! The one table of commands and options. The parser accepts what stands here, and help shows it.

use super::{Failure, Words, chat, export, generate, info, serve, train};

/// Where models are unless somebody says otherwise.
pub const DEFAULT_MODEL_DIR: &str = "microgpt-model";

/// A command of the program.
pub struct Command {
    pub name: &'static str,
    /// What it does, in a line.
    pub summary: &'static str,
    /// What else there is to know.
    pub details: &'static str,
    pub options: &'static [&'static Opt],
    /// Command lines that work, each with what it does.
    pub examples: &'static [(&'static str, &'static str)],
    pub run: fn(&Words) -> Result<(), Failure>,
}

/// An option of one or more commands.
pub struct Opt {
    /// The long name, without the dashes.
    pub name: &'static str,
    pub short: Option<char>,
    /// What its value is called; none for an option without one.
    pub value: Option<&'static str>,
    /// What holds when it is not given, as help shows it; empty where there is nothing to say.
    pub default: &'static str,
    pub help: &'static str,
}

const fn opt(
    name: &'static str,
    value: &'static str,
    default: &'static str,
    help: &'static str,
) -> Opt {
    Opt {
        name,
        short: None,
        value: Some(value),
        default,
        help,
    }
}

const fn switch(name: &'static str, help: &'static str) -> Opt {
    Opt {
        name,
        short: None,
        value: None,
        default: "",
        help,
    }
}

impl Opt {
    const fn short(self, short: char) -> Self {
        Self {
            short: Some(short),
            ..self
        }
    }
}

const HELP: Opt = switch("help", "Show this help").short('h');

const INPUT: Opt = opt(
    "input",
    "FILE",
    "the built-in names, or conversations",
    "What to train on: a document a line; with --chat a conversation a line, as JSON; `-` is \
    standard input",
);
const TRAIN_OUTPUT: Opt = opt(
    "output",
    "DIR",
    "microgpt-model, or the resumed directory",
    "Where to keep the model",
)
.short('o');
const CHAT: Opt = switch(
    "chat",
    "Train on conversations: [{\"role\": \"user\", \"content\": \"…\"}, {\"role\": \
    \"assistant\", \"content\": \"…\"}]",
);
const STEPS: Opt = opt("steps", "N", "1000", "How many steps to train");
const BATCH_SIZE: Opt = opt("batch-size", "N", "32", "How many documents a step takes");
const LR: Opt = opt(
    "lr",
    "X",
    "0.01",
    "The peak learning rate; models wider than 64 want less, like 0.003",
);
const SCHEDULE: Opt = opt(
    "schedule",
    "NAME",
    "linear",
    "How the learning rate falls to zero: linear, cosine, or constant (not at all)",
);
const N_EMBD: Opt = opt("n-embd", "N", "16", "The width of the model");
const N_HEAD: Opt = opt(
    "n-head",
    "N",
    "4",
    "The number of attention heads; has to divide --n-embd",
);
const N_LAYER: Opt = opt("n-layer", "N", "1", "The number of layers");
const BLOCK_SIZE: Opt = opt(
    "block-size",
    "N",
    "16",
    "The context: how many tokens the model can look at",
);
const TRAIN_SEED: Opt = opt(
    "seed",
    "N",
    "42",
    "The seed of the initial weights and of the documents' order",
);
const DEVICE: Opt = opt(
    "device",
    "NAME",
    "cpu",
    "Where to train: cpu, or metal (a build for macOS with `--features metal`)",
);
const RESUME: Opt = opt(
    "resume",
    "DIR",
    "",
    "Go on with the model in DIR for --steps more; size and characters come from DIR, and so do \
    the input, the seed, \
     the batch size, the learning rate and the schedule where they are not given",
);
const CHECKPOINT_EVERY: Opt = opt(
    "checkpoint-every",
    "N",
    "0",
    "Save every N steps; 0 saves at the end only",
);
const THREADS: Opt = opt("threads", "N", "all cores", "How many threads to use");
const LOG: Opt = opt(
    "log",
    "FILE",
    "",
    "Write a JSON line a step: step, loss, lr, tokens and seconds; a resumed run adds to the file",
);
const QUIET: Opt = switch("quiet", "Say nothing on stderr but errors").short('q');

const MODEL_DIR: Opt = opt(
    "model-dir",
    "DIR",
    "$MODEL_DIR, or microgpt-model",
    "The model",
)
.short('m');
const NUM_SAMPLES: Opt = opt("num-samples", "N", "20", "How many samples to make").short('n');
const TEMPERATURE: Opt = opt(
    "temperature",
    "X",
    "0.5",
    "How freely to choose: 0 always takes the likeliest token, 1 follows the model",
);
const SAMPLE_SEED: Opt = opt(
    "seed",
    "N",
    "42",
    "The seed; the same one gives the same text again",
);
const TOP_K: Opt = opt("top-k", "N", "", "Choose among the N likeliest tokens only");
const TOP_P: Opt = opt(
    "top-p",
    "X",
    "",
    "Choose among the likeliest tokens that together have the probability X",
);
const MIN_P: Opt = opt(
    "min-p",
    "X",
    "",
    "Leave out tokens less than X times as likely as the likeliest",
);
const PROMPT: Opt = opt(
    "prompt",
    "TEXT",
    "",
    "What every sample begins with; in a chat model, the first message",
);
const MAX_TOKENS: Opt = opt(
    "max-tokens",
    "N",
    "the context's size",
    "The most tokens to make",
);
const UNIQUE: Opt = switch(
    "unique",
    "Print each sample once, and make more until there are enough",
);
const GENERATE_JSON: Opt = switch(
    "json",
    "Print a JSON object a line, with `index` and `text` or `messages`",
);
const INFO_JSON: Opt = switch("json", "Print a JSON object");
const EXPORT_OUTPUT: Opt = opt("output", "DIR", "", "Where to write the model").short('o');
const HALF: Opt = switch(
    "half",
    "Store the weights in half precision (f16), in half the space",
);

const HOST: Opt = opt("host", "ADDRESS", "127.0.0.1", "The address to listen on");
const PORT: Opt = opt(
    "port",
    "N",
    "$PORT, or 8080",
    "The port to listen on; 0 takes a free one",
);
const SERVE_THREADS: Opt = opt(
    "threads",
    "N",
    "twice the cores, at least 8",
    "How many requests are answered at once",
);
const NO_ACCESS_LOG: Opt = switch("quiet", "No access log").short('q');

/// All commands, in the order in which help lists them.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "train",
        summary: "Train a model on text or conversations",
        details: "Prints what it does on stderr, and some samples of the new model on stdout. \
        Ctrl-C finishes the \
                  step, saves, and says how to go on; a second one stops at once.",
        options: &[
            &INPUT,
            &TRAIN_OUTPUT,
            &CHAT,
            &STEPS,
            &BATCH_SIZE,
            &LR,
            &SCHEDULE,
            &N_EMBD,
            &N_HEAD,
            &N_LAYER,
            &BLOCK_SIZE,
            &TRAIN_SEED,
            &DEVICE,
            &RESUME,
            &CHECKPOINT_EVERY,
            &THREADS,
            &LOG,
            &QUIET,
            &HELP,
        ],
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
        ],
        run: train::run,
    },
    Command {
        name: "generate",
        summary: "Make new text with a model",
        details: "Prints a sample a line. A chat model's sample is a conversation, a message a \
        line, with a blank line \
                  between samples. Line breaks within a sample are printed as \\n.",
        options: &[
            &MODEL_DIR,
            &NUM_SAMPLES,
            &TEMPERATURE,
            &SAMPLE_SEED,
            &TOP_K,
            &TOP_P,
            &MIN_P,
            &PROMPT,
            &MAX_TOKENS,
            &UNIQUE,
            &THREADS,
            &GENERATE_JSON,
            &HELP,
        ],
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
        details: "On a terminal: /clear forgets the conversation, /quit (or Ctrl-D) ends it, \
        /help shows the commands. \
                  Otherwise a line in is a message, and a line out is the reply.",
        options: &[
            &MODEL_DIR,
            &TEMPERATURE,
            &SAMPLE_SEED,
            &TOP_K,
            &TOP_P,
            &MIN_P,
            &MAX_TOKENS,
            &HELP,
        ],
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
        name: "info",
        summary: "Show what a model is",
        details: "",
        options: &[&MODEL_DIR, &INFO_JSON, &HELP],
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
        options: &[&MODEL_DIR, &EXPORT_OUTPUT, &HALF, &HELP],
        examples: &[(
            "microgpt export --half --output small-model",
            "in a sixth of the space",
        )],
        run: export::run,
    },
    Command {
        name: "serve",
        summary: "Serve a model over HTTP",
        details: "Prints the address that it listens on, and then a line a request, on stderr. \
        Ctrl-C or SIGTERM finishes what is under way.",
        options: &[
            &MODEL_DIR,
            &HOST,
            &PORT,
            &SERVE_THREADS,
            &NO_ACCESS_LOG,
            &HELP,
        ],
        examples: &[(
            "microgpt serve --model-dir chat-model --port 8080",
            "an API, for OpenAI's clients too",
        )],
        run: serve::run,
    },
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_command_has_two_options_of_one_name() {
        for command in COMMANDS {
            let names: HashSet<_> = command.options.iter().map(|o| o.name).collect();
            let short = command.options.iter().filter_map(|o| o.short);
            assert_eq!(names.len(), command.options.len(), "{}", command.name);
            assert_eq!(
                short.clone().collect::<HashSet<_>>().len(),
                short.count(),
                "{}",
                command.name
            );
        }
    }
}
