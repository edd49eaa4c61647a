//! Dropout (Srivastava et al. 2014, <https://jmlr.org/papers/v15/srivastava14a.html>).

use candle_core::{Result, Tensor};

use crate::data::Batch;

/// Dropout of the embeddings and of each block's output before it is added to the residual stream.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    /// The probability that a value is dropped, >= 0 and < 1.
    pub rate: f64,
    pub seed: u64,
}

impl Dropout {
    /// Returns `x` `[N, E]` with values dropped, the others scaled to keep the mean. `site` is the
    /// number of the place in the model.
    pub fn apply(&self, x: &Tensor, batch: &Batch, site: u64) -> Result<Tensor> {
        x * self.mask(x, batch, site)?
    }

    /// [`Self::apply`] to what a block added to its input `x`: `x + dropout(y - x)`.
    pub fn apply_to_block(
        &self,
        x: &Tensor,
        y: Tensor,
        batch: &Batch,
        site: u64,
    ) -> Result<Tensor> {
        x + self.apply(&(y - x)?, batch, site)?
    }

    /// Returns the factors of the values of `x`: 0 or `1 / (1 - rate)`. They depend on the number of
    /// the document, not on the other documents of the shard, so that a run is the same with any
    /// number of threads.
    fn mask(&self, x: &Tensor, batch: &Batch, site: u64) -> Result<Tensor> {
        let n_embd = x.dim(1)?;
        let scale = (1.0 / (1.0 - self.rate)) as f32;
        let threshold = (self.rate * 2f64.powi(32)) as u32;
        let factor = |random: u32| if random < threshold { 0.0 } else { scale };
        let mut mask = vec![0f32; x.elem_count()];
        for (document, &number) in batch.offsets.windows(2).zip(&*batch.numbers) {
            // Hashing decorrelates the generators of adjacent documents and sites.
            let hash = |value: u64| fastrand::Rng::with_seed(value).u64(..);
            let mut rng = fastrand::Rng::with_seed(hash(hash(number) ^ site) ^ self.seed);
            for pair in mask[document[0] * n_embd..document[1] * n_embd].chunks_mut(2) {
                let random = rng.u64(..);
                pair[0] = factor(random as u32);
                if let Some(second) = pair.get_mut(1) {
                    *second = factor((random >> 32) as u32);
                }
            }
        }
        Tensor::from_vec(mask, x.shape(), x.device())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::data::{Corpus, Dataset};

    const DROPOUT: Dropout = Dropout {
        rate: 0.25,
        seed: 7,
    };

    fn batches(shards: usize) -> Vec<Batch> {
        let text: String = (0..40).map(|i| format!("document {i}\n")).collect();
        let corpus = Corpus::documents(&text).unwrap();
        let dataset = Dataset::new(&corpus, &corpus.tokenizer(), 16, 1).unwrap();
        dataset.batch(0, 40, shards).unwrap()
    }

    fn masks(batch: &Batch, site: u64) -> Vec<Vec<f32>> {
        let ones = Tensor::ones((batch.tokens.len(), 9), DType::F32, &Device::Cpu).unwrap();
        let mask = DROPOUT.apply(&ones, batch, site).unwrap();
        mask.to_vec2().unwrap()
    }

    #[test]
    fn rate_of_values_is_dropped_and_the_mean_kept() {
        let mask = masks(&batches(1)[0], 0).concat();
        let dropped = mask.iter().filter(|&&factor| factor == 0.0).count() as f64;
        let rate = dropped / mask.len() as f64;
        assert!((rate - 0.25).abs() < 0.02, "{rate}");
        assert!(
            mask.iter()
                .all(|&factor| factor == 0.0 || factor == 4.0 / 3.0)
        );
        assert_ne!(mask, masks(&batches(1)[0], 1).concat(), "sites differ");
    }

    #[test]
    fn values_dropped_do_not_depend_on_the_number_of_shards() {
        let rows = |shards: usize| {
            let mut rows = Vec::new();
            for batch in batches(shards) {
                let mask = masks(&batch, 3);
                for (document, &number) in batch.offsets.windows(2).zip(&*batch.numbers) {
                    rows.push((number, mask[document[0]..document[1]].to_vec()));
                }
            }
            rows.sort_by_key(|(number, _)| *number);
            rows
        };
        assert_eq!(rows(1), rows(3));
    }
}
