//! Options of more than one command.

use super::flag::Flag;

/// The model directory unless another one is given.
pub const DEFAULT_MODEL_DIR: &str = "microgpt-model";

pub const HELP: Flag =
    Flag::switch("help", "Show help: -h a summary, --help everything").short('h');

pub const MODEL_DIR: Flag = Flag::dir("model-dir", "Model directory to read")
    .short('m')
    .env("MODEL_DIR")
    .computed_default(DEFAULT_MODEL_DIR);

pub const THREADS: Flag =
    Flag::integer("threads", "Number of threads").aliases(&["jobs", "workers"]);

pub const TEMPERATURE: Flag = Flag::number(
    "temperature",
    "Divide the logits by X; 0 takes the likeliest token",
)
.details("1 samples from the model's own distribution; lower is more predictable.");

pub const TOP_K: Flag = Flag::integer("top-k", "Sample from the N likeliest tokens");

pub const TOP_P: Flag = Flag::number("top-p", "Sample from the likeliest tokens that sum to X")
    .details("The smallest set of likeliest tokens whose total probability reaches X.");

pub const MIN_P: Flag = Flag::number("min-p", "Drop tokens below X times the top probability")
    .details(
        "Tokens whose probability is below X times that of the likeliest token are never \
        sampled.",
    );

pub const SEED: Flag = Flag::integer("seed", "Seed of the random numbers")
    .details("The same seed and options give the same text.");

pub const MAX_TOKENS: Flag = Flag::integer("max-tokens", "Maximum number of tokens to generate")
    .computed_default("the context")
    .aliases(&["length", "max-length", "max-new-tokens"]);

pub const MIN_TOKENS: Flag = Flag::integer("min-tokens", "Minimum number of tokens to generate")
    .computed_default("0")
    .rare()
    .aliases(&["min-length", "min-new-tokens"]);

pub const STOP: Flag = Flag::value("stop", "TEXT", "End a sample before TEXT; repeatable")
    .rare()
    .repeatable();

pub const PATTERN: Flag = Flag::value("pattern", "REGEX", "Make samples match REGEX")
    .aliases(&["regex", "grammar"])
    .details(
        "The whole sample matches, --prompt included; .* stands for any text. Tokens that lead to no \
        match within --min-tokens and --max-tokens are never sampled. The syntax is that of Rust's \
        regex crate.",
    );

pub const REPETITION_PENALTY: Flag = Flag::number(
    "repetition-penalty",
    "Make tokens in the context less likely",
)
.rare()
.details(
    "Divides positive logits of tokens in the context by X and multiplies negative ones. For \
    continuous text; 1 is off, 1.1 to 1.3 are usual.",
);

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::value::Threads;
    use super::super::{ChatArgs, ScoreArgs};
    use crate::cli::parse::tests::{args, error};

    #[test]
    fn sampling_options() {
        let options = args::<ChatArgs>("chat").options;
        assert_eq!(options.sampling, Default::default());
        assert_eq!((options.seed, options.max_tokens), (42, None));
        let line = "chat --temperature 0.8 --top-k 5 --top-p 0.9 --min-p 0.1 --seed 7 \
            --max-tokens 9";
        let options = args::<ChatArgs>(line).options;
        assert_eq!(options.sampling.temperature, 0.8);
        assert_eq!(options.sampling.top_k, Some(5));
        assert_eq!(options.sampling.top_p, Some(0.9));
        assert_eq!(options.sampling.min_p, Some(0.1));
        assert_eq!((options.seed, options.max_tokens), (7, Some(9)));
        for (line, expected) in [
            ("--temperature -1", "--temperature must be >= 0, got -1"),
            ("--temperature inf", "--temperature must be >= 0, got inf"),
            (
                "--top-k 0",
                "--top-k must be a whole number >= 1, got \"0\"",
            ),
            ("--top-p 0", "--top-p must be > 0 and <= 1, got 0"),
            ("--min-p x", "--min-p must be a number, got \"x\""),
            ("--min-p 2", "--min-p must be >= 0 and <= 1, got 2"),
        ] {
            assert_eq!(error(&format!("chat {line}")), expected);
        }
    }

    #[test]
    fn model_dir_and_threads() {
        let args = args::<ScoreArgs>("score -m dir --threads 3");
        assert_eq!(args.model_dir, Some(PathBuf::from("dir")));
        assert_eq!(args.threads, Threads::Count(3));
        assert_eq!(
            error("score --threads 0"),
            "--threads must be a whole number from 1 to 1024, got \"0\""
        );
    }
}
