//! The options of `train`.

use super::args::{Args, DeviceKind};
use super::command::{Command, ParsedCommand};
use super::flag::{Flag, RawArgs};
use super::shared::{DEFAULT_MODEL_DIR, THREADS};
use crate::cli::failure::Failure;
use crate::train::{Hyperparameters, LossOn, Schedule};

pub const TRAIN: Command = Command {
    name: "train",
    summary: "Train a model on text or conversations",
    details: "Reports progress on stderr and prints samples of the new model on stdout. Ctrl-C, \
        SIGTERM or a hang-up completes the step, saves, and prints the command to resume; a \
        second Ctrl-C stops immediately. SIGUSR1 saves and continues.",
    operand: None,
    groups: &[
        ("Data", DATA),
        ("Model", MODEL),
        ("Optimization", OPTIMIZATION),
        ("Validation", VALIDATION),
        ("Run", RUN),
    ],
    examples: &[
        (
            "microgpt train",
            "Train on the built-in first names, into microgpt-model.",
        ),
        (
            "microgpt train --input names.txt --output names-model",
            "Train on your own lines.",
        ),
        (
            "microgpt train --resume names-model --steps 500",
            "Train for 500 more steps.",
        ),
        (
            "zcat app.log.gz | microgpt train --input - --block-size 64",
            "Train on standard input.",
        ),
        (
            "microgpt train --text --input book.txt --validation-fraction 0.1 --n-embd 64 \
            --block-size 64",
            "Train on one long text and hold out its last tenth.",
        ),
        (
            "microgpt train --init-from base --input special.txt --output special",
            "Continue with other text from the weights of a model.",
        ),
        (
            "microgpt train --chat --input chats.jsonl --output chat-model --block-size 256",
            "Train a chat model.",
        ),
    ],
    finish: |args, raw| {
        args.train.check()?;
        Ok(ParsedCommand::Train(args.train, raw))
    },
};

/// Returns the hyperparameters of a resumed run: the options given override the `resumed` ones.
pub fn override_hyperparameters(
    resumed: Hyperparameters,
    options: &RawArgs,
) -> Result<Hyperparameters, Failure> {
    let mut args = Args::default();
    args.train.hyperparameters = resumed;
    options.apply(&mut args)?;
    Ok(args.train.hyperparameters)
}

const DATA: &[Flag] = &[
    Flag::file("input", "Training text; `-` is stdin")
        .computed_default("built-in names")
        .aliases(&["data", "dataset", "corpus", "file"])
        .details(
            "One document per line. With --chat, one conversation per line as JSON (default: \
            the built-in conversations); with --text, one continuous text. Its size is not \
            limited, see --tmp-dir.",
        )
        .sets(|args| &mut args.train.input),
    Flag::switch("chat", "Train on conversations")
        .excludes("text", "the input is conversations or one continuous text")
        .details(
            "Each line is [{\"role\": \"user\", \"content\": \"…\"}, {\"role\": \
            \"assistant\", \"content\": \"…\"}], with any number of turns, or {\"messages\": […]}, \
            or ShareGPT's {\"conversations\": [{\"from\": \"human\", \"value\": \"…\"}, …]}. A \
            model of conversations with system messages has a token for them.",
        )
        .sets(|args| &mut args.train.chat),
    Flag::choice::<LossOn>("loss-on", "Messages to learn, with --chat")
        .details(
            "assistant learns the assistant's messages only, given the others; all learns every \
            message.",
        )
        .sets(|args| &mut args.train.hyperparameters.loss_on)
        .rare(),
    Flag::switch("text", "Train on one continuous text: a book, code")
        .details(
            "Training takes windows of --block-size tokens at any position, line breaks \
            included; validation holds out the end of the text.",
        )
        .sets(|args| &mut args.train.text),
    Flag::dir("tmp-dir", "Directory of temporary files")
        .computed_default("beside --output")
        .aliases(&["temp-dir", "tmpdir", "cache-dir"])
        .details(
            "The tokens of a text beyond 32 MiB, and a text beyond that from standard input, are \
            in files without a name there, which vanish with the process. They take 1 byte per \
            token (2 with more than 256 tokens) and 8 per line.",
        )
        .sets(|args| &mut args.train.tmp_dir)
        .rare(),
];

/// The reason why the options of the size exclude `--resume` and `--init-from`.
const FIXED_SIZE: &str = "a model keeps its size";

/// The reason why `--vocab-size` excludes `--resume` and `--init-from`.
const FIXED_VOCABULARY: &str = "a model keeps its vocabulary";

const MODEL: &[Flag] = &[
    Flag::dir("output", "Model directory to write")
        .short('o')
        .computed_default(DEFAULT_MODEL_DIR)
        .aliases(&["out", "out-dir", "output-dir", "model-dir", "save"])
        .details(
            "A resumed model stays in its directory by default. A directory with another model is \
            refused; only the built-in example, without --input and --output, replaces the model \
            of its last run.",
        )
        .sets(|args| &mut args.train.output),
    Flag::switch("force", "Replace the model in --output")
        .aliases(&["overwrite", "replace"])
        .sets(|args| &mut args.train.force)
        .rare(),
    Flag::integer("n-embd", "Embedding width")
        .excludes("resume", FIXED_SIZE)
        .excludes("init-from", FIXED_SIZE)
        .aliases(&["d-model", "dim", "hidden-size", "width"])
        .sets(|args| &mut args.train.config.n_embd),
    Flag::integer("n-head", "Attention heads; must divide --n-embd")
        .excludes("resume", FIXED_SIZE)
        .excludes("init-from", FIXED_SIZE)
        .aliases(&["heads", "num-heads"])
        .sets(|args| &mut args.train.config.n_head),
    Flag::integer("n-layer", "Layers")
        .excludes("resume", FIXED_SIZE)
        .excludes("init-from", FIXED_SIZE)
        .aliases(&["depth", "layers", "num-layers"])
        .sets(|args| &mut args.train.config.n_layer),
    Flag::integer("vocab-size", "Learn a byte-level BPE of N tokens")
        .computed_default("characters")
        .excludes("resume", FIXED_VOCABULARY)
        .excludes("init-from", FIXED_VOCABULARY)
        .aliases(&["vocabulary-size", "bpe", "n-vocab"])
        .details(
            "The tokens are frequent parts of words of the text, so that the context holds more of it, \
            and all bytes, so that no character is unknown. From 257 to 65536, special tokens included. \
            Without it, the tokens are the characters of the text.",
        )
        .sets(|args| &mut args.train.vocab_size)
        .rare(),
    Flag::integer("block-size", "Context length in tokens")
        .excludes("resume", FIXED_SIZE)
        .excludes("init-from", FIXED_SIZE)
        .aliases(&[
            "context",
            "context-length",
            "ctx",
            "seq-len",
            "sequence-length",
        ])
        .details("Training truncates longer documents.")
        .sets(|args| &mut args.train.config.block_size),
];

const OPTIMIZATION: &[Flag] = &[
    Flag::integer("steps", "Training steps")
        .aliases(&[
            "epochs",
            "iterations",
            "iters",
            "max-iters",
            "max-steps",
            "num-steps",
        ])
        .sets(|args| &mut args.train.steps),
    Flag::integer("batch-size", "Documents per step")
        .sets(|args| &mut args.train.hyperparameters.batch_size),
    Flag::number("lr", "Peak learning rate")
        .computed_default("auto")
        .aliases(&["learning-rate", "rate"])
        .details(
            "auto chooses it by --n-embd, --n-layer and --batch-size: 0.01 for the default model, \
            less for larger ones.",
        )
        .sets(|args| &mut args.train.lr),
    Flag::choice::<Schedule>("schedule", "Learning rate schedule")
        .details("linear and cosine decay to 0; constant does not decay.")
        .sets(|args| &mut args.train.hyperparameters.schedule)
        .rare(),
    Flag::integer(
        "warmup-steps",
        "Steps of linear warm-up to the peak learning rate",
    )
    .aliases(&["warmup", "warmup-iters"])
    .sets(|args| &mut args.train.hyperparameters.warmup_steps)
    .rare(),
    Flag::number("weight-decay", "Decoupled weight decay (AdamW)")
        .details("Each step shrinks the weights by X times the learning rate.")
        .sets(|args| &mut args.train.hyperparameters.weight_decay)
        .rare(),
    Flag::number("grad-clip", "Clip the global gradient norm to X")
        .aliases(&["clip", "max-grad-norm"])
        .details("Without it, gradients are not clipped.")
        .sets(|args| &mut args.train.hyperparameters.grad_clip)
        .rare(),
    Flag::number("dropout", "Drop each value with probability X")
        .details(
            "Of the embeddings and of each block's output, in training only. It helps where the \
            data is small for the model.",
        )
        .sets(|args| &mut args.train.hyperparameters.dropout)
        .rare(),
    Flag::number("beta1", "Adam's decay rate of the first moment")
        .sets(|args| &mut args.train.hyperparameters.beta1)
        .rare(),
    Flag::number("beta2", "Adam's decay rate of the second moment")
        .sets(|args| &mut args.train.hyperparameters.beta2)
        .rare(),
    Flag::integer(
        "seed",
        "Seed of the weights, the data order and the validation split",
    )
    .sets(|args| &mut args.train.hyperparameters.seed)
    .rare(),
];

const VALIDATION: &[Flag] = &[
    Flag::number(
        "validation-fraction",
        "Fraction of the data held out for validation",
    )
    .aliases(&["holdout", "val-split", "valid-fraction", "validation-split"])
    .details(
        "The seed selects the documents; of a continuous text, the end is held out. The run \
            keeps the best model by validation loss: in the subdirectory best while it trains, \
            in the model directory at the end.",
    )
    .sets(|args| &mut args.train.hyperparameters.validation_fraction),
    Flag::integer("eval-every", "Steps between evaluations")
        .computed_default("a tenth of --steps")
        .aliases(&["eval-interval", "validate-every"])
        .sets(|args| &mut args.train.eval_every)
        .rare(),
    Flag::integer(
        "patience",
        "Stop after N evaluations in a row without improvement",
    )
    .aliases(&["early-stopping"])
    .sets(|args| &mut args.train.patience)
    .rare(),
];

const RUN: &[Flag] = &[
    Flag::dir("resume", "Resume the model in DIR for --steps more")
        .details(
            "The size, the vocabulary and the kind of text come from DIR. So do the input, the \
            seed and all other settings of training that are not given.",
        )
        .sets(|args| &mut args.train.resume),
    Flag::switch("extend", "Add characters to the resumed model")
        .details(
            "Those of the input that it does not know, and the role of system messages. They start \
            with random weights; all other weights stay.",
        )
        .sets(|args| &mut args.train.extend)
        .rare(),
    Flag::dir("init-from", "Start from the weights of the model in DIR")
        .excludes("resume", "a resumed model has its own weights")
        .aliases(&["finetune", "pretrained", "from"])
        .details(
            "A new run with a new optimizer, from any model, also an exported one. The size comes \
            from DIR, and so does the kind of text unless --chat or --text is given; new \
            characters and roles are added as by --extend.",
        )
        .sets(|args| &mut args.train.init_from)
        .rare(),
    Flag::integer(
        "checkpoint-every",
        "Save every N steps; 0 saves at the end only",
    )
    .sets(|args| &mut args.train.checkpoint_every)
    .rare(),
    Flag::choice::<DeviceKind>("device", "Compute device")
        .details("metal needs a build for macOS with `--features metal`.")
        .sets(|args| &mut args.train.device)
        .rare(),
    THREADS.sets(|args| &mut args.train.threads).rare(),
    Flag::file("log", "Write one JSON object per step")
        .details(
            "The keys are step, loss, lr, tokens and seconds; after an evaluation also \
            validation_loss and validation_bits. A resumed run appends to the file.",
        )
        .sets(|args| &mut args.train.log)
        .rare(),
    Flag::file("plot", "Plot the loss per step, as SVG")
        .sets(|args| &mut args.train.plot)
        .rare(),
    Flag::switch("quiet", "Print only errors to stderr")
        .short('q')
        .aliases(&["silent"])
        .sets(|args| &mut args.train.quiet)
        .rare(),
];

#[cfg(test)]
mod tests {
    use super::super::TrainArgs;
    use super::super::value::Threads;
    use super::*;
    use crate::cli::parse::tests::{args, error, parse_line};
    use crate::data::CorpusKind;
    use crate::model::ModelConfig;
    use crate::train::LearningRate;

    #[test]
    fn data_options() {
        let default: TrainArgs = args("train");
        assert_eq!((default.input.clone(), default.kind()), (None, None));
        assert_eq!(args::<TrainArgs>("train --input -").input, Some("-".into()));
        let tmp_dir = args::<TrainArgs>("train --tmp-dir dir").tmp_dir;
        assert_eq!(tmp_dir, Some("dir".into()));
        let kind = |line| args::<TrainArgs>(line).kind();
        assert_eq!(kind("train --chat"), Some(CorpusKind::Conversations));
        assert_eq!(kind("train --text"), Some(CorpusKind::Continuous));
        let loss_on = |line| args::<TrainArgs>(line).hyperparameters.loss_on;
        assert_eq!(
            loss_on("train --chat --loss-on assistant"),
            LossOn::Assistant
        );
        assert!(error("train --loss-on assistant").contains("needs --chat"));
        assert!(error("train --text --chat").starts_with("--chat and --text cannot be combined"));
    }

    #[test]
    fn model_options() {
        let line = "train -o dir --n-embd 12 --n-head 3 --n-layer 2 --block-size 8";
        let TrainArgs { output, config, .. } = args(line);
        let expected = ModelConfig {
            n_embd: 12,
            n_head: 3,
            n_layer: 2,
            block_size: 8,
        };
        assert_eq!((output, config), (Some("dir".into()), expected));
        assert!(args::<TrainArgs>("train --force").force && !args::<TrainArgs>("train").force);
        for size in ["n-embd", "n-head", "n-layer", "block-size"] {
            assert_eq!(
                error(&format!("train --{size} 4 --resume dir")),
                format!("--{size} and --resume cannot be combined: a model keeps its size")
            );
        }
        assert_eq!(
            error("train --n-embd 30"),
            "--n-head must divide --n-embd, got 4 for 30; --n-embd 32 works"
        );
    }

    #[test]
    fn optimization_options_override_those_of_a_resumed_run() {
        let line = "train --steps 5 --batch-size 3 --lr 0.5 --schedule cosine --warmup-steps 2 \
            --weight-decay 0.25 --grad-clip 2 --beta1 0.5 --beta2 0.75 --seed 7 \
            --dropout 0.375 --validation-fraction 0.125";
        let all: TrainArgs = args(line);
        let expected = Hyperparameters {
            seed: 7,
            batch_size: 3,
            schedule: Schedule::Cosine,
            warmup_steps: 2,
            weight_decay: 0.25,
            grad_clip: Some(2.0),
            beta1: 0.5,
            beta2: 0.75,
            dropout: 0.375,
            validation_fraction: 0.125,
            loss_on: LossOn::All,
            ..Hyperparameters::default()
        };
        assert_eq!((all.steps, all.hyperparameters), (5, expected));
        assert_eq!(all.lr, Some(LearningRate::Value(0.5)));
        assert_eq!(
            args::<TrainArgs>("train --lr auto").lr,
            Some(LearningRate::Auto)
        );
        let Ok(ParsedCommand::Train(_, raw)) = parse_line("train --resume dir --beta1 0.25") else {
            panic!("the line is valid");
        };
        let overridden = override_hyperparameters(expected, &raw).unwrap();
        assert_eq!(
            overridden,
            Hyperparameters {
                beta1: 0.25,
                ..expected
            }
        );
        for (line, expected) in [
            (
                "--batch-size 1000001",
                "--batch-size must be from 1 to 1000000, got 1000001",
            ),
            ("--lr 0", "--lr must be auto or a number > 0, got \"0\""),
            ("--grad-clip nan", "--grad-clip must be > 0, got NaN"),
            ("--beta2 1", "--beta2 must be >= 0 and < 1, got 1"),
            (
                "--schedule x",
                "--schedule must be linear, cosine or constant, got \"x\"",
            ),
        ] {
            assert_eq!(error(&format!("train {line}")), expected);
        }
    }

    #[test]
    fn validation_options_need_held_out_data() {
        assert_eq!(args::<TrainArgs>("train --steps 50").eval_interval(), 5);
        assert_eq!(args::<TrainArgs>("train --steps 5").eval_interval(), 1);
        let line = "train --validation-fraction 0.1 --eval-every 3 --patience 2";
        let all: TrainArgs = args(line);
        assert_eq!((all.eval_interval(), all.patience), (3, Some(2)));
        assert!(error("train --patience 3").contains("needs --validation-fraction"));
        // The resumed run may hold data out.
        args::<TrainArgs>("train --patience 3 --resume dir");
    }

    #[test]
    fn run_options() {
        let line = "train --resume a --checkpoint-every 3 --device metal --threads 2 --log l \
            --plot p -q";
        let all: TrainArgs = args(line);
        assert_eq!((all.resume, all.checkpoint_every), (Some("a".into()), 3));
        assert_eq!(
            (all.device, all.threads),
            (DeviceKind::Metal, Threads::Count(2))
        );
        assert_eq!((all.log, all.plot), (Some("l".into()), Some("p".into())));
        assert!(all.quiet);
        assert!(error("train --log -").starts_with("--log must be a file"));
    }
}
