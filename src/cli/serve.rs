//! `microgpt serve`: a model over HTTP.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::{Failure, Words, console, info, open_model_dir};
use crate::infer::InferenceGpt;
use crate::model::ModelMeta;
use crate::serve::{ServeOptions, Server};

const DEFAULT_PORT: u16 = 8080;

/// How many requests are answered at once unless somebody says otherwise.
const AT_ONCE: usize = 64;

pub fn run(words: &Words) -> Result<(), Failure> {
    let options = ServeOptions {
        host: words.text("host")?.unwrap_or("127.0.0.1").to_string(),
        port: port(words)?,
        threads: words.threads_or(|_| AT_ONCE)?,
        quiet: words.has("quiet"),
    };
    let snapshot = open_model_dir(words)?;
    let (meta, weights) = ModelMeta::load(&snapshot)?;
    let info = info::to_json(&snapshot, &meta, weights.precision)?;
    let model = Arc::new(InferenceGpt::new(meta, weights));
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register(signal, Arc::clone(&stop)).context("cannot watch for signals")?;
    }
    let server = Server::bind(options, model, info)?;
    console::eprintln(format_args!("listening on http://{}", server.address()?));
    server.run(&stop)?;
    Ok(())
}

/// `--port`, or `PORT` in the environment, or the default.
fn port(words: &Words) -> Result<u16, Failure> {
    if let Some(port) = words.whole("port", 0..=65535)? {
        return Ok(port as u16);
    }
    match std::env::var("PORT") {
        Err(_) => Ok(DEFAULT_PORT),
        Ok(port) if port.is_empty() => Ok(DEFAULT_PORT),
        Ok(port) => port.parse().map_err(|_| {
            Failure::Usage(format!(
                "PORT has to be a number from 0 to 65535, got {port:?}"
            ))
        }),
    }
}
