//! The GPT that speaks: arithmetic in f64 on weights as they lie in their file.
//!
//! Any number of texts go through it together, each with any number of its next tokens: a prompt
//! at once, one token of each of many samples, or both. All these tokens are the columns of one
//! matrix, one after the other in memory, so that each weight is read once for all of them. What
//! comes out for a token is the same, bit for bit, whatever goes along with it and on every machine;
//! see [`arithmetic`].

mod arithmetic;
mod attention;
mod forward;
mod lanes;
mod product;
mod stream;
mod team;
#[cfg(test)]
mod tests;
mod weights;

use std::sync::Arc;

use anyhow::Result;
use arithmetic::{exponentials, largest, sum};
use forward::Forward;
pub use forward::Room;
use lanes::{Lanes, Work};
pub use stream::{Run, Stream};
pub use team::Team;
use team::in_step;
use weights::Matrix;

use super::ModelMeta;
use crate::processor::cores;
use crate::store::{Precision, TensorFile, Tensors, encode_tensors};

/// Fewer texts than these do not share enough.
const LEAST_TOGETHER: usize = 8;

/// More texts than these share nothing more.
pub const MOST_TOGETHER: usize = 64;

/// Another thread is worth waiting for where it reads so many bytes of the largest matrix.
const LEAST_SHARE: usize = 128 << 10;

/// A trained model, ready to be shared between threads behind an `Arc`.
#[derive(Debug)]
pub struct InferenceGpt {
    meta: ModelMeta,
    wte: Matrix,
    wpe: Matrix,
    lm_head: Matrix,
    layers: Vec<Layer>,
}

#[derive(Debug)]
struct Layer {
    attn_wq: Matrix,
    attn_wk: Matrix,
    attn_wv: Matrix,
    attn_wo: Matrix,
    mlp_fc1: Matrix,
    mlp_fc2: Matrix,
}

impl InferenceGpt {
    /// A model of the given weights. Panics unless they are those that `meta` lists, as
    /// [`ModelMeta::load`] makes sure.
    pub fn new(meta: ModelMeta, weights: TensorFile) -> Self {
        let file = Arc::new(weights);
        let layer = |i| {
            let matrix = |name: &str| Matrix::new(&file, &format!("layer{i}.{name}"));
            Layer {
                attn_wq: matrix("attn_wq"),
                attn_wk: matrix("attn_wk"),
                attn_wv: matrix("attn_wv"),
                attn_wo: matrix("attn_wo"),
                mlp_fc1: matrix("mlp_fc1"),
                mlp_fc2: matrix("mlp_fc2"),
            }
        };
        Self {
            wte: Matrix::new(&file, "wte"),
            wpe: Matrix::new(&file, "wpe"),
            lm_head: Matrix::new(&file, "lm_head"),
            layers: (0..meta.config.n_layer).map(layer).collect(),
            meta,
        }
    }

    /// A model of weights in main memory. Panics unless they are those that `meta` lists.
    pub fn from_tensors(meta: ModelMeta, weights: &Tensors) -> Self {
        let file = encode_tensors(weights, Precision::F32)
            .and_then(|bytes| TensorFile::new(bytes.into(), meta.tensors(), false));
        Self::new(meta, file.expect("the weights are this model's"))
    }

    /// The weights by name, as [`encode_tensors`] writes them.
    pub fn to_tensors(&self) -> Tensors {
        let layers = self.layers.iter().enumerate().flat_map(|(i, layer)| {
            [
                ("attn_wq", &layer.attn_wq),
                ("attn_wk", &layer.attn_wk),
                ("attn_wv", &layer.attn_wv),
                ("attn_wo", &layer.attn_wo),
                ("mlp_fc1", &layer.mlp_fc1),
                ("mlp_fc2", &layer.mlp_fc2),
            ]
            .map(|(name, matrix)| (format!("layer{i}.{name}"), matrix))
        });
        let tables = [
            ("wte", &self.wte),
            ("wpe", &self.wpe),
            ("lm_head", &self.lm_head),
        ];
        let tables = tables.map(|(name, matrix)| (name.to_string(), matrix));
        let tensor = |(name, matrix): (String, &Matrix)| (name, matrix.to_tensor());
        tables.into_iter().chain(layers).map(tensor).collect()
    }

    /// The model's size and vocabulary.
    pub fn meta(&self) -> &ModelMeta {
        &self.meta
    }

    /// A text of which the model has seen nothing yet.
    pub fn stream(&self) -> Stream {
        Stream::new(self.meta.config)
    }

    /// How many texts are best made together: as many as share what is read of the weights, but no
    /// more than those of which all that is remembered stays near the processor.
    pub fn together(&self) -> usize {
        const BYTES: usize = 8 << 20;
        (BYTES / Stream::bytes(self.meta.config)).clamp(LEAST_TOGETHER, MOST_TOGETHER)
    }

    /// Up to so many threads to make a single text with: no more than there are cores, and one,
    /// where the model is so small that others would come too late. Errors where they can't be
    /// started.
    pub fn team(&self, threads: usize) -> Result<Team> {
        let most = self.layers[0].mlp_fc1.bytes().div_ceil(LEAST_SHARE);
        Team::start(threads.min(most).min(cores()))
    }

    /// Lets the model see the next tokens of some texts, each text in one run. Afterwards `room`
    /// has the logits `[V]` that were asked for.
    ///
    /// Where a [`Team`] runs this, it is the work of all its threads. Panics where a context is too
    /// short for its run, and for a token of another model.
    pub fn forward(&self, room: &mut Room, runs: &mut [Run]) {
        let columns: usize = runs.iter().map(|run| run.tokens.len()).sum();
        let members = room.begin(self, columns);
        let mut parts: Vec<_> = runs.iter_mut().map(|run| run.parts(members)).collect();
        in_step(room.members().map(|(member, space)| Forward {
            model: self,
            member,
            space,
            runs: parts.iter_mut().filter_map(Iterator::next).collect(),
        }));
        drop(parts);
        for run in runs {
            run.stream
                .set_length(run.stream.length() + run.tokens.len());
        }
    }
}

/// `-log2 p` of a token, by the logits, which it takes.
pub(super) fn bits(logits: &mut [f64], token: u32) -> f64 {
    let logit = logits[token as usize];
    bits_of(logit, lanes::run(LogSum(logits)))
}

/// The same of every token.
pub(super) fn all_bits(logits: &[f64]) -> Vec<f64> {
    let log_sum = lanes::run(LogSum(&mut logits.to_vec()));
    logits
        .iter()
        .map(|&logit| bits_of(logit, log_sum))
        .collect()
}

fn bits_of(logit: f64, (max, log_sum): (f64, f64)) -> f64 {
    (log_sum - (logit - max)) / std::f64::consts::LN_2
}

/// The largest of some logits, and the logarithm of the sum of the exponentials of how much they are
/// below it.
struct LogSum<'a>(&'a mut [f64]);

impl Work for LogSum<'_> {
    type Output = (f64, f64);

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> (f64, f64) {
        let Self(logits) = self;
        let max = largest(lanes, logits);
        for logit in logits.iter_mut() {
            *logit -= max;
        }
        exponentials(logits);
        (max, libm::log(sum(lanes, logits)))
    }
}

/// Turns logits into what is proportional to the tokens' probabilities at a temperature, in place.
/// Gives their sum.
pub(super) fn softmax_weights(logits: &mut [f64], temperature: f64) -> f64 {
    struct Weigh<'a>(&'a mut [f64], f64);
    impl Work for Weigh<'_> {
        type Output = f64;

        #[inline(always)]
        fn run<L: Lanes>(self, lanes: L) -> f64 {
            let Self(logits, temperature) = self;
            // The largest is taken off before the division, so that no temperature is too small
            // for it.
            let max = largest(lanes, logits);
            for logit in logits.iter_mut() {
                *logit = (*logit - max) / temperature;
            }
            exponentials(logits);
            sum(lanes, logits)
        }
    }
    lanes::run(Weigh(logits, temperature))
}
