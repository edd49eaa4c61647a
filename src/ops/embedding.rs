//! What the model knows of a token before it looks at any other: which one it is, and where.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use super::{reference, values, with_slices};

/// `wte[tokens[n]] + wpe[positions[n]]` for each of the `N` tokens, giving `[N, E]`.
///
/// `wte` is `[vocab_size, E]`, `wpe` `[block_size, E]`; a token or position beyond them is an
/// error.
pub fn embedding(
    wte: &Tensor,
    wpe: &Tensor,
    tokens: &Arc<[u32]>,
    positions: &Arc<[u32]>,
) -> Result<Tensor> {
    if wte.device().is_cpu() {
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
        let (wte, wpe) = (values(wte, wte_l)?, values(wpe, wpe_l)?);
        let mut out = Vec::with_capacity(self.tokens.len() * n_embd);
        for (&token, &position) in self.tokens.iter().zip(self.positions.iter()) {
            let (token, position) = (token as usize, position as usize);
            if token >= vocab_size || position >= block_size {
                bail!(
                    "embedding: token {token} of {vocab_size} at position {position} of \
                    {block_size}"
                );
            }
            let token_row = &wte[token * n_embd..][..n_embd];
            let position_row = &wpe[position * n_embd..][..n_embd];
            out.extend(token_row.iter().zip(position_row).map(|(t, p)| t + p));
        }
        Ok((CpuStorage::F32(out), (self.tokens.len(), n_embd).into()))
    }

    /// Each row of the gradient is added to the row it came from, in both tables.
    fn bwd(
        &self,
        wte: &Tensor,
        wpe: &Tensor,
        _x: &Tensor,
        dx: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let scatter = |table: &Tensor, ids: &[u32]| {
            let n_embd = table.dim(1)?;
            let mut sums = vec![0f32; table.elem_count()];
            with_slices([dx], |[dx]| {
                for (&id, row) in ids.iter().zip(dx.chunks_exact(n_embd)) {
                    for (sum, x) in sums[id as usize * n_embd..][..n_embd].iter_mut().zip(row) {
                        *sum += x;
                    }
                }
            })?;
            Tensor::from_vec(sums, table.shape(), table.device())
        };
        Ok((
            Some(scatter(wte, &self.tokens)?),
            Some(scatter(wpe, &self.positions)?),
        ))
    }
}
