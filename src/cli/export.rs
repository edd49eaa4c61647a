//! `microgpt export`: a copy of a model without its training state, or as a web page.

mod html;

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::failure::Failure;
use super::flags::{ExportArgs, ExportFormat};
use super::{console, model_dir};
use crate::model::ModelMeta;
use crate::store::{
    DirectoryLock, Precision, Snapshot, TRAIN_STATE, WEIGHTS, encode_tensors, save,
};

/// Runs `microgpt export`.
pub fn run(args: ExportArgs) -> Result<(), Failure> {
    let output = args.output.expect("the parser requires --output");
    let snapshot = model_dir::open(args.model_dir.as_deref())?;
    let (meta, weights) = ModelMeta::load(&snapshot)?;
    let precision = if args.half {
        Precision::F16
    } else {
        weights.precision
    };
    match args.format {
        ExportFormat::Microgpt => check_directory(&output)?,
        ExportFormat::Html => html::check(&meta, &output)?,
    }
    let encoded = encode_tensors(&weights.to_tensors(), precision);
    let encoded = encoded.context("cannot export the weights")?;
    let size = match args.format {
        ExportFormat::Microgpt => write_directory(&meta, &encoded, &output)?,
        ExportFormat::Html => html::write(&meta, &encoded, &output)?,
    };
    console::eprintln(format_args!(
        "exported {} {} weights, {} bytes, to {}",
        console::group_thousands(meta.parameters()? as u64),
        precision.name(),
        console::group_thousands(size as u64),
        output.display()
    ));
    Ok(())
}

/// Checks that no model with training state would be overwritten.
fn check_directory(output: &Path) -> Result<()> {
    ensure!(
        !(output.exists() && Snapshot::open(output)?.has(TRAIN_STATE)),
        "{} holds a model with training state, which the export would overwrite; choose another \
        --output",
        output.display()
    );
    Ok(())
}

/// Writes a model directory. Returns the size of its weights.
fn write_directory(meta: &ModelMeta, weights: &[u8], output: &Path) -> Result<usize> {
    std::fs::create_dir_all(output)
        .with_context(|| format!("cannot create {}", output.display()))?;
    let _lock = DirectoryLock::acquire(output)?;
    let names = [&[WEIGHTS], meta.files()].concat();
    save(output, &names, |name| match name {
        WEIGHTS => Ok(weights.to_vec()),
        name => meta.encode(name),
    })?;
    Ok(weights.len())
}
