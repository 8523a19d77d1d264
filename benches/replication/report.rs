//! What was measured, as a table for people and as JSON for everything else.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use crate::Options;
use crate::overhead::Overhead;
use crate::stage::Stage;
use crate::steady::Wait;
use crate::usage::Cpu;
use crate::way::Way;
use crate::work::Work;

/// One way through one backlog.
#[derive(Clone, Debug)]
pub struct Measured {
    pub way: Way,
    pub rows: u64,
    pub seconds: f64,
    pub cpu: Cpu,
    /// Of the process that replicates, where it is one of its own.
    pub peak_memory: Option<u64>,
}

impl Measured {
    pub fn rows_per_second(&self) -> f64 {
        self.rows as f64 / self.seconds
    }
}

#[derive(Debug)]
pub struct Report {
    options: Options,
    about: Vec<String>,
    pub small: Vec<Measured>,
    pub bulk: Vec<Measured>,
    /// From commit to visible.
    pub latency: BTreeMap<Way, Vec<Wait>>,
    /// What reading the metrics costs.
    pub overhead: Option<Overhead>,
}

/// The round of a way that lies in the middle.
pub fn median(rounds: &[Measured], way: Way) -> Option<Measured> {
    let mut of_way: Vec<&Measured> = rounds.iter().filter(|measured| measured.way == way).collect();
    of_way.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    of_way.get(of_way.len() / 2).map(|&measured| measured.clone())
}

/// The value below which the given share of all lies.
fn percentile(values: impl Iterator<Item = f64>, share: f64) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

impl Report {
    pub fn new(stage: &Stage, options: &Options) -> Self {
        Self {
            options: options.clone(),
            about: about(stage),
            small: Vec::new(),
            bulk: Vec::new(),
            latency: BTreeMap::new(),
            overhead: None,
        }
    }

    pub fn table(&self) -> String {
        let mut out = String::new();
        for line in &self.about {
            let _ = writeln!(out, "{line}");
        }
        let (small, bulk) = (Work::Small { transactions: self.options.small }, Work::Bulk { rows: self.options.bulk });
        let rounds = self.options.rounds.max(1);
        let title = format!("Catch-up of {} small transactions (one row each; median of {rounds})", small.rows());
        catch_up(&mut out, &title, &self.small);
        catch_up(&mut out, &format!("Catch-up of {} rows in transactions of 10,000", bulk.rows()), &self.bulk);
        self.latencies(&mut out);
        self.watched(&mut out);
        out
    }

    fn latencies(&self, out: &mut String) {
        if self.latency.is_empty() {
            return;
        }
        let _ = writeln!(out, "\nCommit to visible at {} commits/s, milliseconds", self.options.rate);
        let head = ["", "rows", "p50", "p99", "max", "p50 : native", "p99 : native", "*p50", "*p99"];
        let _ = writeln!(out, "{}", row(&head.map(str::to_owned)));
        let native = self.latency.get(&Way::Native).map_or(&[][..], Vec::as_slice);
        for (way, waits) in &self.latency {
            let sent = |share| percentile(waits.iter().map(|wait| wait.sent), share);
            let answered = |share| percentile(waits.iter().map(|wait| wait.answered), share);
            let of_native = |share| sent(share) / percentile(native.iter().map(|wait| wait.sent), share);
            let numbers =
                [sent(0.5), sent(0.99), sent(1.0), of_native(0.5), of_native(0.99), answered(0.5), answered(0.99)];
            let mut cells = vec![way.to_string(), waits.len().to_string()];
            cells.extend(numbers.map(|number| format!("{number:.2}")));
            let _ = writeln!(out, "{}", row(&cells));
        }
        let _ = writeln!(out, "From sending the commit; * from the source's answer to it.");
    }

    fn watched(&self, out: &mut String) {
        let Some(overhead) = &self.overhead else { return };
        let Overhead { alone, scraped } = overhead;
        let _ = writeln!(
            out,
            "\nScraped ten times a second: {:.0} rows/s, unscraped {:.0}, {:.3} of it ({} scrapes of {} kB; {:.2} ms of \
             CPU each)",
            scraped.rows_per_second(),
            alone.rows_per_second(),
            overhead.ratio(),
            scraped.scrapes,
            scraped.bytes / scraped.scrapes.max(1) / 1000,
            overhead.scrape_ms(),
        );
    }

    pub fn json(&self) -> String {
        let one_latency = |waits: &[Wait]| {
            let sent = |share| percentile(waits.iter().map(|wait| wait.sent), share);
            let answered = |share| percentile(waits.iter().map(|wait| wait.answered), share);
            json!({
                "rows": waits.len(),
                "since_sent_ms": {"p50": sent(0.5), "p99": sent(0.99), "max": sent(1.0)},
                "since_answered_ms": {"p50": answered(0.5), "p99": answered(0.99), "max": answered(1.0)},
            })
        };
        let latency: BTreeMap<String, Value> =
            self.latency.iter().map(|(way, waits)| (way.to_string(), one_latency(waits))).collect();
        let value = json!({
            "about": self.about,
            "small": self.small.iter().map(|m| one(m, &self.small)).collect::<Vec<_>>(),
            "bulk": self.bulk.iter().map(|m| one(m, &self.bulk)).collect::<Vec<_>>(),
            "latency": {"commits_per_second": self.options.rate, "ways": latency},
            "overhead": self.overhead.map(|overhead| json!({
                "alone": overhead.alone, "scraped": overhead.scraped, "ratio": overhead.ratio(),
                "scrape_cpu_ms": overhead.scrape_ms(),
            })),
        });
        format!("{value:#}\n")
    }
}

fn one(measured: &Measured, all: &[Measured]) -> Value {
    let per_million = 1e6 / measured.rows as f64;
    let Cpu { consumer, postgrest, gateway, target, source } = measured.cpu;
    json!({
        "way": measured.way,
        "rows": measured.rows,
        "seconds": measured.seconds,
        "rows_per_second": measured.rows_per_second(),
        "to_native": ratio(measured, all, Way::Native),
        "to_decode": ratio(measured, all, Way::Decode),
        "cpu_seconds_per_million_rows": {
            "consumer": consumer * per_million, "postgrest": postgrest * per_million, "gateway": gateway * per_million,
            "target": target * per_million, "source": source * per_million, "total": measured.cpu.total() * per_million,
        },
        "peak_memory_bytes": measured.peak_memory,
    })
}

/// Its speed as a share of another way's.
fn ratio(measured: &Measured, all: &[Measured], of: Way) -> f64 {
    let other = all.iter().find(|other| other.way == of);
    other.map_or(f64::NAN, |other| measured.rows_per_second() / other.rows_per_second())
}

fn catch_up(out: &mut String, title: &str, all: &[Measured]) {
    if all.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n{title}; CPU in seconds per million rows");
    let head = [
        "",
        "rows/s",
        ": native",
        ": decode",
        "cpu consumer",
        "postgrest",
        "gateway",
        "target",
        "source",
        "all",
        "peak RSS",
    ];
    let _ = writeln!(out, "{}", row(&head.map(str::to_owned)));
    for measured in all {
        let per_million = |seconds: f64| match seconds {
            0.0 => "-".to_owned(),
            seconds => format!("{:.1}", seconds * 1e6 / measured.rows as f64),
        };
        let Cpu { consumer, postgrest, gateway, target, source } = measured.cpu;
        let only = |applies: bool, seconds: f64| if applies { per_million(seconds) } else { "-".to_owned() };
        let https = measured.way == Way::Lockstep;
        let cells = [
            measured.way.to_string(),
            format!("{:.0}", measured.rows_per_second()),
            format!("{:.2}", ratio(measured, all, Way::Native)),
            format!("{:.2}", ratio(measured, all, Way::Decode)),
            per_million(consumer),
            only(https, postgrest),
            only(https, gateway),
            only(measured.way != Way::Decode, target),
            per_million(source),
            per_million(measured.cpu.total()),
            measured.peak_memory.map_or("-".to_owned(), |bytes| format!("{} MB", bytes / 1_000_000)),
        ];
        let _ = writeln!(out, "{}", row(&cells));
    }
}

/// A name to the left, numbers to the right.
fn row(cells: &[String]) -> String {
    let mut line = format!("{:<16}", cells.first().map_or("", String::as_str));
    for cell in cells.iter().skip(1) {
        let _ = write!(line, "{cell:>13}");
    }
    line
}

/// On what, with what, how.
fn about(stage: &Stage) -> Vec<String> {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("unknown", |m| m.1);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory =
        memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok());
    vec![
        format!("Lockstep {} against {}", env!("CARGO_PKG_VERSION"), stage.pair.source.version()),
        format!("{cores} cores ({model}), {} GB of memory, all parts on this one machine", memory.unwrap_or(0) >> 20),
        "Both clusters durable: fsync, full_page_writes and synchronous_commit on (native's own worker commits \
         without waiting for the disk, as it always does); autovacuum off, shared_buffers 128MB"
            .to_owned(),
        "lockstep: HTTPS to a gateway, PostgREST behind it, exactly once; native: a subscription in the same target \
         cluster; pg_recvlogical: pgoutput into /dev/null"
            .to_owned(),
        "Times include starting and connecting. `gateway` is the stand-in for Supabase's own and the benchmark itself"
            .to_owned(),
    ]
}
