//! The output directory of a run.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use super::super::flags::{DEFAULT_MODEL_DIR, TrainArgs};
use super::super::model_dir;
use crate::store::{META, Snapshot, WEIGHTS};
use crate::train::Checkpoint;

/// Returns the output directory: that of `--output`, of the resumed model, or the default one.
pub fn directory(args: &TrainArgs) -> PathBuf {
    let given = args.output.as_ref().or(args.resume.as_ref());
    given.map_or_else(|| PathBuf::from(DEFAULT_MODEL_DIR), PathBuf::clone)
}

/// Errors if the output is a file, or if the run would replace a model, unless it resumes that model,
/// `--force` is given, or the built-in example runs again. To be called with the lock of the
/// directory, if it exists.
pub fn check_replaceable(args: &TrainArgs, output: &Path) -> Result<()> {
    ensure!(
        output.is_dir() || output.symlink_metadata().is_err(),
        "{} is not a directory, as a model is; choose another --output",
        output.display()
    );
    let is_resumed = match &args.resume {
        Some(dir) => dir.canonicalize().ok() == output.canonicalize().ok(),
        None => false,
    };
    if args.force || is_resumed || !output.is_dir() {
        return Ok(());
    }
    let snapshot = Snapshot::open(output)?;
    model_dir::check_not_huggingface(&snapshot, output)?;
    let has_model = snapshot.has(WEIGHTS) || snapshot.has(META);
    let is_example = args.input.is_none()
        && args.output.is_none()
        && args.resume.is_none()
        && args.init_from.is_none();
    ensure!(
        !has_model || (is_example && was_trained_on_built_in_text(&snapshot)),
        "{0} holds a model; train it further with --resume {0}, replace it with --force, or choose \
        another --output",
        output.display()
    );
    Ok(())
}

/// Returns whether a run without `--input` trained the model. Other programs' directories have no
/// input, but no position in the data either.
fn was_trained_on_built_in_text(snapshot: &Snapshot) -> bool {
    Checkpoint::load(snapshot)
        .is_ok_and(|Checkpoint { state, .. }| state.input.is_none() && state.documents.is_some())
}
