//! The layout of a Hugging Face directory: the keys of config.json that fix the architecture, and the names
//! of the weights. config.json has the keys of meta.json, too.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::store::{
    CONFIG, HUGGINGFACE_WEIGHTS, JsonError, JsonObject, Snapshot, TensorFile, WEIGHTS_INDEX,
};

/// The keys of config.json that fix the architecture, and their only values. Only the first is required.
pub fn architecture() -> [(&'static str, Value); 3] {
    [
        ("model_type", json!("microgpt")),
        ("rms_norm_eps", json!(1e-5)),
        ("tie_word_embeddings", json!(false)),
    ]
}

/// Reads config.json. Errors if it describes another architecture.
pub fn read_config(snapshot: &Snapshot) -> Result<JsonObject> {
    let config = snapshot.read_json(CONFIG)?;
    check_architecture(&config).with_context(|| snapshot.path(CONFIG).display().to_string())?;
    Ok(config)
}

fn check_architecture(config: &JsonObject) -> Result<()> {
    for (index, (key, expected)) in architecture().into_iter().enumerate() {
        match config.get(key) {
            Some(value) if *value == expected => {}
            None if index > 0 => {}
            None => bail!("{key} is missing, expected {expected}"),
            Some(value) => return Err(JsonError::invalid(key, &expected.to_string(), value).into()),
        }
    }
    Ok(())
}

/// Reads and validates the weights. `expected` are their names and shapes in a model directory.
pub fn read_weights(
    snapshot: &Snapshot,
    expected: impl Iterator<Item = (String, [usize; 2])>,
) -> Result<TensorFile> {
    let files = snapshot.read_huggingface_weights()?;
    let expected = expected.map(|(name, shape)| {
        let file_name = tensor_name(&name);
        (name, file_name, shape)
    });
    let weights = match snapshot.has(WEIGHTS_INDEX) {
        true => WEIGHTS_INDEX,
        false => HUGGINGFACE_WEIGHTS,
    };
    TensorFile::from_files(files, expected, true)
        .with_context(|| snapshot.path(weights).display().to_string())
}

/// Returns the name in a Hugging Face directory of a tensor of a model directory.
pub fn tensor_name(name: &str) -> String {
    let Some((layer, matrix)) = name.split_once('.') else {
        let module = if name == "lm_head" { "" } else { "model." };
        return format!("{module}{name}.weight");
    };
    let module = match matrix {
        "attn_wq" => "attn.q_proj",
        "attn_wk" => "attn.k_proj",
        "attn_wv" => "attn.v_proj",
        "attn_wo" => "attn.o_proj",
        "mlp_fc1" => "mlp.up_proj",
        _ => "mlp.down_proj",
    };
    format!(
        "model.layers.{}.{module}.weight",
        layer.trim_start_matches("layer")
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::config::ModelConfig;
    use super::*;

    #[test]
    fn tensor_names_are_distinct_modules() {
        let config = ModelConfig {
            n_layer: 11,
            ..Default::default()
        };
        let names = config.tensors(27).map(|(name, _)| tensor_name(&name));
        let names: BTreeSet<String> = names.collect();
        assert_eq!(names.len(), config.tensors(27).count());
        for name in [
            "lm_head.weight",
            "model.wpe.weight",
            "model.layers.10.attn.o_proj.weight",
            "model.layers.0.mlp.down_proj.weight",
        ] {
            assert!(names.contains(name), "{name}");
        }
    }

    #[test]
    fn other_architectures_are_rejected() {
        let error = |json: &str| {
            let config = JsonObject::parse(json.as_bytes()).unwrap();
            check_architecture(&config).unwrap_err().to_string()
        };
        assert_eq!(
            error(r#"{"model_type": "gpt2"}"#),
            "model_type must be \"microgpt\", got \"gpt2\""
        );
        assert_eq!(error("{}"), "model_type is missing, expected \"microgpt\"");
        let json = r#"{"model_type": "microgpt", "rms_norm_eps": 1e-6}"#;
        assert_eq!(error(json), "rms_norm_eps must be 0.00001, got 1e-6");
    }
}
