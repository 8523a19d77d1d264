//! A real Postgres cluster in a folder: made in a tenth of a second, stopped, killed and started again at will.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio_postgres::Client;

use super::access::tcp_url;
use super::place::{Port, Temp, make_folder, random_hex, write_secret};
use super::postgres::Programs;
use super::process::{LOOK_AGAIN, Process, children, runs};
use super::{Certificates, Doing, LabError, Result};

/// How the cluster is made and run.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// The superuser that initdb makes.
    pub superuser: String,
    pub locale: String,
    /// More settings, as `postgresql.conf` has them; they win over ours.
    pub settings: Vec<(String, String)>,
    /// Off, nothing is flushed to disk: faster, and still safe against everything but a crash of the machine.
    pub durable: bool,
    /// Serve TLS too, with a certificate of our own authority: [`Cluster::ca_pem`].
    pub tls: bool,
    /// Settings stand in the file, where `alter system` goes over them, and not on the command line.
    pub in_file: bool,
    /// The folder of another version's programs.
    pub bin: Option<PathBuf>,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            superuser: "postgres".into(),
            locale: "C.UTF-8".into(),
            settings: Vec::new(),
            durable: false,
            tls: false,
            in_file: false,
            bin: None,
        }
    }
}

impl ClusterOptions {
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    pub fn durable(mut self) -> Self {
        self.durable = true;
        self
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Disconnects everybody, writes a checkpoint.
    Fast,
    /// Leaves recovery to the next start.
    Immediate,
}

/// What must be known again at the next start.
#[derive(Clone, Serialize, Deserialize)]
struct Kept {
    port: u16,
    superuser: String,
    password: String,
}

/// A cluster. Dropped, its server is stopped, and if it was temporary its folder is removed.
pub struct Cluster {
    programs: Programs,
    options: ClusterOptions,
    dir: PathBuf,
    sockets: PathBuf,
    kept: Kept,
    certificates: Option<Certificates>,
    server: Mutex<Option<Process>>,
    /// A connection that waits for the next question.
    idle: std::sync::Mutex<Option<Client>>,
    _port: Port,
    // Dropped last: the server is stopped before its folder goes.
    temp: Option<Temp>,
}

impl Cluster {
    /// A running cluster in a folder of its own that goes when this value is dropped.
    pub async fn temp(options: ClusterOptions) -> Result<Self> {
        let temp = Temp::new("pg")?;
        let mut cluster = Self::open(&temp.path().join("c"), options).await?;
        cluster.temp = Some(temp);
        Ok(cluster)
    }

    /// A running cluster in `dir`: the one that is there, or a new one. It keeps its port if that is still free.
    pub async fn open(dir: &Path, options: ClusterOptions) -> Result<Self> {
        let programs = Programs::find(options.bin.as_deref())?;
        make_folder(dir)?;
        let dir = fs::canonicalize(dir).doing(|| format!("cannot open {}", dir.display()))?;
        if let Some(user) = &programs.user
            && let Some(bar) = user.barred_by(&dir)
        {
            let text = format!("the server runs as user {} and cannot enter {}", user.name, bar.display());
            return Err(LabError(format!("{text}; choose a folder elsewhere")));
        }
        let before = fs::read_to_string(dir.join("cluster.json")).ok();
        let before: Option<Kept> = before.and_then(|text| serde_json::from_str(&text).ok());
        let data = dir.join("data");
        match &before {
            Some(_) => check_version(&programs, &data)?,
            None => {
                // A folder without the note was never finished: nobody has used it.
                if data.exists() {
                    fs::remove_dir_all(&data).doing(|| format!("cannot remove {}", data.display()))?;
                }
                programs.new_cluster(&data, &options.superuser, &options.locale)?;
            }
        }
        let port = Port::again(before.as_ref().map(|kept| kept.port))?;
        let superuser = options.superuser.clone();
        let password = before.as_ref().map_or_else(|| random_hex(12), |kept| kept.password.clone());
        let kept = Kept { port: port.number(), superuser, password };
        let certificates = options.tls.then(Certificates::new).transpose()?;
        let sockets = socket_folder(&dir)?;
        programs.hand_over(&sockets)?;
        let server = Mutex::new(None);
        let idle = std::sync::Mutex::default();
        let cluster =
            Self { programs, options, dir, sockets, kept, certificates, server, idle, _port: port, temp: None };
        cluster.write_certificates()?;
        cluster.start().await?;
        if before.is_none() {
            let password = &cluster.kept.password; // hex, so safe between quotes
            cluster.execute(&format!("alter role current_user password '{password}'")).await?;
        }
        let kept = serde_json::to_string(&cluster.kept).doing(|| "cannot keep the cluster's note".into())?;
        write_secret(&cluster.dir.join("cluster.json"), &kept)?;
        Ok(cluster)
    }

    /// As superuser, over TCP.
    pub fn url(&self, database: &str) -> String {
        self.url_as(&self.kept.superuser, &self.kept.password, database)
    }

    pub fn url_as(&self, user: &str, password: &str, database: &str) -> String {
        tcp_url(self.kept.port, user, password, database)
    }

    pub fn port(&self) -> u16 {
        self.kept.port
    }

    pub fn superuser(&self) -> &str {
        &self.kept.superuser
    }

    pub fn password(&self) -> &str {
        &self.kept.password
    }

    /// The folder of its Unix socket; whoever may enter it is trusted without a password.
    pub fn sockets(&self) -> &Path {
        &self.sockets
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    pub fn version(&self) -> &str {
        &self.programs.version
    }

    pub fn major(&self) -> u32 {
        self.programs.major().parse().unwrap_or(0) // a server that does not say so has none of what came later
    }

    /// The authority behind its certificate, if it serves TLS.
    pub fn ca_pem(&self) -> Option<&str> {
        self.certificates.as_ref().map(|certificates| certificates.ca_pem.as_str())
    }

    /// The postmaster's process id, while it runs.
    pub async fn pid(&self) -> Option<u32> {
        self.server.lock().await.as_ref().filter(|server| server.exited().is_none()).map(Process::pid)
    }

    pub(super) fn idle(&self) -> MutexGuard<'_, Option<Client>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts it on the same port; returns once it answers. Does nothing if it runs.
    pub async fn start(&self) -> Result<()> {
        let mut server = self.server.lock().await;
        if server.as_ref().is_some_and(|server| server.exited().is_none()) {
            return Ok(());
        }
        *server = None;
        self.predecessor_gone().await?;
        let mut command = self.programs.command("postgres", "INT");
        command.arg("-D").arg(self.dir.join("data")).args(self.arguments()?);
        let process = server.insert(Process::spawn("postgres", command, &self.log())?);
        let deadline = Instant::now() + STARTS_WITHIN;
        while self.connect().await.is_err() {
            if process.exited().is_some() || Instant::now() > deadline {
                let trouble = process.trouble("did not start");
                *server = None;
                return Err(trouble);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    pub async fn stop(&self, how: Stop) -> Result<()> {
        let Some(server) = self.server.lock().await.take() else { return Ok(()) };
        server.signal(match how {
            Stop::Fast => Signal::INT,
            Stop::Immediate => Signal::QUIT,
        });
        match server.gone_within(STOPS_WITHIN).await {
            true => Ok(()),
            false => Err(server.trouble("did not stop")),
        }
    }

    /// Kills the postmaster and all its children at once, as losing power would.
    pub async fn kill9(&self) {
        let Some(server) = self.server.lock().await.take() else { return };
        // Stopped first, it can neither start children nor reap those whose ids we are about to use.
        server.signal(Signal::STOP);
        let backends = children(server.pid());
        server.signal(Signal::KILL);
        for backend in &backends {
            let _ = kill_process(*backend, Signal::KILL);
        }
        server.gone_within(STOPS_WITHIN).await;
        let alive = |pid: &rustix::process::Pid| runs(pid.as_raw_nonzero().get() as u32);
        let deadline = Instant::now() + STOPS_WITHIN;
        while backends.iter().any(alive) && Instant::now() < deadline {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn settings(&self) -> Vec<(String, String)> {
        let mut settings: Vec<(String, String)> = [
            ("listen_addresses", "127.0.0.1"),
            ("wal_level", "logical"),
            ("max_wal_senders", "16"),
            ("max_replication_slots", "16"),
            ("max_connections", "80"),
            ("max_wal_size", "2GB"), // no checkpoint in the middle of a measurement
            ("log_line_prefix", "%m [%p] %q%u "),
            ("log_timezone", "UTC"),
            ("timezone", "UTC"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let mut set = |name: &str, value: String| settings.push((name.to_owned(), value));
        set("port", self.kept.port.to_string());
        set("unix_socket_directories", self.sockets.display().to_string());
        if !self.options.durable {
            // Commits still reach the kernel: `kill -9` of the server loses none. (`synchronous_commit = off` would.)
            for name in ["fsync", "full_page_writes"] {
                set(name, "off".into());
            }
        }
        if self.certificates.is_some() {
            set("ssl", "on".into());
            set("ssl_cert_file", self.dir.join("server.crt").display().to_string());
            set("ssl_key_file", self.dir.join("server.key").display().to_string());
        }
        settings.extend(self.options.settings.iter().cloned());
        settings
    }

    /// What the server is started with.
    fn arguments(&self) -> Result<Vec<String>> {
        let settings = self.settings();
        if self.options.in_file {
            let file = self.dir.join("data/postgresql.conf");
            let lines = settings.iter().map(|(name, value)| format!("{name} = '{value}'\n"));
            fs::write(&file, lines.collect::<String>()).doing(|| format!("cannot write {}", file.display()))?;
            return Ok(Vec::new());
        }
        Ok(settings.into_iter().flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")]).collect())
    }

    fn write_certificates(&self) -> Result<()> {
        let Some(certificates) = &self.certificates else { return Ok(()) };
        for (name, pem) in [("server.crt", &certificates.chain_pem), ("server.key", &certificates.key_pem)] {
            write_secret(&self.dir.join(name), pem)?;
            self.programs.hand_over(&self.dir.join(name))?;
        }
        Ok(())
    }

    /// After a `kill -9` of ours, the server that was ours may still be on its way out.
    async fn predecessor_gone(&self) -> Result<()> {
        let data = self.dir.join("data");
        let deadline = Instant::now() + STOPS_WITHIN;
        while let Some(pid) = running_in(&data) {
            if Instant::now() > deadline {
                return Err(LabError(format!("a server runs in {} already (process {pid})", data.display())));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let Some(server) = self.server.get_mut().take() else { return };
        server.signal(if self.temp.is_some() { Signal::QUIT } else { Signal::INT });
        // Then it is killed.
        server.gone_within_blocking(DROPPED_WITHIN);
    }
}

const STARTS_WITHIN: Duration = Duration::from_secs(60); // crash recovery included
const STOPS_WITHIN: Duration = Duration::from_secs(30);
const DROPPED_WITHIN: Duration = Duration::from_secs(10);

fn check_version(programs: &Programs, data: &Path) -> Result<()> {
    let version = fs::read_to_string(data.join("PG_VERSION")).unwrap_or_default();
    match version.trim() == programs.major() {
        true => Ok(()),
        false => Err(LabError(format!(
            "{} was made by PostgreSQL {}, here is {}; choose another folder or remove this one",
            data.display(),
            version.trim(),
            programs.version
        ))),
    }
}

/// The process of a server that runs in `data`, by its own note and the kernel's word.
fn running_in(data: &Path) -> Option<u32> {
    let note = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let pid = note.lines().next()?.trim().parse().ok()?;
    // Postgres names its folder on its command line; another process under that old id does not.
    let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    String::from_utf8_lossy(&words).contains(&*data.to_string_lossy()).then_some(pid)
}

/// Where the socket goes: the kernel takes at most 107 bytes of path, name and port included.
fn socket_folder(dir: &Path) -> Result<PathBuf> {
    let near = dir.join("s");
    let folder = match near.as_os_str().len() {
        ..=80 => near,
        _ => super::place::root()?.join(format!("s-{}", random_hex(4))),
    };
    make_folder(&folder)?;
    fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .doing(|| format!("cannot close {}", folder.display()))?;
    Ok(folder)
}
