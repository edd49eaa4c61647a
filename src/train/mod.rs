//! Training: the loop over batches, Adam, the learning rate, and the state that a run goes on from.

mod adam;
mod checkpoint;
mod hyperparameters;
mod schedule;
mod state;
mod trainer;
mod workers;

pub use adam::Adam;
pub use checkpoint::Checkpoint;
pub use hyperparameters::{Hyperparameters, MAX_BATCH_SIZE};
pub use schedule::Schedule;
pub use state::{TrainState, nats_to_bits};
pub use trainer::{StepReport, TrainConfig, Trainer};
