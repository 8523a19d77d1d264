//! Lockstep's own objects on either side: what is installed where, and how it goes away again.

pub mod install;
pub mod progress;
pub mod source;
pub mod teardown;
