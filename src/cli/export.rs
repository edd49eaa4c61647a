//! `microgpt export`: a copy of a model without its training state, in full or half precision.

use anyhow::Context;

use super::failure::Failure;
use super::flags::ExportArgs;
use super::{console, model_dir};
use crate::model::ModelMeta;
use crate::store::{
    DirectoryLock, META, Precision, Snapshot, TRAIN_STATE, WEIGHTS, encode_tensors, save,
};

/// Runs `microgpt export`.
pub fn run(args: ExportArgs) -> Result<(), Failure> {
    let output = args.output.expect("the parser requires --output");
    let snapshot = model_dir::open(args.model_dir.as_deref())?;
    let (meta, weights) = ModelMeta::load(&snapshot)?;
    if output.exists() && Snapshot::open(&output)?.has(TRAIN_STATE) {
        return Err(Failure::from(anyhow::anyhow!(
            "{} holds a model with training state, which the export would overwrite; choose another \
            --output",
            output.display()
        )));
    }
    std::fs::create_dir_all(&output)
        .with_context(|| format!("cannot create {}", output.display()))?;
    let _lock = DirectoryLock::acquire(&output)?;
    let precision = if args.half {
        Precision::F16
    } else {
        weights.precision
    };
    let tensors = weights.to_tensors();
    save(&output, &[WEIGHTS, META], |name| match name {
        WEIGHTS => encode_tensors(&tensors, precision).context("cannot export the weights"),
        _ => Ok(meta.to_json().to_string().into_bytes()),
    })?;
    let exported = output.join(WEIGHTS);
    let size = std::fs::metadata(&exported)
        .with_context(|| exported.display().to_string())?
        .len();
    console::eprintln(format_args!(
        "exported {} {} weights, {} bytes, to {}",
        console::group_thousands(meta.parameters()? as u64),
        precision.name(),
        console::group_thousands(size),
        output.display()
    ));
    Ok(())
}
