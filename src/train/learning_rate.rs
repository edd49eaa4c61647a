//! The choice of the peak learning rate.

use crate::model::ModelConfig;

/// The peak learning rate of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum LearningRate {
    /// By the size of the model.
    #[default]
    Auto,
    Value(f64),
}

impl LearningRate {
    /// Returns the learning rate for a model of this size.
    pub fn resolve(self, config: ModelConfig) -> f64 {
        match self {
            LearningRate::Auto => auto(config),
            LearningRate::Value(lr) => lr,
        }
    }
}

/// Returns microgpt.py's 0.01 up to a product of width and layers of 128, and beyond it a rate
/// inversely proportional to the product's square root. docs/sweeps.md has the measurements.
fn auto(config: ModelConfig) -> f64 {
    let product = config.n_embd as f64 * config.n_layer as f64;
    0.01 * (128.0 / product).sqrt().min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_learning_rate_decreases_with_width_and_layers() {
        for (n_embd, n_layer, expected) in [(16, 1, 0.01), (64, 2, 0.01), (128, 4, 0.005)] {
            let config = ModelConfig {
                n_embd,
                n_layer,
                ..ModelConfig::default()
            };
            assert_eq!(LearningRate::Auto.resolve(config), expected);
        }
        let default = ModelConfig::default();
        assert_eq!(LearningRate::Value(0.5).resolve(default), 0.5);
    }
}
