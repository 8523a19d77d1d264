//! The nouns every part shares: positions, tables, rows, changes, faults, keys, and the queue they travel in.

mod activity;
mod api_key;
mod batch;
mod change;
mod command;
mod fault;
mod lsn;
mod parked;
mod queue;
mod range;
mod report;
mod reread;
mod settings;
mod snapshot;
mod table;
mod tuple;
mod workflow;

pub use activity::{Activity, Entry, Timeline, Told};
pub use api_key::{ApiKey, ApiKeyKind};
pub use batch::{Batch, CopyMark, Pull};
pub use change::{Change, Relation, RelationColumn, Transaction};
pub use command::{Command, JobState, JobView, Order, Refusal, RunRow};
pub use fault::Fault;
pub use lsn::{Lsn, Position};
pub use parked::{ParkedAction, ParkedChoice, ParkedRows, ParkedWish};
pub use queue::{Closed, Receiver, Sender, queue};
pub use range::{Merged, Range, Watermark};
pub use report::{Difference, DifferenceKind, Job, Phase, Progress, TableReport, Verdict};
pub use reread::{Read, Reread};
pub use settings::{SettingsAsk, SettingsOrder};
pub use snapshot::Snapshot;
pub use table::{Column, Table, TableName};
pub use tuple::{Cell, Malformed, Tuple, TupleBuilder};
pub use workflow::{FireAsked, ReplayAsked, RunsAsked, WorkflowWish};
