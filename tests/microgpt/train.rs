//! `microgpt train`: defaults, log, determinism, resuming, checkpoints.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::program::{run_in, run_with_stdin, shared};

const FILES: [&str; 5] = [
    "weights.safetensors",
    "meta.json",
    "train_state.json",
    "optimizer_m.safetensors",
    "optimizer_v.safetensors",
];

fn files(dir: &Path, names: &[&str]) -> Vec<Vec<u8>> {
    names
        .iter()
        .map(|name| fs::read(dir.join(name)).unwrap())
        .collect()
}

fn log(path: &Path) -> Vec<Value> {
    fs::read_to_string(path)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn default_run_saves_a_model_and_prints_20_names() {
    let dir = tempfile::tempdir().unwrap();
    let output = run_in(dir.path(), "train").ok();
    let names: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(names.len(), 20);
    assert!(
        names
            .iter()
            .all(|name| name.bytes().all(|b| b.is_ascii_lowercase()) && name.len() <= 16),
        "{names:?}"
    );
    let average = names.iter().map(|name| name.len()).sum::<usize>() as f64 / 20.0;
    assert!((3.0..10.0).contains(&average), "{names:?}");

    // The built-in names, to count the samples among them.
    let names_file = fs::read_to_string("src/data/names.txt").unwrap();
    let known = names_file.lines().collect::<std::collections::HashSet<_>>();
    let repeated = names.iter().filter(|name| known.contains(*name)).count();
    let closing = format!("{repeated} of these 20 samples ");
    assert!(
        output.stderr.contains(&closing),
        "{closing}: {}",
        output.stderr
    );

    for expected in [
        "built-in names",
        "4,192 parameters",
        "1,000 steps of 32 documents",
        "cpu",
        "threads",
    ] {
        assert!(
            output.stderr.contains(expected),
            "{expected}: {}",
            output.stderr
        );
    }
    let mut lines = output.stderr.lines();
    let last = lines
        .find(|line| line.starts_with("1,000 steps, "))
        .unwrap();
    let figures: Vec<&str> = last.split(' ').collect();
    assert_eq!(
        (figures[0], figures[1], figures[3]),
        ("1,000", "steps,", "tokens"),
        "{last}"
    );
    assert!(
        last.contains(" seconds, ") && last.ends_with(" tokens/s"),
        "{last}"
    );

    let model = dir.path().join("microgpt-model");
    let mut found: Vec<String> = fs::read_dir(&model)
        .unwrap()
        .map(|f| f.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    let mut expected = FILES;
    expected.sort();
    assert_eq!(found, expected);
    let state: Value =
        serde_json::from_slice(&fs::read(model.join("train_state.json")).unwrap()).unwrap();
    assert_eq!(
        (&state["step"], &state["adam_step"]),
        (&Value::from(1000), &Value::from(1000))
    );
}

#[test]
fn dropout_changes_the_training_loss_alike_on_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let losses = |name: &str, options: &str| -> Vec<f64> {
        let line = format!("train --steps 3 -q -o {name} --log {name}.log {options}");
        run_in(dir.path(), &line).ok();
        let lines = log(&dir.path().join(format!("{name}.log")));
        let loss = |line: &Value| line["loss"].as_f64().unwrap();
        lines.iter().map(loss).collect()
    };
    let without = losses("without", "--threads 1");
    let one = losses("one", "--dropout 0.4 --threads 1");
    let two = losses("two", "--dropout 0.4 --threads 2");
    for ((without, one), two) in without.iter().zip(&one).zip(&two) {
        assert!((one - without).abs() > 1e-3, "{one} {without}");
        assert!((one - two).abs() < 1e-5, "{one} {two}");
    }
}

#[test]
fn loss_on_all_names_is_in_the_expected_range() {
    let Some(names) = shared("data/names.txt") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    run_in(
        dir.path(),
        &format!("train --input {} --log log", names.display()),
    )
    .ok();
    let log = log(&dir.path().join("log"));
    let mean = |lines: &[Value]| {
        lines
            .iter()
            .map(|l| l["loss"].as_f64().unwrap())
            .sum::<f64>()
            / lines.len() as f64
    };
    assert_eq!(log.len(), 1000);
    assert!((log[0]["loss"].as_f64().unwrap() - 27f64.ln()).abs() < 0.3);
    let tail = mean(&log[900..]);
    assert!((2.15..2.25).contains(&tail), "{tail}");
}

#[test]
fn log_has_one_json_line_per_step() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("text"), "ab\ncde\n\n  f  \n").unwrap();
    let command = "train --input text --batch-size 3 --seed 5 --threads 1 --log log --quiet";
    let output = run_in(dir.path(), &format!("{command} --steps 4 --lr 0.02")).ok();
    assert_eq!(output.stderr, "");
    let lines = log(&dir.path().join("log"));
    let column = |name: &str| {
        lines
            .iter()
            .map(|line| line[name].as_f64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(column("step"), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(column("lr"), [0.02, 0.015, 0.01, 0.005]);
    // The three documents have three, four and two predictions.
    assert_eq!(column("tokens"), [9.0, 18.0, 27.0, 36.0]);
    assert!(column("seconds").windows(2).all(|pair| pair[0] <= pair[1]));
    assert!(column("loss").iter().all(|loss| (0.1..3.0).contains(loss)));
    // A resumed run appends to the log and counts its own tokens; the schedule spans all steps, old
    // and new.
    run_in(
        dir.path(),
        "train --resume microgpt-model --steps 1 --log log --threads 1",
    )
    .ok();
    let lines = log(&dir.path().join("log"));
    assert_eq!(
        (lines.len(), &lines[4]["step"], &lines[4]["tokens"]),
        (5, &5.into(), &9.into())
    );
    assert!((lines[4]["lr"].as_f64().unwrap() - 0.02 * (1.0 - 4.0 / 5.0)).abs() < 1e-12);
}

#[test]
fn same_seed_gives_the_same_model_files() {
    let dir = tempfile::tempdir().unwrap();
    for (output, seed) in [("a", 7), ("b", 7), ("c", 8)] {
        run_in(
            dir.path(),
            &format!("train --steps 20 --seed {seed} --threads 2 -o {output}"),
        )
        .ok();
    }
    let [a, b, c] = ["a", "b", "c"].map(|output| files(&dir.path().join(output), &FILES));
    assert_eq!(a, b);
    assert_ne!(a[0], c[0]);
}

#[test]
fn resume_matches_uninterrupted_run_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let chat = "--chat --block-size 32";
    let replies = format!("{chat} --loss-on assistant");
    for (kind, more) in [
        ("text", ""),
        ("chat", chat),
        ("replies", &replies),
        ("dropout", "--dropout 0.3"),
    ] {
        let options = format!("--schedule constant --batch-size 5 --threads 2 --seed 3 {more}");
        run_in(
            dir.path(),
            &format!("train {options} --steps 30 -o {kind}-whole"),
        )
        .ok();
        run_in(
            dir.path(),
            &format!("train {options} --steps 13 -o {kind}-part"),
        )
        .ok();
        // Options are restored; --output writes to another directory.
        run_in(
            dir.path(),
            &format!("train --resume {kind}-part --steps 10 --threads 2"),
        )
        .ok();
        run_in(
            dir.path(),
            &format!("train --resume {kind}-part --steps 7 --threads 2 -o {kind}-split"),
        )
        .ok();
        let [whole, split] = ["whole", "split"]
            .map(|name| files(&dir.path().join(format!("{kind}-{name}")), &FILES));
        assert!(whole == split, "{kind}: the files differ");
    }
}

#[test]
fn resume_on_a_changed_input_warns_and_continues() {
    let dir = tempfile::tempdir().unwrap();
    let resume = || {
        run_in(dir.path(), "train --resume model --steps 1")
            .ok()
            .stderr
    };
    std::fs::write(dir.path().join("names"), "emma\nava\nmia\n").unwrap();
    run_in(dir.path(), "train --input names -o model --steps 1").ok();
    assert!(!resume().contains("warning"));
    std::fs::write(dir.path().join("names"), "emma\neva\nmia\n").unwrap();
    let expected = "names is not the text that the model was trained on: it has the same length \
        but other content\n";
    let stderr = resume();
    assert!(stderr.contains(expected), "{stderr}");
    std::fs::write(dir.path().join("names"), "emma\neva\n").unwrap();
    let stderr = resume();
    assert!(
        stderr.contains("it has 9 bytes instead of 13\n"),
        "{stderr}"
    );
    assert!(!resume().contains("warning"));
}

#[test]
fn resume_finds_its_input_from_another_directory() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("text"), "one\ntwo\nthree\n").unwrap();
    run_in(dir.path(), "train --input text --steps 2 -o model").ok();
    let elsewhere = dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let output = run_in(&elsewhere, "train --resume ../model --steps 2").ok();
    assert!(
        output.stderr.contains("3 documents") && output.stderr.contains("from step 2"),
        "{}",
        output.stderr
    );
    fs::remove_file(dir.path().join("text")).unwrap();
    assert!(
        run_in(&elsewhere, "train --resume ../model --steps 2")
            .error(1)
            .contains("text")
    );

    run_with_stdin(
        dir.path(),
        "train --input - --steps 2 -o piped",
        b"abc\ncab\n",
    )
    .ok();
    let error = run_in(dir.path(), "train --resume piped --steps 2").error(1);
    assert!(error.contains("--input"), "{error}");
    run_with_stdin(
        dir.path(),
        "train --resume piped --input - --steps 2",
        b"abc\ncab\n",
    )
    .ok();
    let error = run_with_stdin(
        dir.path(),
        "train --resume piped --input - --steps 2",
        b"abcd?\n",
    )
    .error(1);
    assert!(error.contains("doesn't know: '?', 'd'"), "{error}");
}

#[test]
fn checkpoints_do_not_change_the_result() {
    let dir = tempfile::tempdir().unwrap();
    let options = "--schedule constant --batch-size 4 --threads 1";
    run_in(
        dir.path(),
        &format!("train {options} --steps 10 --checkpoint-every 4 -o a"),
    )
    .ok();
    run_in(dir.path(), &format!("train {options} --steps 10 -o b")).ok();
    assert!(files(&dir.path().join("a"), &FILES) == files(&dir.path().join("b"), &FILES));
}

#[test]
fn minimal_model_directory_loads_generates_and_resumes() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    run_in(dir.path(), "train --steps 5 --batch-size 32 -o model").ok();
    // Only the required keys.
    let meta: Value = serde_json::from_slice(&fs::read(model.join("meta.json")).unwrap()).unwrap();
    let mut bare = serde_json::json!({});
    for key in [
        "vocab_size",
        "n_embd",
        "n_head",
        "n_layer",
        "block_size",
        "chars",
    ] {
        bare[key] = meta[key].clone();
    }
    fs::write(
        model.join("meta.json"),
        serde_json::to_string_pretty(&bare).unwrap(),
    )
    .unwrap();
    fs::write(
        model.join("train_state.json"),
        r#"{"step": 5, "adam_step": 5}"#,
    )
    .unwrap();
    assert_eq!(
        run_in(dir.path(), "generate -m model -n 3")
            .ok()
            .stdout
            .lines()
            .count(),
        3
    );
    assert!(
        run_in(dir.path(), "info -m model")
            .ok()
            .stdout
            .contains("5 steps done, can be resumed")
    );
    let output = run_in(dir.path(), "train --resume model --steps 5").ok();
    assert!(output.stderr.contains("step 10/10"), "{}", output.stderr);
    // Training continues after five batches of 32 documents.
    run_in(dir.path(), "train --steps 5 --batch-size 32 -o again").ok();
    run_in(dir.path(), "train --resume again --steps 5").ok();
    assert!(files(&model, &FILES[..1]) == files(&dir.path().join("again"), &FILES[..1]));
}

#[test]
fn unknown_json_keys_are_ignored() {
    let dir = tempfile::tempdir().unwrap();
    run_in(dir.path(), "train --steps 2 -o model").ok();
    for name in ["meta.json", "train_state.json"] {
        let path = dir.path().join("model").join(name);
        let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        json["something_else"] = Value::from("of another program");
        fs::write(&path, json.to_string()).unwrap();
    }
    run_in(dir.path(), "generate -m model -n 1").ok();
    run_in(dir.path(), "train --resume model --steps 1").ok();
}

#[test]
fn long_documents_are_truncated_with_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let output = run_with_stdin(
        dir.path(),
        "train --input - --steps 1 --block-size 4 --log log",
        b"abcd\nabc\nab\n",
    )
    .ok();
    assert!(
        output
            .stderr
            .contains("1 of them truncated to the context of 4 tokens"),
        "{}",
        output.stderr
    );
    // abcd has five predictions; the context holds four.
    let mut lengths = log(&dir.path().join("log"))[0]["tokens"].as_u64().unwrap();
    lengths -= 10 * (4 + 4 + 3);
    assert!([4 + 4, 4 + 3, 4 + 3].contains(&lengths), "{lengths}");
}

#[test]
fn oasst1_conversations_train_a_chat_model() {
    let Some(data) = shared("data/oasst1_chat.jsonl") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let options = "--steps 2 --batch-size 2 --block-size 64 -o model";
    let output = run_in(
        dir.path(),
        &format!("train --chat --input {} {options}", data.display()),
    )
    .ok();
    assert!(
        output.stderr.contains("2,437 conversations"),
        "{}",
        output.stderr
    );
    let info = run_in(dir.path(), "info -m model --json").ok().stdout;
    let info: Value = serde_json::from_str(&info).unwrap();
    assert_eq!(
        info["special_tokens"],
        serde_json::json!(["user", "assistant", "end_turn"])
    );
    assert_eq!(
        info["vocab_size"].as_u64().unwrap(),
        info["chars"].as_array().unwrap().len() as u64 + 4
    );
}

#[test]
fn existing_model_is_replaced_only_with_force() {
    let dir = tempfile::tempdir().unwrap();
    let weights = |model: &str| fs::read(dir.path().join(model).join(FILES[0])).unwrap();
    run_in(dir.path(), "train --steps 3 -o m").ok();
    run_in(dir.path(), "train --steps 1 -o n").ok();
    let before = weights("m");
    for line in [
        "train --steps 1 -o m",
        "train --steps 1 -o m/../m --chat",
        "train --steps 1 -o m --resume n",
    ] {
        let error = run_in(dir.path(), line).error(1);
        for part in ["holds a model", "--resume m", "--force"] {
            assert!(error.contains(part), "{line}: {error}");
        }
        assert!(weights("m") == before, "{line}");
    }
    // An export, and a damaged model.
    run_in(dir.path(), "export -m m -o e").ok();
    run_in(dir.path(), "train --steps 1 -o e").error(1);
    fs::remove_file(dir.path().join("m/weights.safetensors")).unwrap();
    run_in(dir.path(), "train --steps 1 -o m").error(1);
    run_in(dir.path(), "train --steps 1 -o m --force").ok();
    assert!(weights("m") != before);
    // The resumed model's directory under another name.
    std::os::unix::fs::symlink("m", dir.path().join("link")).unwrap();
    run_in(dir.path(), "train --steps 1 --resume m -o link").ok();
}

#[test]
fn built_in_example_replaces_itself_only() {
    let dir = tempfile::tempdir().unwrap();
    run_in(dir.path(), "train --steps 2").ok();
    run_in(dir.path(), "train --steps 1").ok();
    fs::write(dir.path().join("text"), "one\ntwo\n").unwrap();
    let error = run_in(dir.path(), "train --steps 1 --input text").error(1);
    assert!(error.contains("microgpt-model holds a model"), "{error}");
    run_in(dir.path(), "train --steps 1 --input text --force").ok();
    run_in(dir.path(), "train --steps 1").error(1);
}
