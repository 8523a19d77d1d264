//! A private Postgres cluster in a temporary folder, stopped when it goes out of scope.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use lockstep::pg::{self, Client, Url};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Debian's, or another major's, as `make test-matrix` chooses it.
fn bin(program: &str) -> String {
    let folder = std::env::var("LOCKSTEP_TEST_SOURCE_BIN").unwrap_or_else(|_| "/usr/lib/postgresql/15/bin".into());
    format!("{folder}/{program}")
}

pub(crate) struct Cluster {
    pub(crate) dir: TempDir,
    pub(crate) port: u16,
    settings: Vec<String>,
    server: Option<Child>,
}

impl Cluster {
    /// Starts one with `wal_level = logical`; later settings win.
    pub(crate) async fn start(settings: &[&str]) -> Self {
        let dir = folder();
        run(as_postgres("cp").arg("-r").arg(template()).arg(dir.path().join("data")));
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        let mut cluster = Self { dir, port: free_port(), settings, server: None };
        cluster.serve().await;
        cluster
    }

    pub(crate) async fn serve(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let mut command = as_postgres(&bin("postgres"));
        command.arg("-D").arg(self.dir.path().join("data")).arg("-k").arg(self.dir.path());
        command.args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1", "-c", "wal_level=logical"]);
        command.args(["-c", "fsync=off", "-c", "max_wal_senders=5", "-c", "max_replication_slots=5"]);
        self.settings.iter().for_each(|setting| {
            command.args(["-c", setting]);
        });
        self.server = Some(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
        let deadline = Instant::now() + Duration::from_secs(20);
        while let Err(fault) = pg::connect(&self.url(), "wait").await {
            assert!(Instant::now() < deadline, "the cluster does not start: {fault}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What `pg_ctl stop -m fast` does; gives back how long it took.
    pub(crate) fn stop(&mut self) -> Duration {
        self.signal(Signal::INT)
    }

    pub(crate) fn url(&self) -> Url {
        self.url_of("postgres", "")
    }

    /// Over the Unix socket, as that user.
    pub(crate) fn url_of(&self, user: &str, more: &str) -> Url {
        let dir = self.dir.path().display();
        Url::parse(&format!("postgresql://{user}@/postgres?host={dir}&port={}{more}", self.port)).unwrap()
    }

    pub(crate) async fn sql(&self) -> Client {
        pg::connect(&self.url(), "test").await.unwrap()
    }

    fn signal(&mut self, signal: Signal) -> Duration {
        let begun = Instant::now();
        if let Some(mut server) = self.server.take() {
            kill_process(Pid::from_child(&server), signal).unwrap();
            server.wait().unwrap();
        }
        begun.elapsed()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.signal(Signal::QUIT);
    }
}

/// A folder that the server's user may write to; it refuses to run as root.
fn folder() -> TempDir {
    let dir = TempDir::new().unwrap();
    let (uid, gid) = postgres();
    chown(dir.path(), Some(uid), Some(gid)).unwrap();
    dir
}

fn template() -> &'static Path {
    static TEMPLATE: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, data) = TEMPLATE.get_or_init(|| {
        let dir = folder();
        let data = dir.path().join("data");
        run(as_postgres(&bin("initdb")).args(["-A", "trust", "--no-sync", "-E", "UTF8", "-D"]).arg(&data));
        (dir, data)
    });
    data
}

pub(crate) fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn as_postgres(program: &str) -> Command {
    let mut command = Command::new(program);
    if rustix::process::geteuid().is_root() {
        let (uid, gid) = postgres();
        command.uid(uid).gid(gid);
    }
    command.current_dir("/");
    command
}

fn postgres() -> (u32, u32) {
    if !rustix::process::geteuid().is_root() {
        return (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    }
    let id = |flag| {
        let output = Command::new("id").args([flag, "postgres"]).output().unwrap().stdout;
        String::from_utf8(output).unwrap().trim().parse().unwrap()
    };
    (id("-u"), id("-g"))
}

/// Below the ephemeral range, where nobody else is handed it.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let port = 20_000 + (std::process::id() % 5_000) as u16 + NEXT.fetch_add(1, Ordering::Relaxed);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
