//! Causal multi-head attention over documents packed end to end (Vaswani et al. 2017,
//! <https://arxiv.org/abs/1706.03762>).

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::matmul::{Matrix, matmul};
use super::{dot, plain, softmax_in_place, values, with_values};

/// Attention of each token to itself and the earlier tokens of its own document; `q`, `k`, `v` and
/// the result are `[N, E]`.
///
/// Document `d` is rows `offsets[d]..offsets[d + 1]`. Head `h` is the columns
/// `h·head_dim..(h+1)·head_dim`, where `head_dim = E / n_head`; scores are scaled by
/// `1/sqrt(head_dim)`.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    offsets: &Arc<[usize]>,
    n_head: usize,
) -> Result<Tensor> {
    let (tokens, n_embd) = q.dims2()?;
    if offsets.last() != Some(&tokens) || n_head == 0 || n_embd % n_head != 0 {
        bail!(
            "attention: [{tokens}, {n_embd}] does not split into {n_head} heads and documents \
            {offsets:?}"
        );
    }
    if q.device().is_cpu() {
        q.apply_op3(
            k,
            v,
            Attention {
                offsets: offsets.clone(),
                n_head,
            },
        )
    } else {
        plain::attention(q, k, v, offsets, n_head)
    }
}

struct Attention {
    offsets: Arc<[usize]>,
    n_head: usize,
}

/// One head of one document: where it lies in `[N, E]`, `tokens` rows of `head_dim` values,
/// `n_embd` apart.
#[derive(Clone, Copy)]
struct Head {
    start: usize,
    tokens: usize,
    head_dim: usize,
    n_embd: usize,
}

impl Head {
    fn of<'a>(&self, data: &'a [f32]) -> Matrix<'a> {
        Matrix::new(&data[self.start..], self.tokens, self.head_dim, self.n_embd)
    }

    fn scale(&self) -> f32 {
        (self.head_dim as f32).sqrt().recip()
    }

    /// The attention probabilities `[tokens, tokens]`, zero above the diagonal.
    fn probabilities(&self, q: &[f32], k: &[f32], p: &mut [f32]) {
        matmul(p, self.tokens, self.scale(), self.of(q), self.of(k).t());
        for (i, row) in p.chunks_exact_mut(self.tokens).enumerate() {
            let (seen, future) = row.split_at_mut(i + 1);
            softmax_in_place(seen);
            future.fill(0.0);
        }
    }
}

impl Attention {
    /// Calls `visit` with each head of each document, and room for two `[tokens, tokens]` matrices.
    fn for_each_head(&self, n_embd: usize, mut visit: impl FnMut(Head, &mut [f32], &mut [f32])) {
        let head_dim = n_embd / self.n_head;
        let longest = self
            .offsets
            .windows(2)
            .map(|d| d[1] - d[0])
            .max()
            .unwrap_or(0);
        let (mut p, mut dp) = (vec![0f32; longest * longest], vec![0f32; longest * longest]);
        for document in self.offsets.windows(2).filter(|d| d[1] > d[0]) {
            let tokens = document[1] - document[0];
            for head in 0..self.n_head {
                let start = document[0] * n_embd + head * head_dim;
                let (p, dp) = (&mut p[..tokens * tokens], &mut dp[..tokens * tokens]);
                visit(
                    Head {
                        start,
                        tokens,
                        head_dim,
                        n_embd,
                    },
                    p,
                    dp,
                );
            }
        }
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_l: &Layout,
        k: &CpuStorage,
        k_l: &Layout,
        v: &CpuStorage,
        v_l: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, n_embd) = q_l.shape().dims2()?;
        let (q, k, v) = (values(q, q_l)?, values(k, k_l)?, values(v, v_l)?);
        let mut out = vec![0f32; q.len()];
        self.for_each_head(n_embd, |head, p, _| {
            head.probabilities(q, k, p);
            let p = Matrix::dense(p, head.tokens, head.tokens);
            matmul(&mut out[head.start..], n_embd, 1.0, p, head.of(v));
        });
        Ok((CpuStorage::F32(out), q_l.shape().clone()))
    }

    /// With `P = softmax(S)`, `S = scale·Q·Kᵀ`, `O = P·V`: `dV = Pᵀ·dO`, `dP = dO·Vᵀ`, `dS = P∘(dP
    /// − rowsum(dP∘P))`, `dQ = scale·dS·K`, `dK = scale·dSᵀ·Q`. `P` is computed again rather than
    /// kept.
    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _out: &Tensor,
        dout: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (_, n_embd) = q.dims2()?;
        let size = q.elem_count();
        let (mut dq, mut dk, mut dv) = (vec![0f32; size], vec![0f32; size], vec![0f32; size]);
        let mut backward = |q: &[f32], k: &[f32], v: &[f32], dout: &[f32]| {
            self.for_each_head(n_embd, |head, p, ds| {
                let (n, at) = (head.tokens, head.start);
                head.probabilities(q, k, p);
                matmul(
                    &mut dv[at..],
                    n_embd,
                    1.0,
                    Matrix::dense(p, n, n).t(),
                    head.of(dout),
                );
                matmul(ds, n, 1.0, head.of(dout), head.of(v).t());
                for (dp, p) in ds.chunks_exact_mut(n).zip(p.chunks_exact(n)) {
                    let sum = dot(dp, p);
                    for (dp, p) in dp.iter_mut().zip(p) {
                        *dp = p * (*dp - sum);
                    }
                }
                let ds = Matrix::dense(ds, n, n);
                matmul(&mut dq[at..], n_embd, head.scale(), ds, head.of(k));
                matmul(&mut dk[at..], n_embd, head.scale(), ds.t(), head.of(q));
            });
        };
        with_values(q, |q| {
            with_values(k, |k| {
                with_values(v, |v| with_values(dout, |dout| backward(q, k, v, dout)))
            })
        })????;
        let tensor = |values| Tensor::from_vec(values, q.shape(), q.device()).map(Some);
        Ok((tensor(dq)?, tensor(dk)?, tensor(dv)?))
    }
}
