//! The options of each command.

use super::{Group, Opt, Takes};
use crate::train::Schedule;

impl Opt {
    const fn new(name: &'static str, takes: Takes, help: &'static str) -> Self {
        Self {
            name,
            short: None,
            takes,
            default: "",
            help,
            details: "",
            rare: false,
            elsewhere: &[],
        }
    }

    /// An option without a value.
    const fn switch(name: &'static str, help: &'static str) -> Self {
        Self::new(name, Takes::Nothing, help)
    }

    /// An option with a whole number.
    const fn whole(name: &'static str, help: &'static str) -> Self {
        Self::new(name, Takes::Value("N"), help)
    }

    /// An option with any number.
    const fn real(name: &'static str, help: &'static str) -> Self {
        Self::new(name, Takes::Value("X"), help)
    }

    const fn file(name: &'static str, help: &'static str) -> Self {
        Self::new(name, Takes::File, help)
    }

    const fn dir(name: &'static str, help: &'static str) -> Self {
        Self::new(name, Takes::Dir, help)
    }

    const fn short(mut self, short: char) -> Self {
        self.short = Some(short);
        self
    }

    const fn default(mut self, default: &'static str) -> Self {
        self.default = default;
        self
    }

    const fn details(mut self, details: &'static str) -> Self {
        self.details = details;
        self
    }

    const fn elsewhere(mut self, names: &'static [&'static str]) -> Self {
        self.elsewhere = names;
        self
    }

    const fn rare(mut self) -> Self {
        self.rare = true;
        self
    }
}

const HELP: Opt = Opt::switch("help", "Show help: -h a summary, --help everything").short('h');
const QUIET: Opt = Opt::switch("quiet", "Say nothing on stderr but errors")
    .elsewhere(&["silent"])
    .short('q');
const THREADS: Opt = Opt::whole("threads", "How many threads to use")
    .default("all cores")
    .elsewhere(&["jobs", "workers"]);

pub const HELP_ONLY: &[Group] = &[("", &[HELP])];

pub const TRAIN: &[Group] = &[
    (
        "The text",
        &[
            Opt::file("input", "What to train on; `-` is stdin")
.elsewhere(&["data", "dataset", "corpus", "file"])
                .default("built-in names")
                .details(
                    "It has a document a line. With --chat it is a conversation a line, as JSON, and the built-in \
                    conversations are the default; with --text it is one continuous text. It may have up to \
                    256 MiB, for which training takes up to 5 GB of memory.",
                ),
            Opt::switch("chat", "Train on conversations").details(
                "Each line is [{\"role\": \"user\", \"content\": \"…\"}, {\"role\": \
                \"assistant\", \"content\": \"…\"}], with as many turns as there are.",
            ),
            Opt::switch("text", "The input is one continuous text: a book, code").details(
                "Training takes windows of --block-size tokens from anywhere in it, line breaks \
                included, and validation the last part.",
            ),
        ],
    ),
    (
        "The model",
        &[
            Opt::dir("output", "Where to keep the model")
                .short('o')
.elsewhere(&["out", "out-dir", "output-dir", "model-dir", "save"])
                .default("microgpt-model")
                .details("A resumed model stays in its directory unless told otherwise."),
            Opt::whole("n-embd", "The width of the model").default("16")
.elsewhere(&["d-model", "dim", "hidden-size", "width"]),
            Opt::whole("n-head", "Attention heads; has to divide --n-embd").default("4")
.elsewhere(&["heads", "num-heads"]),
            Opt::whole("n-layer", "Layers").default("1")
.elsewhere(&["depth", "layers", "num-layers"]),
            Opt::whole("block-size", "The context, in characters")
.elsewhere(&["context", "context-length", "ctx", "seq-len", "sequence-length"])
                .default("16")
                .details("Longer documents are cut there in training."),
        ],
    ),
    (
        "Training",
        &[
            Opt::whole("steps", "How many steps to train").default("1000")
.elsewhere(&["epochs", "iterations", "iters", "max-iters", "max-steps", "num-steps"]),
            Opt::whole("batch-size", "Documents a step").default("32"),
            Opt::real("lr", "The peak learning rate")
.elsewhere(&["learning-rate", "rate"])
                .default("0.01")
                .details("Wide models want less: 0.003 at a width of 128 and 0.002 at 256 are good beginnings."),
            Opt::new(
                "schedule",
                Takes::OneOf(&Schedule::NAMES),
                "How the rate falls to zero",
            )
            .default("linear")
            .details("constant: not at all.")
            .rare(),
            Opt::whole(
                "warmup-steps",
                "Steps in which the rate first rises from zero",
            )
.elsewhere(&["warmup", "warmup-iters"])
            .default("0")
            .rare(),
            Opt::real(
                "weight-decay",
                "How much of a weight goes with each step, times the rate",
            )
            .default("0")
            .details("As in AdamW, apart from the gradients.")
            .rare(),
            Opt::real("grad-clip", "The longest that the gradient may be")
.elsewhere(&["clip", "max-grad-norm"])
                .details("A longer one is scaled to this length. Without it, none is.")
                .rare(),
            Opt::real("beta1", "How slowly Adam's mean gradient changes")
                .default("0.85")
                .rare(),
            Opt::real("beta2", "How slowly Adam's mean squared gradient changes")
                .default("0.99")
                .rare(),
            Opt::whole(
                "seed",
                "The seed of the weights and of the documents' order",
            )
            .default("42")
            .rare(),
        ],
    ),
    (
        "Validation",
        &[
            Opt::real("validation-fraction", "Hold this share out, to test on")
                .default("0")
.elsewhere(&["holdout", "val-split", "valid-fraction", "validation-split"])
                .details(
                    "Which documents is up to the seed; of a continuous text it is the last part. \
                What is left in the directory at the end is the best model by validation loss; \
                until then it is in the directory's subdirectory best.",
                ),
            Opt::whole("eval-every", "Steps between two tests")
.elsewhere(&["eval-interval", "validate-every"])
                .default("a tenth of them all")
                .rare(),
            Opt::whole("patience", "Stop after N tests in a row without a new best")
.elsewhere(&["early-stopping"]).rare(),
        ],
    ),
    (
        "Running",
        &[
            Opt::dir("resume", "Go on with the model in DIR, for --steps more").details(
                "Size, characters and kind come from DIR, and so do the input, the seed and all \
                that shapes training, where they are not given.",
            ),
            Opt::whole("checkpoint-every", "Save every N steps; 0: at the end only")
                .default("0")
                .rare(),
            Opt::new(
                "device",
                Takes::OneOf(&["cpu", "metal"]),
                "Where to compute",
            )
            .default("cpu")
            .details("metal needs a build for macOS with `--features metal`.")
            .rare(),
            THREADS.rare(),
            Opt::file("log", "Write a JSON line a step")
                .details(
                    "With step, loss, lr, tokens and seconds, and with validation_loss and \
                validation_bits after a test. A resumed run adds to the file.",
                )
                .rare(),
            Opt::file("plot", "Draw the loss over the steps, as SVG").rare(),
            QUIET.rare(),
            HELP,
        ],
    ),
];

const MODEL_DIR: Opt = Opt::dir("model-dir", "The model")
    .short('m')
    .default("$MODEL_DIR, or microgpt-model");
const TEMPERATURE: Opt = Opt::real("temperature", "How freely to choose; 0: the likeliest")
    .default("0.5")
    .details("1 follows the model's probabilities.");
const SEED: Opt = Opt::whole("seed", "The same seed gives the same text again").default("42");
const TOP_K: Opt = Opt::whole("top-k", "Choose among the N likeliest tokens");
const TOP_P: Opt = Opt::real("top-p", "Choose among those that add up to X")
    .details("The fewest likeliest tokens whose probabilities reach X together.");
const MIN_P: Opt = Opt::real("min-p", "Leave out those X times less likely than the best")
    .details("Tokens less than X times as likely as the likeliest one are never chosen.");
const MAX_TOKENS: Opt = Opt::whole("max-tokens", "The most tokens to make")
    .default("the context")
    .elsewhere(&["length", "max-length", "max-new-tokens"]);

pub const GENERATE: &[Group] = &[
    (
        "What to make",
        &[
            MODEL_DIR,
            Opt::whole("num-samples", "How many samples")
                .elsewhere(&["count", "number", "samples"])
                .short('n')
                .default("20"),
            Opt::new(
                "prompt",
                Takes::Value("TEXT"),
                "What every sample begins with",
            )
            .elsewhere(&["begin", "prefix", "start"])
            .details("For a chat model, the beginning of the first message."),
            MAX_TOKENS.details("For a model of a continuous text, 500."),
            Opt::switch("unique", "Print each sample once, until there are enough")
                .details("Takes about 110 MB of memory for a million different samples."),
        ],
    ),
    ("How to choose", &[TEMPERATURE, TOP_K, TOP_P, MIN_P, SEED]),
    (
        "Output",
        &[
            Opt::switch(
                "null",
                "End each sample with NUL, its line breaks as they are",
            )
            .short('0'),
            Opt::switch("json", "A JSON object a line: index, and text or messages"),
            THREADS,
            HELP,
        ],
    ),
];

pub const CHAT: &[Group] = &[(
    "",
    &[
        MODEL_DIR,
        TEMPERATURE,
        TOP_K,
        TOP_P,
        MIN_P,
        SEED,
        MAX_TOKENS,
        HELP,
    ],
)];

pub const SCORE: &[Group] = &[(
    "",
    &[
        MODEL_DIR,
        Opt::switch("summary", "Print one line for all the input")
            .details("The bits a token, and how many lines and tokens there are."),
        Opt::switch("json", "A JSON object a line: line, bits and tokens")
            .details("The bits are those of the whole line; null where a character is unknown."),
        THREADS,
        HELP,
    ],
)];

pub const INFO: &[Group] = &[(
    "",
    &[MODEL_DIR, Opt::switch("json", "Print a JSON object"), HELP],
)];

pub const EXPORT: &[Group] = &[(
    "",
    &[
        MODEL_DIR,
        Opt::dir("output", "Where to write the model").short('o'),
        Opt::switch("half", "Store the weights in half precision, f16")
            .elsewhere(&["f16", "float16", "fp16"]),
        HELP,
    ],
)];

pub const SERVE: &[Group] = &[(
    "",
    &[
        MODEL_DIR,
        Opt::new("host", Takes::Value("ADDRESS"), "The address to listen on")
            .default("127.0.0.1")
            .elsewhere(&["address", "bind", "listen"]),
        Opt::whole("port", "The port; 0 takes a free one").default("$PORT, or 8080"),
        Opt::whole("threads", "Requests answered at once").default("64"),
        Opt::switch("quiet", "No access log").short('q'),
        HELP,
    ],
)];
