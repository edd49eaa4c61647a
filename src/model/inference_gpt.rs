//! The GPT that speaks: plain data, arithmetic in f64, one token at a time over a KV cache.
//!
//! The result is the same, bit for bit, on every machine: sums run over a fixed number of lanes
//! whatever the width of the vectors, products are fused with their sums, and `exp` is our own
//! library's, not the system's.

use crate::ops::RMS_NORM_EPS;
use crate::store::{NamedTensor, Tensors};

use super::{ModelConfig, ModelMeta};

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

/// Weights `[out, in]`, row-major.
#[derive(Debug)]
struct Matrix {
    cols: usize,
    values: Vec<f32>,
}

impl Matrix {
    fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.cols..][..self.cols]
    }

    /// `out = W·x`.
    fn multiply(&self, x: &[f64], out: &mut [f64]) {
        for (row, out) in self.values.chunks_exact(self.cols).zip(out) {
            *out = dot(row, x);
        }
    }
}

impl InferenceGpt {
    /// A model of the given weights. Panics unless they are those that `meta` lists, as
    /// [`ModelMeta::load`] makes sure.
    pub fn new(meta: ModelMeta, mut weights: Tensors) -> Self {
        let mut matrix = |name: &str| {
            let tensor = weights.remove(name).expect("all weights are there");
            Matrix {
                cols: tensor.shape[1],
                values: tensor.values,
            }
        };
        let layers = (0..meta.config.n_layer)
            .map(|i| {
                let mut matrix = |name: &str| matrix(&format!("layer{i}.{name}"));
                Layer {
                    attn_wq: matrix("attn_wq"),
                    attn_wk: matrix("attn_wk"),
                    attn_wv: matrix("attn_wv"),
                    attn_wo: matrix("attn_wo"),
                    mlp_fc1: matrix("mlp_fc1"),
                    mlp_fc2: matrix("mlp_fc2"),
                }
            })
            .collect();
        Self {
            wte: matrix("wte"),
            wpe: matrix("wpe"),
            lm_head: matrix("lm_head"),
            layers,
            meta,
        }
    }

    /// The weights by name, as [`crate::store::encode_tensors`] writes them.
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
        let named = |(name, matrix): (String, &Matrix)| {
            let shape = vec![matrix.values.len() / matrix.cols, matrix.cols];
            let values = matrix.values.clone();
            (name, NamedTensor { shape, values })
        };
        tables.into_iter().chain(layers).map(named).collect()
    }

    /// The model's size and vocabulary.
    pub fn meta(&self) -> &ModelMeta {
        &self.meta
    }

    /// A decoder that has seen nothing yet.
    pub fn decoder(&self) -> Decoder<'_> {
        let ModelConfig {
            n_embd,
            n_layer,
            block_size,
            ..
        } = self.meta.config;
        Decoder {
            model: self,
            length: 0,
            caches: (0..n_layer).map(|_| KvCache::default()).collect(),
            x: vec![0.0; n_embd],
            normed: vec![0.0; n_embd],
            query: vec![0.0; n_embd],
            attended: vec![0.0; n_embd],
            added: vec![0.0; n_embd],
            hidden: vec![0.0; 4 * n_embd],
            scores: Vec::with_capacity(block_size),
            logits: vec![0.0; self.meta.tokenizer.vocab_size()],
        }
    }
}

/// The keys and values of one layer, `[tokens, E]` each.
#[derive(Default)]
struct KvCache {
    keys: Vec<f64>,
    values: Vec<f64>,
}

/// One stream of text through a model: the keys and values of the tokens so far, and room to
/// compute in.
pub struct Decoder<'a> {
    model: &'a InferenceGpt,
    length: usize,
    caches: Vec<KvCache>,
    x: Vec<f64>,
    normed: Vec<f64>,
    query: Vec<f64>,
    attended: Vec<f64>,
    added: Vec<f64>,
    hidden: Vec<f64>,
    scores: Vec<f64>,
    logits: Vec<f64>,
}

impl Decoder<'_> {
    /// How many tokens the decoder has seen.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The most tokens that it can see.
    pub fn context(&self) -> usize {
        self.model.meta.config.block_size
    }

    /// Forgets all but the first `length` tokens.
    pub fn truncate(&mut self, length: usize) {
        let n_embd = self.x.len();
        for cache in &mut self.caches {
            cache.keys.truncate(length * n_embd);
            cache.values.truncate(length * n_embd);
        }
        self.length = self.length.min(length);
    }

    /// Takes the next token, and gives the logits `[V]` for the one after it.
    ///
    /// Panics when the context is full or the token is not of this model.
    pub fn feed(&mut self, token: u32) -> &[f64] {
        let Self {
            model,
            x,
            normed,
            query,
            attended,
            added,
            hidden,
            scores,
            logits,
            ..
        } = self;
        let config = model.meta.config;
        assert!(self.length < config.block_size, "the context is full");

        let token = model.wte.row(token as usize);
        let position = model.wpe.row(self.length);
        for ((x, &t), &p) in x.iter_mut().zip(token).zip(position) {
            *x = f64::from(t) + f64::from(p);
        }
        rms_norm(x, normed);
        x.copy_from_slice(normed);
        for (layer, cache) in model.layers.iter().zip(&mut self.caches) {
            rms_norm(x, normed);
            layer.attn_wq.multiply(normed, query);
            layer.attn_wk.multiply(normed, cache.keys.add_row(x.len()));
            layer
                .attn_wv
                .multiply(normed, cache.values.add_row(x.len()));
            attend(config, query, cache, scores, attended);
            layer.attn_wo.multiply(attended, added);
            add(x, added);

            rms_norm(x, normed);
            layer.mlp_fc1.multiply(normed, hidden);
            for value in hidden.iter_mut() {
                *value = value.max(0.0);
            }
            layer.mlp_fc2.multiply(hidden, added);
            add(x, added);
        }
        model.lm_head.multiply(x, logits);
        self.length += 1;
        &self.logits
    }
}

trait AddRow {
    /// Makes room for one more row, and gives it.
    fn add_row(&mut self, width: usize) -> &mut [f64];
}

impl AddRow for Vec<f64> {
    fn add_row(&mut self, width: usize) -> &mut [f64] {
        let start = self.len();
        self.resize(start + width, 0.0);
        &mut self[start..]
    }
}

/// Attention of one token's query `[E]` to all keys and values so far, giving `[E]`.
fn attend(
    config: ModelConfig,
    query: &[f64],
    cache: &KvCache,
    scores: &mut Vec<f64>,
    out: &mut [f64],
) {
    let head_dim = config.head_dim();
    let scale = 1.0 / (head_dim as f64).sqrt();
    for (head, out) in out.chunks_exact_mut(head_dim).enumerate() {
        let columns = head * head_dim..(head + 1) * head_dim;
        let query = &query[columns.clone()];
        scores.clear();
        scores.extend(
            cache
                .keys
                .chunks_exact(config.n_embd)
                .map(|key| dot(&key[columns.clone()], query) * scale),
        );
        softmax(scores);
        out.fill(0.0);
        for (&p, value) in scores.iter().zip(cache.values.chunks_exact(config.n_embd)) {
            for (out, value) in out.iter_mut().zip(&value[columns.clone()]) {
                *out += p * value;
            }
        }
    }
}

fn rms_norm(x: &[f64], out: &mut [f64]) {
    let mean_square = dot(x, x) / x.len() as f64;
    let scale = 1.0 / (mean_square + RMS_NORM_EPS).sqrt();
    for (out, x) in out.iter_mut().zip(x) {
        *out = x * scale;
    }
}

fn add(x: &mut [f64], added: &[f64]) {
    for (x, added) in x.iter_mut().zip(added) {
        *x += added;
    }
}

/// Turns scores into probabilities, in place.
pub(super) fn softmax(scores: &mut [f64]) {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = libm::exp(*score - max);
        sum += *score;
    }
    for score in scores.iter_mut() {
        *score /= sum;
    }
}

/// `Σ a[i]·b[i]` in f64, over eight lanes and then their sum in order.
fn dot<T: Copy + Into<f64>>(a: &[T], b: &[f64]) -> f64 {
    #[cfg(target_arch = "x86_64")]
    {
        // The same code, compiled for wider vectors. Which one runs changes the speed and not one
        // bit of the result.
        #[target_feature(enable = "avx512f,avx512vl,fma")]
        fn avx512<T: Copy + Into<f64>>(a: &[T], b: &[f64]) -> f64 {
            dot_lanes(a, b)
        }
        #[target_feature(enable = "avx2,fma")]
        fn avx2<T: Copy + Into<f64>>(a: &[T], b: &[f64]) -> f64 {
            dot_lanes(a, b)
        }
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
            // SAFETY: the processor has what the function was compiled for.
            return unsafe { avx512(a, b) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: as above.
            return unsafe { avx2(a, b) };
        }
    }
    dot_lanes(a, b)
}

#[inline(always)]
fn dot_lanes<T: Copy + Into<f64>>(a: &[T], b: &[f64]) -> f64 {
    const LANES: usize = 8;
    let (a_lanes, a_rest) = a.as_chunks::<LANES>();
    let (b_lanes, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0f64; LANES];
    for (a, b) in a_lanes.iter().zip(b_lanes) {
        for lane in 0..LANES {
            sums[lane] = f64::mul_add(a[lane].into(), b[lane], sums[lane]);
        }
    }
    for ((sum, &a), &b) in sums.iter_mut().zip(a_rest).zip(b_rest) {
        *sum = f64::mul_add(a.into(), b, *sum);
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dot_product_is_the_same_whatever_the_vectors_are() {
        let mut rng = fastrand::Rng::with_seed(1);
        for length in 0..70 {
            let a: Vec<f32> = (0..length).map(|_| rng.f32() - 0.5).collect();
            let b: Vec<f64> = (0..length).map(|_| rng.f64() - 0.5).collect();
            assert_eq!(dot(&a, &b).to_bits(), dot_lanes(&a, &b).to_bits());
            let plain: f64 = a.iter().zip(&b).map(|(&a, b)| f64::from(a) * b).sum();
            assert!((dot(&a, &b) - plain).abs() < 1e-12);
        }
    }
}
