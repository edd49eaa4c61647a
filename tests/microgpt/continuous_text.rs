//! Models of one continuous text: `train --text`, and what is made with them.

use std::fs;

use serde_json::Value;

use crate::program::{run_in, run_with_stdin};

/// A directory with a model of the text "one two\nthree four\n…" in `model`.
fn continuous_model_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let text = "one two\nthree four\nfive six\n".repeat(50);
    fs::write(dir.path().join("text"), text).unwrap();
    run_in(
        dir.path(),
        "train --text --input text --steps 300 --block-size 12 --threads 1 -o model",
    )
    .ok();
    dir
}

#[test]
fn continuous_model_learns_text_across_lines() {
    let dir = continuous_model_dir();
    let meta = fs::read(dir.path().join("model/meta.json")).unwrap();
    let meta: Value = serde_json::from_slice(&meta).unwrap();
    assert_eq!(meta["continuous_text"], true);
    assert!(meta["chars"].as_array().unwrap().contains(&"\n".into()));
    let info = run_in(dir.path(), "info -m model").ok().stdout;
    assert!(info.contains("continuous text"), "{info}");

    // 100 characters are more than eight contexts.
    let line = "generate -m model -n 1 --max-tokens 100 --temperature 0";
    let text = run_in(dir.path(), line).ok().stdout;
    let lines: Vec<&str> = text.lines().collect();
    assert!(text.len() >= 100 && lines.len() > 8, "{text}");
    let known = ["one two", "three four", "five six"];
    let right = lines.iter().filter(|line| known.contains(line)).count();
    assert!(right * 2 > lines.len(), "{text}");
}

#[test]
fn continuous_samples_continue_the_prompt_and_are_delimited() {
    let dir = continuous_model_dir();
    let options = "generate -m model -n 3 --max-tokens 30 --seed 1";
    let lines = run_in(dir.path(), options).ok().stdout;
    let samples: Vec<&str> = lines.split("\n\n").collect();
    assert_eq!(samples.len(), 3, "{lines:?}");
    assert!(samples.iter().all(|sample| sample.contains('\n')));
    // The same samples, as they are, ended by NUL.
    let null = run_in(dir.path(), &format!("{options} -0")).ok().stdout;
    let texts: Vec<&str> = null.split_terminator('\0').collect();
    assert_eq!(texts.len(), 3);
    for (text, sample) in texts.iter().zip(&samples) {
        assert_eq!(text.chars().count(), 30);
        assert_eq!(text.trim_end_matches('\n'), sample.trim_end_matches('\n'));
    }
    let json = run_in(dir.path(), &format!("{options} --json")).ok().stdout;
    for (index, (line, text)) in json.lines().zip(&texts).enumerate() {
        let json: Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            (&json["index"], &json["text"]),
            (&index.into(), &(*text).into())
        );
    }
    // A prompt may be longer than the context, and 500 characters follow unless told otherwise.
    let prompt = "one-two-three".replace('-', "o");
    let line = format!("generate -m model -n 2 -0 --prompt {prompt}");
    let texts = run_in(dir.path(), &line).ok().stdout;
    for text in texts.split_terminator('\0') {
        assert!(text.starts_with(&prompt));
        assert_eq!(text.chars().count(), prompt.len() + 500);
    }
    let error = run_in(dir.path(), "generate -m model -0 --json").error(2);
    assert!(
        error.contains("--null and --json don't go together"),
        "{error}"
    );
    let error = run_in(dir.path(), "generate -m model --prompt q!").error(1);
    assert!(error.contains("doesn't know: '!', 'q'"), "{error}");
}

#[test]
fn null_option_ends_each_document_with_nul() {
    let dir = tempfile::tempdir().unwrap();
    run_in(dir.path(), "train --steps 30 -o model").ok();
    let lines = run_in(dir.path(), "generate -m model -n 4").ok().stdout;
    let null = run_in(dir.path(), "generate -m model -n 4 --null")
        .ok()
        .stdout;
    assert_eq!(null, lines.replace('\n', "\0"));
}

#[test]
fn resumed_continuous_run_matches_uninterrupted_run() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("text"), "abc\ncab\n".repeat(30)).unwrap();
    let options = "--text --input text --schedule constant --threads 1 --batch-size 3";
    run_in(dir.path(), &format!("train {options} --steps 20 -o whole")).ok();
    run_in(dir.path(), &format!("train {options} --steps 9 -o part")).ok();
    run_in(dir.path(), "train --resume part --steps 11 --threads 1").ok();
    let weights = |name: &str| fs::read(dir.path().join(name).join("weights.safetensors")).unwrap();
    assert!(weights("whole") == weights("part"));
    // A text of another kind is refused.
    let error = run_in(dir.path(), "train --resume part --chat").error(1);
    assert!(error.contains("one of one continuous text"), "{error}");
}

#[test]
fn continuous_text_under_two_characters_is_rejected() {
    let dir = tempfile::tempdir().unwrap();
    for text in ["", "\n\n", "a"] {
        let error = run_with_stdin(dir.path(), "train --text --input -", text.as_bytes()).error(1);
        assert!(error.contains("there is no text to train on"), "{error}");
    }
    run_with_stdin(dir.path(), "train --text --input - --steps 2", b"ab").ok();
}
