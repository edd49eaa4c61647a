//! Training from the weights of another model: `train --init-from` and `train --resume --extend`.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::program::{run_in, run_with_stdin, text_model_dir};

fn info(dir: &Path, model: &str) -> Value {
    let info = run_in(dir, &format!("info -m {model} --json")).ok().stdout;
    serde_json::from_str(&info).unwrap()
}

/// The loss of each step of a run.
fn losses(dir: &Path) -> Vec<f64> {
    let log = fs::read_to_string(dir.join("log")).unwrap();
    let loss = |line| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64();
    log.lines().map(|line| loss(line).unwrap()).collect()
}

#[test]
fn init_from_export_starts_a_new_run_from_its_weights() {
    let dir = text_model_dir();
    let dir = dir.path();
    run_in(dir, "export -m model -o half --half").ok();
    let line = "train --init-from half --steps 3 --threads 1 -o new --log log";
    let output = run_in(dir, line).ok();
    assert!(
        output.stderr.contains("weights from half\n"),
        "{}",
        output.stderr
    );
    assert_eq!(info(dir, "new")["step"], 3);
    // A model without training starts at ln 27, or 3.3.
    assert!(losses(dir)[0] < 2.9, "{:?}", losses(dir));
    let error = run_in(dir, "train --init-from model --steps 1 -o model").error(1);
    assert!(error.contains("model holds a model"), "{error}");
    let error = run_in(dir, "train --init-from nowhere").error(1);
    assert!(error.contains("there is no model in nowhere"), "{error}");
}

#[test]
fn init_from_adds_characters_and_roles() {
    let dir = text_model_dir();
    let dir = dir.path();
    let train = |more: &str, text: &str| {
        let line = format!("train --input - --steps 2 --threads 1 --init-from {more}");
        run_with_stdin(dir, &line, text.as_bytes()).ok().stderr
    };
    let stderr = train("model -o accents", "zoé\nb\n");
    assert!(
        stderr.contains("1 token added to the vocabulary"),
        "{stderr}"
    );
    let chars = info(dir, "accents")["chars"].as_array().unwrap().clone();
    assert_eq!((chars.len(), &chars[26]), (27, &Value::from("é")));
    let chat =
        "[{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}]";
    let stderr = train("model --chat -o chat", chat);
    assert!(stderr.contains("3 tokens added"), "{stderr}");
    run_with_stdin(dir, "chat -m chat", b"a\n").ok();
    let stderr = train("chat -o chat2", &chat.replace("user", "system"));
    assert!(stderr.contains("1 token added"), "{stderr}");
    let stderr = train("model --text -o book", "abc abc");
    assert!(stderr.contains("1 token added"), "{stderr}");
    run_in(dir, "generate -m book -n 1 --max-tokens 5").ok();
}

#[test]
fn extend_adds_characters_to_a_resumed_run() {
    let dir = text_model_dir();
    let dir = dir.path();
    let line = "train --resume model --input - --steps 5 --threads 1";
    let error = run_with_stdin(dir, line, "zoé\n".as_bytes()).error(1);
    assert!(
        error.contains("doesn't know: 'é'; --extend adds them"),
        "{error}"
    );
    let output = run_with_stdin(dir, &format!("{line} --extend"), "zoé\n".as_bytes()).ok();
    assert!(output.stderr.contains("1 token added"), "{}", output.stderr);
    let extended = info(dir, "model");
    assert_eq!(
        (&extended["step"], &extended["vocab_size"]),
        (&65.into(), &28.into())
    );
    let state = fs::read_to_string(dir.join("model/train_state.json")).unwrap();
    let state: Value = serde_json::from_str(&state).unwrap();
    assert_eq!(state["adam_step"], 65);
    // Without new characters, nothing changes.
    run_in(dir, "train --steps 3 --threads 1 -o a").ok();
    for (output, more) in [("b", "--extend"), ("c", "")] {
        run_in(
            dir,
            &format!("train --resume a --steps 3 --threads 1 -o {output} {more}"),
        )
        .ok();
    }
    let weights = |model: &str| fs::read(dir.join(model).join("weights.safetensors")).unwrap();
    assert!(weights("b") == weights("c"));
}
