//! `microgpt serve`: a model over HTTP, until a signal stops it.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::failure::Failure;
use super::flags::ServeArgs;
use super::{console, info, model_dir};
use crate::infer::InferenceGpt;
use crate::model::ModelMeta;
use crate::serve::{Access, ServeOptions, Server};

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
        access: Access {
            hosts: args.allowed_hosts.into_iter().map(|host| host.0).collect(),
            origins: args
                .cors_origins
                .into_iter()
                .map(|origin| origin.0)
                .collect(),
            api_key: api_key(args.api_key_file.as_deref())?,
        },
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

/// The environment variable with the API key.
const API_KEY: &str = "MICROGPT_API_KEY";

/// The API key of the file, or of the environment. No option takes the key itself, which every user of
/// the machine could see in the list of processes. Errors where the key is empty.
fn api_key(file: Option<&Path>) -> Result<Option<String>> {
    let (source, key) = match (file, std::env::var_os(API_KEY)) {
        (Some(file), _) => {
            let key = fs::read_to_string(file);
            let key =
                key.with_context(|| format!("cannot read the API key in {}", file.display()))?;
            (file.display().to_string(), key)
        }
        (None, Some(key)) => {
            let key = key.into_string().ok();
            let key = key.with_context(|| format!("{API_KEY} is not UTF-8"))?;
            (API_KEY.to_string(), key)
        }
        (None, None) => return Ok(None),
    };
    let key = key.trim();
    if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        bail!(
            "the API key in {source} must be one or more printable ASCII characters without spaces"
        );
    }
    Ok(Some(key.to_string()))
}
