//! One head of one document within `qkv` `[N, 3E]` and the output `[N, E]`.

/// The output of attention, which the backward pass needs, too.
pub struct AttentionOutput {
    /// `[N, E]`.
    pub out: Vec<f32>,
    /// `[N, n_head]`: `log₂ Σ 2^score` of each query, for scores times `log₂ e`. 0 in short
    /// documents, whose backward pass computes the softmax again.
    pub log2_sum_exp2: Vec<f32>,
}

/// The rows `row..row + tokens` of a document, and in each slice of `qkv` and in the output the
/// columns `column..column + head_dim` of a head.
#[derive(Clone, Copy)]
pub struct Head {
    pub row: usize,
    pub tokens: usize,
    pub column: usize,
    pub head_dim: usize,
    pub n_embd: usize,
}

/// The slices of `qkv`: queries, keys and values are `E` columns each.
#[derive(Clone, Copy)]
pub enum Slice {
    Q,
    K,
    V,
}

impl Head {
    /// The offset in `qkv` of token `i` in a slice.
    pub fn qkv_offset(&self, slice: Slice, i: usize) -> usize {
        (self.row + i) * 3 * self.n_embd + slice as usize * self.n_embd + self.column
    }

    /// The offset of token `i` in the output.
    pub fn out_offset(&self, i: usize) -> usize {
        (self.row + i) * self.n_embd + self.column
    }

    /// The offset of token `i` in `[N, n_head]`.
    pub fn head_offset(&self, i: usize) -> usize {
        self.out_offset(i) / self.head_dim
    }

    /// The factor of the scores, `1/√D`.
    pub fn scale(&self) -> f32 {
        (self.head_dim as f32).sqrt().recip()
    }
}
