//! Opening of the model directory that a command reads.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, ensure};

use super::flags::DEFAULT_MODEL_DIR;
use crate::infer::InferenceGpt;
use crate::model::{ModelMeta, huggingface};
use crate::store::Snapshot;

/// Opens a model directory, the default one for `None`. The error for a missing one names the command
/// that creates it.
pub fn open(dir: Option<&Path>) -> Result<Snapshot> {
    let dir = dir.unwrap_or(Path::new(DEFAULT_MODEL_DIR));
    ensure!(
        dir.exists(),
        "there is no model in {}; create one with `microgpt train --output {0}`",
        dir.display()
    );
    Snapshot::open(dir)
}

/// Errors if a directory to write a model to holds one of transformers, which the new one would hide.
pub fn check_not_huggingface(snapshot: &Snapshot, output: &Path) -> Result<()> {
    ensure!(
        !snapshot.is_huggingface() || huggingface::read_config(snapshot).is_err(),
        "{} holds a Hugging Face model; choose another --output",
        output.display()
    );
    Ok(())
}

/// Loads the model in a directory, the default one for `None`.
pub fn load(dir: Option<&Path>) -> Result<Arc<InferenceGpt>> {
    let (meta, weights) = ModelMeta::load(&open(dir)?)?;
    Ok(Arc::new(InferenceGpt::new(meta, weights)))
}
