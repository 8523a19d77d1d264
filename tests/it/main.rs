//! The promises of the main job, checked from outside: real clusters, real PostgREST, the real binary.

mod chaos;
mod copy;
mod exactly_once;
mod first_steps;
mod life;
mod rig;
