//! Everything that runs in the demo: two clusters, PostgREST, the gateway, and Lockstep itself.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::super::Failure;
use super::screen::Steps;
use super::{Capture, Way};
use crate::app::Outside;
use crate::config::{self, Layers, Settings};
use crate::configure::Configure;
use crate::lab::{Cluster, ClusterOptions, LabError, Owner, Port, Stop, Supabase, SupabaseOptions};
use crate::lab::{counts, differences, write_secret};
use crate::pg::catalog::Selection;
use crate::types::{Fault, TableName};

pub(super) struct Stage {
    pub(super) source: Cluster,
    pub(super) supabase: Supabase,
    pub(super) tables: Vec<TableName>,
    pub(super) note: Note,
    pub(super) dir: PathBuf,
    lockstep: Option<JoinHandle<Result<(), Fault>>>,
    stop: watch::Sender<bool>,
    _page: Port,
    _lock: File,
}

/// `demo.json`, for scripts.
#[derive(Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) source_url: String,
    pub(super) target_url: String,
    pub(super) supabase_url: String,
    pub(super) service_key: String,
    pub(super) secret_key: String,
    pub(super) anon_key: String,
    pub(super) publishable_key: String,
    pub(super) page_url: String,
    pub(super) metrics_url: String,
}

const SCHEMA: &str = include_str!("../../../sql/demo/schema.sql");
const DATA: &str = include_str!("../../../sql/demo/data.sql");

pub(super) const TABLES: [&str; 12] = [
    "agents",
    "sessions",
    "agent_sessions",
    "a2a_conversations",
    "a2a_messages",
    "llm_collaborations",
    "collaboration_sessions",
    "tasks",
    "task_dependencies",
    "task_queue",
    "local_llm_training_batches",
    "local_llm_learning_examples",
];

impl Stage {
    /// Starts all of it in `dir`, with what is there already.
    pub(super) async fn open(dir: &Path, (way, capture): (Way, Capture), steps: &mut Steps) -> Result<Self, Failure> {
        std::fs::create_dir_all(dir).map_err(|error| cannot("make", dir, &error))?;
        let dir = std::fs::canonicalize(dir).map_err(|error| cannot("open", dir, &error))?;
        let lock = only_one(&dir)?;
        let before = std::fs::read_to_string(dir.join("demo.json")).ok();
        let before: Option<Note> = before.and_then(|text| serde_json::from_str(&text).ok());

        let options = ClusterOptions::default().durable();
        let folder = dir.join("source");
        let source = steps.step("Source: a PostgreSQL cluster", Cluster::open(&folder, options.clone())).await?;
        let owner = if major(&source) >= 15 { Owner::SetReplicationRole } else { Owner::Plain };
        let options = SupabaseOptions { owner, cluster: options, ..Default::default() };
        let folder = dir.join("supabase");
        let supabase = Supabase::open(&folder, options);
        let supabase = steps.step("Supabase: a second cluster, PostgREST, the gateway", supabase).await?;

        if source.value("select to_regclass('public.agents')").await?.is_empty() {
            let script = [SCHEMA, DATA].concat(); // sent as one it is one transaction: all of it or nothing
            steps.step("Source: the demo's tables and rows", source.execute(&script)).await?;
        }
        let what = match way {
            Way::Rpc => "Supabase: the same tables, and Lockstep's functions",
            Way::Tables => "Supabase: the same tables, and nothing of Lockstep's",
        };
        steps.step(what, prepare_target(&source, &supabase, way)).await?;

        let tables = TABLES.map(|name| TableName::new("public", name)).into();
        let page = Port::again(before.and_then(|note| url::Url::parse(&note.page_url).ok()?.port()))?;
        let note = Note::new(&source, &supabase, page.number());
        let text = serde_json::to_string_pretty(&note).map_err(|error| Fault::retry(error.to_string()))?;
        write_secret(&dir.join("demo.json"), &(text + "\n"))?;

        log_to(&dir.join("lockstep.log"))?;
        let (stop, shutdown) = watch::channel(false);
        let lockstep = Some(start_lockstep(note.settings(page.number(), capture)?, shutdown));
        Ok(Self { source, supabase, tables, note, dir, lockstep, stop, _page: page, _lock: lock })
    }

    /// Waits until every table holds the same rows on both sides.
    pub(super) async fn in_step(&mut self, limit: Duration) -> Result<(), Failure> {
        let deadline = Instant::now() + limit;
        let (source, target) = tokio::try_join!(self.source.connect(), self.supabase.cluster.connect())?;
        loop {
            // Counting is cheap; comparing is done once that fits.
            let (here, there) = tokio::try_join!(counts(&source, &self.tables), counts(&target, &self.tables))?;
            let differ = match here == there {
                true => differences(&source, &target, &self.tables).await?,
                false => vec![format!("rows in the source: {here:?}, in the target: {there:?}")],
            };
            if differ.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let cause = format!("not in step after {} s:\n  {}", limit.as_secs(), differ.join("\n  "));
                return Err(Fault::retry(format!("{cause}\n  see {}", self.dir.join("lockstep.log").display())).into());
            }
            tokio::select! {
                fault = self.lockstep_ended() => return Err(fault.into()),
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
    }

    /// Waits for Lockstep to end by itself, which it should not.
    pub(super) async fn lockstep_ended(&mut self) -> Fault {
        let Some(lockstep) = &mut self.lockstep else { return std::future::pending().await };
        let end = lockstep.await;
        self.lockstep = None;
        match end {
            Ok(Ok(())) => Fault::retry("Lockstep ended by itself"),
            Ok(Err(fault)) => fault,
            Err(error) => Fault::retry(format!("Lockstep broke off: {error}")),
        }
    }

    /// Stops all of it: Lockstep first, so that it can finish what is in flight.
    pub(super) async fn close(&mut self) -> Result<(), Failure> {
        self.stop.send_replace(true);
        if let Some(mut lockstep) = self.lockstep.take() {
            // Its own deadline is 20 s.
            if tokio::time::timeout(Duration::from_secs(25), &mut lockstep).await.is_err() {
                lockstep.abort();
            }
        }
        self.supabase.postgrest.stop().await;
        tokio::try_join!(self.source.stop(Stop::Fast), self.supabase.cluster.stop(Stop::Fast))?;
        Ok(())
    }
}

/// The one place where the demo meets the service.
fn start_lockstep(settings: Settings, shutdown: watch::Receiver<bool>) -> JoinHandle<Result<(), Fault>> {
    let ((orders, ordered), (changes, changed)) = (mpsc::channel(8), mpsc::channel(1));
    let fixed = Some("the demo brings its own project");
    tokio::spawn(Configure { file: None, settings: settings.clone(), changes, fixed }.serve(ordered));
    tokio::spawn(crate::app::serve(settings, Outside { changes: changed, settings: orders }, shutdown))
}

async fn prepare_target(source: &Cluster, supabase: &Supabase, way: Way) -> Result<(), Failure> {
    let target = supabase.connect_owner().await?;
    if supabase.cluster.value("select to_regclass('public.agents')").await?.is_empty() {
        let selection = Selection { schemas: vec!["public".into()], include: Vec::new(), exclude: Vec::new() };
        let script = crate::schema::sql(&source.connect().await?, &selection).await?;
        target.batch_execute(&script).await?;
    }
    match way {
        Way::Rpc => crate::ledger::install::apply(&target).await?,
        // What an earlier demo installed goes too: it is to be seen that nothing of it is needed.
        Way::Tables => crate::ledger::teardown::supabase(&target).await?,
    }
    supabase.reload_schema().await?;
    Ok(())
}

impl Note {
    fn new(source: &Cluster, supabase: &Supabase, page: u16) -> Self {
        let page = format!("http://127.0.0.1:{page}/");
        Self {
            source_url: source.url("postgres"),
            target_url: supabase.database_url(),
            supabase_url: supabase.rest_url(),
            service_key: supabase.service_key().into(),
            secret_key: supabase.secret_key().into(),
            anon_key: supabase.anon_key().into(),
            publishable_key: supabase.publishable_key().into(),
            metrics_url: format!("{page}metrics"),
            page_url: page,
        }
    }

    /// What a user of this project would have in `.env`.
    fn settings(&self, page: u16, capture: Capture) -> Result<Settings, Failure> {
        let env = [
            // Found out by Lockstep itself, as a user's would.
            ("LOCKSTEP_APPLY", "auto".to_owned()),
            // A demo may go from one way to the other: what the other one brought is copied over.
            ("LOCKSTEP_EXISTING", "keep".to_owned()),
            ("LOCKSTEP_CAPTURE", format!("{capture:?}").to_lowercase()),
            ("DATABASE_URL", self.source_url.clone()),
            ("SUPABASE_URL", self.supabase_url.clone()),
            ("SUPABASE_KEY", self.secret_key.clone()),
            ("LOCKSTEP_LISTEN", format!("127.0.0.1:{page}")),
        ];
        let env: HashMap<String, String> = env.map(|(name, value)| (name.to_owned(), value)).into();
        Ok(config::read(&Layers { env, ..Default::default() })?)
    }
}

/// The user's folder for state. Root's own folder is closed to the user that the servers then run as.
pub(super) fn default_dir() -> Result<PathBuf, Failure> {
    if rustix::process::geteuid().is_root() {
        return Ok("/var/lib/lockstep/demo".into());
    }
    let folder = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")));
    let state = state.ok_or_else(|| Fault::stop("HOME is not set", "choose a folder with --dir"))?;
    Ok(state.join("lockstep/demo"))
}

fn only_one(dir: &Path) -> Result<File, Failure> {
    let lock = File::create(dir.join("lock")).map_err(|error| cannot("write in", dir, &error))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(_) => {
            let cause = format!("a demo runs in {} already", dir.display());
            Err(Fault::stop(cause, "stop it first, or choose another folder with --dir").into())
        }
    }
}

/// Lockstep's own words go to a file: the terminal shows the demo.
fn log_to(path: &Path) -> Result<(), Failure> {
    let file = File::options().create(true).append(true).open(path);
    let file = file.map_err(|error| cannot("write", path, &error))?;
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(Mutex::new(file));
    // There is one already only if somebody embeds us: then theirs counts.
    let _ = subscriber.try_init();
    Ok(())
}

fn major(cluster: &Cluster) -> u32 {
    let number = cluster.version().split_whitespace().nth(2).unwrap_or_default();
    number.split(|c: char| !c.is_ascii_digit()).next().and_then(|major| major.parse().ok()).unwrap_or(0)
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> LabError {
    LabError(format!("cannot {what} {}: {error}", path.display()))
}
