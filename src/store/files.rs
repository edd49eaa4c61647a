//! The files of a model directory.

/// The weights.
pub const WEIGHTS: &str = "weights.safetensors";
/// The model's size and vocabulary.
pub const META: &str = "meta.json";
/// The progress of training and its hyperparameters.
pub const TRAIN_STATE: &str = "train_state.json";
/// Adam's first moments.
pub const OPTIMIZER_M: &str = "optimizer_m.safetensors";
/// Adam's second moments.
pub const OPTIMIZER_V: &str = "optimizer_v.safetensors";
/// The vocabulary of a model of byte-level BPE.
pub const TOKENIZER: &str = "tokenizer.json";

/// The size and vocabulary of a model in a Hugging Face directory.
pub const CONFIG: &str = "config.json";
/// The weights of a model in a Hugging Face directory.
pub const HUGGINGFACE_WEIGHTS: &str = "model.safetensors";
/// The list of the weights' files in a Hugging Face directory that has several.
pub const WEIGHTS_INDEX: &str = "model.safetensors.index.json";

/// The files that an export writes in a Hugging Face directory.
pub const HUGGINGFACE_FILES: [&str; 9] = [
    HUGGINGFACE_WEIGHTS,
    CONFIG,
    "configuration_microgpt.py",
    "modeling_microgpt.py",
    TOKENIZER,
    "tokenizer_config.json",
    "chat_template.jinja",
    "generation_config.json",
    "README.md",
];

/// All files of a model directory.
pub const FILES: [&str; 6] = [
    WEIGHTS,
    META,
    TRAIN_STATE,
    OPTIMIZER_M,
    OPTIMIZER_V,
    TOKENIZER,
];
