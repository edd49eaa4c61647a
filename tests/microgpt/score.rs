//! `microgpt score`.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use serde_json::Value;

use crate::program::{chat_model_dir, microgpt, run_in, run_with_stdin, text_model_dir};

#[test]
fn score_prints_bits_before_each_line() {
    let dir = text_model_dir();
    let input = b"emma\nxqxq\n\n#1!\nmia#\r\n ava \nemma";
    let output = run_with_stdin(dir.path(), "score -m model --unknown inf", input);
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

    let line = "score -m model --json --unknown inf";
    let json = run_with_stdin(dir.path(), line, b"emma\n#\n").ok().stdout;
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
    for color in ["--color=never", "--color=always"] {
        let output = microgpt()
            .current_dir(dir.path())
            .args(["score", "-m", "model", "bytes", color])
            .output()
            .unwrap();
        let shown = match color {
            "--color=never" => &b"\t\xff\xff\n"[..],
            _ => b"\t\x1b[30;41m\xff\xff\x1b[0m\n",
        };
        let line = output.stdout.split_inclusive(|&byte| byte == b'\n').next();
        assert!(line.unwrap().ends_with(shown), "{output:?}");
        assert!(output.stdout.ends_with(b"mia\n"), "{output:?}");
    }
}

#[test]
fn lines_of_only_unknown_characters_are_scored() {
    let dir = text_model_dir();
    let scored = scores(&dir, "--unknown inf", "日本\n東京\n");
    assert_eq!(
        scored,
        [(f64::INFINITY, "日本"), (f64::INFINITY, "東京")].map(owned)
    );
    // Two characters of 30 bits, and the end of a document without others.
    let empty = scores(&dir, "", "\n")[0].0;
    for (bits, _) in scores(&dir, "", "日本\n東京\n") {
        assert!((3.0 * bits - (60.0 + empty)).abs() < 1e-5, "{bits}");
    }
}

/// The bits and the text of each line that `score` prints.
fn scores(dir: &tempfile::TempDir, options: &str, input: &str) -> Vec<(f64, String)> {
    let line = format!("score -m model {options}");
    let stdout = run_with_stdin(dir.path(), &line, input.as_bytes())
        .ok()
        .stdout;
    let fields = stdout.lines().map(|line| line.split_once('\t').unwrap());
    fields
        .map(|(bits, text)| owned((bits.parse().unwrap(), text)))
        .collect()
}

fn owned((bits, text): (f64, &str)) -> (f64, String) {
    (bits, text.to_string())
}

#[test]
fn unknown_character_costs_fixed_bits_and_is_not_in_the_context() {
    let dir = text_model_dir();
    let bits = |options: &str, line: &str| scores(&dir, options, &format!("{line}\n"))[0].0;
    let known = 6.0 * bits("", "maria");
    for line in ["maria🙂", "🙂maria", "mar🙂ia"] {
        let near = |options: &str, expected: f64| {
            let found = bits(options, line);
            assert!((found - expected).abs() < 2e-6, "{options} {line}: {found}");
        };
        near("", (known + 30.0) / 7.0);
        near("--unknown 12.5", (known + 12.5) / 7.0);
        near("--unknown 0", known / 7.0);
        near("--unknown skip", known / 6.0);
        assert_eq!(bits("--unknown inf", line), f64::INFINITY);
    }
    let odd = scores(&dir, "", "mia🙂\nxqj🙂\n");
    assert!(odd[1].0 > odd[0].0, "an emoji hides no oddity: {odd:?}");
}

#[test]
fn unknown_characters_are_counted() {
    let dir = text_model_dir();
    let run = |options: &str, input: &str| {
        let line = format!("score -m model {options}");
        let stdout = run_with_stdin(dir.path(), &line, input.as_bytes())
            .ok()
            .stdout;
        stdout.trim_end().to_string()
    };
    let json = |options: &str, input: &str| -> Value {
        serde_json::from_str(&run(&format!("--json {options}"), input)).unwrap()
    };
    assert_eq!(json("", "mia")["unknown"], Value::Null);
    for (options, tokens) in [("", 6), ("--unknown skip", 4)] {
        let score = json(options, "#m🙂ia");
        assert_eq!(
            (&score["unknown"], &score["tokens"]),
            (&2.into(), &tokens.into())
        );
        assert!(score["bits"].as_f64().unwrap() > 0.0);
        let summary = json(&format!("--summary {options}"), "#m🙂ia\nmia\n🙂");
        assert_eq!(summary["unknown"], 3);
        assert_eq!(summary["lines_with_unknown_characters"], 2);
        let summary = run(&format!("--summary {options}"), "#mia\nmia");
        assert!(
            summary.ends_with(" tokens, 1 unknown character"),
            "{summary}"
        );
    }
    let summary = run("--summary --unknown inf", "#mia\nmia");
    let expected = "\t2 lines, 4 tokens, 1 left out for unknown characters";
    assert!(summary.ends_with(expected), "{summary}");
}

#[test]
fn score_tokens_prints_the_bits_of_each_character_and_the_end() {
    let dir = text_model_dir();
    let stdout = run_with_stdin(dir.path(), "score -m model --tokens", b"mia\n\na\tb\n")
        .ok()
        .stdout;
    let lines: Vec<Vec<&str>> = stdout
        .lines()
        .map(|line| line.splitn(3, '\t').collect())
        .collect();
    assert_eq!(
        lines.iter().map(|line| line[2]).collect::<Vec<_>>(),
        ["mia", "", "a\tb"]
    );
    for (line, count) in lines.iter().zip([4, 1, 4]) {
        let bits: Vec<f64> = line[1]
            .split(' ')
            .map(|bits| bits.parse().unwrap())
            .collect();
        assert_eq!(bits.len(), count);
        let mean: f64 = line[0].parse().unwrap();
        assert!(
            (bits.iter().sum::<f64>() / count as f64 - mean).abs() < 0.006,
            "{line:?}"
        );
    }
    assert_eq!(
        lines[2][1].split(' ').nth(1),
        Some("30.00"),
        "an unknown tab"
    );

    // Longer than the context.
    let text = format!("mi🙂{}", "anna".repeat(30));
    for (options, token, bits) in [
        ("", "🙂", Value::from(30.0)),
        ("--unknown inf", "🙂", Value::Null),
    ] {
        let line = format!("score -m model --tokens --json {options}");
        let json = run_with_stdin(dir.path(), &line, text.as_bytes())
            .ok()
            .stdout;
        let score: Value = serde_json::from_str(&json).unwrap();
        let tokens = score["token_bits"].as_array().unwrap();
        assert_eq!(tokens.len(), text.chars().count() + 1);
        let names = tokens.iter().map(|token| token["token"].as_str().unwrap());
        assert_eq!(names.collect::<String>(), format!("{text}<bos>"));
        assert_eq!(
            (&tokens[2]["token"], &tokens[2]["bits"]),
            (&token.into(), &bits)
        );
    }
    let line = "score -m model --tokens --unknown skip";
    let skipped = run_with_stdin(dir.path(), line, "m🙂i\n".as_bytes())
        .ok()
        .stdout;
    assert_eq!(skipped.split('\t').nth(1).unwrap().split(' ').count(), 3);
}

#[test]
fn score_shades_odd_characters_only_where_colour_is_wanted() {
    let dir = text_model_dir();
    let input = "mia\n  m🙂🙂ia \n";
    let run = |options: &str| {
        let line = format!("score -m model {options}");
        run_with_stdin(dir.path(), &line, input.as_bytes())
            .ok()
            .stdout
    };
    let shaded = run("--color always");
    let end = "\u{1b}[30;41m🙂🙂\u{1b}[0m";
    assert!(shaded.contains(end), "{shaded:?}");
    let plain = run("");
    assert!(
        plain.contains("\t  m🙂🙂ia \n"),
        "stdout is no terminal: {plain:?}"
    );
    assert_eq!(run("--color never"), plain);
    let mut without_escapes = shaded.clone();
    for escape in ["[33m", "[30;43m", "[30;41m", "[0m"] {
        without_escapes = without_escapes.replace(&format!("\u{1b}{escape}"), "");
    }
    assert_eq!(without_escapes, plain);
    assert_eq!(run("--color always --json"), run("--json"));
    let skipped = run("--color always --unknown skip");
    assert!(
        skipped.contains("🙂🙂") && !skipped.contains(end),
        "{skipped:?}"
    );
}

#[test]
fn threshold_prints_only_lines_with_as_many_bits() {
    let dir = text_model_dir();
    let input = "emma\nxqxq\nava\n#\n";
    let all = scores(&dir, "", input);
    for threshold in [0.0, 4.0, 8.0, 20.0] {
        let expected: Vec<_> = all
            .iter()
            .filter(|(bits, _)| *bits >= threshold)
            .cloned()
            .collect();
        assert_eq!(
            scores(&dir, &format!("--threshold {threshold}"), input),
            expected
        );
    }
    assert_eq!(
        scores(&dir, "--threshold 1000 --unknown inf", input),
        [owned((f64::INFINITY, "#"))]
    );
}

#[test]
fn top_prints_the_least_likely_lines_first() {
    let dir = text_model_dir();
    // Several chunks of lines, in two threads.
    let lines: Vec<String> = (0..5000)
        .map(|i: u32| format!("{}x\n", "anna".repeat(i as usize * 7 % 5)))
        .collect();
    let input = lines.concat() + "xqxq\n#\n";
    let mut all = scores(&dir, "", &input);
    // A stable sort: of equal lines, the first.
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    for options in [
        "--top 1",
        "--top 7 --threads 2",
        "--top 1200 --threads 1",
        "--top 9000",
    ] {
        let count: usize = options.split(' ').nth(1).unwrap().parse().unwrap();
        let top = scores(&dir, options, &input);
        assert!(top == all[..count.min(all.len())], "{options}");
    }
    let few = scores(&dir, "--top 5 --threshold 29", &input);
    assert!(few.is_empty() || few.iter().all(|(bits, _)| *bits >= 29.0));
    let json = run_with_stdin(dir.path(), "score -m model --top 1 --json", b"emma\nxqxq\n").ok();
    assert!(
        json.stdout.starts_with("{\"line\":\"xqxq\","),
        "{}",
        json.stdout
    );
}

#[test]
fn continuous_model_scores_unknown_characters_and_empty_lines() {
    let dir = tempfile::tempdir().unwrap();
    // One line: the vocabulary has no line break, and a line no end.
    std::fs::write(dir.path().join("text"), "one two three ".repeat(50)).unwrap();
    let train = "train --text --input text --steps 20 --block-size 8 --threads 1 -o model";
    run_in(dir.path(), train).ok();
    let found = scores(&dir, "--tokens", "\n🙂\n");
    assert_eq!(found, [(0.0, "\t"), (30.0, "30.00\t🙂")].map(owned));
    let line = "score -m model --json --tokens";
    let json = run_with_stdin(dir.path(), line, "on🙂e".as_bytes())
        .ok()
        .stdout;
    let score: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&score["tokens"], &score["unknown"]),
        (&4.into(), &1.into())
    );
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
    // Unknown characters count once each; roles and ends of messages are tokens.
    let odd = conversation.replacen("hi", "h☃i☃", 1);
    let line = "score -m model --json --tokens --color always";
    let output = run_with_stdin(dir.path(), line, odd.as_bytes()).ok();
    let score: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(
        (&score["tokens"], &score["unknown"]),
        (&11.into(), &2.into())
    );
    let tokens = score["token_bits"].as_array().unwrap().iter();
    let names: Vec<&str> = tokens
        .map(|token| token["token"].as_str().unwrap())
        .collect();
    let expected = "<user> h ☃ i ☃ <end_turn> <assistant> h i <end_turn> <bos>";
    assert_eq!(names.join(" "), expected);
    // The line is JSON, and not shaded.
    let line = "score -m model --color always";
    let output = run_with_stdin(dir.path(), line, odd.as_bytes()).ok();
    assert!(output.stdout.ends_with(&format!("\t{odd}\n")));
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
