//! The options of `generate` and `chat`.

use super::args::usage_error;
use super::command::{Command, ParsedCommand};
use super::flag::Flag;
use super::shared::{MAX_TOKENS, MIN_P, MODEL_DIR, SEED, TEMPERATURE, THREADS, TOP_K, TOP_P};

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
                    .aliases(&["count", "number", "samples"])
                    .sets(|args| &mut args.generate.num_samples),
                Flag::value("prompt", "TEXT", "Start of every sample")
                    .aliases(&["begin", "prefix", "start"])
                    .details("For a chat model, the start of the first message.")
                    .sets(|args| &mut args.generate.options.prompt),
                MAX_TOKENS
                    .details("For a model of a continuous text, 500.")
                    .sets(|args| &mut args.generate.options.max_tokens),
                Flag::switch("unique", "Print different samples only")
                    .details(
                        "Generates until there are --num-samples different ones. A million of \
                        them take about 110 MB of memory.",
                    )
                    .sets(|args| &mut args.generate.unique),
            ],
        ),
        (
            "Sampling",
            &[
                TEMPERATURE.sets(|args| &mut args.generate.options.sampling.temperature),
                TOP_K.sets(|args| &mut args.generate.options.sampling.top_k),
                TOP_P.sets(|args| &mut args.generate.options.sampling.top_p),
                MIN_P.sets(|args| &mut args.generate.options.sampling.min_p),
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
            "microgpt generate --prompt el --temperature 1",
            "Print samples that start with \"el\".",
        ),
    ],
    finish: |args, _| {
        let sampling = &args.generate.options.sampling;
        sampling.validate().map_err(usage_error)?;
        Ok(ParsedCommand::Generate(args.generate))
    },
};

pub const CHAT: Command = Command {
    name: "chat",
    summary: "Chat with a model trained on conversations",
    details: "On a terminal, `/clear` starts a new conversation, `/quit` or Ctrl-D exits, and \
        `/help` lists the commands. Otherwise each line of standard input is a message, and \
        each line of output the reply.",
    operand: None,
    groups: &[(
        "",
        &[
            MODEL_DIR.sets(|args| &mut args.chat.model_dir),
            TEMPERATURE.sets(|args| &mut args.chat.options.sampling.temperature),
            TOP_K.sets(|args| &mut args.chat.options.sampling.top_k),
            TOP_P.sets(|args| &mut args.chat.options.sampling.top_p),
            MIN_P.sets(|args| &mut args.chat.options.sampling.min_p),
            SEED.sets(|args| &mut args.chat.options.seed),
            MAX_TOKENS.sets(|args| &mut args.chat.options.max_tokens),
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
    use super::super::GenerateArgs;
    use super::super::value::Threads;
    use super::*;
    use crate::cli::parse::tests::{args, error};

    #[test]
    fn generate_options() {
        let default: GenerateArgs = args("generate");
        assert_eq!(default.num_samples, 20);
        assert_eq!(default.options.prompt, "");
        let line = "generate -n 3 --prompt=ab --unique -0 --threads 2";
        let given: GenerateArgs = args(line);
        assert_eq!(given.num_samples, 3);
        assert_eq!(given.options.prompt, "ab");
        assert_eq!(given.threads, Threads::Count(2));
        assert!(given.unique && given.null && !given.json);
        assert!(args::<GenerateArgs>("generate --json").json);
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
