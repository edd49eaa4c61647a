//! `microgpt generate`.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
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

#[test]
fn pattern_holds_for_every_sample_without_discarding() {
    let dir = text_model_dir();
    let generate = |arguments: &[&str]| {
        let mut command = microgpt();
        command
            .current_dir(dir.path())
            .args(["generate", "-m", "model", "-n", "200"]);
        command.args(arguments).output().expect("the program runs")
    };
    let samples = |arguments: &[&str]| -> Vec<String> {
        let output = generate(arguments);
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<String> = text.lines().map(str::to_string).collect();
        assert_eq!(lines.len(), 200);
        lines
    };
    let hot = ["--temperature", "2"];
    let vowels = samples(&[&hot[..], &["--pattern", "[aeiou]+[^aeiou]?"]].concat());
    let is_vowel = |c: char| "aeiou".contains(c);
    for line in &vowels {
        let rest = line.trim_start_matches(is_vowel);
        assert!(rest.len() < line.len() && rest.len() <= 1, "{line}");
    }
    // The prompt is a part of the match; the end of the context completes it.
    for line in samples(
        &[
            &hot[..],
            &["--prompt", "ab", "--pattern", "a(bc)*|(a|b|c){15}d"],
        ]
        .concat(),
    ) {
        let pairs = line.strip_prefix('a').unwrap().len();
        assert!(line.len() == 16 || pairs % 2 == 0, "{line}");
        assert!(
            line.ends_with('d') || line[1..].replace("bc", "").is_empty(),
            "{line}"
        );
    }
    for line in samples(
        &[
            &hot[..],
            &[
                "--pattern",
                "(..)*",
                "--min-tokens",
                "5",
                "--max-tokens",
                "9",
            ],
        ]
        .concat(),
    ) {
        assert!([6, 8].contains(&line.len()), "{line}");
    }
    for (pattern, expected) in [
        (
            "[0-9]+",
            "no text of the model's characters matches the pattern \"[0-9]+\" within 0 to 16 tokens",
        ),
        (
            ".{17}",
            "matches the pattern \".{17}\" within 0 to 16 tokens",
        ),
        ("a(", "cannot use the pattern \"a(\": unclosed group"),
    ] {
        let output = generate(&["--pattern", pattern]);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(
            message.contains(expected) && message.lines().count() == 1,
            "{message}"
        );
    }
    assert!(
        generate(&["--pattern", "x", "--prompt", "y"])
            .stdout
            .is_empty()
    );
}

#[test]
fn pattern_ends_continuous_text_where_it_is_complete() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("input"), "one. two. three.\n".repeat(40)).unwrap();
    run_in(
        dir.path(),
        "train --text --input input --steps 30 --threads 1 -o model",
    )
    .ok();
    let mut command = microgpt();
    command
        .current_dir(dir.path())
        .args(["generate", "-m", "model", "-n", "5", "--pattern"]);
    let output = command.arg("[a-z]{3,9}[.]").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let samples: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(samples.len(), 5);
    for sample in samples {
        let word = sample.strip_suffix('.').expect(sample);
        assert!((3..=9).contains(&word.len()), "{sample}");
    }
}

#[test]
fn stop_ends_samples_before_its_text() {
    let dir = text_model_dir();
    let stopped = lines(&dir, "-n 100 --stop an --stop e");
    let expected = lines(&dir, "-n 100").into_iter().map(|line| {
        let ends = ["an", "e"].map(|stop| line.find(stop).unwrap_or(line.len()));
        line[..ends[0].min(ends[1])].to_string()
    });
    assert_eq!(stopped, expected.collect::<Vec<_>>());
}

#[test]
fn first_selects_a_part_of_a_run() {
    let dir = text_model_dir();
    let all = lines(&dir, "-n 40");
    assert_eq!(lines(&dir, "--first 30 -n 10"), all[30..]);
    assert_eq!(lines(&dir, "--first 3 -n 7 --threads 1"), all[3..10]);
    let json = lines(&dir, "--first 3 -n 1 --json");
    assert_eq!(json, [format!("{{\"index\":3,\"text\":\"{}\"}}", all[3])]);
}

#[test]
fn not_in_passes_over_lines_of_files() {
    let dir = text_model_dir();
    let all = lines(&dir, "-n 60");
    let known = all[..10].join("\r\n");
    std::fs::write(dir.path().join("known"), known).unwrap();
    std::fs::write(dir.path().join("also"), &all[10]).unwrap();
    let found = lines(&dir, "-n 20 --not-in known --not-in also");
    let expected = all.iter().filter(|line| !all[..=10].contains(line));
    assert_eq!(found, expected.take(20).cloned().collect::<Vec<_>>());
    let run = run_in(dir.path(), "generate -m model -n 5 --temperature 0").ok();
    std::fs::write(dir.path().join("greedy"), run.stdout).unwrap();
    let none = "generate -m model -n 5 --temperature 0 --not-in greedy";
    let run = run_in(dir.path(), none).ok();
    assert_eq!(run.stdout, "");
    assert!(
        run.stderr.contains("found 0 different samples of 5"),
        "{}",
        run.stderr
    );
}

#[test]
fn prompt_file_makes_samples_of_each_line_as_it_is_read() {
    let dir = text_model_dir();
    std::fs::write(dir.path().join("prompts"), "ab\n\nka\n").unwrap();
    let found = lines(&dir, "--prompt-file prompts -n 70 --seed 9");
    let expected = ["--prompt=ab", "", "--prompt=ka"];
    let expected = expected
        .iter()
        .flat_map(|prompt| lines(&dir, &format!("{prompt} -n 70 --seed 9")));
    assert_eq!(found, expected.collect::<Vec<_>>());
    let json = lines(&dir, "--prompt-file prompts --json");
    assert_eq!(json.len(), 3, "one sample each");
    assert!(json[2].starts_with("{\"line\":3,\"index\":0,\"text\":\"ka"));

    let mut command = microgpt();
    command
        .args(["generate", "-m", "model", "--prompt-file", "-"])
        .current_dir(dir.path());
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    for prompt in ["b", "k", "\u{e9}"] {
        writeln!(stdin, "{prompt}").unwrap();
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(
            line.is_empty(),
            prompt == "\u{e9}",
            "an unknown character ends the run"
        );
        assert!(line.is_empty() || line.starts_with(prompt));
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        message.contains("standard input, line 3: the prompt has characters"),
        "{message}"
    );
}

#[test]
fn repetition_penalty_changes_greedy_continuous_text() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("input"), "abcdefgh\n".repeat(80)).unwrap();
    run_in(
        dir.path(),
        "train --text --input input --steps 1 --threads 1 -o model",
    )
    .ok();
    let run = |options: &str| {
        let line = format!("generate -m model -n 1 --max-tokens 30 --temperature 0 {options}");
        run_in(dir.path(), &line).ok().stdout
    };
    assert_eq!(run("--repetition-penalty 1"), run(""));
    assert_ne!(run("--repetition-penalty 1.5"), run(""));
}
