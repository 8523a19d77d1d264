//! Tools for Postgres: where it is, how to get in, how to spell names, and its replication protocol.

pub mod catalog;
pub mod client;
mod login;
pub mod quote;
pub mod replication;
pub mod tls;
pub mod url;
mod wire;

pub use client::{Client, connect};
pub use url::Url;
