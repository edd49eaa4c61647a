//! Causal multi-head attention over packed documents (Vaswani et al. 2017,
//! <https://arxiv.org/abs/1706.03762>), forward and backward, on slices of f32.
//!
//! Queries, keys and values are three slices of the columns of `qkv` `[N, 3E]`; head `h` is the
//! columns `h·D..(h+1)·D` of each, where `D = E / n_head`. Each token attends to itself and the
//! earlier tokens of its document. The probabilities `P` are not stored for the backward pass,
//! which computes, from `S = Q·Kᵀ/√D`, `P = softmax(S)` and `O = P·V`:
//!
//! ```text
//! dV = Pᵀ·dO    dP = dO·Vᵀ    dS = P∘(dP − rowsum(P∘dP))    dQ = dS·K/√D    dK = dSᵀ·Q/√D
//! ```
//!
//! `short` computes the shapes of small models in vectors that hold all queries; `long` computes
//! any other in blocks of sixteen queries.

mod head;
mod long;
mod short;
#[cfg(test)]
mod tests;

pub use head::AttentionOutput;
use head::Head;
use long::LongScratch;

/// The shape of a batch.
pub struct PackedAttention<'a> {
    /// Document `d` is rows `offsets[d]..offsets[d + 1]`.
    pub offsets: &'a [usize],
    pub n_head: usize,
    pub n_embd: usize,
}

impl PackedAttention<'_> {
    /// Computes the attention of `qkv` `[N, 3E]`.
    pub fn forward(&self, qkv: &[f32]) -> AttentionOutput {
        let mut output = AttentionOutput {
            out: vec![0f32; qkv.len() / 3],
            log2_sum_exp2: vec![0f32; qkv.len() / 3 / self.head_dim()],
        };
        let mut scratch = None;
        for head in self.heads() {
            match short::kernels(&head) {
                Some(kernels) => (kernels.forward)(&head, qkv, &mut output.out),
                None => {
                    let scratch = scratch.get_or_insert_with(|| self.long_scratch());
                    head.long_forward(qkv, scratch, &mut output);
                }
            }
        }
        output
    }

    /// Returns the gradient of `qkv`, given that of the output.
    pub fn backward(&self, qkv: &[f32], output: &AttentionOutput, dout: &[f32]) -> Vec<f32> {
        let mut dqkv = vec![0f32; qkv.len()];
        let mut scratch = None;
        for head in self.heads() {
            match short::kernels(&head) {
                Some(kernels) => (kernels.backward)(&head, qkv, dout, &mut dqkv),
                None => {
                    let scratch = scratch.get_or_insert_with(|| self.long_scratch());
                    head.long_backward(qkv, output, dout, scratch, &mut dqkv);
                }
            }
        }
        dqkv
    }

    fn head_dim(&self) -> usize {
        self.n_embd / self.n_head
    }

    /// Scratch memory for the longest document.
    fn long_scratch(&self) -> LongScratch {
        let lengths = self.offsets.windows(2).map(|d| d[1] - d[0]);
        LongScratch::new(lengths.max().unwrap_or(0), self.head_dim())
    }

    /// The heads of all documents that are not empty.
    fn heads(&self) -> impl Iterator<Item = Head> {
        let (head_dim, n_embd) = (self.head_dim(), self.n_embd);
        let documents = self.offsets.windows(2).filter(|d| d[1] > d[0]);
        documents.flat_map(move |document| {
            (0..n_embd).step_by(head_dim).map(move |column| Head {
                row: document[0],
                tokens: document[1] - document[0],
                column,
                head_dim,
                n_embd,
            })
        })
    }
}
