//! The error of a setting outside its range.

use std::fmt;

/// A setting outside its range. The command line shows `field` as a flag, a model directory as a key
/// of its JSON, the server as a field of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidValue {
    /// The name of the struct's field, in snake case.
    pub field: &'static str,
    /// The range, as it follows "must be": `>= 1`.
    pub expected: String,
    pub value: String,
}

impl InvalidValue {
    /// Returns this error unless `is_valid`.
    pub fn unless(
        is_valid: bool,
        field: &'static str,
        expected: &str,
        value: impl fmt::Display,
    ) -> Result<(), Self> {
        if is_valid {
            return Ok(());
        }
        Err(Self {
            field,
            expected: expected.to_string(),
            value: value.to_string(),
        })
    }
}

impl fmt::Display for InvalidValue {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self {
            field,
            expected,
            value,
        } = self;
        write!(f, "{field} must be {expected}, got {value}")
    }
}

impl std::error::Error for InvalidValue {}
