//! The kinds of training text.

/// The kind of a training text, and of the models trained on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CorpusKind {
    /// One document per line.
    Documents,
    /// One continuous text, such as a book.
    Continuous,
    /// One conversation per line, as JSON.
    Conversations,
}
