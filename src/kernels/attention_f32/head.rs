//! One head of one document, and where its numbers are.

/// What the tokens attend to.
pub struct Attended {
    /// The values, `[N, E]`.
    pub out: Vec<f32>,
    /// For each token and head, `[N, n_head]`, the binary logarithm of what its probabilities were
    /// divided by; 0 where tiles do without.
    pub log_sums: Vec<f32>,
}

/// One head of one document: `tokens` rows from row `row`, the `D` columns from column `column` of
/// each third.
#[derive(Clone, Copy)]
pub struct Head {
    pub row: usize,
    pub tokens: usize,
    pub column: usize,
    pub head_dim: usize,
    pub n_embd: usize,
}

/// The thirds of `qkv`.
pub const Q: usize = 0;
pub const K: usize = 1;
pub const V: usize = 2;

impl Head {
    /// Where the row of token `i` begins in a third of `[N, 3E]`.
    pub fn at(&self, third: usize, i: usize) -> usize {
        (self.row + i) * 3 * self.n_embd + third * self.n_embd + self.column
    }

    /// Where the row of token `i` begins in `[N, E]`.
    pub fn out_at(&self, i: usize) -> usize {
        (self.row + i) * self.n_embd + self.column
    }

    /// Where what belongs to the query of token `i` is in `[N, n_head]`.
    pub fn query_at(&self, i: usize) -> usize {
        self.out_at(i) / self.head_dim
    }

    /// What scores are multiplied by.
    pub fn scale(&self) -> f32 {
        (self.head_dim as f32).sqrt().recip()
    }
}
