//! The trainable GPT: its weights are candle `Var`s, and candle's autograd differentiates the loss.

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::VarMap;

use super::config::ModelConfig;
use super::dropout::Dropout;
use crate::data::Batch;
use crate::ops;
use crate::store::{NamedTensor, Tensors};

/// microgpt.py's GPT, of any size and on any device.
pub struct TensorGpt {
    vars: VarMap,
    config: ModelConfig,
    wte: Tensor,
    wpe: Tensor,
    lm_head: Tensor,
    layers: Vec<Layer>,
}

struct Layer {
    /// `attn_wq`, `attn_wk` and `attn_wv` stacked, `[3 * n_embd, n_embd]`.
    attn_qkv: Tensor,
    attn_wo: Tensor,
    mlp_fc1: Tensor,
    mlp_fc2: Tensor,
}

impl TensorGpt {
    /// Creates a model from weights with the names and shapes of [`ModelConfig::tensors`].
    pub fn from_tensors(config: ModelConfig, weights: &Tensors, device: &Device) -> Result<Self> {
        let vars = VarMap::new();
        let var = |name: &str| -> Result<Tensor> {
            let stacked = stack(weights, name)?;
            let var = Var::from_slice(&stacked.values, stacked.shape.as_slice(), device)?;
            let tensor = var.as_tensor().clone();
            vars.data()
                .lock()
                .expect("the lock is never poisoned")
                .insert(name.to_string(), var);
            Ok(tensor)
        };
        let layer = |i: usize| -> Result<Layer> {
            let var = |name: &str| var(&format!("layer{i}.{name}"));
            Ok(Layer {
                attn_qkv: var(ATTN_QKV)?,
                attn_wo: var("attn_wo")?,
                mlp_fc1: var("mlp_fc1")?,
                mlp_fc2: var("mlp_fc2")?,
            })
        };
        let layers = (0..config.n_layer).map(layer).collect::<Result<_>>()?;
        let (wte, wpe, lm_head) = (var("wte")?, var("wpe")?, var("lm_head")?);
        Ok(Self {
            vars,
            config,
            wte,
            wpe,
            lm_head,
            layers,
        })
    }

    /// Returns the logits `[N, vocab_size]` of the token after each of the batch's `N` tokens.
    pub fn forward(&self, batch: &Batch) -> Result<Tensor> {
        ops::linear(&self.hidden(batch, None)?, &self.lm_head)
    }

    /// Returns the output `[N, n_embd]` of the last layer.
    fn hidden(&self, batch: &Batch, dropout: Option<Dropout>) -> Result<Tensor> {
        let mut x = ops::rms_norm(&ops::embedding(
            &self.wte,
            &self.wpe,
            &batch.tokens,
            &batch.positions,
        )?)?;
        if let Some(dropout) = dropout {
            x = dropout.apply(&x, batch, 0)?;
        }
        let drop = |x: &Tensor, y: Tensor, site| match dropout {
            Some(dropout) => dropout.apply_to_block(x, y, batch, site),
            None => Ok(y),
        };
        let n_head = self.config.n_head;
        for (site, layer) in (1..).step_by(2).zip(&self.layers) {
            let y =
                ops::attention_block(&x, &layer.attn_qkv, &layer.attn_wo, &batch.offsets, n_head)?;
            x = drop(&x, y, site)?;
            let y = ops::mlp_block(&x, &layer.mlp_fc1, &layer.mlp_fc2)?;
            x = drop(&x, y, site + 1)?;
        }
        Ok(x)
    }

    /// Returns the sum of the cross-entropies over a shard of a batch, divided by `count`, the number
    /// of predictions in the whole batch: a scalar in nats.
    pub fn loss(&self, batch: &Batch, count: usize, dropout: Option<Dropout>) -> Result<Tensor> {
        let mut x = self.hidden(batch, dropout)?;
        if let Some(rows) = &batch.target_rows {
            x = x.index_select(&Tensor::new(&rows[..], x.device())?, 0)?;
        }
        ops::cross_entropy(&ops::linear(&x, &self.lm_head)?, &batch.targets, count)
    }

    /// Returns the trainable variables, sorted by name.
    pub fn vars(&self) -> Vec<(String, Var)> {
        let vars = self.vars.data().lock().expect("the lock is never poisoned");
        let mut vars: Vec<_> = vars.iter().map(|(n, v)| (n.clone(), v.clone())).collect();
        vars.sort_by(|a, b| a.0.cmp(&b.0));
        vars
    }

    /// Copies the weights to main memory.
    pub fn to_tensors(&self) -> Result<Tensors> {
        let mut tensors = Tensors::new();
        for (name, var) in self.vars() {
            unstack(&name, to_named_tensor(&var)?, &mut tensors);
        }
        Ok(tensors)
    }

    /// The device of the weights.
    pub fn device(&self) -> &Device {
        self.wte.device()
    }
}

/// The variable that stacks three of a layer's weights, so that one matmul projects all of them.
const ATTN_QKV: &str = "attn_qkv";
const STACKED: [&str; 3] = ["attn_wq", "attn_wk", "attn_wv"];

/// Returns the value of the variable `name` from a model directory's tensors, stacked if the variable
/// stands for three of them.
pub fn stack(tensors: &Tensors, name: &str) -> Result<NamedTensor> {
    let get = |name: &str| match tensors.get(name) {
        Some(tensor) => Ok(tensor.clone()),
        None => candle_core::bail!("the tensor {name} is missing"),
    };
    let Some(layer) = name.strip_suffix(ATTN_QKV) else {
        return get(name);
    };
    let mut stacked = get(&format!("{layer}{}", STACKED[0]))?;
    for name in &STACKED[1..] {
        let next = get(&format!("{layer}{name}"))?;
        stacked.shape[0] += next.shape[0];
        stacked.values.extend(next.values);
    }
    Ok(stacked)
}

/// The inverse of [`stack`]: inserts the value of the variable `name` into a model directory's
/// tensors.
pub fn unstack(name: &str, value: NamedTensor, tensors: &mut Tensors) {
    let Some(layer) = name.strip_suffix(ATTN_QKV) else {
        tensors.insert(name.to_string(), value);
        return;
    };
    let shape = vec![value.shape[0] / STACKED.len(), value.shape[1]];
    let parts = value
        .values
        .chunks_exact(value.values.len() / STACKED.len());
    for (name, values) in STACKED.iter().zip(parts) {
        let (shape, values) = (shape.clone(), values.to_vec());
        tensors.insert(format!("{layer}{name}"), NamedTensor { shape, values });
    }
}

/// Copies a tensor to main memory.
pub fn to_named_tensor(tensor: &Tensor) -> Result<NamedTensor> {
    let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    Ok(NamedTensor {
        shape: tensor.dims().to_vec(),
        values,
    })
}

/// Returns random initial weights: independent normal numbers, drawn in the order of
/// [`ModelConfig::tensors`].
pub fn initial_weights(config: ModelConfig, vocab_size: usize, seed: u64) -> Tensors {
    let mut rng = fastrand::Rng::with_seed(seed);
    let deviation = initial_deviation(config.n_embd);
    let named = |(name, shape): (String, [usize; 2])| {
        let values = (0..shape[0] * shape[1])
            .map(|_| (normal(&mut rng) * deviation) as f32)
            .collect();
        (
            name,
            NamedTensor {
                shape: shape.to_vec(),
                values,
            },
        )
    };
    config.tensors(vocab_size).map(named).collect()
}

/// The standard deviation of the initial weights: microgpt.py's up to width 64, then inversely
/// proportional to the width.
///
/// Measured on Tiny Shakespeare, one line per document, batch 32, context 64: the mean loss of the
/// last 100 of 300 steps (of 120 steps at width 256).
///
/// | width, layers, learning rate | 0.08 | 0.04 | 0.02 |
/// |---|---|---|---|
/// | 64, 2, 0.01 | **1.95** | 2.08 | 2.14 |
/// | 128, 4, 0.003 | 2.12 | **1.95** | 2.04 |
/// | 256, 4, 0.002 | 4.01 | 2.37 | **2.31** |
fn initial_deviation(n_embd: usize) -> f64 {
    0.08 * (64.0 / n_embd as f64).min(1.0)
}

/// Draws a standard normal number (Box and Muller 1958), bit-identical on every platform.
fn normal(rng: &mut fastrand::Rng) -> f64 {
    let radius = (-2.0 * libm::log(1.0 - rng.f64())).sqrt();
    radius * libm::cos(std::f64::consts::TAU * rng.f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn initial_weights_are_normal_by_seed() {
        let weights = |seed| initial_weights(ModelConfig::default(), 27, seed);
        assert_eq!(weights(1), weights(1));
        assert_ne!(weights(1), weights(2));
        let all: Vec<f64> = weights(42)
            .into_values()
            .flat_map(|t| t.values)
            .map(f64::from)
            .collect();
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        let deviation =
            (all.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / all.len() as f64).sqrt();
        assert!(
            mean.abs() < 0.005 && (deviation - 0.08).abs() < 0.004,
            "{mean} {deviation}"
        );
        let beyond = all.iter().filter(|v| v.abs() > 0.16).count() as f64 / all.len() as f64;
        assert!((beyond - 0.0455).abs() < 0.01, "{beyond}");
    }
}
