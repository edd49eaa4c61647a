//! `microgpt score`.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use serde_json::Value;

use crate::program::{chat_model_dir, microgpt, run_in, run_with_stdin, text_model_dir};

#[test]
fn score_prints_bits_before_each_line() {
    let dir = text_model_dir();
    let input = b"emma\nxqxq\n\n#1!\nmia#\r\n ava \nemma";
    let output = run_with_stdin(dir.path(), "score -m model", input);
    assert_eq!(output.code, Some(0));
    let lines: Vec<(&str, &str)> = output
        .stdout
        .lines()
        .filter_map(|l| l.split_once('\t'))
        .collect();
    let texts: Vec<&str> = lines.iter().map(|(_, text)| *text).collect();
    assert_eq!(texts[..4], ["emma", "xqxq", "", "#1!"]);
    assert_eq!(texts[5..], [" ava ", "emma"]);
    let bits: Vec<f64> = lines
        .iter()
        .map(|(bits, _)| bits.parse().unwrap())
        .collect();
    assert_eq!(bits[0], bits[6], "the same line, the same bits");
    assert!(bits[0] < bits[1], "a name is less odd than no name");
    assert!(bits[3].is_infinite() && bits[4].is_infinite());
    assert!(bits[5].is_finite(), "spaces around a line don't count");
    assert!(
        lines[0].0.split_once('.').unwrap().1.len() == 6,
        "six decimals"
    );

    let json = run_with_stdin(dir.path(), "score -m model --json", b"emma\n#\n")
        .ok()
        .stdout;
    let json: Vec<Value> = json
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(json[0]["line"], "emma");
    assert_eq!(json[0]["tokens"], 5);
    let per_token = json[0]["bits"].as_f64().unwrap() / 5.0;
    assert!((per_token - bits[0]).abs() < 1e-6);
    assert_eq!(json[1]["bits"], Value::Null);
}

#[test]
fn scores_do_not_depend_on_files_threads_or_line_length() {
    let dir = text_model_dir();
    // Lines shorter than the context of 16, longer than the read buffer, and between.
    let lines: Vec<String> = (0..400).map(|i| "anna".repeat(i * i % 67) + "\n").collect();
    let long = "marie".repeat(10_000) + "\n";
    let all = lines.concat() + &long + "last";
    std::fs::write(dir.path().join("all"), &all).unwrap();
    let one = run_in(dir.path(), "score -m model all --threads 1")
        .ok()
        .stdout;
    assert_eq!(one.lines().count(), 402);
    assert_eq!(
        run_in(dir.path(), "score -m model all --threads 3")
            .ok()
            .stdout,
        one
    );
    assert_eq!(
        run_with_stdin(dir.path(), "score -m model", all.as_bytes())
            .ok()
            .stdout,
        one
    );
    // The score of a line does not depend on other lines.
    for number in [0, 66, 399] {
        let single = run_with_stdin(dir.path(), "score -m model", lines[number].as_bytes())
            .ok()
            .stdout;
        assert_eq!(single.lines().next(), one.lines().nth(number));
    }
    let twice = run_in(dir.path(), "score -m model all - all").ok().stdout;
    assert_eq!(twice.lines().count(), 804);
    let summary = run_in(dir.path(), "score -m model --summary all")
        .ok()
        .stdout;
    // Each character except line breaks, and the end of each line.
    let tokens = all.len() - 401 + 402;
    let expected = format!("\t402 lines, {},{} tokens\n", tokens / 1000, tokens % 1000);
    assert!(summary.ends_with(&expected), "{summary}");
}

#[test]
fn invalid_utf8_lines_are_scored_and_printed_unchanged() {
    let dir = text_model_dir();
    std::fs::write(dir.path().join("bytes"), b"\xff\xff\nmia\n").unwrap();
    let output = microgpt()
        .current_dir(dir.path())
        .args(["score", "-m", "model", "bytes"])
        .output()
        .unwrap();
    assert!(output.stdout.starts_with(b"inf\t\xff\xff\n"));
    assert!(output.stdout.ends_with(b"\tmia\n"));
}

#[test]
fn lines_of_only_unknown_characters_are_scored() {
    let dir = text_model_dir();
    let scored = run_with_stdin(dir.path(), "score -m model", "日本\n東京\n".as_bytes()).ok();
    assert_eq!(scored.stdout, "inf\t日本\ninf\t東京\n");
}

#[test]
fn score_prints_each_line_as_it_arrives() {
    let dir = text_model_dir();
    let mut child = microgpt()
        .current_dir(dir.path())
        .args(["score", "-m", "model"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut stdout = BufReader::new(stdout);
    for name in ["emma", "ava"] {
        stdin.write_all(format!("{name}\n").as_bytes()).unwrap();
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert!(line.ends_with(&format!("\t{name}\n")), "{line}");
    }
    // A closed pipe is not an error.
    drop(stdout);
    let _ = stdin.write_all("mia\n".repeat(100_000).as_bytes());
    drop(stdin);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn chat_model_scores_conversations() {
    let dir = chat_model_dir();
    let conversation =
        r#"[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hi"}]"#;
    let input = format!("{conversation}\n");
    let output = run_with_stdin(dir.path(), "score -m model --json", input.as_bytes()).ok();
    let score: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(score["tokens"], 9);
    assert!(score["bits"].as_f64().unwrap() > 0.0);
    let error = run_with_stdin(dir.path(), "score -m model", b"hello\n").error(1);
    assert!(
        error.contains("standard input: line 1: not a conversation"),
        "{error}"
    );
}

#[test]
fn score_reports_unreadable_input() {
    let dir = text_model_dir();
    let error = run_in(dir.path(), "score -m model missing").error(1);
    assert!(error.contains("cannot read missing"), "{error}");
    let error = run_in(dir.path(), "score -m model .").error(1);
    assert!(error.contains("cannot read ."), "{error}");
    let nothing = run_with_stdin(dir.path(), "score -m model", b"")
        .ok()
        .stdout;
    assert_eq!(nothing, "");
}
