//! The size of a model, and the names and shapes of its weights.

use anyhow::{Result, bail};

use super::invalid_value::InvalidValue;

/// The size of a GPT. The default is microgpt.py's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelConfig {
    /// The width of the residual stream.
    pub n_embd: usize,
    /// The number of attention heads, a divisor of `n_embd`.
    pub n_head: usize,
    /// The number of layers.
    pub n_layer: usize,
    /// The context length in tokens.
    pub block_size: usize,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            n_embd: 16,
            n_head: 4,
            n_layer: 1,
            block_size: 16,
        }
    }
}

impl ModelConfig {
    /// Checks the range of every size.
    pub fn validate(&self) -> Result<(), InvalidValue> {
        let Self {
            n_embd,
            n_head,
            n_layer,
            block_size,
        } = *self;
        for (name, size) in [
            ("n_embd", n_embd),
            ("n_head", n_head),
            ("n_layer", n_layer),
            ("block_size", block_size),
        ] {
            InvalidValue::unless(size >= 1, name, ">= 1", size)?;
        }
        let divisor = format!("a divisor of n_embd {n_embd}");
        InvalidValue::unless(n_embd.is_multiple_of(n_head), "n_head", &divisor, n_head)
    }

    /// The width of an attention head.
    pub fn head_dim(&self) -> usize {
        self.n_embd / self.n_head
    }

    /// Iterates over the names and shapes `[out, in]` of the weights, in microgpt.py's order.
    ///
    /// Lazy, so that validation of a meta.json with a billion layers ends at the first missing one.
    pub fn tensors(&self, vocab_size: usize) -> impl Iterator<Item = (String, [usize; 2])> + use<> {
        let n = self.n_embd;
        let tables = [
            ("wte", vocab_size),
            ("wpe", self.block_size),
            ("lm_head", vocab_size),
        ];
        let layers = (0..self.n_layer).flat_map(move |i| {
            let hidden = n.saturating_mul(4);
            [
                ("attn_wq", [n, n]),
                ("attn_wk", [n, n]),
                ("attn_wv", [n, n]),
                ("attn_wo", [n, n]),
                ("mlp_fc1", [hidden, n]),
                ("mlp_fc2", [n, hidden]),
            ]
            .map(|(name, shape)| (format!("layer{i}.{name}"), shape))
        });
        tables
            .map(|(name, rows)| (name.to_string(), [rows, n]))
            .into_iter()
            .chain(layers)
    }

    /// Returns the number of weights. Errors if their f64 bytes overflow `isize`.
    pub fn parameters(&self, vocab_size: usize) -> Result<usize> {
        let count = || {
            let tables = vocab_size
                .checked_mul(2)?
                .checked_add(self.block_size)?
                .checked_mul(self.n_embd)?;
            let layer = self.n_embd.checked_mul(self.n_embd)?.checked_mul(12)?;
            layer
                .checked_mul(self.n_layer)?
                .checked_add(tables)?
                .checked_mul(size_of::<f64>())
        };
        match count() {
            Some(bytes) if bytes <= isize::MAX as usize => Ok(bytes / size_of::<f64>()),
            _ => bail!("the model has more weights than fit the address space"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameter_count_is_the_sum_of_the_tensors() {
        assert_eq!(ModelConfig::default().parameters(27).unwrap(), 4192);
        let config = ModelConfig {
            n_embd: 24,
            n_head: 3,
            n_layer: 5,
            block_size: 7,
        };
        let sum: usize = config
            .tensors(31)
            .map(|(_, [rows, cols])| rows * cols)
            .sum();
        assert_eq!(config.parameters(31).unwrap(), sum);
        assert_eq!(config.tensors(31).count(), 3 + 5 * 6);
    }

    #[test]
    fn invalid_sizes_are_rejected() {
        let config = ModelConfig::default();
        assert!(
            ModelConfig {
                n_embd: 30,
                ..config
            }
            .validate()
            .unwrap_err()
            .to_string()
            .contains("n_head must be a divisor of n_embd 30, got 4")
        );
        assert!(
            ModelConfig {
                n_layer: 0,
                ..config
            }
            .validate()
            .unwrap_err()
            .to_string()
            .contains("n_layer")
        );
        assert!(
            ModelConfig {
                n_embd: 1 << 40,
                ..config
            }
            .parameters(27)
            .is_err()
        );
        assert!(
            ModelConfig {
                n_layer: usize::MAX,
                ..config
            }
            .parameters(27)
            .is_err()
        );
    }
}
