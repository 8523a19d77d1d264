//! Slot and journal: how fast each catches up, and how long one change takes.

use std::process::Stdio;
use std::time::{Duration, Instant};

use lockstep::lab::{Pair, PairOptions, Port, Result, Temp};
use lockstep::ledger::install;
use tokio::process::{Child, Command};

use crate::{Options, failed, median};

const TABLE: &str = "create table ledger (id int primary key, name text, amount numeric)";
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(600);

pub async fn run(options: &Options) -> Result<()> {
    let heads = ["small tx/s", "bulk rows/s", "ms (median)", "ms (95 %)"];
    println!("{:<10} {:>12} {:>12} {:>12} {:>12}", "capture", heads[0], heads[1], heads[2], heads[3]);
    for way in ["wal", "journal"] {
        let stage = Stage::new(way).await?;
        let child = stage.start()?;
        stage.insert(1).await?;
        stage.reach(1).await?;
        stage.stop(child).await?;
        let mut next = 2;
        for _ in 0..options.small {
            stage.insert(next).await?;
            next += 1;
        }
        let small = stage.caught_up(next - 1, options.small).await?;
        let bulk = format!(
            "insert into ledger select g, 'x', g from generate_series({next}, {next} + {} - 1) g",
            options.rows
        );
        stage.pair.source.execute(&bulk).await?;
        next += i64::try_from(options.rows).unwrap_or_default();
        let bulk = stage.caught_up(next - 1, options.rows).await?;
        let child = stage.start()?;
        let mut times = Vec::new();
        for id in next..next + i64::try_from(options.commits).unwrap_or_default() {
            let begun = Instant::now();
            stage.insert(id).await?;
            stage.reach(id).await?;
            times.push(begun.elapsed().as_secs_f64() * 1000.0);
        }
        stage.stop(child).await?;
        times.drain(..times.len().min(10)); // the start
        times.sort_by(f64::total_cmp);
        let late = times.get(times.len() * 95 / 100).copied().unwrap_or_default();
        println!("{way:<10} {small:>12.0} {bulk:>12.0} {:>12.2} {late:>12.2}", median(times));
    }
    Ok(())
}

struct Stage {
    pair: Pair,
    dir: Temp,
    way: &'static str,
    port: u16,
    source: tokio_postgres::Client,
    target: tokio_postgres::Client,
}

impl Stage {
    async fn new(way: &'static str) -> Result<Self> {
        let mut options = PairOptions::default();
        options.source = options.source.durable();
        let pair = Pair::temp(options).await?;
        pair.execute(TABLE).await?;
        let owner = pair.supabase.connect_owner().await?;
        install::apply(&owner).await.map_err(failed)?;
        pair.supabase.reload_schema().await?;
        let (source, target) = (pair.source.connect().await?, pair.supabase.cluster.connect().await?);
        Ok(Self { pair, dir: Temp::new("bench")?, way, port: Port::free()?.number(), source, target })
    }

    fn start(&self) -> Result<Child> {
        let log =
            std::fs::File::options().create(true).append(true).open(self.dir.path().join("log")).map_err(failed)?;
        Command::new(env!("CARGO_BIN_EXE_lockstep"))
            .arg("run")
            .current_dir(self.dir.path())
            .env_clear()
            .env("DATABASE_URL", self.pair.source.url("postgres"))
            .env("SUPABASE_URL", self.pair.supabase.rest_url())
            .env("SUPABASE_KEY", self.pair.supabase.secret_key())
            .env("LOCKSTEP_LISTEN", format!("127.0.0.1:{}", self.port))
            .env("LOCKSTEP_CAPTURE", self.way)
            .env("LOCKSTEP_STATE", "false")
            .env("LOCKSTEP_ACTIVITY", "false")
            .env("LOCKSTEP_WORKFLOWS", "false")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)
    }

    async fn stop(&self, mut child: Child) -> Result<()> {
        if let Some(pid) = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid as i32)) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).map_err(failed)?;
        }
        child.wait().await.map(drop).map_err(failed)
    }

    async fn insert(&self, id: i64) -> Result<()> {
        let sql = format!("insert into ledger values ({id}, 'name', {id} * 1.5)");
        self.source.batch_execute(&sql).await.map_err(failed)
    }

    /// Rows a second, from the start of Lockstep until the last row is there.
    async fn caught_up(&self, last: i64, rows: u64) -> Result<f64> {
        let begun = Instant::now();
        let child = self.start()?;
        self.reach(last).await?;
        let rate = rows as f64 / begun.elapsed().as_secs_f64();
        self.stop(child).await?;
        Ok(rate)
    }

    async fn reach(&self, id: i64) -> Result<()> {
        let there = format!("select count(*) from ledger where id = {id}");
        let until = Instant::now() + PATIENCE;
        loop {
            let row = self.target.query_one(&there, &[]).await.map_err(failed)?;
            if row.get::<_, i64>(0) > 0 {
                return Ok(());
            }
            if Instant::now() > until {
                let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
                return Err(failed(format!("row {id} never came:\n{log}")));
            }
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
    }
}
