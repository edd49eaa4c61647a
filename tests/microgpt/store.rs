//! `microgpt info`, `microgpt export` and the errors of invalid model directories.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::program::{chat_model_dir, run_in, text_model_dir};

fn info(dir: &Path, model: &str) -> Value {
    serde_json::from_str(&run_in(dir, &format!("info --json -m {model}")).ok().stdout).unwrap()
}

#[test]
fn info_prints_config_and_training_state() {
    let dir = text_model_dir();
    let info = info(dir.path(), "model");
    assert_eq!(
        (&info["kind"], &info["dtype"], &info["parameters"]),
        (&"text".into(), &"f32".into(), &4192.into())
    );
    assert_eq!(
        (&info["n_embd"], &info["block_size"], &info["vocab_size"]),
        (&16.into(), &16.into(), &27.into())
    );
    assert_eq!(
        (&info["can_resume"], &info["step"]),
        (&true.into(), &60.into())
    );
    let size: u64 = fs::read_dir(dir.path().join("model"))
        .unwrap()
        .map(|f| f.unwrap().metadata().unwrap().len())
        .sum();
    assert_eq!(info["bytes_on_disk"], size);
    let plain = run_in(dir.path(), "info -m model").ok().stdout;
    for expected in [
        "4,192",
        "abcdefghijklmnopqrstuvwxyz",
        "60 steps done",
        "n_head 4",
    ] {
        assert!(plain.contains(expected), "{expected}: {plain}");
    }
}

#[test]
fn exported_model_generates_the_same_samples() {
    for dir in [text_model_dir(), chat_model_dir()] {
        run_in(dir.path(), "export -m model -o full").ok();
        run_in(dir.path(), "export -m model -o half --half").ok();
        for name in ["full", "half"] {
            let mut files: Vec<_> = fs::read_dir(dir.path().join(name))
                .unwrap()
                .map(|f| f.unwrap().file_name().into_string().unwrap())
                .collect();
            files.sort();
            assert_eq!(files, ["meta.json", "weights.safetensors"]);
            assert_eq!(info(dir.path(), name)["can_resume"], false);
        }
        assert_eq!(info(dir.path(), "half")["dtype"], "f16");
        let size = |name: &str| {
            fs::metadata(dir.path().join(name).join("weights.safetensors"))
                .unwrap()
                .len()
        };
        assert!(size("half") < size("full") * 6 / 10);
        let samples = |name: &str| {
            run_in(dir.path(), &format!("generate -m {name} -n 50"))
                .ok()
                .stdout
        };
        assert_eq!(samples("full"), samples("model"));
        let (full, half) = (samples("full"), samples("half"));
        let same = full
            .lines()
            .zip(half.lines())
            .filter(|(a, b)| a == b)
            .count();
        assert!(
            same > full.lines().count() / 2,
            "half precision changes a few samples, not most"
        );

        let error = run_in(dir.path(), "train --resume full --steps 1").error(1);
        assert!(error.contains("train_state.json is missing"), "{error}");
        let error = run_in(dir.path(), "train --resume half --steps 1").error(1);
        assert!(error.contains("half precision"), "{error}");
        let before = fs::read(dir.path().join("model/weights.safetensors")).unwrap();
        assert!(
            run_in(dir.path(), "export -m full -o model")
                .error(1)
                .contains("choose another")
        );
        assert!(fs::read(dir.path().join("model/weights.safetensors")).unwrap() == before);
    }
}

#[test]
fn page_replaces_only_a_page() {
    let dir = text_model_dir();
    let dir = dir.path();
    let export = |output: &str| run_in(dir, &format!("export -m model --format html -o {output}"));
    let message = export("names.html").ok().stderr;
    let page = fs::read_to_string(dir.join("names.html")).unwrap();
    assert!(
        message.starts_with("exported 4,192 f32 weights, "),
        "{message}"
    );
    assert!(message.ends_with(" bytes, to names.html\n"), "{message}");
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
    assert!(export("-").ok().stdout == page);
    export("names.html --half").ok();
    assert!(fs::metadata(dir.join("names.html")).unwrap().len() < page.len() as u64);

    fs::write(dir.join("names.txt"), "anna\n").unwrap();
    let error = export("names.txt").error(1);
    assert!(
        error.contains("names.txt is not a page of microgpt"),
        "{error}"
    );
    assert_eq!(fs::read(dir.join("names.txt")).unwrap(), b"anna\n");
    let error = export("model").error(1);
    assert!(
        error.contains("model is a directory; --format html writes a file"),
        "{error}"
    );
    let error = export("missing/names.html").error(1);
    assert!(error.contains("cannot write missing/names.html"), "{error}");
}

/// Changes a file of a copied model and returns the error of `generate`.
fn error_of_changed(dir: &Path, file: &str, change: impl Fn(&mut Vec<u8>)) -> String {
    let copy = dir.join("broken");
    let _ = fs::remove_dir_all(&copy);
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(dir.join("model")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    let mut bytes = fs::read(copy.join(file)).unwrap();
    change(&mut bytes);
    fs::write(copy.join(file), bytes).unwrap();
    run_in(dir, "generate -m broken").error(1)
}

/// Replaces bytes by others of the same length, which keeps offsets valid.
fn replace(bytes: &mut [u8], from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let at = bytes
        .windows(from.len())
        .position(|w| w == from.as_bytes())
        .expect("the bytes to replace are present");
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
}

#[test]
fn invalid_model_files_get_one_error_line() {
    let dir = text_model_dir();
    let dir = dir.path();
    let weights = "weights.safetensors";
    let check = |error: String, expected: &[&str]| {
        for expected in expected {
            assert!(error.contains(expected), "{expected:?} in {error}");
        }
    };
    check(
        error_of_changed(dir, weights, |b| b.truncate(b.len() - 1)),
        &["broken/weights.safetensors", "not a complete safetensors"],
    );
    check(
        error_of_changed(dir, weights, |b| b.clear()),
        &["not a complete safetensors file"],
    );
    check(
        error_of_changed(dir, weights, |b| b[..8].fill(0xff)),
        &["not a complete safetensors file"],
    );
    check(
        error_of_changed(dir, weights, |b| replace(b, "\"wte\"", "\"wtf\"")),
        &["wte is missing"],
    );
    check(
        error_of_changed(dir, weights, |b| replace(b, "[27,16]", "[16,27]")),
        &["[16, 27]", "expected [27, 16]"],
    );
    check(
        error_of_changed(dir, weights, |b| b.extend([0; 4])),
        &["not a complete safetensors file"],
    );
    let nan = |b: &mut Vec<u8>| {
        let end = b.len();
        b[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    };
    check(
        error_of_changed(dir, weights, nan),
        &["wte holds NaN at [26, 15]", "expected finite"],
    );

    let meta = "meta.json";
    check(
        error_of_changed(dir, meta, |b| b.truncate(10)),
        &["broken/meta.json", "not valid JSON"],
    );
    check(
        error_of_changed(dir, meta, |b| replace(b, "\"n_head\":4", "\"n_head\":0")),
        &["n_head must be >= 1, got 0"],
    );
    check(
        error_of_changed(dir, meta, |b| replace(b, "\"n_head\":4", "\"n_head\":5")),
        &["n_head must be a divisor of n_embd 16, got 5"],
    );
    check(
        error_of_changed(dir, meta, |b| replace(b, "\"n_layer\":1", "\"n_layer\":2")),
        &["layer1.attn_wq is missing"],
    );
    check(
        error_of_changed(dir, meta, |b| {
            replace(b, "\"vocab_size\":27", "\"vocab_size\":99")
        }),
        &["vocab_size is 99", "make 27"],
    );
    check(
        error_of_changed(dir, meta, |b| replace(b, "\"b\"", "\"a\"")),
        &["repeats the character 'a'"],
    );
    check(
        error_of_changed(dir, meta, |b| replace(b, "\"n_embd\"", "\"n_emb?\"")),
        &["n_embd is missing"],
    );

    fs::remove_file(dir.join("broken/weights.safetensors")).unwrap();
    check(
        run_in(dir, "generate -m broken").error(1),
        &["weights.safetensors is missing"],
    );
}

#[test]
fn invalid_train_state_gets_one_error_line() {
    let dir = text_model_dir();
    let resume = |file: &str, content: Option<&[u8]>| {
        let path = dir.path().join("model").join(file);
        let saved = fs::read(&path).unwrap();
        match content {
            Some(content) => fs::write(&path, content).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let error = run_in(dir.path(), "train --resume model --steps 1").error(1);
        run_in(dir.path(), "generate -m model -n 1").ok();
        fs::write(&path, saved).unwrap();
        error
    };
    assert!(
        resume("train_state.json", Some(b"{\"step\": 1}"))
            .contains("train_state.json: adam_step is missing")
    );
    assert!(
        resume(
            "train_state.json",
            Some(b"{\"step\": -1, \"adam_step\": 1}")
        )
        .contains("step must be a whole number")
    );
    assert!(resume("optimizer_m.safetensors", None).contains("optimizer_m.safetensors is missing"));
    assert!(
        resume("optimizer_v.safetensors", Some(b"x"))
            .contains("optimizer_v.safetensors: not a complete")
    );
}
