//! Training: the loop over batches, Adam, the learning rate, and the state that a run goes on from.

mod adam;
mod recipe;
mod schedule;
mod state;
mod trainer;
mod workers;

pub use adam::Adam;
pub use recipe::{MAX_BATCH_SIZE, Recipe, is_share};
pub use schedule::Schedule;
pub use state::{Progress, TrainState, bits};
pub use trainer::{StepReport, TrainConfig, Trainer};
