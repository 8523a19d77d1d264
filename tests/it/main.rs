//! The promises of the main job, checked from outside: real clusters, real PostgREST, the real binary.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on fails right there

mod bad_input;
mod bad_target;
mod chaos;
mod copy;
mod exactly_once;
mod first_steps;
mod in_process;
mod life;
mod reconcile;
mod reconcile_recovery;
mod rig;
mod shapes;
mod values;
