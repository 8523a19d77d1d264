//! Lockstep keeps a Supabase project in lockstep with a Postgres database.
//!
//! Data flows down, imports point down (`tests/house` holds it):
//!
//! ```text
//! cli ── configure ── doctor ── app ── config     know everyone; nobody knows them
//! workflows   reconcile   jobs            decide and repair
//! capture │ pipeline │ apply              strangers to each other: they share nouns, never names
//! ledger                                  our own tables
//! pg │ rest │ scheduler │ http │ lab      tools; schema and remedy are made of them
//! types │ clock │ metrics │ status        ground
//! ```

pub mod app;
pub mod apply;
pub mod capture;
pub mod cli;
pub mod clock;
pub mod config;
pub mod configure;
pub mod doctor;
pub mod http;
pub mod jobs;
pub mod lab;
pub mod ledger;
pub mod metrics;
pub mod pg;
pub mod pipeline;
pub mod reconcile;
pub mod remedy;
pub mod rest;
pub mod scheduler;
pub mod schema;
pub mod status;
pub mod types;
pub mod workflows;
