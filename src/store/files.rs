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

/// All files of a model directory.
pub const FILES: [&str; 6] = [
    WEIGHTS,
    META,
    TRAIN_STATE,
    OPTIMIZER_M,
    OPTIMIZER_V,
    TOKENIZER,
];
