//! The nouns every part shares: positions, tables, rows, changes, faults, and the queue they travel in.

mod change;
mod fault;
mod lsn;
mod queue;
mod table;
mod tuple;

pub use change::{Change, Relation, RelationColumn, Transaction};
pub use fault::Fault;
pub use lsn::{Lsn, Position};
pub use queue::{Closed, Receiver, Sender, queue};
pub use table::{Column, Table, TableName};
pub use tuple::{Cell, Malformed, Tuple, TupleBuilder};
