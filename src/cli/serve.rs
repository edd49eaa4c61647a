//! `microgpt serve`: a model over HTTP, until a signal stops it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::failure::Failure;
use super::flags::ServeArgs;
use super::{console, info, model_dir};
use crate::infer::InferenceGpt;
use crate::model::ModelMeta;
use crate::serve::{ServeOptions, Server};

/// Runs `microgpt serve`.
pub fn run(args: ServeArgs) -> Result<(), Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register(signal, Arc::clone(&stop)).context("cannot watch for signals")?;
    }
    let options = ServeOptions {
        host: args.host,
        port: args.port,
        threads: args.threads.count(),
        quiet: args.quiet,
    };
    let snapshot = model_dir::open(args.model_dir.as_deref())?;
    let (meta, weights) = ModelMeta::load(&snapshot)?;
    let info = info::to_json(&snapshot, &meta, weights.precision)?;
    let model = Arc::new(InferenceGpt::new(meta, weights));
    let server = Server::bind(options, model, info)?;
    console::eprintln(format_args!("listening on http://{}", server.address()?));
    server.run(&stop)?;
    Ok(())
}
