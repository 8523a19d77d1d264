//! What the benchmark runs on: a source, a Supabase behind HTTPS with Lockstep's SQL in it, and beside it, in another
//! database of the same target cluster, a subscriber of native replication.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use lockstep::lab::{
    ClusterOptions, LabError, Owner, Pair, PairOptions, Port, Result, SupabaseOptions, Temp, differences,
};
use lockstep::ledger::install;
use lockstep::types::TableName;
use tokio::process::{Child, Command};
use tokio_postgres::Client;

/// Longest wait for anything, far beyond what it takes.
pub const PATIENCE: Duration = Duration::from_secs(180);

pub const TABLES: &str = "
    create table account (id bigint primary key, owner uuid not null, name text not null, note text,
                          balance numeric(14, 2) not null, active boolean not null, seen_at timestamptz not null);
    create table event (id bigint primary key, kind text not null, body text not null, at timestamptz not null);
    create table probe (id bigint primary key, body text not null);
    create table goal (id bigint primary key);
";

/// The database of the native subscriber.
pub const NATIVE: &str = "native";

pub struct Stage {
    pub pair: Pair,
    /// To the source, for the work.
    pub source: Client,
    /// To both targets, warm, for looking whether rows are there.
    pub supabase: Client,
    pub native: Client,
    pub goals: i64,
    pub probes: i64,
    pub http: u16,
    dir: Temp,
}

impl Stage {
    pub async fn new() -> Result<Self> {
        // Durable: every commit that somebody waits for is on disk. A vacuum in the middle would hit one way only.
        let cluster = || ClusterOptions::default().durable().set("autovacuum", "off");
        let supabase = SupabaseOptions {
            owner: Owner::SetReplicationRole, // as on Supabase
            tls: true,
            // Native may start at once again; 5 s between two starts would be all that is measured.
            cluster: cluster().set("wal_retrieve_retry_interval", "1ms"),
            ..SupabaseOptions::default()
        };
        let pair = Pair::temp(PairOptions { source: cluster(), supabase }).await?;
        pair.execute(TABLES).await?;
        install::apply(&pair.supabase.connect_owner().await?).await.map_err(|fault| failed(&fault))?;
        pair.supabase.reload_schema().await?;
        pair.supabase.cluster.execute(&format!("create database {NATIVE}")).await?;
        let native = pair.supabase.cluster.connect_to(NATIVE).await?;
        native.batch_execute(TABLES).await.map_err(|error| failed(&error))?;

        let source = pair.source.connect().await?;
        let supabase = pair.supabase.cluster.connect().await?;
        let dir = Temp::new("bench")?;
        let ca = pair.supabase.ca_pem().unwrap_or_default();
        std::fs::write(dir.path().join("ca.pem"), ca).map_err(|error| failed(&error))?;
        let settings = "[supabase]\nca_file = \"ca.pem\"\n";
        std::fs::write(dir.path().join("lockstep.toml"), settings).map_err(|error| failed(&error))?;
        let http = Port::free()?.number();
        let stage = Self { pair, source, supabase, native, goals: 0, probes: 0, http, dir };
        stage.connect_ways().await?;
        Ok(stage)
    }

    /// Each way gets its slot, before there is anything to read.
    async fn connect_ways(&self) -> Result<()> {
        for sql in [
            "create publication bench for table account, event, probe, goal",
            "select pg_create_logical_replication_slot('decode', 'pgoutput')",
        ] {
            self.source.batch_execute(sql).await.map_err(|error| failed(&error))?;
        }
        let sql = format!(
            "create subscription bench connection '{}' publication bench with (copy_data = false)",
            self.conninfo().replace('\'', "''")
        );
        self.native.batch_execute(&sql).await.map_err(|error| failed(&error))?;
        self.native.batch_execute("alter subscription bench disable").await.map_err(|error| failed(&error))?;
        self.idle("bench").await?;
        // The first start makes Lockstep's slot and finds nothing to copy.
        let mut lockstep = self.start_lockstep()?;
        let deadline = Instant::now() + PATIENCE;
        let copied = "select count(*) from lockstep.copy where done";
        while count(&self.supabase, copied).await? < 4 {
            if Instant::now() > deadline || lockstep.try_wait().is_ok_and(|end| end.is_some()) {
                return Err(LabError(format!("Lockstep did not start:\n{}", self.log())));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.stop_lockstep(lockstep).await
    }

    /// For libpq: the source's socket, by which every way connects.
    pub fn conninfo(&self) -> String {
        let source = &self.pair.source;
        format!(
            "host={} port={} user={} dbname=postgres",
            source.sockets().display(),
            source.port(),
            source.superuser()
        )
    }

    fn source_url(&self) -> String {
        let source = &self.pair.source;
        let folder: String =
            url::form_urlencoded::byte_serialize(source.sockets().as_os_str().as_encoded_bytes()).collect();
        format!("postgresql://{}@/postgres?host={folder}&port={}", source.superuser(), source.port())
    }

    /// The real binary, as an operator starts it.
    pub fn start_lockstep(&self) -> Result<Child> {
        let log = std::fs::File::options().create(true).append(true).open(self.log_file());
        let log = log.map_err(|error| failed(&error))?;
        let err = log.try_clone().map_err(|error| failed(&error))?;
        Command::new(env!("CARGO_BIN_EXE_lockstep"))
            .arg("run")
            .current_dir(self.dir.path())
            .env_clear()
            .env("DATABASE_URL", self.source_url())
            .env("SUPABASE_URL", self.pair.supabase.rest_url())
            .env("SUPABASE_KEY", self.pair.supabase.secret_key())
            .env("LOCKSTEP_LISTEN", format!("127.0.0.1:{}", self.http))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(err)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(&error))
    }

    /// SIGTERM, as an operator ends it; returns once its slot is free.
    pub async fn stop_lockstep(&self, mut child: Child) -> Result<()> {
        let pid = child.id().and_then(|id| rustix::process::Pid::from_raw(id as i32));
        let pid = pid.ok_or_else(|| LabError(format!("Lockstep ended by itself:\n{}", self.log())))?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).map_err(|error| failed(&error))?;
        child.wait().await.map_err(|error| failed(&error))?;
        self.idle("lockstep").await
    }

    /// Waits until nobody reads the slot.
    pub async fn idle(&self, slot: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let busy = format!("select count(*) from pg_replication_slots where slot_name = '{slot}' and active");
        while count(&self.source, &busy).await? > 0 {
            if Instant::now() > deadline {
                return Err(LabError(format!("the slot {slot} stays in use")));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// On all clusters, so that none falls into a measurement.
    pub async fn checkpoint(&self) -> Result<()> {
        for client in [&self.source, &self.supabase] {
            client.batch_execute("checkpoint").await.map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    /// Everything in which either target differs from the source.
    pub async fn differences(&self) -> Result<Vec<String>> {
        let tables: Vec<TableName> =
            ["account", "event", "probe", "goal"].map(|name| TableName::new("public", name)).into();
        let mut all = Vec::new();
        for (name, target) in [("Supabase", &self.supabase), ("native subscriber", &self.native)] {
            let found = differences(&self.source, target, &tables).await?;
            all.extend(found.into_iter().map(|difference| format!("{name}: {difference}")));
        }
        Ok(all)
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("lockstep.log")
    }

    /// The end of Lockstep's log.
    pub fn log(&self) -> String {
        let log = std::fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

/// The single number that a query gives.
pub async fn count(client: &Client, sql: &str) -> Result<i64> {
    let row = client.query_one(sql, &[]).await.map_err(|error| failed(&error))?;
    row.try_get(0).map_err(|error| failed(&error))
}

pub fn failed(error: &dyn std::error::Error) -> LabError {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    LabError(text)
}
