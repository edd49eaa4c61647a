//! `microgpt export`: a copy of a model without its training state, for transformers, or as a web page.

mod html;
mod huggingface;

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::console;
use super::failure::Failure;
use super::flags::{ExportArgs, ExportFormat};
use super::model_dir::{self, check_not_huggingface};
use crate::model::ModelMeta;
use crate::store::{
    DirectoryLock, Precision, Snapshot, TRAIN_STATE, Tensors, WEIGHTS, encode_tensors,
    encode_weights, save,
};

/// Runs `microgpt export`.
pub fn run(args: ExportArgs) -> Result<(), Failure> {
    let output = args.output.expect("the parser requires --output");
    let snapshot = model_dir::open(args.model_dir.as_deref())?;
    let (meta, weights) = ModelMeta::load(&snapshot)?;
    let precision = match (args.half, args.format, weights.precision) {
        (true, ..) => Precision::F16,
        // The page has no bf16.
        (false, ExportFormat::Html, Precision::BF16) => Precision::F32,
        (false, _, precision) => precision,
    };
    match args.format {
        ExportFormat::Microgpt => check_directory(&output)?,
        ExportFormat::Huggingface => huggingface::check(&output)?,
        ExportFormat::Html => html::check(&meta, &output)?,
    }
    let tensors = weights.to_tensors();
    let size = match args.format {
        ExportFormat::Microgpt => write_directory(&meta, &tensors, precision, &output)?,
        ExportFormat::Huggingface => {
            huggingface::write(&snapshot, &meta, tensors, precision, &output)?
        }
        ExportFormat::Html => {
            let encoded = encode_tensors(&tensors, precision);
            html::write(
                &meta,
                &encoded.context("cannot export the weights")?,
                &output,
            )?
        }
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

/// Checks that no model with training state would be overwritten, or one of transformers be hidden.
fn check_directory(output: &Path) -> Result<()> {
    if !output.exists() {
        return Ok(());
    }
    let snapshot = Snapshot::open(output)?;
    ensure!(
        !snapshot.has(TRAIN_STATE),
        "{} holds a model with training state, which the export would overwrite; choose another \
        --output",
        output.display()
    );
    check_not_huggingface(&snapshot, output)
}

/// Writes a model directory. Returns the size of its weights.
fn write_directory(
    meta: &ModelMeta,
    weights: &Tensors,
    precision: Precision,
    output: &Path,
) -> Result<usize> {
    let weights = encode_weights(weights, precision).context("cannot export the weights")?;
    std::fs::create_dir_all(output)
        .with_context(|| format!("cannot create {}", output.display()))?;
    let _lock = DirectoryLock::acquire(output)?;
    let names = [&[WEIGHTS], meta.files()].concat();
    save(output, &names, |name| match name {
        WEIGHTS => Ok(weights.clone()),
        name => meta.encode(name),
    })?;
    Ok(weights.len())
}
