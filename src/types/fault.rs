//! One error type between the parts. It answers one question: who must act?

use super::TableName;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It will pass: wait and try again.
    #[error("{cause}")]
    Retry { cause: String },
    /// This table was refused; set it aside, the rest goes on.
    #[error("{table}: {cause}")]
    Park { table: TableName, cause: String },
    /// Somebody must change something first; `fix` is the one thing to do: the exact SQL or setting.
    #[error("{cause}\n  fix: {fix}")]
    Stop { cause: String, fix: String },
}

impl Fault {
    pub fn retry(cause: impl Into<String>) -> Self {
        Self::Retry { cause: cause.into() }
    }

    pub fn stop(cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::Stop { cause: cause.into(), fix: fix.into() }
    }
}
