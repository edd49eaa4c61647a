//! The GPT that speaks: arithmetic in f64 on weights as they lie in their file.
//!
//! Any number of texts go through it together, each with any number of its next tokens: a prompt
//! at once, one token of each of many samples, or both. All these tokens are the columns of one
//! matrix, one after the other in memory, so that each weight is read once for all of them. What
//! comes out for a token is the same, bit for bit, whatever goes along with it and on every machine;
//! see [`arithmetic`].

mod arithmetic;
mod attention;
mod lanes;
mod product;
mod share;
#[cfg(test)]
mod tests;
mod weights;

use std::sync::Arc;

use anyhow::Result;
use arithmetic::{exponentials, larger, largest, padded, sum, total_of};
use attention::KvCache;
use lanes::{Lanes, Work};
use product::multiply;
pub use share::Team;
use share::{PIECE, has_help, share};
use weights::Matrix;

use super::ModelMeta;
use crate::ops::RMS_NORM_EPS;
use crate::store::{Precision, TensorFile, Tensors, encode_tensors};

/// Fewer texts than these do not share enough.
const LEAST_TOGETHER: usize = 8;

/// More texts than these share nothing more.
pub const MOST_TOGETHER: usize = 64;

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
        let layers = 0..self.meta.config.n_layer;
        Stream {
            length: 0,
            layers: layers.map(|_| KvCache::new(self.meta.config)).collect(),
        }
    }

    /// How many texts are best made together: as many as share what is read of the weights, but no
    /// more than those of which all that is remembered stays near the processor.
    pub fn together(&self) -> usize {
        const BYTES: usize = 8 << 20;
        let stream = self.layers.len() * KvCache::bytes(self.meta.config);
        (BYTES / stream).clamp(LEAST_TOGETHER, MOST_TOGETHER)
    }

    /// Up to so many threads to make a single text with: one, where the model is so small that
    /// others would come too late. Errors where they can't be started.
    pub fn team(&self, threads: usize) -> Result<Team> {
        let large = self.layers[0].mlp_fc1.bytes() > PIECE;
        Team::start(if large { threads } else { 1 })
    }

    /// Lets the model see the next tokens of some texts, each text in one run. Afterwards `room`
    /// has the logits `[V]` that were asked for.
    ///
    /// Where a [`Team`] runs this, it is the work of all its threads. Panics where a context is too
    /// short for its run, and for a token of another model.
    pub fn forward(&self, room: &mut Room, runs: &mut [Run]) {
        let tokens: usize = runs.iter().map(|run| run.tokens.len()).sum();
        room.vocab_size = self.lm_head.rows;
        if tokens == 0 {
            room.logits.clear();
            return;
        }
        room.resize(self, tokens);
        lanes::run(Forward {
            shared: has_help(),
            model: self,
            room,
            runs,
        });
    }
}

/// A pass of some columns through the model.
struct Forward<'a, 'r> {
    /// There are threads to share the work with.
    shared: bool,
    model: &'a InferenceGpt,
    room: &'a mut Room,
    runs: &'a mut [Run<'r>],
}

impl Work for Forward<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self, lanes: L) {
        self.embed(lanes);
        for (index, layer) in self.model.layers.iter().enumerate() {
            self.attention_block(lanes, index, layer);
            self.mlp_block(lanes, layer);
        }
        for run in self.runs.iter_mut() {
            run.stream.length += run.tokens.len();
        }
        self.logits();
    }
}

impl Forward<'_, '_> {
    /// `x = rms_norm(wte[token] + wpe[position])`.
    #[inline(always)]
    fn embed<L: Lanes>(&mut self, lanes: L) {
        let Self {
            model, room, runs, ..
        } = self;
        room.normed.fill(0.0);
        let n_embd = model.meta.config.n_embd;
        let mut columns = room.normed.chunks_exact_mut(n_embd);
        for run in runs.iter() {
            let end = run.stream.length + run.tokens.len();
            assert!(end <= model.meta.config.block_size, "the context is full");
            let tokens = (run.stream.length..end).zip(run.tokens);
            for ((position, &token), column) in tokens.zip(&mut columns) {
                model.wte.add_row(token as usize, column);
                model.wpe.add_row(position, column);
            }
        }
        rms_norm(lanes, n_embd, &room.normed, &mut room.x);
    }

    /// `x += wo · attention(rms_norm(x))`.
    #[inline(always)]
    fn attention_block<L: Lanes>(&mut self, lanes: L, index: usize, layer: &Layer) {
        let n_embd = self.model.meta.config.n_embd;
        let Room {
            x,
            normed,
            query,
            key,
            value,
            attended,
            scores,
            ..
        } = &mut *self.room;
        rms_norm(lanes, n_embd, x, normed);
        let products = &mut [
            (&layer.attn_wq, &mut query[..]),
            (&layer.attn_wk, &mut key[..]),
            (&layer.attn_wv, &mut value[..]),
        ];
        multiply(self.shared, normed, products);
        // All keys and values are stored before any is read: a processor waits for what it has just
        // stored.
        let mut pairs = key.chunks_exact(n_embd).zip(value.chunks_exact(n_embd));
        for run in self.runs.iter_mut() {
            let cache = &mut run.stream.layers[index];
            let positions = run.stream.length..run.stream.length + run.tokens.len();
            for (position, (key, value)) in positions.zip(&mut pairs) {
                cache.insert(position, key, value);
            }
        }
        let mut from = 0;
        for run in self.runs.iter() {
            let size = run.tokens.len() * n_embd;
            let (queries, out) = (&query[from..][..size], &mut attended[from..][..size]);
            let cache = &run.stream.layers[index];
            let attention = cache.attention(run.stream.length + 1, queries, out);
            match self.shared {
                true => share(attention),
                false => attention.run_in(lanes, scores),
            }
            from += size;
        }
        let products = &mut [(&layer.attn_wo, &mut normed[..])];
        multiply(self.shared, attended, products);
        add(x, normed);
    }

    /// `x += fc2 · relu(fc1 · rms_norm(x))`.
    #[inline(always)]
    fn mlp_block<L: Lanes>(&mut self, lanes: L, layer: &Layer) {
        let Room {
            x, normed, hidden, ..
        } = &mut *self.room;
        rms_norm(lanes, self.model.meta.config.n_embd, x, normed);
        let products = &mut [(&layer.mlp_fc1, &mut hidden[..])];
        multiply(self.shared, normed, products);
        relu(lanes, hidden);
        let products = &mut [(&layer.mlp_fc2, &mut normed[..])];
        multiply(self.shared, hidden, products);
        add(x, normed);
    }

    /// `lm_head · x`, where logits were asked for.
    #[inline(always)]
    fn logits(&mut self) {
        let Room {
            x, normed, logits, ..
        } = &mut *self.room;
        let head = &self.model.lm_head;
        normed.clear();
        let mut from = 0;
        for run in self.runs.iter() {
            let end = from + run.tokens.len();
            normed.extend_from_slice(&x[(from + run.logits_from) * head.cols..end * head.cols]);
            from = end;
        }
        logits.resize(normed.len() / head.cols * head.rows, 0.0);
        multiply(self.shared, normed, &mut [(head, &mut logits[..])]);
    }
}

/// What the model remembers of one text.
#[derive(Clone, Debug)]
pub struct Stream {
    length: usize,
    layers: Vec<KvCache>,
}

impl Stream {
    /// How many tokens the model has seen.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Forgets all but the first `length` tokens.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// Becomes another text of the same model.
    pub fn copy_from(&mut self, other: &Self) {
        self.length = other.length;
        for (cache, other) in self.layers.iter_mut().zip(&other.layers) {
            cache.copy_from(other, self.length);
        }
    }

    /// How many whole numbers, and scales, are remembered of a token.
    pub fn token_size(&self) -> (usize, usize) {
        let caches = self.layers.iter().map(KvCache::token_size);
        caches.fold((0, 0), |sum, size| (sum.0 + size.0, sum.1 + size.1))
    }

    /// Copies what is remembered of the token at `position`.
    pub fn read_token(&self, position: usize, numbers: &mut [i32], scales: &mut [f64]) {
        let layers = self.layers.len();
        let numbers = numbers.chunks_exact_mut(numbers.len() / layers);
        let scales = scales.chunks_exact_mut(scales.len() / layers);
        for (cache, (numbers, scales)) in self.layers.iter().zip(numbers.zip(scales)) {
            cache.read_token(position, numbers, scales);
        }
    }

    /// Remembers as the token at `position` what was read of one.
    pub fn write_token(&mut self, position: usize, numbers: &[i32], scales: &[f64]) {
        let layers = self.layers.len();
        let numbers = numbers.chunks_exact(numbers.len() / layers);
        let scales = scales.chunks_exact(scales.len() / layers);
        for (cache, (numbers, scales)) in self.layers.iter_mut().zip(numbers.zip(scales)) {
            cache.write_token(position, numbers, scales);
        }
    }

    /// Says that the first `length` tokens are there.
    pub fn set_length(&mut self, length: usize) {
        self.length = length;
    }
}

/// The next tokens of a text.
pub struct Run<'a> {
    pub stream: &'a mut Stream,
    pub tokens: &'a [u32],
    /// Logits are wanted after each token from this one on.
    pub logits_from: usize,
}

/// Room to compute in, and the logits.
#[derive(Debug, Default)]
pub struct Room {
    /// The residual stream, and below it what a block makes of it: `[columns, E]` each.
    x: Vec<f64>,
    normed: Vec<f64>,
    query: Vec<f64>,
    key: Vec<f64>,
    value: Vec<f64>,
    attended: Vec<f64>,
    /// `[columns, 4E]`.
    hidden: Vec<f64>,
    /// `[wanted, V]`.
    logits: Vec<f64>,
    vocab_size: usize,
    /// For attention.
    scores: Vec<f64>,
}

impl Room {
    /// The logits `[V]` with this number, counted over all runs.
    pub fn logits(&self, index: usize) -> &[f64] {
        &self.logits[index * self.vocab_size..][..self.vocab_size]
    }

    /// All the logits, in their order.
    pub fn all_logits(&mut self) -> impl Iterator<Item = &mut [f64]> {
        self.logits.chunks_exact_mut(self.vocab_size)
    }

    fn resize(&mut self, model: &InferenceGpt, columns: usize) {
        let n_embd = model.meta.config.n_embd;
        for buffer in [
            &mut self.x,
            &mut self.normed,
            &mut self.query,
            &mut self.key,
            &mut self.value,
            &mut self.attended,
        ] {
            buffer.resize(columns * n_embd, 0.0);
        }
        self.hidden.resize(columns * 4 * n_embd, 0.0);
    }
}

/// Every column of `x`, `[columns, elements]`, over its root mean square.
#[inline(always)]
fn rms_norm<L: Lanes>(lanes: L, elements: usize, x: &[f64], out: &mut [f64]) {
    let columns = x.chunks_exact(elements);
    for (x, out) in columns.zip(out.chunks_exact_mut(elements)) {
        let (eights, rest) = x.as_chunks();
        let mut sums = lanes.splat(0.0);
        for x in eights.iter().chain([&padded(rest)]) {
            let x = lanes.load(x);
            sums = lanes.mul_add(x, x, sums);
        }
        let mean = total_of(lanes.store(sums)) / elements as f64;
        let scale = 1.0 / (mean + RMS_NORM_EPS).sqrt();
        for (out, x) in out.iter_mut().zip(x) {
            *out = x * scale;
        }
    }
}

#[inline(always)]
fn relu<L: Lanes>(lanes: L, x: &mut [f64]) {
    let (eights, rest) = x.as_chunks_mut();
    for x in eights {
        *x = lanes.store(lanes.max(lanes.load(x), lanes.splat(0.0)));
    }
    for x in rest {
        *x = larger(*x, 0.0);
    }
}

#[inline(always)]
fn add(x: &mut [f64], added: &[f64]) {
    for (x, added) in x.iter_mut().zip(added) {
        *x += added;
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
