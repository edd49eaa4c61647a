//! The special tokens of chat models.

use crate::data::message::Role;

/// A chat model's special tokens as meta.json names them, in the order of their ids.
pub const SPECIAL_TOKENS: [&str; 3] = ["user", "assistant", "end_turn"];

/// Those of a chat model with system messages.
pub const SPECIAL_TOKENS_WITH_SYSTEM: [&str; 4] = ["user", "assistant", "system", "end_turn"];

/// The ids of a chat model's special tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChatTokens {
    pub user: u32,
    pub assistant: u32,
    /// `None` if the model was trained without system messages.
    pub system: Option<u32>,
    pub end_turn: u32,
}

impl ChatTokens {
    /// Returns the token that starts a turn of this role, if the model knows it.
    pub fn role(&self, role: Role) -> Option<u32> {
        match role {
            Role::System => self.system,
            Role::User => Some(self.user),
            Role::Assistant => Some(self.assistant),
        }
    }

    /// Returns the role whose turns this token starts; `None` for other tokens.
    pub fn role_of(&self, token: u32) -> Option<Role> {
        let mut roles = [Role::System, Role::User, Role::Assistant].into_iter();
        roles.find(|&role| self.role(role) == Some(token))
    }
}
