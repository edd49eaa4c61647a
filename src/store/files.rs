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

/// All files of a model directory.
pub const FILES: [&str; 5] = [WEIGHTS, META, TRAIN_STATE, OPTIMIZER_M, OPTIMIZER_V];
