//! Every metric, declared in this one file. Labels are few and bounded: a side, a table, a kind, a class, a state.

use std::sync::LazyLock;
use std::time::Instant;

use prometheus::core::Collector;
use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// The metrics of this process.
pub fn get() -> &'static Metrics {
    static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);
    &METRICS
}

pub struct Metrics {
    registry: Registry,
    started: Instant,
    uptime_seconds: Gauge,
    resident_bytes: IntGauge,

    /// By side: `source`, `target`.
    pub connected: IntGaugeVec,
    /// From the commit at the source to the checkpoint that covers it. NaN while it is not known.
    pub lag_seconds: Gauge,
    pub lag_bytes: IntGauge,
    pub retained_wal_bytes: IntGauge,
    /// By table and kind: `insert`, `update`, `delete`, `truncate`, `copy`.
    pub rows: IntCounterVec,
    pub transactions: IntCounter,
    pub split_transactions: IntCounter,
    pub staged_transactions: IntCounter,
    pub request_limit_bytes: IntGauge,
    pub batches: IntCounter,
    pub bytes: IntCounter,
    pub apply_seconds: Histogram,
    pub in_flight_bytes: IntGauge,
    pub queued_bytes: IntGauge,
    /// By class: `source`, `transient`, `setup`.
    pub retries: IntCounterVec,
    pub duplicates: IntCounter,
    pub gaps: IntCounter,
    pub replays: IntCounter,
    /// By state: see `status::TableState::word`.
    pub tables: IntGaugeVec,
    pub copied_rows: IntGaugeVec,
    pub copy_estimated_rows: IntGaugeVec,
    pub parked_rows: IntGaugeVec,
    pub parked_oldest_seconds: IntGauge,
    /// Parked rows that somebody threw away by hand.
    pub rows_discarded: IntCounter,
    /// The stream had to begin anew, by reason: see `app::recovery`.
    pub recoveries: IntCounterVec,
    /// 1 while a run compares.
    pub reconcile_running: IntGauge,
    /// Unix seconds; 0: never, none.
    pub reconcile_last_success: IntGauge,
    pub reconcile_next: IntGauge,
    pub reconcile_compared: IntCounter,
    /// By kind: `missing`, `different`, `surplus`.
    pub reconcile_mismatches: IntCounterVec,
    /// By kind: `insert`, `update`, `delete`.
    pub reconcile_repaired: IntCounterVec,
    pub tables_different: IntGauge,
    pub workflow_runs_recorded: IntCounter,
    /// By result: `delivered`, `again`, `dead`.
    pub workflow_tries: IntCounterVec,
    pub workflow_seconds: Histogram,
    pub workflow_waiting: IntGauge,
    pub workflow_dead: IntGauge,
    pub workflow_oldest_seconds: Gauge,
    /// Enabled workflows that cannot run as they are written.
    pub workflows_unfit: IntGauge,
    /// Changes of which a workflow could not tell whether to act.
    pub workflow_undecided: IntCounter,
    /// Stays 0: Lockstep drops nothing. It is there so that an alert can prove it.
    pub rows_dropped: IntCounter,
}

impl Metrics {
    fn new() -> Self {
        let registry = Registry::new();
        let r = &registry;
        let build = gauges(r, "build_info", "Which version runs; always 1", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        gauge(r, "up", "1 while the process runs").set(1);
        let metrics = Self {
            started: Instant::now(),
            uptime_seconds: float(r, "uptime_seconds", "Seconds since the process started"),
            resident_bytes: gauge(r, "resident_bytes", "Memory of the process that is in RAM"),
            connected: gauges(r, "connected", "1 while this side is connected", &["side"]),
            lag_seconds: float(r, "lag_seconds", "Seconds from a commit at the source to its checkpoint; NaN: unknown"),
            lag_bytes: gauge(r, "lag_bytes", "Bytes of WAL between the source's end and the checkpoint"),
            retained_wal_bytes: gauge(r, "retained_wal_bytes", "Bytes of WAL that the source keeps for our slot"),
            rows: counters(r, "rows_total", "Row changes written to the target", &["table", "kind"]),
            transactions: counter(r, "transactions_total", "Transactions written to the target"),
            staged_transactions: counter(
                r,
                "staged_transactions_total",
                "Transactions too large for one request, applied as one all the same",
            ),
            request_limit_bytes: gauge(
                r,
                "request_limit_bytes",
                "Largest request since something before the target refused a larger one; 0 while nothing did",
            ),
            split_transactions: counter(
                r,
                "split_transactions_total",
                "Transactions too large to be written as a whole: exactly once, but not atomic",
            ),
            batches: counter(r, "batches_total", "Batches written to the target"),
            bytes: counter(r, "bytes_total", "Bytes of request bodies written to the target"),
            apply_seconds: histogram(r, "apply_seconds", "Seconds from sending a batch to its answer"),
            in_flight_bytes: gauge(r, "in_flight_bytes", "Bytes sent and not yet answered"),
            queued_bytes: gauge(r, "queued_bytes", "Bytes read from the source and not yet sent"),
            retries: counters(r, "retries_total", "Attempts that failed and were made again", &["class"]),
            duplicates: counter(r, "duplicates_total", "Batches the target had already"),
            gaps: counter(r, "gaps_total", "Batches refused because the target's checkpoint was elsewhere"),
            replays: counter(r, "replays_total", "Batches replayed row by row after a constraint error"),
            tables: gauges(r, "tables", "Tables by state", &["state"]),
            copied_rows: gauges(r, "copied_rows", "Rows of the first copy that have arrived", &["table"]),
            copy_estimated_rows: gauges(
                r,
                "copy_estimated_rows",
                "Rows of the first copy that the planner expects",
                &["table"],
            ),
            parked_rows: gauges(r, "parked_rows", "Rows the target refused, set aside", &["table"]),
            parked_oldest_seconds: gauge(r, "parked_oldest_seconds", "Since when the oldest parked row is parked"),
            rows_discarded: counter(r, "rows_discarded_total", "Parked rows discarded by hand"),
            recoveries: counters(
                r,
                "recoveries_total",
                "Times that the stream began anew and every table was compared and repaired",
                &["reason"],
            ),
            reconcile_running: gauge(r, "reconcile_running", "1 while a run compares both sides"),
            reconcile_last_success: gauge(
                r,
                "reconcile_last_success_seconds",
                "When a run last ended with both sides equal, in Unix seconds; 0: not known",
            ),
            reconcile_next: gauge(
                r,
                "reconcile_next_seconds",
                "When the schedule begins a run, in Unix seconds; 0: never",
            ),
            reconcile_compared: counter(r, "reconcile_rows_compared_total", "Rows of the source that runs compared"),
            reconcile_mismatches: counters(
                r,
                "reconcile_mismatches_total",
                "Rows in which runs found the target to differ",
                &["kind"],
            ),
            reconcile_repaired: counters(r, "reconcile_rows_repaired_total", "Rows that runs repaired", &["kind"]),
            tables_different: gauge(r, "tables_different", "Tables that are known to differ and not repaired yet"),
            workflow_runs_recorded: counter(r, "workflow_runs_total", "Firings of workflows that were recorded"),
            workflow_tries: counters(
                r,
                "workflow_tries_total",
                "Tries to deliver a run, by what became of them",
                &["result"],
            ),
            workflow_seconds: histogram(r, "workflow_seconds", "Seconds from sending a run to its answer"),
            workflow_waiting: gauge(r, "workflow_waiting", "Runs that are not delivered yet; counted up to 100,000"),
            workflow_dead: gauge(r, "workflow_dead", "Runs that were given up and wait for a replay; up to 100,000"),
            workflow_oldest_seconds: float(r, "workflow_oldest_seconds", "Age of the oldest run that is not delivered"),
            workflows_unfit: gauge(r, "workflows_unfit", "Enabled workflows that cannot run as they are written"),
            workflow_undecided: counter(
                r,
                "workflow_undecided_total",
                "Changes that do not tell what a workflow's condition asks: it did not act",
            ),
            rows_dropped: counter(r, "rows_dropped_total", "Row changes given up; stays 0"),
            registry: registry.clone(),
        };
        metrics.lag_seconds.set(f64::NAN);
        for side in ["source", "target"] {
            metrics.connected.with_label_values(&[side]).set(0);
        }
        for result in ["delivered", "again", "dead"] {
            metrics.workflow_tries.with_label_values(&[result]);
        }
        for class in ["source", "transient", "setup"] {
            metrics.retries.with_label_values(&[class]);
        }
        metrics
    }

    /// The page for Prometheus.
    pub fn render(&self) -> String {
        self.uptime_seconds.set(self.started.elapsed().as_secs_f64());
        if let Some(bytes) = resident() {
            self.resident_bytes.set(bytes);
        }
        // Writing text into a String cannot fail.
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }

    /// Names and help texts of all there is, for the pages and dashboards that must know them.
    pub fn names(&self) -> Vec<String> {
        self.registry.gather().iter().map(|family| family.name().to_owned()).collect()
    }
}

/// Resident memory as Linux tells it; elsewhere it is not known.
fn resident() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<i64>().ok().map(|kibibytes| kibibytes * 1024)
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("lockstep")
}

/// A wrong or doubled name in this file is a mistake of ours that the first call of any test shows.
#[allow(clippy::expect_used)]
fn add<C: Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<C>) -> C {
    let metric = made.expect("a metric's name and labels are well formed");
    registry.register(Box::new(metric.clone())).expect("a metric is declared once");
    metric
}

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    add(registry, IntCounter::with_opts(opts(name, help)))
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    add(registry, IntCounterVec::new(opts(name, help), labels))
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    add(registry, IntGauge::with_opts(opts(name, help)))
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    add(registry, IntGaugeVec::new(opts(name, help), labels))
}

fn float(registry: &Registry, name: &str, help: &str) -> Gauge {
    add(registry, Gauge::with_opts(opts(name, help)))
}

fn histogram(registry: &Registry, name: &str, help: &str) -> Histogram {
    // From the millisecond of a project next door to the minute of one in trouble.
    let buckets = vec![
        0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    ];
    add(registry, Histogram::with_opts(HistogramOpts::from(opts(name, help)).buckets(buckets)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_for_prometheus_holds_every_plain_metric_and_shows_an_unknown_lag_as_unknown() {
        let metrics = Metrics::new();
        metrics.rows.with_label_values(&["public.agents", "insert"]).inc_by(3);
        let page = metrics.render();
        for line in [
            "lockstep_up 1",
            "lockstep_lag_seconds NaN",
            "lockstep_rows_dropped_total 0",
            "lockstep_connected{side=\"target\"} 0",
            "lockstep_rows_total{kind=\"insert\",table=\"public.agents\"} 3",
            "lockstep_apply_seconds_count 0",
            concat!("lockstep_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ] {
            assert!(page.lines().any(|found| found == line), "no line `{line}` in:\n{page}");
        }
        assert!(metrics.resident_bytes.get() > 1 << 20, "a running process has more than 1 MiB");
        assert!(metrics.names().iter().all(|name| name.starts_with("lockstep_")));
    }
}
