//! `microgpt generate`.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::Value;

use crate::program::{chat_model_dir, microgpt, run_in, text_model_dir};

fn lines(dir: &tempfile::TempDir, options: &str) -> Vec<String> {
    run_in(dir.path(), &format!("generate -m model {options}"))
        .ok()
        .stdout
        .lines()
        .map(str::to_string)
        .collect()
}

#[test]
fn sample_depends_only_on_seed_and_index() {
    let dir = text_model_dir();
    let all = lines(&dir, "-n 100");
    assert_eq!(all.len(), 100);
    assert_eq!(lines(&dir, ""), all[..20], "20 are the default");
    for threads in [1, 3] {
        assert_eq!(
            lines(&dir, &format!("-n 70 --threads {threads}")),
            all[..70]
        );
    }
    assert_eq!(
        lines(&dir, "-n 100 --seed 42 --temperature 0.5"),
        all,
        "the defaults"
    );
    assert_ne!(lines(&dir, "-n 100 --seed 43"), all);
    assert!(all.iter().collect::<HashSet<_>>().len() > 50);
}

#[test]
fn sampling_options_filter_tokens() {
    let dir = text_model_dir();
    let greedy = lines(&dir, "-n 5 --temperature 0");
    assert!(greedy.iter().all(|line| *line == greedy[0]));
    assert_eq!(lines(&dir, "-n 5 --top-k 1 --temperature 2"), greedy);
    assert_eq!(lines(&dir, "-n 5 --top-p 0.000001"), greedy);
    assert_eq!(lines(&dir, "-n 5 --min-p 1"), greedy);
    let wild = lines(&dir, "-n 200 --temperature 3");
    for narrower in ["--top-k 3", "--top-p 0.5", "--min-p 0.3"] {
        let chars = |lines: &[String]| {
            lines
                .iter()
                .flat_map(|line| line.chars())
                .collect::<HashSet<_>>()
                .len()
        };
        let narrow = lines(&dir, &format!("-n 200 --temperature 3 {narrower}"));
        assert!(
            chars(&narrow) <= chars(&wild) && narrow != wild,
            "{narrower}"
        );
    }
    assert!(
        lines(&dir, "-n 50 --max-tokens 2 --temperature 2")
            .iter()
            .all(|line| line.len() <= 2)
    );
    assert!(
        lines(&dir, "-n 50 --temperature 100")
            .iter()
            .all(|line| line.len() <= 16)
    );
    // The end token is filtered like any other, so samples keep their prompt and continue it.
    let prompted = lines(&dir, "-n 50 --prompt abc");
    assert!(
        prompted
            .iter()
            .all(|line| line.starts_with("abc") && line.len() <= 16)
    );
    assert!(prompted.iter().any(|line| line.len() > 3));
}

#[test]
fn prompt_longer_than_context_is_rejected() {
    let dir = text_model_dir();
    let full = "a".repeat(15);
    assert!(
        lines(&dir, &format!("--prompt {full}"))
            .iter()
            .all(|line| line.starts_with(&full) && line.len() <= 16)
    );
    let error = run_in(dir.path(), &format!("generate -m model --prompt {full}a")).error(1);
    assert!(
        error.contains("17 tokens") && error.contains("context of 16"),
        "{error}"
    );
    let error = run_in(dir.path(), "generate -m model --prompt aZb!").error(1);
    assert!(error.contains("doesn't know: '!', 'Z'"), "{error}");
}

#[test]
fn generate_unique_prints_each_sample_once() {
    let dir = text_model_dir();
    let unique = lines(&dir, "-n 300 --unique");
    assert_eq!(unique.len(), 300);
    assert_eq!(unique.iter().collect::<HashSet<_>>().len(), 300);
    // The order is that of all samples without the duplicates.
    let mut seen = HashSet::new();
    let all: Vec<String> = lines(&dir, "-n 2000")
        .into_iter()
        .filter(|line| seen.insert(line.clone()))
        .collect();
    assert_eq!(unique, all[..300]);

    let output = run_in(
        dir.path(),
        "generate -m model -n 100 --unique --temperature 3 --max-tokens 1",
    )
    .ok();
    let found = output.stdout.lines().count();
    assert!((20..=27).contains(&found), "a letter or nothing: {found}");
    assert!(
        output
            .stderr
            .contains(&format!("found {found} different samples of 100")),
        "{}",
        output.stderr
    );
    let output = run_in(
        dir.path(),
        "generate -m model -n 100 --unique --temperature 0",
    )
    .ok();
    assert_eq!(output.stdout.lines().count(), 1);
}

#[test]
fn json_prints_one_object_per_line() {
    let dir = text_model_dir();
    let plain = lines(&dir, "-n 7");
    for (index, line) in lines(&dir, "-n 7 --json").iter().enumerate() {
        let sample: Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            sample,
            serde_json::json!({ "index": index, "text": plain[index] })
        );
    }
}

#[test]
fn chat_model_samples_are_conversations() {
    let dir = chat_model_dir();
    let json = lines(&dir, "-n 10 --json --temperature 1");
    assert_eq!(json.len(), 10);
    let mut plain = String::new();
    for (index, line) in json.iter().enumerate() {
        let sample: Value = serde_json::from_str(line).unwrap();
        assert_eq!(sample["index"], index);
        plain += if index > 0 { "\n" } else { "" };
        for message in sample["messages"].as_array().unwrap() {
            assert!(["user", "assistant"].contains(&message["role"].as_str().unwrap()));
            plain += &format!("{}\n", message["content"].as_str().unwrap());
        }
    }
    assert_eq!(
        run_in(dir.path(), "generate -m model -n 10 --temperature 1")
            .ok()
            .stdout,
        plain
    );

    let prompted: Value =
        serde_json::from_str(&lines(&dir, "-n 1 --json --prompt hel")[0]).unwrap();
    assert_eq!(prompted["messages"][0]["role"], "user");
    assert!(
        prompted["messages"][0]["content"]
            .as_str()
            .unwrap()
            .starts_with("hel")
    );
}

#[test]
fn broken_pipe_exits_silently() {
    let dir = text_model_dir();
    let mut child = microgpt()
        .current_dir(dir.path())
        .args(["generate", "-m", "model", "-n", "1000000000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The first lines are printed long before the last.
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut first)
        .unwrap();
    assert_eq!(first.trim_end(), lines(&dir, "-n 1")[0]);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), vec![]));
}

#[test]
fn model_dir_environment_variable_sets_the_default() {
    let dir = text_model_dir();
    let run = |variable: &str, arguments: &[&str]| {
        let output = microgpt()
            .current_dir(dir.path())
            .env("MODEL_DIR", variable)
            .args(arguments)
            .output()
            .unwrap();
        (output.status.code(), output.stdout)
    };
    let (code, named) = run("nowhere", &["generate", "--model-dir=model"]);
    assert_eq!(code, Some(0), "the option comes first");
    assert_eq!(run("model", &["generate"]), (Some(0), named));
    assert_eq!(run("nowhere", &["generate"]).0, Some(1));
}
