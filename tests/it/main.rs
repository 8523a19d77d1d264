//! The promises of the main job, checked from outside: real clusters, real PostgREST, the real binary.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on fails right there

mod bad_days;
mod bad_input;
mod bad_target;
mod chaos;
mod copy;
mod demo;
mod doctor;
mod doctor_service;
mod every_change;
mod exactly_once;
mod failover;
mod first_steps;
mod identities;
mod in_process;
mod jobs;
mod large;
mod largest;
mod life;
mod lost_rows;
mod park;
mod quick;
mod random_schemas;
mod reconcile;
mod reconcile_odd;
mod reconcile_recovery;
mod reconcile_tables;
mod recovery;
mod replay;
mod rig;
mod settings;
mod shapes;
mod soak;
mod state;
mod table_life;
mod tables;
mod tables_replay;
mod values;
