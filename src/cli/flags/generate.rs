//! The options of `generate` and `chat`.

use super::args::usage_error;
use super::command::{Command, ParsedCommand};
use super::flag::Flag;
use super::shared::{
    MAX_TOKENS, MIN_P, MIN_TOKENS, MODEL_DIR, PATTERN, REPETITION_PENALTY, SEED, STOP, TEMPERATURE,
    THREADS, TOP_K, TOP_P,
};

pub const GENERATE: Command = Command {
    name: "generate",
    summary: "Generate text with a model",
    details: "Prints one sample per line, with line breaks within a sample as \\n. A chat \
        model's sample is a conversation, one message per line, with a blank line between \
        samples. A model of a continuous text (`train --text`) continues --prompt, or starts \
        a new line; its samples keep their line breaks, with a blank line between samples.",
    operand: None,
    groups: &[
        (
            "Samples",
            &[
                MODEL_DIR.sets(|args| &mut args.generate.model_dir),
                Flag::integer("num-samples", "Number of samples")
                    .short('n')
                    .computed_default("20")
                    .aliases(&["count", "number", "samples"])
                    .sets(|args| &mut args.generate.num_samples),
                Flag::value("prompt", "TEXT", "Start of every sample")
                    .aliases(&["begin", "prefix", "start"])
                    .details("For a chat model, the start of the first message.")
                    .sets(|args| &mut args.generate.options.prompt),
                Flag::file("prompt-file", "File of prompts, one per line; - is stdin")
                    .excludes("prompt", "each line is a prompt")
                    .details(
                        "Prints --num-samples samples of each line in order, 1 unless that is \
                        given, as soon as the line is read.",
                    )
                    .sets(|args| &mut args.generate.prompt_file),
                MAX_TOKENS
                    .details("For a model of a continuous text, 500.")
                    .sets(|args| &mut args.generate.options.max_tokens),
                MIN_TOKENS.sets(|args| &mut args.generate.options.min_tokens),
                STOP.sets(|args| &mut args.generate.options.stop),
                PATTERN.sets(|args| &mut args.generate.options.pattern),
                Flag::switch("unique", "Print different samples only")
                    .details(
                        "Generates until there are --num-samples different ones. A million of \
                        them take about 110 MB of memory.",
                    )
                    .sets(|args| &mut args.generate.unique),
                Flag::file(
                    "not-in",
                    "Pass over samples that are lines of FILE",
                )
                .repeatable()
                .rare()
                .details(
                    "Repeatable. With the training text as FILE, all samples are new. Generates until \
                        there are --num-samples others; takes the memory of --unique.",
                )
                .sets(|args| &mut args.generate.not_in),
                Flag::integer("first", "Index of the first sample")
                    .rare()
                    .details(
                        "A sample depends on its index alone: runs from different indices on \
                        many machines make disjoint parts of one run.",
                    )
                    .sets(|args| &mut args.generate.first),
            ],
        ),
        (
            "Sampling",
            &[
                TEMPERATURE.sets(|args| &mut args.generate.options.sampling.temperature),
                TOP_K.sets(|args| &mut args.generate.options.sampling.top_k),
                TOP_P.sets(|args| &mut args.generate.options.sampling.top_p),
                MIN_P.rare().sets(|args| &mut args.generate.options.sampling.min_p),
                REPETITION_PENALTY
                    .sets(|args| &mut args.generate.options.sampling.repetition_penalty),
                SEED.sets(|args| &mut args.generate.options.seed),
            ],
        ),
        (
            "Output",
            &[
                Flag::switch("null", "End each sample with NUL and keep its line breaks")
                    .short('0')
                    .excludes("json", "JSON output is one object per line")
                    .sets(|args| &mut args.generate.null),
                Flag::switch("json", "Print one JSON object per line")
                    .details("The keys are index, and text or messages.")
                    .sets(|args| &mut args.generate.json),
                THREADS.sets(|args| &mut args.generate.threads),
            ],
        ),
    ],
    examples: &[
        ("microgpt generate", "Print 20 samples."),
        (
            "microgpt generate -n 1000 --unique | sort",
            "Print 1,000 different samples in alphabetical order.",
        ),
        (
            "microgpt generate --pattern '[aeiou].*' --not-in names.txt",
            "Print new samples that start with a vowel.",
        ),
        (
            "microgpt generate --prompt el --temperature 1",
            "Print samples that start with \"el\".",
        ),
    ],
    finish: |args, _| {
        args.generate.check()?;
        Ok(ParsedCommand::Generate(args.generate))
    },
};

pub const CHAT: Command = Command {
    name: "chat",
    summary: "Chat with a model trained on conversations",
    details: "On a terminal, `/clear` starts a new conversation, `/quit` or Ctrl-D exits, and \
        `/help` lists the commands. Otherwise each line of standard input is a message, and \
        each line of output the reply. Ctrl-C ends a reply.",
    operand: None,
    groups: &[(
        "",
        &[
            MODEL_DIR.sets(|args| &mut args.chat.model_dir),
            Flag::value("system", "TEXT", "System message before the conversation")
                .details("For a model trained with system messages. /clear keeps it.")
                .sets(|args| &mut args.chat.system),
            Flag::file("prompt-file", "File of messages, one per line; - is stdin")
                .details("Prints a reply per line, as if the file were standard input.")
                .sets(|args| &mut args.chat.prompt_file),
            TEMPERATURE.sets(|args| &mut args.chat.options.sampling.temperature),
            TOP_K.sets(|args| &mut args.chat.options.sampling.top_k),
            TOP_P.sets(|args| &mut args.chat.options.sampling.top_p),
            MIN_P.sets(|args| &mut args.chat.options.sampling.min_p),
            SEED.sets(|args| &mut args.chat.options.seed),
            MAX_TOKENS.sets(|args| &mut args.chat.options.max_tokens),
            Flag::switch("no-history", "Do not keep the typed lines")
                .details(
                    "Without it, the lines typed on a terminal are kept for the next chat in \
                    microgpt/history of $XDG_STATE_HOME, or of ~/.local/state.",
                )
                .sets(|args| &mut args.chat.no_history),
        ],
    )],
    examples: &[
        (
            "microgpt chat --model-dir chat-model",
            "Chat on the terminal.",
        ),
        (
            "echo 'hello' | microgpt chat --model-dir chat-model",
            "Print one reply.",
        ),
    ],
    finish: |args, _| {
        args.chat.options.sampling.validate().map_err(usage_error)?;
        Ok(ParsedCommand::Chat(args.chat))
    },
};

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::GenerateArgs;
    use super::super::value::Threads;
    use super::*;
    use crate::cli::parse::tests::{args, error};

    #[test]
    fn generate_options() {
        let default: GenerateArgs = args("generate");
        assert_eq!(default.count(), 20);
        assert_eq!(default.options.prompt, "");
        let line = "generate -n 3 --prompt=ab --unique -0 --threads 2";
        let given: GenerateArgs = args(line);
        assert_eq!(given.count(), 3);
        assert_eq!(given.options.prompt, "ab");
        assert_eq!(given.threads, Threads::Count(2));
        assert!(given.unique && given.null && !given.json);
        assert!(args::<GenerateArgs>("generate --json").json);
        let given: GenerateArgs =
            args("generate --not-in a --not-in b --stop x --stop=y --first 9");
        assert_eq!(given.not_in, ["a", "b"].map(PathBuf::from));
        assert_eq!(given.options.stop, ["x", "y"]);
        assert_eq!(given.first, 9);
        let given: GenerateArgs = args("generate --prompt-file -");
        assert_eq!((given.count(), given.prompt_file), (1, Some("-".into())));
        let given: GenerateArgs = args("generate --prompt-file f -n 20");
        assert_eq!(given.count(), 20);
        let line = "generate --pattern [ab]* --min-tokens 3 --repetition-penalty 1.2";
        let GenerateArgs { options, .. } = args(line);
        assert_eq!(options.pattern.as_deref(), Some("[ab]*"));
        assert_eq!(options.min_tokens, 3);
        assert_eq!(options.sampling.repetition_penalty, 1.2);
        for (line, expected) in [
            (
                "--repetition-penalty 0",
                "--repetition-penalty must be > 0, got 0",
            ),
            ("--stop=", "--stop must be text, got \"\""),
            (
                "--min-tokens 5 --max-tokens 4",
                "--min-tokens must be <= --max-tokens, got 5 and 4",
            ),
            (
                "--prompt-file f --unique",
                "--prompt-file and --unique cannot be combined: the samples of each prompt count",
            ),
            (
                "--prompt-file f --prompt x",
                "--prompt-file and --prompt cannot be combined: each line is a prompt",
            ),
        ] {
            assert_eq!(error(&format!("generate {line}")), expected);
        }
        assert!(error("generate -0 --json").starts_with("--null and --json cannot be combined"));
    }

    #[test]
    fn last_of_repeated_options_counts() {
        let given: GenerateArgs = args("generate --top-k x --top-k 5");
        assert_eq!(given.options.sampling.top_k, Some(5));
    }

    #[test]
    fn help_states_the_limit_of_continuous_text() {
        let groups = GENERATE.groups();
        let (_, samples) = &groups[0];
        let flag = samples.iter().find(|flag| flag.name == "max-tokens");
        let limit = crate::engine::DEFAULT_CONTINUOUS_TOKENS.to_string();
        assert!(flag.unwrap().details.contains(&limit));
    }
}
