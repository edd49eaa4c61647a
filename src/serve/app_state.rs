//! The state that all requests share.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use serde_json::Value;

use super::gate::admission::Admission;
use super::gate::lane::Lane;
use super::metrics::Metrics;
use crate::engine::DecodePool;
use crate::infer::InferenceGpt;
use crate::kernels::cpu::cores;

/// The length of the queue, per active request and at least.
const WAITING_PER_ACTIVE: usize = 8;
const MIN_WAITING: usize = 64;

pub struct AppState {
    pub model: Arc<InferenceGpt>,
    /// The response of `GET /microgpt/v1/info`.
    pub info: Value,
    pub decode_pool: DecodePool,
    /// The lanes of requests to the model.
    pub admission: Admission<Lane>,
    pub metrics: Metrics,
    /// The time of the server's start, in seconds since 1970.
    pub started: u64,
}

impl AppState {
    /// Starts a decode pool. The gate adds the lanes. Errors where its threads cannot be started.
    pub fn new(model: Arc<InferenceGpt>, info: Value, max_active: usize) -> Result<Self> {
        let max_waiting = (max_active * WAITING_PER_ACTIVE).max(MIN_WAITING);
        Ok(Self {
            decode_pool: DecodePool::start(Arc::clone(&model), max_active.min(cores()))?,
            model,
            info,
            admission: Admission::new(max_waiting),
            metrics: Metrics::default(),
            started: unix_time(),
        })
    }
}

/// The current time in seconds since 1970.
pub fn unix_time() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}
