//! The predictions of a conversation that count in the loss.

use serde::Serialize;

/// The predictions of a conversation that count in the loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LossOn {
    /// All tokens. Documents and continuous text have no other choice.
    All,
    /// The assistant's messages and their ends.
    Assistant,
}

impl LossOn {
    pub const NAMED: [(&str, Self); 2] = [("all", LossOn::All), ("assistant", LossOn::Assistant)];

    /// Returns whether the loss is on all tokens, which train_state.json does not record.
    pub fn is_all(&self) -> bool {
        *self == LossOn::All
    }
}
