//! Hugging Face directories: export, reading as a model, and invalid ones. tests/clients/huggingface.py
//! loads them with transformers.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use half::bf16;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use crate::program::{chat_model_dir, run_in, text_model_dir};

const EXPORT: &str = "export -m model --format huggingface -o hf";

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Writes the tensors of a file for which `keep` holds, as bf16 if asked.
fn write_part(from: &[u8], to: &Path, as_bf16: bool, keep: impl Fn(&str) -> bool) {
    let file = SafeTensors::deserialize(from).unwrap();
    let names = file.names().into_iter().filter(|name| keep(name));
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = names
        .map(|name| {
            let tensor = file.tensor(name).unwrap();
            let numbers = tensor.data().as_chunks().0.iter();
            let bytes = match as_bf16 {
                false => tensor.data().to_vec(),
                true => numbers
                    .flat_map(|b| bf16::from_f32(f32::from_le_bytes(*b)).to_le_bytes())
                    .collect(),
            };
            (name.to_string(), tensor.shape().to_vec(), bytes)
        })
        .collect();
    let dtype = if as_bf16 { Dtype::BF16 } else { Dtype::F32 };
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(dtype, shape.clone(), bytes).unwrap();
        (name, view)
    });
    fs::write(to, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn huggingface_directory_is_the_same_model_for_every_command() {
    let dir = text_model_dir();
    let dir = dir.path();
    let exported = run_in(dir, EXPORT).ok();
    assert!(exported.stderr.starts_with("exported 4,192 f32 weights, "));
    fs::write(dir.join("lines"), "emma\nolivia\n").unwrap();
    for command in [
        "generate -n 5",
        "score lines --tokens",
        "generate -0 -n 3 --prompt an",
    ] {
        let native = run_in(dir, &format!("{command} -m model")).ok();
        assert_eq!(
            run_in(dir, &format!("{command} -m hf")).ok().stdout,
            native.stdout
        );
    }
    let info = run_in(dir, "info -m hf --json").ok();
    let info: Value = serde_json::from_str(&info.stdout).unwrap();
    assert_eq!(
        (&info["dtype"], &info["can_resume"]),
        (&json!("f32"), &json!(false))
    );
    run_in(dir, "train --init-from hf -o more --steps 2 --threads 1 -q").ok();
    // Another export replaces the first.
    run_in(dir, &format!("{EXPORT} --half")).ok();
    assert_eq!(read_json(&dir.join("hf/config.json"))["dtype"], "float16");
    // Back to a model directory: the same weights, but for the training state.
    run_in(dir, "export -m model -o small --half").ok();
    run_in(dir, "export -m hf -o back").ok();
    for name in ["weights.safetensors", "meta.json"] {
        let file = |of: &str| fs::read(dir.join(of).join(name)).unwrap();
        assert_eq!(file("back"), file("small"), "{name}");
    }
}

#[test]
fn huggingface_chat_model_has_a_chat_template() {
    let dir = chat_model_dir();
    let dir = dir.path();
    run_in(dir, EXPORT).ok();
    let template = fs::read_to_string(dir.join("hf/chat_template.jinja")).unwrap();
    assert!(template.contains("in ['user', 'assistant']"), "{template}");
    let card = fs::read_to_string(dir.join("hf/README.md")).unwrap();
    for line in [
        "trained on conversations",
        "| Steps | 60 |",
        "| Documents per step | 4 |",
    ] {
        assert!(card.contains(line), "{card}");
    }
    let generated = run_in(dir, "generate -m hf -n 2").ok().stdout;
    assert_eq!(generated, run_in(dir, "generate -m model -n 2").ok().stdout);
}

#[test]
fn sharded_and_bf16_weights_are_read() {
    let dir = text_model_dir();
    let dir = dir.path();
    run_in(dir, EXPORT).ok();
    let expected = run_in(dir, "generate -m hf -n 5").ok().stdout;
    let single = dir.join("hf/model.safetensors");
    let weights = fs::read(&single).unwrap();
    write_part(&weights, &single, true, |_| true);
    let info = run_in(dir, "info -m hf --json").ok().stdout;
    assert!(info.contains("\"dtype\":\"bf16\""), "{info}");
    run_in(dir, "generate -m hf -n 1").ok();
    run_in(dir, "export -m hf -o bf16").ok();
    let resumed = run_in(dir, "generate -m bf16 -n 5").ok().stdout;
    assert_eq!(run_in(dir, "generate -m hf -n 5").ok().stdout, resumed);

    fs::remove_file(&single).unwrap();
    let shard = |index: usize| format!("model-0000{index}-of-00002.safetensors");
    let of = |name: &str| if name.contains("mlp") { 2 } else { 1 };
    for index in [1, 2] {
        write_part(
            &weights,
            &dir.join("hf").join(shard(index)),
            false,
            |name| of(name) == index,
        );
    }
    let names = SafeTensors::deserialize(&weights).unwrap();
    let map = names
        .names()
        .into_iter()
        .map(|name| (name.to_string(), shard(of(name))));
    let index = json!({ "metadata": {}, "weight_map": map.collect::<HashMap<_, _>>() });
    let index_path = dir.join("hf/model.safetensors.index.json");
    fs::write(&index_path, index.to_string()).unwrap();
    assert_eq!(run_in(dir, "generate -m hf -n 5").ok().stdout, expected);

    let error = || run_in(dir, "generate -m hf").error(1);
    fs::copy(dir.join("hf").join(shard(1)), dir.join("hf").join(shard(2))).unwrap();
    assert!(error().contains("is in two files"), "{}", error());
    fs::remove_file(dir.join("hf").join(shard(2))).unwrap();
    assert!(error().ends_with("hf/model-00002-of-00002.safetensors is missing"));
    fs::write(
        &index_path,
        r#"{"weight_map": {"a": "../model/weights.safetensors"}}"#,
    )
    .unwrap();
    assert!(
        error().contains("got \"../model/weights.safetensors\""),
        "{}",
        error()
    );
    fs::remove_file(&index_path).unwrap();
    assert!(error().contains("hf/model.safetensors is missing, and so is"));
}

#[test]
fn invalid_huggingface_config_is_one_clear_line() {
    let dir = text_model_dir();
    let dir = dir.path();
    run_in(dir, EXPORT).ok();
    let path = dir.join("hf/config.json");
    let config = read_json(&path);
    for (key, value, expected) in [
        (
            "model_type",
            json!("gpt2"),
            "model_type must be \"microgpt\", got \"gpt2\"",
        ),
        (
            "rms_norm_eps",
            json!(0.1),
            "rms_norm_eps must be 0.00001, got 0.1",
        ),
        (
            "tie_word_embeddings",
            json!(true),
            "tie_word_embeddings must be false, got true",
        ),
        (
            "n_head",
            json!(3),
            "n_head must be a divisor of n_embd 16, got 3",
        ),
        (
            "n_layer",
            json!(1_000_000_000),
            "the tensor model.layers.1.attn.q_proj.weight is missing",
        ),
        (
            "n_embd",
            json!(u64::MAX),
            "the model has more weights than fit the address space",
        ),
        (
            "vocab_size",
            json!(28),
            "vocab_size is 28, but 26 characters",
        ),
        ("chars", json!("abc"), "chars must be an array of strings"),
        ("chars", Value::Null, "chars is missing"),
    ] {
        let mut changed = config.clone();
        changed[key] = value;
        if key == "n_embd" {
            changed["n_head"] = json!(1);
        }
        fs::write(&path, changed.to_string()).unwrap();
        let error = run_in(dir, "generate -m hf").error(1);
        assert!(
            error.contains(expected) && error.contains("error: hf/"),
            "{error}"
        );
    }
    fs::write(&path, "{").unwrap();
    assert!(
        run_in(dir, "info -m hf")
            .error(1)
            .contains("hf/config.json: not valid JSON")
    );
}

#[test]
fn exports_and_training_refuse_to_replace_other_models() {
    let dir = text_model_dir();
    let dir = dir.path();
    run_in(dir, EXPORT).ok();
    let error = |line: &str| run_in(dir, line).error(1);
    let resumed = error("train --resume hf --steps 1");
    assert!(resumed.contains("no training state; start a new run from it with --init-from"));
    for line in [
        "export -m model -o hf",
        "train --init-from hf -o hf --steps 1",
    ] {
        let refused = error(line);
        assert!(
            refused.contains("hf holds a Hugging Face model; choose another"),
            "{refused}"
        );
    }
    let refused = error("export -m model --format huggingface -o model");
    assert!(
        refused.contains("model holds a model of another format"),
        "{refused}"
    );
    fs::create_dir(dir.join("project")).unwrap();
    fs::write(dir.join("project/README.md"), "mine").unwrap();
    let refused = error("export -m model --format huggingface -o project");
    assert!(
        refused.contains("project/README.md is not of a model of microgpt"),
        "{refused}"
    );
}
