//! Untrusted model directories: invalid files are rejected, nothing outside is read or written.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

use crate::program::{run_in, text_model_dir, tool};

const FILES: [&str; 5] = [
    "weights.safetensors",
    "meta.json",
    "train_state.json",
    "optimizer_m.safetensors",
    "optimizer_v.safetensors",
];

const RESUME: &str = "train --resume model --steps 1 --threads 1 -q";

#[test]
fn truncated_files_are_rejected_at_every_length() {
    let dir = text_model_dir();
    let check = |name: &str, command: &str, count: fn(&[u8]) -> usize| {
        let path = dir.path().join("model").join(name);
        let original = fs::read(&path).unwrap();
        for length in 0..count(&original) {
            fs::write(&path, &original[..length]).unwrap();
            let error = run_in(dir.path(), command).error(1);
            let named = format!("microgpt: error: model/{name}: not ");
            assert!(error.starts_with(&named), "{name} of {length}: {error}");
        }
        fs::write(&path, original).unwrap();
    };
    let header = |file: &[u8]| 8 + header(file).0.len();
    check("weights.safetensors", "generate -m model", header);
    check("meta.json", "info -m model", <[u8]>::len);
    check("train_state.json", RESUME, <[u8]>::len);
    run_in(dir.path(), RESUME).ok();
}

/// The JSON header and the data of a safetensors file.
fn header(file: &[u8]) -> (&[u8], &[u8]) {
    let (length, rest) = file.split_first_chunk().unwrap();
    rest.split_at(u64::from_le_bytes(*length) as usize)
}

/// Changes the header and data of the weights and returns the error of `generate`.
fn error_with_weights(dir: &Path, change: impl Fn(&mut Value, &mut Vec<u8>)) -> String {
    let path = dir.join("model/weights.safetensors");
    let original = fs::read(&path).unwrap();
    let (header, numbers) = header(&original);
    let mut header = serde_json::from_slice(header).unwrap();
    let mut numbers = numbers.to_vec();
    change(&mut header, &mut numbers);
    let header = header.to_string();
    let length = (header.len() as u64).to_le_bytes();
    fs::write(&path, [&length, header.as_bytes(), &numbers].concat()).unwrap();
    let error = run_in(dir, "generate -m model").error(1);
    fs::write(&path, original).unwrap();
    error
}

#[test]
fn mismatched_weights_are_rejected() {
    let dir = text_model_dir();
    let dir = dir.path();
    let other = error_with_weights(dir, |header, _| header["wpe"]["dtype"] = json!("I32"));
    assert!(other.contains("wpe holds I32 numbers, expected F32, F16 or BF16"));
    let extra = error_with_weights(dir, |header, numbers| {
        let (start, end) = (numbers.len(), numbers.len() + 4);
        header["more"] = json!({"dtype": "F32", "shape": [1], "data_offsets": [start, end]});
        numbers.extend([0; 4]);
    });
    assert!(extra.contains("the tensor more is not part of this model"));
    let flat = error_with_weights(dir, |header, _| header["wpe"]["shape"] = json!([256]));
    assert!(flat.contains("wpe has the shape [256], expected [16, 16]"));
    // F16 data in half the space leaves a gap before the next tensor.
    let hole = error_with_weights(dir, |header, _| {
        let end = header["wte"]["data_offsets"][1].as_u64().unwrap();
        header["wte"]["data_offsets"][1] = json!(end - 864);
        header["wte"]["dtype"] = json!("F16");
    });
    assert!(hole.contains("not a complete safetensors file"), "{hole}");
    for number in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
        let error = error_with_weights(dir, |_, numbers| {
            let end = numbers.len();
            numbers[end - 4..].copy_from_slice(&number.to_le_bytes());
        });
        let said = format!(" holds {number} at [");
        assert!(error.contains(&said), "{error}");
    }
}

#[test]
fn impossible_model_sizes_are_rejected() {
    let dir = text_model_dir();
    let path = dir.path().join("model/meta.json");
    let meta: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let (large, too_many) = (u64::MAX / 2 + 1, "more weights than fit the address space");
    for (key, value, expected) in [
        ("n_embd", json!(0), "n_embd must be >= 1, got 0"),
        ("n_head", json!(0), "n_head must be >= 1, got 0"),
        ("n_layer", json!(0), "n_layer must be >= 1, got 0"),
        ("block_size", json!(0), "block_size must be >= 1, got 0"),
        ("n_embd", json!(1u64 << 33), too_many),
        ("n_embd", json!(large), too_many),
        ("n_layer", json!(large), too_many),
        ("block_size", json!(large), too_many),
        ("block_size", json!(u64::MAX), too_many),
        ("n_layer", json!(1u64 << 40), "layer1.attn_wq is missing"),
        ("block_size", json!(1u64 << 40), "expected [1099511627776"),
        (
            "n_head",
            json!(32),
            "n_head must be a divisor of n_embd 16, got 32",
        ),
        ("n_head", json!(-4), "n_head must be a whole number"),
        ("n_head", json!(4.5), "n_head must be a whole number"),
        ("vocab_size", json!(0), "vocab_size is 0"),
        ("vocab_size", json!(u64::MAX), "vocab_size is 184467"),
        ("chars", json!([]), "vocab_size is 27"),
        ("chars", json!({}), "chars must be an array"),
    ] {
        let mut changed = meta.clone();
        changed[key] = value.clone();
        fs::write(&path, changed.to_string()).unwrap();
        let error = run_in(dir.path(), "generate -m model").error(1);
        assert!(error.contains(expected), "{key} {value}: {error}");
    }
}

#[test]
fn symlinks_at_written_paths_are_not_followed() {
    let dir = text_model_dir();
    let model = dir.path().join("model");
    let precious = dir.path().join("precious");
    let written = FILES.map(|name| format!("{name}.new"));
    for name in written
        .iter()
        .map(String::as_str)
        .chain(["save.commit.new"])
    {
        for exists in [true, false] {
            if exists {
                fs::write(&precious, "precious").unwrap();
            }
            symlink("../precious", model.join(name)).unwrap();
            run_in(dir.path(), RESUME).ok();
            run_in(dir.path(), "generate -m model -n 1").ok();
            match exists {
                true => assert_eq!(fs::read(&precious).unwrap(), b"precious", "{name}"),
                false => assert!(!precious.exists(), "{name}"),
            }
            let _ = fs::remove_file(&precious);
        }
    }
    for exists in [true, false] {
        if exists {
            fs::write(&precious, "precious").unwrap();
        }
        symlink("../precious", model.join("train.lock")).unwrap();
        let error = run_in(dir.path(), RESUME).error(1);
        assert!(
            error.contains("train.lock: it is not a regular file"),
            "{error}"
        );
        assert_eq!(precious.exists(), exists);
        fs::remove_file(model.join("train.lock")).unwrap();
        let _ = fs::remove_file(&precious);
    }
    // A save replaces a symlink and leaves its target.
    let (weights, elsewhere) = (model.join(FILES[0]), dir.path().join("elsewhere"));
    fs::rename(&weights, &elsewhere).unwrap();
    symlink("../elsewhere", &weights).unwrap();
    let before = fs::read(&elsewhere).unwrap();
    run_in(dir.path(), RESUME).ok();
    assert!(fs::read(&elsewhere).unwrap() == before && fs::read(&weights).unwrap() != before);
}

/// Opening a FIFO would block; a sparse file of 1 TiB would be read for hours.
#[test]
fn fifos_and_oversized_files_are_rejected() {
    let dir = text_model_dir();
    let model = dir.path().join("model");
    for name in FILES.into_iter().chain(["save.commit", "train.lock"]) {
        let (path, aside) = (model.join(name), dir.path().join("aside"));
        let existed = fs::rename(&path, &aside).is_ok();
        if tool("mkfifo", &[name], &model).is_none() {
            return;
        }
        let error = run_in(dir.path(), RESUME).error(1);
        let said = error.contains(name) && error.contains("it is not a regular file");
        assert!(said, "{error}");
        if name != "train.lock" {
            let error = run_in(dir.path(), "generate -m model").error(1);
            assert!(error.contains("it is not a regular file"), "{error}");
        }
        fs::remove_file(&path).unwrap();
        if name.ends_with("json") || name == "save.commit" {
            File::create(&path).unwrap().set_len(1 << 40).unwrap();
            let error = run_in(dir.path(), RESUME).error(1);
            let said = error.contains(name) && error.contains("it has more than 8 MiB");
            assert!(said, "{error}");
            fs::remove_file(&path).unwrap();
        }
        if existed {
            fs::rename(&aside, &path).unwrap();
        }
    }
    run_in(dir.path(), RESUME).ok();
}
