//! The options of the other commands that read a model: `score`, `info`, `export` and `serve`.

use super::args::{ColorChoice, ExportFormat};
use super::command::{Command, Operand, ParsedCommand};
use super::flag::Flag;
use super::shared::{MODEL_DIR, THREADS};
use crate::cli::failure::Failure;

pub const SCORE: Command = Command {
    name: "score",
    summary: "Score lines in bits per token",
    details: "Prints, for each line of the files or of standard input, its bits per token, a \
        tab, and the line. The bits are the mean of -log2 p over its tokens and its end. \
        A line that is longer than the context is scored with a sliding window that moves by \
        half of the context. For a chat model, each line is a conversation as JSON.",
    operand: Some(Operand {
        name: "FILE",
        is_required: false,
        choices: None,
        field: |args| &mut args.score.files,
    }),
    groups: &[(
        "",
        &[
            MODEL_DIR.sets(|args| &mut args.score.model_dir),
            Flag::switch("summary", "Print one line for the whole input")
                .details(
                    "The bits per token, and the number of lines, tokens and unknown characters. \
                    Infinite lines are left out of the bits and the tokens.",
                )
                .sets(|args| &mut args.score.summary),
            Flag::switch("per-byte", "Print bits per byte, not per token")
                .aliases(&["bits-per-byte", "bpb"])
                .details(
                    "To compare models with different vocabularies. The bytes are those of the line, one \
                    for its end and, for a chat model, one for each special token. --threshold, --top \
                    and --summary count bits per byte, too; --json has the key bytes.",
                )
                .sets(|args| &mut args.score.per_byte),
            Flag::switch("tokens", "Print the bits of each token, too")
                .excludes("summary", "a summary has no lines")
                .details(
                    "Between the bits of the line and the line, after a tab: the bits of its \
                    tokens in order and of its end, separated by spaces. For a chat model, those \
                    of the role and of the end of each message, too. With --json, the key token_bits \
                    has an object with the keys token and bits for each.",
                )
                .sets(|args| &mut args.score.tokens),
            Flag::value(
                "threshold",
                "BITS",
                "Print only lines with at least BITS per token",
            )
            .aliases(&["min-bits", "cutoff"])
            .excludes("summary", "a summary has no lines")
            .sets(|args| &mut args.score.threshold),
            Flag::integer("top", "Print only the N least likely lines")
                .aliases(&["head", "lines", "limit"])
                .excludes("summary", "a summary has no lines")
                .details("At the end of the input, the least likely first. Memory holds N lines.")
                .sets(|args| &mut args.score.top),
            Flag::value(
                "unknown",
                "BITS|inf|skip",
                "Cost of a character that the model does not know",
            )
            .aliases(&["unk"])
            .details(
                "30 bits stand for a probability of 2^-10 that a character is unknown, spread over the \
                2^20 of Unicode. The model does not see the character: it predicts the next one from \
                those before. inf makes the whole line infinite; skip scores the line without the \
                character.",
            )
            .sets(|args| &mut args.score.unknown),
            Flag::switch("json", "Print one JSON object per line")
                .details(
                    "The keys are line, bits (the sum over the line), tokens (their number) and, if there \
                    are any, unknown (the number of unknown characters). Infinite bits are null.",
                )
                .sets(|args| &mut args.score.json),
            Flag::choice::<ColorChoice>("color", "Shade each character by its bits")
                .aliases(&["colour"])
                .details(
                    "From 5 bits on yellow, from 8 on a yellow ground, and from 12 on a red one. auto \
                    shades on a terminal unless $NO_COLOR is set. Conversations and JSON are not shaded.",
                )
                .sets(|args| &mut args.score.color),
            THREADS.sets(|args| &mut args.score.threads),
        ],
    )],
    examples: &[
        (
            "microgpt score --top 10 < app.log",
            "Print the ten least likely lines.",
        ),
        (
            "tail -f app.log | microgpt score --threshold 5",
            "Print unlikely lines as they come.",
        ),
        (
            "microgpt score --summary held-out.txt",
            "Print the bits per token of a file.",
        ),
    ],
    finish: |args, _| {
        args.score.check()?;
        Ok(ParsedCommand::Score(args.score))
    },
};

pub const INFO: Command = Command {
    name: "info",
    summary: "Show the size, vocabulary and state of a model",
    details: "",
    operand: None,
    groups: &[(
        "",
        &[
            MODEL_DIR.sets(|args| &mut args.info.model_dir),
            Flag::switch("json", "Print a JSON object").sets(|args| &mut args.info.json),
        ],
    )],
    examples: &[(
        "microgpt info --json | jq .parameters",
        "Print the number of weights.",
    )],
    finish: |args, _| Ok(ParsedCommand::Info(args.info)),
};

pub const EXPORT: Command = Command {
    name: "export",
    summary: "Export a model: weights, a web page, or for transformers",
    details: "",
    operand: None,
    groups: &[(
        "",
        &[
            MODEL_DIR.sets(|args| &mut args.export.model_dir),
            Flag::path("output", "Directory or file to write; required")
                .short('o')
                .sets(|args| &mut args.export.output),
            Flag::choice::<ExportFormat>("format", "Model directory, one for transformers, or web page")
                .aliases(&["type", "to"])
                .details(
                    "huggingface writes a directory for AutoModelForCausalLM with trust_remote_code; it is a \
                    --model-dir, too. html writes one file with the weights and a program in JavaScript, which generates the \
                    samples of `microgpt generate`, or chats, in any browser and without a network; - is \
                    standard output. It may have 2,000,000 parameters.",
                )
                .sets(|args| &mut args.export.format),
            Flag::switch("half", "Store the weights in half precision, f16")
                .aliases(&["f16", "float16", "fp16"])
                .sets(|args| &mut args.export.half),
        ],
    )],
    examples: &[
        (
            "microgpt export --half --output small-model",
            "Write a model of a sixth of the size.",
        ),
        (
            "microgpt export --format huggingface --output names-hf",
            "Write a directory that transformers loads.",
        ),
        (
            "microgpt export --format html --output names.html",
            "Write a web page to send to others.",
        ),
    ],
    finish: |args, _| match args.export.output {
        Some(_) => Ok(ParsedCommand::Export(args.export)),
        None => Err(Failure::Usage(
            "export needs --output PATH, the directory or file to write".to_string(),
        )),
    },
};

pub const SERVE: Command = Command {
    name: "serve",
    summary: "Serve a model over HTTP",
    details: "Prints the address that it listens on, then one line per request, to stderr. \
        Ctrl-C or SIGTERM completes the active requests and exits.",
    operand: None,
    groups: &[(
        "",
        &[
            MODEL_DIR.sets(|args| &mut args.serve.model_dir),
            Flag::value("host", "ADDRESS", "Address to listen on")
                .aliases(&["address", "bind", "listen"])
                .sets(|args| &mut args.serve.host),
            Flag::integer("port", "Port to listen on; 0 picks a free one")
                .env("PORT")
                .sets(|args| &mut args.serve.port),
            Flag::integer("threads", "Maximum number of active requests")
                .sets(|args| &mut args.serve.threads),
            Flag::switch("quiet", "Disable the access log")
                .short('q')
                .sets(|args| &mut args.serve.quiet),
            Flag::file(
                "api-key-file",
                "File with the API key that requests must have",
            )
            .aliases(&["api-key"])
            .details(
                "Requests send it as `Authorization: Bearer KEY`; the page asks for it. Without this \
                option, the key is that of $MICROGPT_API_KEY, if set. The page itself and /healthz need \
                no key.",
            )
            .sets(|args| &mut args.serve.api_key_file),
            Flag::value(
                "cors-origin",
                "ORIGIN",
                "Pages that may use the server from a browser; repeatable",
            )
            .details("An origin is a scheme, a host and a port, such as http://localhost:3000; * is all.")
            .repeatable()
            .sets(|args| &mut args.serve.cors_origins),
            Flag::value(
                "allow-host",
                "NAME",
                "Host name under which clients reach the server; repeatable",
            )
            .details(
                "Requests to other names than this, the --host, localhost and addresses are refused, \
                so that no site can reach the server by a name of its own.",
            )
            .repeatable()
            .sets(|args| &mut args.serve.allowed_hosts),
        ],
    )],
    examples: &[(
        "microgpt serve --model-dir chat-model --port 8080",
        "Serve a web page and an API, for OpenAI's clients too.",
    )],
    finish: |args, _| Ok(ParsedCommand::Serve(args.serve)),
};

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::value::Threads;
    use super::super::{ExportArgs, InfoArgs, ScoreArgs, ServeArgs};
    use super::*;
    use crate::cli::parse::tests::{args, error};
    use crate::engine::UnknownCost;

    #[test]
    fn score_options() {
        let default: ScoreArgs = args("score");
        assert!(default.files.is_empty() && !default.summary && !default.json);
        let given: ScoreArgs = args("score a --summary b --json");
        assert_eq!(given.files, [PathBuf::from("a"), PathBuf::from("b")]);
        assert!(given.summary && given.json);
        assert_eq!(default.unknown, UnknownCost::Bits(30.0));
        let line = "score --tokens --threshold 2.5 --top 3 --unknown skip --color never";
        let given: ScoreArgs = args(line);
        assert_eq!((given.threshold, given.top), (Some(2.5), Some(3)));
        assert_eq!(given.unknown, UnknownCost::Skip);
        assert_eq!((given.color, given.tokens), (ColorChoice::Never, true));
        let given: ScoreArgs = args("score --unknown inf");
        assert_eq!(given.unknown, UnknownCost::Bits(f64::INFINITY));
        for (line, expected) in [
            ("--threshold nan", "--threshold must be >= 0, got NaN"),
            ("--threshold -1", "--threshold must be >= 0, got -1"),
            (
                "--unknown -1",
                "--unknown must be a number >= 0, inf or skip, got \"-1\"",
            ),
            (
                "--unknown x",
                "--unknown must be a number >= 0, inf or skip, got \"x\"",
            ),
            ("--top 0", "--top must be a whole number >= 1, got \"0\""),
            (
                "--color red",
                "--color must be auto, always or never, got \"red\"",
            ),
            (
                "--top 3 --summary",
                "--top and --summary cannot be combined: a summary has no lines",
            ),
        ] {
            assert_eq!(error(&format!("score {line}")), expected);
        }
    }

    #[test]
    fn info_options() {
        assert!(!args::<InfoArgs>("info").json);
        assert!(args::<InfoArgs>("info --json").json);
    }

    #[test]
    fn export_options() {
        let given: ExportArgs = args("export -o dir --half");
        assert_eq!(given.output, Some(PathBuf::from("dir")));
        assert!(given.half && !args::<ExportArgs>("export -o dir").half);
        assert_eq!(given.format, ExportFormat::Microgpt);
        let given: ExportArgs = args("export -o names.html --format html");
        assert_eq!(given.format, ExportFormat::Html);
        assert!(error("export").starts_with("export needs --output PATH"));
    }

    #[test]
    fn serve_options() {
        let default: ServeArgs = args("serve");
        assert_eq!(
            (&*default.host, default.threads),
            ("127.0.0.1", Threads::Count(64))
        );
        let given: ServeArgs = args("serve --host ::1 --port 0 --threads 2 -q");
        assert_eq!((&*given.host, given.port), ("::1", 0));
        assert_eq!((given.threads, given.quiet), (Threads::Count(2), true));
        let given: ServeArgs =
            args("serve --cors-origin * --cors-origin https://a.b:1 --allow-host a.b");
        assert_eq!(given.cors_origins[0].0, "*");
        assert_eq!(given.cors_origins[1].0, "https://a.b:1");
        assert_eq!(given.allowed_hosts[0].0, "a.b");
        assert_eq!(
            error("serve --cors-origin http://a/"),
            "--cors-origin must be * or an origin such as http://localhost:3000, got \"http://a/\""
        );
        assert_eq!(
            error("serve --allow-host a:80"),
            "--allow-host must be a host name without a port, got \"a:80\""
        );
        assert_eq!(
            error("serve --port 65536"),
            "--port must be a whole number from 0 to 65535, got \"65536\""
        );
    }
}
