//! Models of byte-level BPE: `train --vocab-size`.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::program::{run_in, run_with_stdin};
use crate::serve::Server;

/// Lines whose words repeat, with characters of two, three and four bytes.
const TEXT: &str = "the cat sat on the mat\nthe hat is on the cat — naïve 🙂\n\
    the 世界 and the cat and the 世界\nthe naïve hat sat on the mat 🙂\n";

const CHAT: &str = "[{\"role\": \"user\", \"content\": \"the cat?\"}, \
    {\"role\": \"assistant\", \"content\": \"the cat sat 🙂 on the mat\"}]\n";

/// A directory with a model of `TEXT` or `CHAT` in `model`.
fn model_dir(options: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (text, size) = match options.contains("--chat") {
        true => (CHAT, 270),
        false => (TEXT, 280),
    };
    fs::write(dir.path().join("text"), text.repeat(3)).unwrap();
    let line =
        format!("train --input text -o model --steps 5 --threads 1 --vocab-size {size} {options}");
    run_in(dir.path(), &line).ok();
    dir
}

fn info(dir: &Path, model: &str) -> Value {
    let info = run_in(dir, &format!("info -m {model} --json")).ok().stdout;
    serde_json::from_str(&info).unwrap()
}

fn tokenizer(dir: &Path, model: &str) -> Value {
    let json = fs::read(dir.join(model).join("tokenizer.json")).unwrap();
    serde_json::from_slice(&json).unwrap()
}

#[test]
fn vocabulary_is_in_tokenizer_json_with_the_special_tokens_last() {
    let dir = model_dir("");
    let (info, json) = (info(dir.path(), "model"), tokenizer(dir.path(), "model"));
    assert_eq!(
        (&info["vocab_size"], &info["tokenizer"]),
        (&json!(280), &json!("byte_level_bpe"))
    );
    assert_eq!(info["chars"], Value::Null);
    assert_eq!(json["model"]["vocab"].as_object().unwrap().len(), 279);
    assert_eq!(json["added_tokens"][0]["content"], "<bos>");
    assert_eq!(json["added_tokens"][0]["id"], 279);
    let text = run_in(dir.path(), "info -m model").ok().stdout;
    assert!(
        text.contains("280 tokens: 279 of byte-level BPE and 1 special"),
        "{text}"
    );

    let dir = model_dir("--chat --block-size 64");
    let added = tokenizer(dir.path(), "model")["added_tokens"].clone();
    let names = added
        .as_array()
        .unwrap()
        .iter()
        .map(|token| token["content"].as_str().unwrap());
    assert_eq!(
        names.collect::<Vec<_>>(),
        ["<user>", "<assistant>", "<end_turn>", "<bos>"]
    );
    let reply = run_with_stdin(
        dir.path(),
        "chat -m model --max-tokens 8",
        "Wer bist du? ß\n".as_bytes(),
    );
    assert_eq!(reply.ok().stderr, "", "no character is unknown");
}

#[test]
fn resumed_and_exported_models_are_those_of_one_run() {
    let dir = model_dir("--text --schedule constant");
    let dir = dir.path();
    run_in(dir, "train --resume model -o more --steps 5 --threads 1").ok();
    let line = "train --text --input text -o whole --steps 10 --threads 1 --vocab-size 280 \
        --schedule constant";
    run_in(dir, line).ok();
    for file in ["weights.safetensors", "meta.json", "tokenizer.json"] {
        let read = |model: &str| fs::read(dir.join(model).join(file)).unwrap();
        assert!(read("more") == read("whole"), "{file}");
    }
    run_in(dir, "export -m whole -o exported").ok();
    run_in(dir, "export -m whole -o page.html --format html").ok();
    let sample = |model| {
        run_in(dir, &format!("generate -m {model} -n 3 --prompt the"))
            .ok()
            .stdout
    };
    assert_eq!(sample("whole"), sample("exported"));
}

#[test]
fn prompts_stop_sequences_and_patterns_are_text_not_tokens() {
    let dir = model_dir("--block-size 32");
    let generate = |options: &str| {
        run_in(dir.path(), &format!("generate -m model {options}"))
            .ok()
            .stdout
    };
    for line in generate("-n 5 --prompt ☃é").lines() {
        assert!(line.starts_with("☃é"), "{line}");
    }
    // No token has a part of a character only in a match, nor may a token go beyond it.
    for line in generate("-n 20 --pattern (the|naïve).(cat|世界)(🙂|[a-c]{2,5})").lines() {
        let rest = line
            .strip_prefix("the")
            .or(line.strip_prefix("naïve"))
            .unwrap();
        let rest = &rest[rest.chars().next().unwrap().len_utf8()..];
        let rest = rest
            .strip_prefix("cat")
            .or(rest.strip_prefix("世界"))
            .unwrap();
        let is_match = rest == "🙂" || rest.len() >= 2 && rest.chars().all(|c| "abc".contains(c));
        assert!(is_match, "{line}");
    }
    // "he" is within the tokens "the" and " the".
    let with_stop = generate("-n 30 --max-tokens 20 --temperature 0.5 --stop he --stop 世");
    let without = generate("-n 30 --max-tokens 20 --temperature 0.5");
    for (stopped, whole) in with_stop.lines().zip(without.lines()) {
        let end = ["he", "世"]
            .iter()
            .filter_map(|stop| whole.find(stop))
            .min();
        assert_eq!(stopped, &whole[..end.unwrap_or(whole.len())]);
    }
    assert!(with_stop != without);
}

#[test]
fn scores_sum_over_the_tokens_of_a_line() {
    let dir = model_dir("--block-size 64");
    let line = "score -m model --json --tokens --unknown inf";
    let output = run_with_stdin(dir.path(), line, "the cat 🙂☃".as_bytes())
        .ok()
        .stdout;
    let score: Value = serde_json::from_str(&output).unwrap();
    let tokens = score["token_bits"].as_array().unwrap();
    let names: Vec<&str> = tokens
        .iter()
        .map(|token| token["token"].as_str().unwrap())
        .collect();
    assert_eq!(names[0], "the");
    assert_eq!(
        names[names.len() - 4..],
        ["bytes:\\xe2", "bytes:\\x98", "bytes:\\x83", "<bos>"]
    );
    let sum: f64 = tokens
        .iter()
        .map(|token| token["bits"].as_f64().unwrap())
        .sum();
    assert!((sum - score["bits"].as_f64().unwrap()).abs() < 1e-6);
    assert_eq!(score["tokens"], tokens.len());
    let per_byte = run_with_stdin(
        dir.path(),
        "score -m model --per-byte",
        "the cat 🙂☃".as_bytes(),
    );
    let per_byte = per_byte.ok().stdout;
    let expected = format!("{:.6}\tthe cat", sum / 16.0);
    assert!(
        per_byte.starts_with(&expected),
        "{per_byte}, not {expected}"
    );
    let shaded = run_with_stdin(
        dir.path(),
        "score -m model --color always",
        "the ☃\u{301} x".as_bytes(),
    );
    let shaded = shaded.ok().stdout;
    let (_, shaded) = shaded.split_once('\t').unwrap();
    let plain = shaded
        .split('\u{1b}')
        .map(|part| part.split_once('m').map_or(part, |(_, rest)| rest));
    // "m" of an escape sequence is followed by the text; the first part has none.
    assert!(plain.collect::<String>().ends_with("x\n"), "{shaded:?}");
}

#[test]
fn server_counts_tokens_and_stops_within_them() {
    let dir = model_dir("--block-size 64");
    let server = Server::start(dir.path(), "");
    let complete = |fields: Value| server.post("/v1/completions", &fields).json(200);
    let base = json!({ "prompt": "the cat", "seed": 1, "max_tokens": 12, "logprobs": 1 });
    let whole = complete(base.clone());
    let text = whole["choices"][0]["text"].as_str().unwrap();
    let logprobs = &whole["choices"][0]["logprobs"];
    let offsets = logprobs["text_offset"].as_array().unwrap();
    assert_eq!(offsets.len(), logprobs["tokens"].as_array().unwrap().len());
    assert!(
        offsets
            .iter()
            .all(|offset| offset.as_u64().unwrap() <= text.chars().count() as u64)
    );
    // "the" and " cat" are a token each.
    assert_eq!(whole["usage"]["prompt_tokens"], 3, "with bos");
    let streamed = json!({ "stream": true, "stream_options": { "include_usage": true } });
    let mut request = base.clone();
    request
        .as_object_mut()
        .unwrap()
        .extend(streamed.as_object().unwrap().clone());
    let events = server.post("/v1/completions", &request).body;
    let events = events
        .lines()
        .filter_map(|line| line.strip_prefix("data: {"));
    let part = |event: &str| -> Option<String> {
        let event: Value = serde_json::from_str(&format!("{{{event}")).unwrap();
        Some(event["choices"][0]["text"].as_str()?.to_string())
    };
    assert_eq!(events.filter_map(part).collect::<String>(), text);
    let stop: String = text.chars().skip(1).take(2).collect();
    let mut request = base;
    request["stop"] = json!(stop);
    let stopped = complete(request);
    let end = text.find(&stop).unwrap();
    assert_eq!(stopped["choices"][0]["text"], &text[..end]);
}

#[test]
fn vocabulary_of_a_given_model_is_kept() {
    let dir = model_dir("");
    let dir = dir.path();
    let error = run_in(dir, "train --resume model --vocab-size 300").error(2);
    assert!(error.contains("a model keeps its vocabulary"), "{error}");
    let line =
        "train --init-from model --input - --steps 1 --threads 1 --chat -o chat --block-size 9";
    assert!(
        run_in(dir, line)
            .error(2)
            .contains("a model keeps its size")
    );
    let line = "train --init-from model --input - --steps 1 --threads 1 --chat -o chat";
    let output = run_with_stdin(
        dir,
        line,
        "[{\"role\": \"user\", \"content\": \"☃\"}]".as_bytes(),
    )
    .ok();
    assert!(
        output.stderr.contains("3 tokens added to the vocabulary"),
        "{}",
        output.stderr
    );
    assert_eq!(info(dir, "chat")["vocab_size"], 283);
    assert_eq!(
        tokenizer(dir, "chat")["model"],
        tokenizer(dir, "model")["model"]
    );
    let line = "train --resume model --input - --steps 1 --threads 1";
    run_with_stdin(dir, line, "☃☃☃".as_bytes()).ok();
}

#[test]
fn invalid_vocabulary_sizes_are_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let train = |options: &str, code| {
        let line = format!("train --input - -o model --steps 1 {options}");
        run_with_stdin(dir.path(), &line, b"ab ab ab").error(code)
    };
    assert!(
        train("--vocab-size 256", 2).contains("--vocab-size must be from 257 to 65536, got 256")
    );
    assert!(train("--vocab-size 65537", 2).contains("got 65537"));
    assert!(
        train("--vocab-size 300", 1).contains("--vocab-size must be at most 259 for this text")
    );
    let chat = "train --chat --input - -o model --steps 1 --vocab-size 259";
    let error = run_with_stdin(dir.path(), chat, CHAT.as_bytes()).error(1);
    assert!(
        error.contains("--vocab-size must be at least 260"),
        "{error}"
    );
}

#[test]
fn tokenizers_of_another_kind_or_size_are_rejected() {
    let dir = model_dir("");
    let path = dir.path().join("model/tokenizer.json");
    let original = tokenizer(dir.path(), "model");
    let error = |change: &dyn Fn(&mut Value)| {
        let mut json = original.clone();
        change(&mut json);
        fs::write(&path, json.to_string()).unwrap();
        let error = run_in(dir.path(), "generate -m model").error(1);
        assert_eq!(error.lines().count(), 1, "{error}");
        error
    };
    for (expected, change) in [
        (
            "tokenizer.json: the model must be \"BPE\", got \"WordPiece\"",
            (|json| json["model"]["type"] = json!("WordPiece")) as fn(&mut Value),
        ),
        ("no normalizer, got \"NFC\"", |json| {
            json["normalizer"] = json!({ "type": "NFC" })
        }),
        ("must be \"ByteLevel\"", |json| {
            json["pre_tokenizer"] = json!({ "type": "Whitespace" })
        }),
        ("must be \"ByteLevel\"", |json| {
            json["pre_tokenizer"] = Value::Null
        }),
        (
            "ignore_merges of the model must be unset, got true",
            |json| json["model"]["ignore_merges"] = json!(true),
        ),
        ("no token 'a'", |json| {
            let vocab = json["model"]["vocab"].as_object_mut().unwrap();
            let id = vocab.remove("a").unwrap();
            vocab.insert("aaaaaaaa".to_string(), id);
            json["model"]["merges"] = json!([]);
        }),
        ("do not merge to a token", |json| {
            json["model"]["merges"]
                .as_array_mut()
                .unwrap()
                .push(json!(["aa", "b"]));
        }),
        ("do not merge to a token", |json| {
            json["model"]["merges"]
                .as_array_mut()
                .unwrap()
                .push(json!("a"));
        }),
        ("no token with the id 3", |json| {
            json["model"]["vocab"]["$"] = json!(u32::MAX)
        }),
        ("not written in the bytes", |json| {
            json["model"]["vocab"]["世"] = json!(279)
        }),
        (
            "vocab_size is 280, but 280 tokens of tokenizer.json and 1 special tokens make 281",
            |json| json["model"]["vocab"]["zzzz"] = json!(279),
        ),
        (
            "the added tokens of tokenizer.json must be [(279, \"<bos>\")], got []",
            |json| json["added_tokens"] = json!([]),
        ),
        ("missing field `model`", |json| *json = json!({})),
        ("tokenizer.json: ", |json| *json = json!([])),
    ] {
        let error = error(&change);
        assert!(error.contains(expected), "{error}");
    }
    let written = original.to_string();
    for length in (0..written.len()).step_by(97) {
        fs::write(&path, &written.as_bytes()[..length]).unwrap();
        let error = run_in(dir.path(), "info -m model").error(1);
        assert!(
            error.starts_with("microgpt: error: model/tokenizer.json: not "),
            "{error}"
        );
    }
    fs::remove_file(&path).unwrap();
    let error = run_in(dir.path(), "info -m model").error(1);
    assert!(error.contains("model/tokenizer.json is missing"), "{error}");
}
