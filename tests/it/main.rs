//! The promises of the main job, checked from outside: real clusters, real PostgREST, the real binary.

mod bad_input;
mod bad_target;
mod first_steps;
mod rig;
mod shapes;
mod values;
