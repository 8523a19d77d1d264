//! What is measured: counted where it happens, shown to Prometheus. Every metric is declared in one file, `declared`.

mod declared;
mod exposition;
mod make;
mod page;

use std::collections::HashSet;
use std::ops::Deref;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Instant;

use prometheus::Registry;

pub use declared::{ALL, Declared};
pub use exposition::Format;
pub use make::{Entry, Maybe, MaybeVec, ROUTE, Scope};
pub use page::page;

/// The metrics of this process.
pub fn get() -> &'static Metrics {
    static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);
    &METRICS
}

/// So many tables get a label of their own: more series would cost Prometheus more than they tell anybody. What is
/// beyond them is counted together as `other`; the status names every table all the same.
const TABLES: usize = 1000;

pub struct Metrics {
    registry: Registry,
    since: Instant,
    declared: Declared,
    named: Mutex<HashSet<String>>,
}

impl Deref for Metrics {
    type Target = Declared;

    fn deref(&self) -> &Declared {
        &self.declared
    }
}

impl Metrics {
    fn new() -> Self {
        let registry = Registry::new();
        let declared = Declared::new(&registry);
        declared.up.set(1);
        declared.build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        declared.started.set(jiff::Timestamp::now().as_microsecond() as f64 / 1e6);
        Self { registry, since: Instant::now(), declared, named: Mutex::default() }
    }

    /// The label of a table.
    pub fn table<'a>(&self, name: &'a str) -> &'a str {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if named.contains(name) || (named.len() < TABLES && named.insert(name.to_owned())) { name } else { "other" }
    }

    /// Begins with a route's tables: their counters exist before anything happens, and what is gone is not shown.
    pub fn begin_tables<'a>(&self, names: impl Iterator<Item = &'a str>) {
        for gauge in [&self.parked_rows, &self.copied_rows, &self.copy_estimated_rows] {
            gauge.reset();
        }
        for name in names {
            let table = self.table(name);
            for kind in ["insert", "update", "delete", "truncate", "copy"] {
                self.rows.with_label_values(&[table, kind]);
            }
            self.table_mismatches.with_label_values(&[table]);
            self.table_repaired.with_label_values(&[table]);
            self.parked_rows.with_label_values(&[table]);
            self.copied_rows.with_label_values(&[table]);
            self.copy_estimated_rows.with_label_values(&[table]);
        }
    }

    /// The page for Prometheus.
    pub fn render(&self, format: Format) -> String {
        self.uptime.set(self.since.elapsed().as_secs_f64());
        self.look_at_process();
        exposition::write(&self.registry.gather(), format)
    }

    /// What Linux tells of this process; elsewhere it is not known and stays 0.
    fn look_at_process(&self) {
        let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return };
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = resident.and_then(|rest| rest.split_whitespace().next()?.parse::<i64>().ok());
        self.resident_bytes.set(kibibytes.unwrap_or(0) * 1024);
        let files = std::fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as i64);
        self.open_files.set(files);
        let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let used = used.tv_sec as f64 + used.tv_nsec as f64 / 1e9;
        self.cpu_seconds.inc_by((used - self.cpu_seconds.get()).max(0.0));
    }
}

#[cfg(test)]
mod tests;
