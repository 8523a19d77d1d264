//! A laboratory: real Postgres clusters, a real PostgREST and a gateway that together play a Supabase project, with
//! faults on demand. The demo, the tests and the benchmark stand on it. It knows nothing of replication.
//!
//! Nothing it starts outlives the process, not even after `kill -9`: see [`process`].

mod access;
mod changelog;
mod cluster;
mod compare;
mod faults;
mod gateway;
mod keys;
mod pair;
mod place;
mod postgres;
mod postgrest;
mod process;
mod proxy;
mod supabase;
mod tls;

pub use changelog::{Logged, log_changes, logged, repeats};
pub use cluster::{Cluster, ClusterOptions, Stop};
pub use compare::{counts, differences};
pub use faults::{Counts, Faults, Mishap};
pub use gateway::{Gateway, GatewayOptions};
pub use keys::{Keys, Role};
pub use pair::{Pair, PairOptions};
pub use place::{Port, Seeded, Temp, random_hex, write_secret};
pub use postgrest::{PostgRest, PostgRestOptions};
pub use process::{Process, runs};
pub use proxy::TcpProxy;
pub use supabase::{Owner, Supabase, SupabaseOptions};
pub use tls::Certificates;

/// What went wrong, in a sentence for the person at the terminal.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LabError(pub String);

/// As people read it: tests unwrap these, and a log's tail is unreadable with escaped newlines.
impl std::fmt::Debug for LabError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

pub type Result<T, E = LabError> = std::result::Result<T, E>;

/// Says what was being done when an error came.
trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: std::fmt::Display> Doing<T> for Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| LabError(format!("{}: {error}", what())))
    }
}
