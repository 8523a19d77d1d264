//! CPU time and memory of processes, as the kernel counts them.

use std::fs;

/// CPU seconds used so far, by part.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    /// The process that replicates, where it is one of its own.
    pub consumer: f64,
    pub postgrest: f64,
    /// This process: the gateway, and looking at the target now and then.
    pub gateway: f64,
    /// All of the target cluster.
    pub target: f64,
    /// All of the source cluster: decoding.
    pub source: f64,
}

impl Cpu {
    pub fn total(&self) -> f64 {
        self.consumer + self.postgrest + self.gateway + self.target + self.source
    }

    pub fn since(&self, before: &Self) -> Self {
        Self {
            consumer: self.consumer - before.consumer,
            postgrest: self.postgrest - before.postgrest,
            gateway: self.gateway - before.gateway,
            target: self.target - before.target,
            source: self.source - before.source,
        }
    }
}

/// One process, its threads included.
pub fn process(pid: u32) -> f64 {
    times(pid).map_or(0.0, |times| times.own)
}

/// Its children that have ended and were waited for.
pub fn ended_children(pid: u32) -> f64 {
    times(pid).map_or(0.0, |times| times.waited_for)
}

/// A postmaster and all its children, those that have ended too.
pub fn family(pid: u32) -> f64 {
    loop {
        let Some(before) = times(pid) else { return 0.0 };
        let children = fs::read_dir("/proc").into_iter().flatten().flatten();
        let children = children.filter_map(|entry| times(entry.file_name().to_str()?.parse().ok()?));
        let alive: f64 = children.filter(|times| times.parent == pid).map(|times| times.own).sum();
        // A child that ended meanwhile may be in both sums, or in neither: look again.
        if times(pid).is_some_and(|after| after.waited_for == before.waited_for) {
            return before.own + before.waited_for + alive;
        }
    }
}

/// Highest resident memory so far, in bytes.
pub fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

struct Times {
    parent: u32,
    own: f64,
    waited_for: f64,
}

/// The kernel's unit for these times, on every Linux that we know.
const TICKS_PER_SECOND: f64 = 100.0;

fn times(pid: u32) -> Option<Times> {
    // pid (name) state parent …: the name may hold anything, so count from its last bracket.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    Some(Times {
        parent: fields.get(1)?.parse().ok()?,
        own: (ticks(11) + ticks(12)) / TICKS_PER_SECOND,
        waited_for: (ticks(13) + ticks(14)) / TICKS_PER_SECOND,
    })
}
