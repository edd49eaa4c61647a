//! The sum of token and position embeddings.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use super::choice::has_custom_ops;
use super::reference;
use super::slices::{as_slice, gradient, with_slices};

/// Returns `wte[tokens[n]] + wpe[positions[n]]` `[N, E]`, for `wte` `[V, E]` and `wpe`
/// `[block_size, E]`. A token or position out of range is an error.
///
/// ```
/// # use candle_core::{Device, Tensor};
/// let wte = Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], &Device::Cpu)?;
/// let wpe = Tensor::new(&[[0.5f32, 0.0]], &Device::Cpu)?;
/// let x = microgpt::ops::embedding(&wte, &wpe, &[1, 0].into(), &[0, 0].into())?;
/// assert_eq!(x.to_vec2::<f32>()?, [[3.5, 4.0], [1.5, 2.0]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn embedding(
    wte: &Tensor,
    wpe: &Tensor,
    tokens: &Arc<[u32]>,
    positions: &Arc<[u32]>,
) -> Result<Tensor> {
    if has_custom_ops(wte.device()) {
        wte.apply_op2(
            wpe,
            Embedding {
                tokens: tokens.clone(),
                positions: positions.clone(),
            },
        )
    } else {
        reference::embedding(wte, wpe, tokens, positions)
    }
}

struct Embedding {
    tokens: Arc<[u32]>,
    positions: Arc<[u32]>,
}

impl CustomOp2 for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(
        &self,
        wte: &CpuStorage,
        wte_l: &Layout,
        wpe: &CpuStorage,
        wpe_l: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (vocab_size, n_embd) = wte_l.shape().dims2()?;
        let (block_size, _) = wpe_l.shape().dims2()?;
        let (wte, wpe) = (as_slice(wte, wte_l)?, as_slice(wpe, wpe_l)?);
        let mut out = Vec::with_capacity(self.tokens.len() * n_embd);
        for (&token, &position) in self.tokens.iter().zip(self.positions.iter()) {
            let (token, position) = (token as usize, position as usize);
            if token >= vocab_size || position >= block_size {
                bail!(
                    "embedding: token {token} at position {position} is not within \
                    [{vocab_size}, {block_size}]"
                );
            }
            let token_row = &wte[token * n_embd..][..n_embd];
            let position_row = &wpe[position * n_embd..][..n_embd];
            out.extend(token_row.iter().zip(position_row).map(|(t, p)| t + p));
        }
        Ok((CpuStorage::F32(out), (self.tokens.len(), n_embd).into()))
    }

    /// Adds each row of the gradient to its token's row of `dwte`, and its position's of `dwpe`.
    fn bwd(
        &self,
        wte: &Tensor,
        wpe: &Tensor,
        _x: &Tensor,
        dx: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let scatter_add = |table: &Tensor, ids: &[u32]| {
            let n_embd = table.dim(1)?;
            let mut sums = vec![0f32; table.elem_count()];
            with_slices([dx], |[dx]| {
                for (&id, row) in ids.iter().zip(dx.chunks_exact(n_embd)) {
                    for (sum, x) in sums[id as usize * n_embd..][..n_embd].iter_mut().zip(row) {
                        *sum += x;
                    }
                }
            })?;
            gradient(sums, table)
        };
        Ok((
            scatter_add(wte, &self.tokens)?,
            scatter_add(wpe, &self.positions)?,
        ))
    }
}
