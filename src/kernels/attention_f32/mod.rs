//! Causal multi-head attention over documents packed end to end (Vaswani et al. 2017,
//! <https://arxiv.org/abs/1706.03762>), on plain slices.
//!
//! Queries, keys and values are the three thirds of the columns of `qkv` `[N, 3E]`; head `h` is the
//! columns `h·D..(h+1)·D` of each, where `D = E / n_head`. Each token looks at itself and the earlier
//! ones of its own document. The probabilities are computed again for the gradient rather than kept,
//! those of long documents from the logarithms of their sums.

mod head;
mod long;
mod short;

pub use head::Attended;
use head::Head;
use long::Room;

/// How the columns of `qkv` are split, and its rows.
pub struct Heads<'a> {
    /// Document `d` is rows `offsets[d]..offsets[d + 1]`.
    pub offsets: &'a [usize],
    pub n_head: usize,
    pub n_embd: usize,
}

impl Heads<'_> {
    /// What each token attends to.
    pub fn forward(&self, qkv: &[f32]) -> Attended {
        let mut attended = Attended {
            out: vec![0f32; qkv.len() / 3],
            log_sums: vec![0f32; qkv.len() / 3 / self.head_dim()],
        };
        let mut room = None;
        self.for_each(|head| match (head.head_dim, head.tokens) {
            (4, ..=8) => head.tile_forward::<4, 8>(qkv, &mut attended.out),
            (4, ..=16) => head.tile_forward::<4, 16>(qkv, &mut attended.out),
            (8, ..=8) => head.tile_forward::<8, 8>(qkv, &mut attended.out),
            (8, ..=16) => head.tile_forward::<8, 16>(qkv, &mut attended.out),
            (16, ..=8) => head.tile_forward::<16, 8>(qkv, &mut attended.out),
            _ => {
                let room = room.get_or_insert_with(|| self.room());
                head.blocks_forward(qkv, room, &mut attended);
            }
        });
        attended
    }

    /// The gradient of `qkv`, `[N, 3E]`, from what `forward` gave and the gradient of its values.
    pub fn backward(&self, qkv: &[f32], attended: &Attended, dout: &[f32]) -> Vec<f32> {
        let mut dqkv = vec![0f32; qkv.len()];
        let mut room = None;
        self.for_each(|head| match (head.head_dim, head.tokens) {
            (4, ..=8) => head.tile_backward::<4, 8>(qkv, dout, &mut dqkv),
            (4, ..=16) => head.tile_backward::<4, 16>(qkv, dout, &mut dqkv),
            (8, ..=8) => head.tile_backward::<8, 8>(qkv, dout, &mut dqkv),
            (8, ..=16) => head.tile_backward::<8, 16>(qkv, dout, &mut dqkv),
            (16, ..=8) => head.tile_backward::<16, 8>(qkv, dout, &mut dqkv),
            _ => {
                let room = room.get_or_insert_with(|| self.room());
                head.blocks_backward(qkv, attended, dout, room, &mut dqkv);
            }
        });
        dqkv
    }

    fn head_dim(&self) -> usize {
        self.n_embd / self.n_head
    }

    /// Room for any of the documents.
    fn room(&self) -> Room {
        let lengths = self.offsets.windows(2).map(|d| d[1] - d[0]);
        Room::new(lengths.max().unwrap_or(0), self.head_dim())
    }

    fn for_each(&self, mut visit: impl FnMut(Head)) {
        let head_dim = self.head_dim();
        for document in self.offsets.windows(2).filter(|d| d[1] > d[0]) {
            for head in 0..self.n_head {
                visit(Head {
                    row: document[0],
                    tokens: document[1] - document[0],
                    column: head * head_dim,
                    head_dim,
                    n_embd: self.n_embd,
                });
            }
        }
    }
}
