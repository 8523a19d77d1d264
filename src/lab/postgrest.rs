//! A real PostgREST before a cluster.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use super::place::{Port, make_folder};
use super::postgres::in_path;
use super::process::{LOOK_AGAIN, Process, command};
use super::{LabError, Result};

#[derive(Clone, Debug, Default)]
pub struct PostgRestOptions {
    /// More of its settings, without the prefix `PGRST_`; they win over ours.
    pub settings: Vec<(String, String)>,
    /// The port to have again if it is free.
    pub port: Option<u16>,
}

/// A running PostgREST. Dropped, it is killed.
pub struct PostgRest {
    binary: PathBuf,
    dir: PathBuf,
    settings: Vec<(String, String)>,
    port: Port,
    admin: Port,
    server: Mutex<Option<Process>>,
}

impl PostgRest {
    /// Starts it on the database at `database_url`, whose role is the authenticator; its log goes to `dir`.
    pub async fn start(dir: &Path, database_url: &str, jwt_secret: &str, options: PostgRestOptions) -> Result<Self> {
        make_folder(dir)?;
        let (port, admin) = (Port::again(options.port)?, Port::free()?);
        let mut settings = vec![
            ("DB_URI".into(), database_url.to_owned()),
            ("DB_SCHEMAS".into(), "public".into()),
            ("DB_EXTRA_SEARCH_PATH".into(), "public, extensions".into()),
            ("DB_ANON_ROLE".into(), "anon".into()),
            ("JWT_SECRET".into(), jwt_secret.to_owned()),
            // The hosted version (13 and later) remembers the keys that it has checked unless told otherwise; 12 must be told.
            ("JWT_CACHE_MAX_LIFETIME".into(), "3600".into()),
            ("DB_MAX_ROWS".into(), "1000".into()), // as new projects have it
            ("SERVER_HOST".into(), "127.0.0.1".into()),
            ("SERVER_PORT".into(), port.number().to_string()),
            ("ADMIN_SERVER_PORT".into(), admin.number().to_string()),
        ];
        settings.extend(options.settings);
        let server = Mutex::new(None);
        let postgrest = Self { binary: find()?, dir: dir.to_owned(), settings, port, admin, server };
        postgrest.restart().await?;
        Ok(postgrest)
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    pub fn log(&self) -> PathBuf {
        self.dir.join("postgrest.log")
    }

    pub async fn pid(&self) -> Option<u32> {
        self.server.lock().await.as_ref().filter(|server| server.exited().is_none()).map(Process::pid)
    }

    /// Starts it on the same port, after stopping it if it runs; returns once it says that it is ready.
    pub async fn restart(&self) -> Result<()> {
        self.stop().await;
        let mut server = self.server.lock().await;
        let mut command = command(&self.binary, "KILL", None);
        command.env_clear().envs(self.settings.iter().map(|(name, value)| (format!("PGRST_{name}"), value)));
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        let process = server.insert(Process::spawn("postgrest", command, &self.log())?);
        let deadline = Instant::now() + READY_WITHIN;
        while !self.ready().await {
            if process.exited().is_some() || Instant::now() > deadline {
                let trouble = process.trouble("did not get ready");
                *server = None;
                return Err(trouble);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    pub async fn stop(&self) {
        self.end(Signal::TERM).await;
    }

    pub async fn kill9(&self) {
        self.end(Signal::KILL).await;
    }

    /// Whether it has its connection and its schema cache, in its own words.
    pub async fn ready(&self) -> bool {
        let ask = async {
            let mut admin = TcpStream::connect(("127.0.0.1", self.admin.number())).await?;
            admin.write_all(b"GET /ready HTTP/1.0\r\n\r\n").await?;
            let mut answer = [0; 12];
            admin.read_exact(&mut answer).await?;
            std::io::Result::Ok(answer.ends_with(b" 200"))
        };
        matches!(tokio::time::timeout(Duration::from_secs(2), ask).await, Ok(Ok(true)))
    }

    /// How often it has read the schema, by its log: it says so nowhere else.
    fn readings(&self) -> usize {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        log.matches("Schema cache loaded").count()
    }

    /// Has it read the schema anew; returns once it knows what is there now. `notify` sends the notification.
    pub(super) async fn reload(&self, notify: impl AsyncFn() -> Result<()>) -> Result<()> {
        // Twice: the first reading that ends may be one that began before our change; the second is not.
        for _ in 0..2 {
            let before = self.readings();
            notify().await?;
            let deadline = Instant::now() + READY_WITHIN;
            while self.readings() == before && self.pid().await.is_some() {
                if Instant::now() > deadline {
                    return Err(LabError(format!(
                        "PostgREST did not read the schema anew; see {}",
                        self.log().display()
                    )));
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
        Ok(())
    }

    async fn end(&self, signal: Signal) {
        let Some(server) = self.server.lock().await.take() else { return };
        server.signal(signal);
        // It waits for requests in flight when asked politely; then it is killed by being dropped.
        server.gone_within(Duration::from_secs(5)).await;
    }
}

const READY_WITHIN: Duration = Duration::from_secs(60);

/// `LOCKSTEP_POSTGREST`, else where `make` puts it, else the search path.
fn find() -> Result<PathBuf> {
    if let Some(file) = std::env::var_os("LOCKSTEP_POSTGREST") {
        return Ok(file.into());
    }
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
    let ours = cache.map(|cache| cache.join("lockstep/postgrest-12.0.2/postgrest")).filter(|file| file.is_file());
    ours.or_else(|| in_path("postgrest"))
        .ok_or_else(|| LabError("PostgREST not found: `make postgrest` installs it, or set LOCKSTEP_POSTGREST".into()))
}
