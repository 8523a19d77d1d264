//! Every metric, declared here and nowhere else: its name, its labels with the values they take, what it means. The
//! page docs/metrics.md is made of this, and a test holds dashboards, alerts and runbook against it.
//!
//! Labels are few and bounded: an enumeration, or a table (of which at most `TABLES` get a label of their own).

use prometheus::{Counter, Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::make::{Entry, Make, Maybe, MaybeVec, Scope};

/// `Scope "heading" { field: Type "name" {label: "values"} "meaning"; }`. The name gets the prefix `lockstep_`.
macro_rules! declare {
    ($( $scope:ident $group:literal {
        $( $field:ident: $kind:ident $name:literal $({ $($label:ident: $values:literal),* })? $help:literal; )*
    } )*) => {
        pub struct Declared { $($( pub $field: $kind, )*)* }

        impl Declared {
            pub(super) fn new(registry: &Registry) -> Self {
                Self { $($( $field: <$kind as Make>::make(
                    registry, Scope::$scope, $name, $help, &[$($((stringify!($label), $values)),*)?]
                ), )*)* }
            }
        }

        /// All of them, in the order of the page.
        pub const ALL: &[Entry] = &[ $($( Entry {
            group: $group,
            scope: Scope::$scope,
            name: concat!("lockstep_", $name),
            kind: <$kind as Make>::KIND,
            labels: &[$($((stringify!($label), $values)),*)?],
            help: $help,
        }, )*)* ];
    };
}

declare! {
    Process "The process" {
        up: IntGauge "up" "1 while the process runs";
        build: IntGaugeVec "build_info" { version: "of this program" } "Which version runs; always 1";
        started: Gauge "start_timestamp_seconds" "When the process started";
        uptime: Gauge "uptime_seconds" "Seconds since the process started";
        resident_bytes: IntGauge "resident_bytes" "Memory of the process that is in RAM";
        cpu_seconds: Counter "cpu_seconds_total" "Processor time that the process used";
        open_files: IntGauge "open_files" "Files and connections that the process holds open";
        log_messages: IntCounterVec "log_messages_total" { level: "warn, error" }
            "Messages in the log that somebody should read";
        reloads: IntCounterVec "reloads_total" { result: "taken, refused" }
            "Times that the settings were read again while running; refused: the ones before stay in force";
    }
    Route "Is it in step?" {
        verdict: IntGaugeVec "verdict" { verdict: "in_step, behind, broken, unknown" }
            "1 for the answer to whether both sides are in step, as page and probe give it";
        verdict_since: Maybe "verdict_since_timestamp_seconds" "Since when that is the answer";
        state: IntGaugeVec "state" { state: "starting, copying, streaming, waiting, stopped, draining, not_configured" }
            "1 for what the route is doing; waiting: it will pass; stopped: somebody must mend something";
        connected: IntGaugeVec "connected" { side: "source, target" } "1 while this side is connected";
        lag_seconds: Maybe "lag_seconds"
            "Seconds from the oldest commit that the target does not hold yet until now, by the source's clock; 0: it \
             holds all; absent: not known";
        lag_bytes: Maybe "lag_bytes" "Bytes of WAL between what was read from the source and the checkpoint";
        latency: Histogram "latency_seconds"
            "Seconds from a commit at the source until the target holds it, by the source's clock, batch by batch";
        route_starts: IntCounter "route_starts_total"
            "Times that the route began: after a start, after a fault, or because something about the tables changed";
        recoveries: IntCounterVec "recoveries_total"
            { reason: "slot_gone, slot_lost, publication_gone, target_behind, target_ahead, other_timeline, \
                journal_gone, other_capture" }
            "Times that the stream began anew and every table was compared and repaired";
        recovered: MaybeVec "recovered_timestamp_seconds"
            { reason: "slot_gone, slot_lost, publication_gone, target_behind, target_ahead, other_timeline, \
                journal_gone, other_capture" }
            "When the stream last began anew for this reason";
    }
    Route "What is written" {
        rows: IntCounterVec "rows_total" { table: "name, or other", kind: "insert, update, delete, truncate, copy" }
            "Row changes written to the target";
        transactions: IntCounter "transactions_total" "Transactions written to the target";
        batches: IntCounter "batches_total" "Batches written to the target";
        bytes: IntCounter "bytes_total" "Bytes of request bodies sent to the target";
        apply_seconds: Histogram "apply_seconds" "Seconds from sending a batch to its answer";
        in_flight_bytes: IntGauge "in_flight_bytes" "Bytes sent and not yet answered";
        queued_bytes: IntGauge "queued_bytes" "Bytes read from the source and not yet sent";
        retries: IntCounterVec "retries_total" { class: "source, transient, setup, too_large" }
            "Attempts that failed and are made again: the source was lost, the target did not take it, somebody must \
             mend something, a request was too large";
        duplicates: IntCounter "duplicates_total" "Batches the target had already: an answer was lost";
        gaps: IntCounter "gaps_total" "Batches refused because the target's checkpoint was elsewhere";
        replays: IntCounter "replays_total" "Batches replayed row by row after a constraint error";
        staged_transactions: IntCounter "staged_transactions_total"
            "Transactions too large for one request, applied as one all the same";
        split_transactions: IntCounter "split_transactions_total"
            "Transactions too large to be written as a whole: exactly once, but not atomic";
        request_limit_bytes: IntGauge "request_limit_bytes"
            "Largest request since something before the target refused a larger one; 0 while nothing did";
        rows_dropped: IntCounter "rows_dropped_total"
            "Row changes given up; stays 0, and is there so that an alert can prove it";
    }
    Route "The source and its slot" {
        source_answer_seconds: Maybe "source_answer_seconds" "How long the source took to answer a small query";
        source_clock_offset: Maybe "source_clock_offset_seconds"
            "How far the source's clock is ahead of this host's; lag does not depend on it";
        wal_bytes: Maybe "source_wal_position_bytes" "Where the source's WAL ends, in bytes since its beginning";
        wal_rate: Maybe "source_wal_bytes_per_second" "WAL that the source writes, smoothed over five minutes";
        confirmed_bytes: Maybe "confirmed_wal_position_bytes"
            "The source may forget what lies before, in bytes since the WAL's beginning";
        retained_wal_bytes: Maybe "retained_wal_bytes" "Bytes of WAL that the source keeps for our slot";
        slot_active: Maybe "slot_active" "1 while somebody reads our slot";
        slot_status: IntGaugeVec "slot_status" { status: "reserved, extended, unreserved, lost, missing" }
            "1 for what the source says of the WAL that our slot needs";
        slot_safe_bytes: Maybe "slot_safe_wal_bytes"
            "WAL that the source may still write before our slot is lost; absent: no limit is set there";
        slot_loss_seconds: Maybe "slot_loss_forecast_seconds"
            "Seconds until our slot is lost if nothing more were confirmed: safe WAL by the rate of WAL, a year at most; \
             absent: no limit is set";
        journal_bytes: Maybe "journal_bytes"
            "Size of the journal that triggers write at the source; absent: changes are read from a slot";
        journal_open_seconds: Maybe "journal_open_transaction_seconds"
            "Age of the oldest transaction that writes at the source: the journal waits for its end; absent as above";
    }
    Route "Tables" {
        tables: IntGaugeVec "tables" { state: "pending, copying, streaming, parked, paused" } "Tables by state";
        table_info: IntGaugeVec "table_info"
            { table: "name, or other", state: "pending, copying, streaming, parked, paused" }
            "1 for the state that a table is in";
        table_lag_seconds: MaybeVec "table_lag_seconds" { table: "name, or other" }
            "Seconds from commit to checkpoint of the last batch that changed this table";
        table_changed: MaybeVec "table_changed_timestamp_seconds" { table: "name, or other" }
            "When rows of this table were last written";
        copied_rows: IntGaugeVec "copied_rows" { table: "name, or other" }
            "Rows of the first copy that have arrived";
        copy_estimated_rows: IntGaugeVec "copy_estimated_rows" { table: "name, or other" }
            "Rows of the first copy that the planner expects";
        parked_rows: IntGaugeVec "parked_rows" { table: "name, or other" } "Rows the target refused, set aside";
        parked_oldest_seconds: IntGauge "parked_oldest_seconds" "For how long the oldest parked row is parked";
        rows_discarded: IntCounter "rows_discarded_total" "Parked rows discarded by hand";
    }
    Route "Compare and repair" {
        reconcile_running: IntGauge "reconcile_running" "1 while a run compares both sides";
        reconcile_runs: IntCounterVec "reconcile_runs_total" { result: "equal, different, failed" }
            "Runs by how they ended; equal: at the end, repaired or not; failed: it could not be told";
        reconcile_last_success: Maybe "reconcile_last_success_timestamp_seconds"
            "When a run last ended with both sides equal";
        reconcile_last_run: Maybe "reconcile_last_run_timestamp_seconds" "When a run last ended, whatever it found";
        reconcile_duration: Maybe "reconcile_last_run_seconds" "How long the last run took";
        reconcile_next: Maybe "reconcile_next_timestamp_seconds" "When the schedule begins a run; absent: never";
        reconcile_interval: Maybe "reconcile_interval_seconds"
            "Longest pause that the schedule leaves between two of its next runs; absent: it has none";
        reconcile_compared: IntCounter "reconcile_rows_compared_total" "Rows of the source that runs compared";
        reconcile_mismatches: IntCounterVec "reconcile_mismatches_total" { kind: "missing, different, surplus" }
            "Rows in which runs found the target to differ";
        reconcile_repaired: IntCounterVec "reconcile_rows_repaired_total" { kind: "insert, update, delete" }
            "Rows that runs repaired";
        table_equal: MaybeVec "table_equal_timestamp_seconds" { table: "name, or other" }
            "When a run last found or made this table equal on both sides";
        table_next: MaybeVec "table_next_run_timestamp_seconds" { table: "name, or other" }
            "When the schedule compares this table next; absent: never";
        table_mismatches: IntCounterVec "table_mismatches_total" { table: "name, or other" }
            "Rows in which runs found the target to differ, by table";
        table_repaired: IntCounterVec "table_rows_repaired_total" { table: "name, or other" }
            "Rows that runs repaired, by table";
        tables_different: IntGauge "tables_different" "Tables that are known to differ and not repaired yet";
    }
    Route "Workflows" {
        workflow_runs_recorded: IntCounter "workflow_runs_recorded_total" "Firings of workflows that were recorded";
        workflow_tries: IntCounterVec "workflow_tries_total" { result: "delivered, again, dead" }
            "Tries to deliver a run, by what became of them";
        workflow_seconds: Histogram "workflow_seconds" "Seconds from sending a run to its answer";
        workflow_waiting: IntGauge "workflow_waiting" "Runs that are not delivered yet; counted up to 100,000";
        workflow_dead: IntGauge "workflow_dead_letters"
            "Runs of existing workflows, without tests, that were given up and wait for a replay; counted up to 100,000";
        workflow_oldest_seconds: Gauge "workflow_oldest_waiting_seconds"
            "Age of the oldest run of an enabled workflow that is not delivered";
        workflows_unfit: IntGauge "workflows_unfit" "Enabled workflows that cannot run as they are written";
        workflows_working: MaybeVec "workflows_working" { work: "read, deliver" }
            "0 while the workflows cannot be read, or their runs not delivered, for more than some seconds; else 1, also \
             while another process delivers; absent: they are switched off, or there is no table of them yet";
        workflow_undecided: IntCounter "workflow_undecided_total"
            "Changes that do not tell what a workflow's condition asks: it did not act";
    }
}
