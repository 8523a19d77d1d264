//! What every test starts from: a real source, a real Supabase-like target, and the real binary between them.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use lockstep::lab::{Pair, PairOptions, Port, Temp};
use lockstep::ledger::install;
use lockstep::types::TableName;
use tokio::process::{Child, Command};

/// Longest wait for any fact, far beyond what it takes: a test that waits so long has failed.
pub const PATIENCE: Duration = Duration::from_secs(90);

pub struct Rig {
    pub pair: Pair,
    pub dir: Temp,
    pub http: u16,
    /// Kept from others while the service is down, too.
    _port: Port,
    /// Made once: it reads every certificate of the system.
    pub web: reqwest::Client,
    child: Option<Child>,
    /// Put before the source in the service's address: a proxy's port.
    pub source_url: String,
    pub env: Vec<(String, String)>,
    /// Settings that are left out.
    pub unset: Vec<&'static str>,
    /// A command that runs the binary: `env`, `unshare`, ..
    pub through: Vec<String>,
}

impl Rig {
    /// Both sides with the same schema (`sql`), our SQL installed in the target; nothing runs yet.
    pub async fn new(sql: &str) -> Self {
        Self::with(PairOptions::default(), sql).await
    }

    pub async fn with(options: PairOptions, sql: &str) -> Self {
        let rig = Self::bare(options, sql).await;
        let owner = rig.pair.supabase.connect_owner().await.unwrap();
        install::apply(&owner).await.unwrap();
        rig.pair.supabase.reload_schema().await.unwrap();
        rig
    }

    /// Both sides with the same schema, and nothing of ours in the target.
    pub async fn bare(mut options: PairOptions, sql: &str) -> Self {
        options.source.bin = options.source.bin.or_else(|| programs("LOCKSTEP_TEST_SOURCE_BIN"));
        options.supabase.cluster.bin = options.supabase.cluster.bin.or_else(|| programs("LOCKSTEP_TEST_TARGET_BIN"));
        rustls::crypto::ring::default_provider().install_default().ok();
        let pair = Pair::temp(options).await.unwrap();
        pair.execute(sql).await.unwrap();
        let port = Port::free().unwrap();
        let source_url = pair.source.url("postgres");
        // What is written into the source beside the test's own rows is confirmed with the next mark only, seconds later.
        let off = |name: &str| (name.to_owned(), "false".to_owned());
        let env = vec![off("LOCKSTEP_STATE"), off("LOCKSTEP_ACTIVITY"), off("LOCKSTEP_WORKFLOWS")];
        Self {
            pair,
            dir: Temp::new("rig").unwrap(),
            http: port.number(),
            _port: port,
            web: web_client(),
            child: None,
            source_url,
            env,
            unset: Vec::new(),
            through: Vec::new(),
        }
    }

    /// The binary with its three settings, in a folder without any file.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut words = self.through.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_lockstep")]);
        let mut command = Command::new(words.next().unwrap());
        command
            .args(words)
            .args(args)
            .current_dir(self.dir.path())
            .env_clear()
            .env("DATABASE_URL", &self.source_url)
            .env("SUPABASE_URL", self.pair.supabase.rest_url())
            .env("SUPABASE_KEY", self.pair.supabase.secret_key())
            .env("LOCKSTEP_LISTEN", format!("127.0.0.1:{}", self.http))
            .envs(tested_by_journal().then_some(("LOCKSTEP_CAPTURE", "journal")))
            .envs(self.env.iter().cloned())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        self.unset.iter().for_each(|name| _ = command.env_remove(name));
        command
    }

    pub fn log(&self) -> PathBuf {
        self.dir.path().join("lockstep.log")
    }

    /// Starts the service; its log goes on in the same file.
    pub fn start(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.log()).unwrap();
        let child = self.command(&["run"]).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        self.child = Some(child);
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Whether it has ended without being asked to.
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None)))
    }

    /// `kill -9`.
    pub async fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().await.unwrap();
        }
    }

    /// SIGTERM, and its exit code.
    pub async fn terminate(&mut self) -> Option<i32> {
        let mut child = self.child.take()?;
        let pid = rustix::process::Pid::from_raw(child.id()? as i32)?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let end = tokio::time::timeout(PATIENCE, child.wait()).await.expect("the service ends after SIGTERM");
        end.unwrap().code()
    }

    /// Waits until everything that is committed at the source now is confirmed by the target, first copies included.
    pub async fn settled(&mut self) {
        self.settled_within(PATIENCE).await;
    }

    /// The same, for what may take longer than anything else.
    pub async fn settled_within(&mut self, patience: Duration) {
        if self.by_journal() {
            return self.journal_settled_within(patience).await;
        }
        let end = self.pair.source.value("select pg_current_wal_insert_lsn()").await.unwrap();
        let confirmed =
            format!("select coalesce(max(confirmed_flush_lsn) >= '{end}', false)::text from pg_replication_slots");
        let deadline = Instant::now() + patience;
        for round in 1.. {
            let there =
                self.pair.source.value(&confirmed).await.is_ok_and(|yes| yes == "true") && self.is_streaming().await;
            // Asked again: a watermark may have passed between the two questions.
            if there && self.pair.source.value(&confirmed).await.is_ok_and(|yes| yes == "true") {
                return;
            }
            if let Some(Ok(Some(end))) = self.child.as_mut().map(Child::try_wait) {
                panic!("the service ended ({end}):\n{}", self.tail());
            }
            assert!(Instant::now() < deadline, "not settled at {end}:\n{}", self.tail());
            // What the service itself wrote last is confirmed with the next mark, seconds later: here is one.
            if round % 25 == 0 {
                let _ = self.pair.source.value("select pg_logical_emit_message(true, 'lockstep', '{}')").await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until it says that it streams.
    pub async fn streams(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.status().await.is_none_or(|status| status["state"] != "streaming") {
            assert!(!self.has_ended() && Instant::now() < deadline, "it does not stream:\n{}", self.tail());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether changes are captured by triggers.
    pub fn by_journal(&self) -> bool {
        let named = self.env.iter().rfind(|(name, _)| name == "LOCKSTEP_CAPTURE");
        named.map_or_else(tested_by_journal, |(_, way)| way == "journal")
    }

    /// The same for a journal: what the target holds is told by the service itself.
    async fn journal_settled_within(&mut self, patience: Duration) {
        let end = self.pair.source.value("select pg_current_wal_insert_lsn()").await.unwrap();
        let deadline = Instant::now() + patience;
        loop {
            let held = self.status().await.map(|status| status["held"].as_str().unwrap_or("0/0").to_owned());
            let held = format!("select '{}'::pg_lsn >= '{end}'", held.unwrap_or_else(|| "0/0".into()));
            if self.pair.source.value(&held).await.is_ok_and(|yes| yes == "t") && self.is_streaming().await {
                return;
            }
            if let Some(Ok(Some(end))) = self.child.as_mut().map(Child::try_wait) {
                panic!("the service ended ({end}):\n{}", self.tail());
            }
            assert!(Instant::now() < deadline, "not settled at {end}:\n{}", self.tail());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the service has read all that is committed at the source now, whatever became of it.
    pub async fn has_read(&self) {
        let end = self.pair.source.value("select pg_current_wal_insert_lsn()").await.unwrap();
        until("the service has read what is committed", async || {
            let Some(status) = self.status().await else { return false };
            let received = status["received"].as_str().unwrap_or("0/0").to_owned();
            self.pair.source.value(&format!("select '{received}'::pg_lsn >= '{end}'")).await.unwrap() == "t"
        })
        .await;
    }

    /// Whether the service says that the first copy of every table is done.
    async fn is_streaming(&self) -> bool {
        let Some(status) = self.status().await else { return false };
        let tables = status["tables"].as_array().cloned().unwrap_or_default();
        let streams = status["state"] == "streaming"; // what it says of the tables while it does not is from before
        streams && !tables.is_empty() && tables.iter().all(|table| table["state"] == "streaming")
    }

    pub async fn get(&self, path: &str) -> reqwest::Result<reqwest::Response> {
        self.web.get(format!("http://127.0.0.1:{}{path}", self.http)).send().await
    }

    /// What the service says of itself; nothing while it does not answer.
    pub async fn status(&self) -> Option<serde_json::Value> {
        let answer = self.get("/api/status").await.ok()?;
        serde_json::from_str(&answer.text().await.ok()?).ok()
    }

    /// One number of the service's metrics, by its name with labels; 0 while it is not there.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").await.unwrap().text().await.unwrap();
        // The label `route` has one value, and goes without saying.
        let route = "route=\"to_supabase\"";
        let text = text.replace(&format!("{{{route}}}"), "").replace(&format!("{route},"), "");
        let text = text.replace(&format!(",{route}"), "");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |number| number.parse().unwrap())
    }

    /// The end of the service's log.
    pub fn tail(&self) -> String {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Fails with the rows in which the two sides differ.
    pub async fn assert_equal(&self, tables: &[TableName]) {
        let differences = self.pair.differences(tables).await.unwrap();
        assert!(differences.is_empty(), "{}\n{}", differences.join("\n"), self.tail());
    }

    /// Runs a verb to its end: (exit code, stdout, stderr).
    pub async fn verb(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let output = tokio::time::timeout(PATIENCE, self.command(args).output()).await.expect("the verb ends").unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }
}

/// Each request over a connection of its own: the service may have been killed since the last one. A connection that is
/// closed in the moment it was opened would be waited for without end.
pub fn web_client() -> reqwest::Client {
    let none = reqwest::redirect::Policy::none();
    let builder = reqwest::Client::builder().no_proxy().redirect(none).read_timeout(Duration::from_secs(30));
    builder.pool_max_idle_per_host(0).build().unwrap()
}

/// The folder of another version's programs, as `make test-matrix` chooses it for one side.
fn programs(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|folder| !folder.is_empty()).map(PathBuf::from)
}

pub fn public(names: &[&str]) -> Vec<TableName> {
    names.iter().map(|name| TableName::new("public", *name)).collect()
}

/// The one parameter of the engine's tests: `LOCKSTEP_TEST_CAPTURE=journal` has changes captured by triggers.
fn tested_by_journal() -> bool {
    std::env::var("LOCKSTEP_TEST_CAPTURE").is_ok_and(|way| way == "journal")
}

/// Whether a test has nothing to say of the capture that is tested, and why.
pub fn says_nothing_of_a_journal(why: &str) -> bool {
    let skipped = tested_by_journal();
    if skipped {
        println!("skipped, as changes are captured by triggers: {why}");
    }
    skipped
}

/// Polls until the fact holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Resident memory of a process in bytes, its highest so far.
pub fn peak_rss(pid: u32) -> u64 {
    memory(pid, "VmHWM:")
}

/// Resident memory of a process in bytes, now.
pub fn rss(pid: u32) -> u64 {
    memory(pid, "VmRSS:")
}

fn memory(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or("0");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// What a random test draws its choices from: `LOCKSTEP_SEED`, or a new one.
pub fn seed() -> u64 {
    let given = std::env::var("LOCKSTEP_SEED").ok().and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 % 1_000_000)
}

/// How long a random test goes on after its start: `LOCKSTEP_RANDOM_SECONDS`, or a few.
pub fn random_seconds() -> u64 {
    std::env::var("LOCKSTEP_RANDOM_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(4)
}
