//! The model directory: reading it whole, checking it, and replacing it all or nothing.
//!
//! A save must never leave a mixture of an old and a new model, even where the directory itself
//! can't be renamed (it may be a mount point). So [`save`] works as databases do: it writes every
//! new file beside the old one, then makes a commit file appear by a rename, and only then renames
//! the new files over the old ones. A reader that finds the commit file takes the new files,
//! whatever their names are by then; one that doesn't takes the old ones.

mod directory;
mod disk;
mod json;
mod lock;
mod tensors;

#[cfg(test)]
pub use disk::faults;

pub use directory::{FileBytes, Snapshot, check_writable, save};
pub use json::{JsonError, JsonObject, required};
pub use lock::DirectoryLock;
pub use tensors::{NamedTensor, Precision, StoredTensor, TensorFile, Tensors, encode_tensors};

/// The weights.
pub const WEIGHTS: &str = "weights.safetensors";
/// The model's size and characters.
pub const META: &str = "meta.json";
/// How far training has come.
pub const TRAIN_STATE: &str = "train_state.json";
/// Adam's first moments.
pub const OPTIMIZER_M: &str = "optimizer_m.safetensors";
/// Adam's second moments.
pub const OPTIMIZER_V: &str = "optimizer_v.safetensors";

/// Every file of a model directory.
pub const FILES: [&str; 5] = [WEIGHTS, META, TRAIN_STATE, OPTIMIZER_M, OPTIMIZER_V];
