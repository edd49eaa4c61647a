//! Training: the loop over batches, Adam, the learning rate, and the state that a run goes on from.

mod adam;
mod schedule;
mod state;
mod trainer;

pub use adam::Adam;
pub use schedule::Schedule;
pub use state::{Progress, TrainState};
pub use trainer::{StepReport, TrainConfig, Trainer};
