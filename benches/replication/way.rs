//! The ways from the source to a target, and how each catches up with a backlog.

use std::fmt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use lockstep::lab::{LabError, Result};
use serde::Serialize;
use tokio::process::{Child, Command};
use tokio_postgres::Client;

use crate::report::Measured;
use crate::stage::{PATIENCE, Stage, count, failed};
use crate::usage::{self, Cpu};
use crate::work::{Goal, Work};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// `pg_recvlogical` into /dev/null: what no reader of a slot can beat.
    Decode,
    /// A subscription in the target cluster.
    Native,
    /// `lockstep run`, over HTTPS.
    Lockstep,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Decode => "pg_recvlogical",
            Self::Native => "native",
            Self::Lockstep => "lockstep",
        })
    }
}

/// A way that was started.
pub enum Running {
    Decode(Child),
    Native,
    Lockstep(Child),
}

impl Way {
    pub const ALL: [Self; 3] = [Self::Decode, Self::Native, Self::Lockstep];

    /// From the start of the way, connecting included, until the backlog's last row is there.
    pub async fn catch_up(self, stage: &Stage, work: &Work, goal: &Goal) -> Result<Measured> {
        let before = cpu(stage).await;
        let start = Instant::now();
        let mut running = self.start(stage, Some(goal)).await?;
        running.reach(stage, goal).await?;
        let elapsed = start.elapsed().as_secs_f64();
        let (consumer, memory) = running.consumer();
        let mut used = cpu(stage).await.since(&before);
        used.consumer += consumer;
        running.stop(stage).await?;
        Ok(Measured { way: self, rows: work.rows(), seconds: elapsed, cpu: used, peak_memory: memory })
    }

    /// `until` is for the way that must know beforehand where to end.
    pub async fn start(self, stage: &Stage, until: Option<&Goal>) -> Result<Running> {
        match self {
            Self::Lockstep => stage.start_lockstep().map(Running::Lockstep),
            Self::Native => {
                stage.native.batch_execute("alter subscription bench enable").await.map_err(|error| failed(&error))?;
                Ok(Running::Native)
            }
            Self::Decode => recvlogical(stage, until).await.map(Running::Decode),
        }
    }
}

impl Running {
    /// Returns once the goal's row is there.
    pub async fn reach(&mut self, stage: &Stage, goal: &Goal) -> Result<()> {
        match self {
            Self::Decode(child) => {
                let end = tokio::time::timeout(PATIENCE, child.wait()).await;
                let end = end.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
                if end.success() { Ok(()) } else { Err(LabError(format!("pg_recvlogical failed: {end}"))) }
            }
            Self::Native => arrived(&stage.native, goal, || None).await,
            Self::Lockstep(child) => {
                let ended = || child.try_wait().ok().flatten().map(|end| format!("{end}\n{}", stage.log()));
                arrived(&stage.supabase, goal, ended).await
            }
        }
    }

    /// CPU seconds and peak memory of a process of its own.
    fn consumer(&self) -> (f64, Option<u64>) {
        match self {
            Self::Lockstep(child) => {
                child.id().map_or((0.0, None), |pid| (usage::process(pid), Some(usage::peak_memory(pid))))
            }
            Self::Native | Self::Decode(_) => (0.0, None),
        }
    }

    pub async fn stop(self, stage: &Stage) -> Result<()> {
        match self {
            Self::Decode(_) => stage.idle("decode").await,
            Self::Native => {
                stage.native.batch_execute("alter subscription bench disable").await.map_err(|error| failed(&error))?;
                stage.idle("bench").await
            }
            Self::Lockstep(child) => stage.stop_lockstep(child).await,
        }
    }
}

async fn arrived(target: &Client, goal: &Goal, mut ended: impl FnMut() -> Option<String>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let there = format!("select count(*) from goal where id = {}", goal.id);
    while count(target, &there).await? == 0 {
        if let Some(end) = ended() {
            return Err(LabError(format!("Lockstep ended: {end}")));
        }
        if Instant::now() > deadline {
            return Err(LabError(format!("the backlog did not arrive within {PATIENCE:?}")));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

async fn recvlogical(stage: &Stage, until: Option<&Goal>) -> Result<Child> {
    let goal = until.ok_or_else(|| LabError("decoding alone never arrives".into()))?;
    // The server's own folder: what the search path finds may be a wrapper.
    let server = stage.pair.source.pid().await.unwrap_or_default();
    let folder = std::fs::read_link(format!("/proc/{server}/exe")).map_err(|error| failed(&error))?;
    let program =
        folder.parent().map(|folder| folder.join("pg_recvlogical")).unwrap_or_else(|| PathBuf::from("pg_recvlogical"));
    Command::new(program)
        .args(["--start", "--slot", "decode", "--no-loop", "--fsync-interval", "0", "--file", "/dev/null"])
        .args(["--endpos", &goal.lsn, "--dbname", &stage.conninfo()])
        .args(["--option", "proto_version=1", "--option", "publication_names=bench"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(&error))
}

/// Of everything that lives through the measurement, and of children of ours that ended in it.
async fn cpu(stage: &Stage) -> Cpu {
    let (source, supabase) = (&stage.pair.source, &stage.pair.supabase);
    let own = std::process::id();
    Cpu {
        consumer: usage::ended_children(own),
        postgrest: supabase.postgrest.pid().await.map_or(0.0, usage::process),
        gateway: usage::process(own),
        target: supabase.cluster.pid().await.map_or(0.0, usage::family),
        source: source.pid().await.map_or(0.0, usage::family),
    }
}
