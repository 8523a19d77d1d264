//! What is done beside the stream: runs of comparison and repair, one at a time, when somebody or the schedule wants
//! them, with a history; and the table in the source that says of each table where it stands.
//!
//! It knows neither the engine that compares nor the route: work goes out over a channel, and what the route is doing
//! comes as a `watch`.

pub mod calendar;
pub mod history;
pub mod keeper;
pub mod runner;
pub mod standing;

pub use calendar::{Calendar, Entry};
pub use keeper::Keeper;
pub use runner::{Ask, Runner, Work};
