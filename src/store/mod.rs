//! The model directory: validated reads and atomic saves.
//!
//! A save must never leave a mixture of an old and a new model. Renaming a whole directory would
//! suffice, but a mount point can't be renamed. Instead, [`save`] works like a write-ahead log:
//!
//! 1. Write each new file beside the old one, under a staged name.
//! 2. Rename a commit file, which lists them, into place: the commit.
//! 3. Rename the staged files over the old ones, and remove the commit file.
//!
//! A reader that finds the commit file prefers the staged files that it lists. A save that was
//! interrupted after the commit is completed by the next one.

mod commit;
mod disk;
mod files;
mod json;
mod lock;
mod save;
mod shards;
mod snapshot;
mod tensors;

#[cfg(test)]
pub use disk::faults;

pub use files::{
    CONFIG, FILES, HUGGINGFACE_FILES, HUGGINGFACE_WEIGHTS, META, OPTIMIZER_M, OPTIMIZER_V,
    TOKENIZER, TRAIN_STATE, WEIGHTS, WEIGHTS_INDEX,
};
pub use json::{JsonError, JsonObject, required};
pub use lock::DirectoryLock;
pub use save::{check_writable, save};
pub use snapshot::{FileBytes, Snapshot};
pub use tensors::{
    ByteRange, NamedTensor, Precision, StoredTensor, TensorFile, Tensors, encode_tensors,
    encode_weights,
};
