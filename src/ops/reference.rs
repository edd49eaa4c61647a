//! Reference implementation: the operations of [`super`], composed of candle's, with candle's
//! gradients. Devices other than the CPU use it, and tests hold the custom operations to it.

use candle_core::{D, DType, Device, Result, Tensor};

use crate::kernels::layers_f64::RMS_NORM_EPS;

pub fn embedding(wte: &Tensor, wpe: &Tensor, tokens: &[u32], positions: &[u32]) -> Result<Tensor> {
    let rows =
        |table: &Tensor, ids: &[u32]| table.index_select(&Tensor::new(ids, table.device())?, 0);
    rows(wte, tokens)? + rows(wpe, positions)?
}

pub fn rms_norm(x: &Tensor) -> Result<Tensor> {
    let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean_square + RMS_NORM_EPS)?.sqrt()?)
}

pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.matmul(&weight.t()?)
}

pub fn mlp_block(x: &Tensor, fc1: &Tensor, fc2: &Tensor) -> Result<Tensor> {
    x + linear(&linear(&rms_norm(x)?, fc1)?.relu()?, fc2)?
}

pub fn attention_block(
    x: &Tensor,
    qkv_weight: &Tensor,
    out_weight: &Tensor,
    offsets: &[usize],
    n_head: usize,
) -> Result<Tensor> {
    let n_embd = x.dim(1)?;
    let qkv = linear(&rms_norm(x)?, qkv_weight)?;
    let slice = |i: usize| qkv.narrow(1, i * n_embd, n_embd)?.contiguous();
    let out = attention(&slice(0)?, &slice(1)?, &slice(2)?, offsets, n_head)?;
    x + linear(&out, out_weight)?
}

/// Returns `softmax(Q·Kᵀ/sqrt(head_dim))·V` per document and head, `[N, E]`. Documents are padded
/// to the longest, and packed again afterwards.
fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    offsets: &[usize],
    n_head: usize,
) -> Result<Tensor> {
    let (tokens, n_embd) = q.dims2()?;
    let head_dim = n_embd / n_head;
    let documents = offsets.len() - 1;
    let longest = offsets.windows(2).map(|d| d[1] - d[0]).max().unwrap_or(0);
    // The row of each padded position (any row will do as padding, which the mask hides from
    // earlier queries and packing drops), and the padded position of each row.
    let mut padded = Vec::with_capacity(documents * longest);
    let mut packed = Vec::with_capacity(tokens);
    for (d, document) in offsets.windows(2).enumerate() {
        for i in 0..longest {
            padded.push((document[0] + i).min(tokens - 1) as u32);
        }
        packed.extend((0..document[1] - document[0]).map(|i| (d * longest + i) as u32));
    }
    let padded = Tensor::new(padded, q.device())?;
    let heads = |x: &Tensor| {
        x.index_select(&padded, 0)?
            .reshape((documents, longest, n_head, head_dim))?
            .transpose(1, 2)?
            .contiguous()
    };
    let scores = (heads(q)?.matmul(&heads(k)?.t()?)? * (head_dim as f64).sqrt().recip())?;
    let scores = scores.broadcast_add(&causal_mask(longest, q.device())?)?;
    let weights = candle_nn::ops::softmax(&scores, D::Minus1)?;
    weights
        .matmul(&heads(v)?)?
        .transpose(1, 2)?
        .reshape((documents * longest, n_embd))?
        .index_select(&Tensor::new(packed, q.device())?, 0)
}

/// Added to the scores that a query must not see. Their weights become 0, as for minus infinity,
/// which the kernels of candle's Metal backend must not meet: they are compiled with fast math.
const MASKED: f32 = -1e30;

/// The mask `[tokens, tokens]`, added to scores: 0 up to the diagonal, then [`MASKED`].
fn causal_mask(tokens: usize, device: &Device) -> Result<Tensor> {
    let mask: Vec<f32> = (0..tokens)
        .flat_map(|i| (0..tokens).map(move |j| if j <= i { 0.0 } else { MASKED }))
        .collect();
    Tensor::from_vec(mask, (tokens, tokens), device)
}

pub fn cross_entropy(logits: &Tensor, targets: &[u32], count: usize) -> Result<Tensor> {
    let targets = Tensor::new(targets, logits.device())?.unsqueeze(1)?;
    let log_probabilities = candle_nn::ops::log_softmax(&logits.to_dtype(DType::F32)?, D::Minus1)?;
    log_probabilities.gather(&targets, 1)?.sum_all()? * (-1.0 / count as f64)
}
