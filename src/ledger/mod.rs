//! Lockstep's own objects on either side: what is installed where, and how it goes away again.

pub mod activity;
pub mod install;
pub mod journal;
pub mod parked;
pub mod progress;
pub mod runs;
pub mod source;
pub mod sync_state;
pub mod teardown;
pub mod workflow_runs;
pub mod workflows;
