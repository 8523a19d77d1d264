//! What is set aside because the target refused it, as status, metrics and pages tell it.

use serde::{Deserialize, Serialize};

/// The parked rows of one table. The rows themselves lie in the target (`lockstep.parked`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedRows {
    pub schema: String,
    pub table: String,
    pub rows: u64,
    /// When the first of them was parked: seconds since the Unix epoch, by the target's clock.
    pub oldest: i64,
}

impl ParkedRows {
    /// For people and labels: `public.agents`.
    pub fn name(&self) -> String {
        format!("{}.{}", self.schema, self.table)
    }
}
