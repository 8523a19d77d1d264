//! The promises of the main job, checked from outside: real clusters, real PostgREST, the real binary.

mod exactly_once;
mod first_steps;
mod rig;
