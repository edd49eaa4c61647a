//! Training: the step loop, the optimizer, learning rate schedules, and checkpoints.

mod adam;
mod checkpoint;
mod hyperparameters;
mod learning_rate;
mod loss_on;
#[cfg(feature = "mpi")]
mod mpi_world;
mod ranks;
mod schedule;
mod state;
mod trainer;
mod workers;

pub use checkpoint::Checkpoint;
pub use hyperparameters::{Hyperparameters, MAX_BATCH_SIZE};
pub use learning_rate::LearningRate;
pub use loss_on::LossOn;
pub use ranks::{FailedElsewhere, Ranks};
pub use schedule::Schedule;
pub use state::{TrainState, nats_to_bits};
pub use trainer::{StepReport, TrainConfig, Trainer};
