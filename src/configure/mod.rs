//! Settings from the window: shown without the key, tested as a checklist, saved into `.env`, read again. What is saved
//! is handed to the running service, which goes on with it.

mod checklist;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tracing::{info, warn};

use crate::config::{self, Http, Layers, Problem, ProjectUrl, Settings, dotenv};
use crate::types::{ApiKey, ApiKeyKind, Refusal, SettingsAsk, SettingsOrder};

/// Where `.env` lies: in the working directory, as for whoever reads it.
const ENV_FILE: &str = ".env";

/// Tests at a time: each is some requests to the project and a look at the source.
const TESTS: usize = 2;

pub struct Configure {
    /// The settings file that was asked for.
    pub file: Option<PathBuf>,
    /// The settings that are in use.
    pub settings: Settings,
    /// To the service.
    pub changes: mpsc::Sender<Settings>,
    /// Why they stay what they are, where nobody may change them.
    pub fixed: Option<&'static str>,
}

impl Configure {
    pub async fn serve(mut self, mut orders: mpsc::Receiver<SettingsOrder>) {
        let room = Arc::new(Semaphore::new(TESTS));
        while let Some(SettingsOrder { ask, reply }) = orders.recv().await {
            let answer = match ask {
                SettingsAsk::Show => Ok(self.show()),
                SettingsAsk::Test { url, key } => {
                    self.test(url, key, reply, &room);
                    continue;
                }
                SettingsAsk::Save { .. } | SettingsAsk::Reload if self.fixed.is_some() => {
                    Err(Refusal::Conflict(self.fixed.unwrap_or_default().into()))
                }
                SettingsAsk::Save { url, key } => self.save(url, key).await,
                SettingsAsk::Reload => self.reload().await,
            };
            let _ = reply.send(answer); // who asked may be gone
        }
    }

    /// What may be seen of the settings: never a key, a token or a password.
    fn show(&self) -> Value {
        let Settings { source, supabase, tables, apply, schedule, state, http, .. } = &self.settings;
        let address = source.url().ok().and_then(|url| crate::pg::Url::parse(url.expose_secret()).ok());
        let (kind, expires) = match supabase.key.as_ref().map(ApiKey::kind) {
            None => (None, None),
            Some(ApiKeyKind::Secret) => (Some("secret"), None),
            Some(ApiKeyKind::ServiceJwt { expires }) => (Some("service_role"), expires),
        };
        let file = std::env::current_dir().map_or(ENV_FILE.into(), |here| here.join(ENV_FILE).display().to_string());
        json!({
            "supabase_url": supabase.url.as_ref().map(ToString::to_string),
            "key_set": supabase.key.is_some(),
            "key_kind": kind,
            "key_expires_at": expires,
            "missing": supabase.missing(),
            "env_file": file,
            "set_by_environment": elsewhere(),
            "source": address.map(|url| url.address()),
            "slot": source.slot,
            "publication": source.publication,
            "schemas": tables.schemas,
            "include": tables.include,
            "exclude": tables.exclude,
            "apply": format!("{:?}", apply.way).to_lowercase(),
            "on_refusal": format!("{:?}", apply.on_refusal).to_lowercase(),
            "schedule": {"reconcile": schedule.reconcile, "timezone": schedule.timezone},
            "state_table": state.enabled.then(|| state.table.to_string()),
            "listen": http.listen.to_string(),
            "token_set": http.token.is_some(),
            "in_step_within_seconds": http.in_step_within.as_secs(),
        })
    }

    /// The key that a request means: its own, or the one in use where the address is the one in use. Sent anywhere else,
    /// it would be given to whoever answers there.
    fn meant(&self, url: &str, key: Option<SecretString>) -> Result<String, Refusal> {
        if let Some(key) = key.filter(|key| !key.expose_secret().trim().is_empty()) {
            return Ok(key.expose_secret().trim().to_owned());
        }
        let used = &self.settings.supabase;
        match (&used.url, &used.key) {
            (Some(known), Some(key)) if ProjectUrl::parse(url).is_ok_and(|url| url == *known) => {
                Ok(key.apikey().to_owned())
            }
            (_, None) => Err(invalid("supabase_key", "is not set; give the project's key")),
            _ => Err(invalid("supabase_key", "belongs to another address; give the key of this project too")),
        }
    }

    fn url(&self, url: Option<String>) -> Result<String, Refusal> {
        let url = url.map(|url| url.trim().to_owned()).filter(|url| !url.is_empty());
        let used = || self.settings.supabase.url.as_ref().map(ToString::to_string);
        url.or_else(used)
            .ok_or_else(|| invalid("supabase_url", "is not set; it looks like https://PROJECT.supabase.co"))
    }

    fn test(
        &self,
        url: Option<String>,
        key: Option<SecretString>,
        reply: oneshot::Sender<Result<Value, Refusal>>,
        room: &Arc<Semaphore>,
    ) {
        let both = self.url(url).and_then(|url| self.meant(&url, key).map(|key| (url, key)));
        let place = room.clone().try_acquire_owned();
        let (settings, file) = (self.settings.clone(), self.file());
        match (both, place) {
            (Err(refusal), _) => _ = reply.send(Err(refusal)),
            (_, Err(_)) => _ = reply.send(Err(Refusal::Unavailable("two tests are under way already".into()))),
            (Ok((url, key)), Ok(place)) => {
                let runtime = tokio::runtime::Handle::current();
                // On a thread of its own: what the doctor does need not be fit to change threads.
                tokio::task::spawn_blocking(move || {
                    let checks = runtime.block_on(checklist::run(settings, file, &url, &key));
                    let _ = reply.send(Ok(json!({"checks": checks})));
                    drop(place);
                });
            }
        }
    }

    fn file(&self) -> PathBuf {
        self.file.clone().unwrap_or_else(|| "lockstep.toml".into())
    }

    async fn save(&mut self, url: Option<String>, key: Option<SecretString>) -> Result<Value, Refusal> {
        let url = self.url(url)?;
        let key = self.meant(&url, key)?;
        let url = ProjectUrl::parse(&url).map_err(|cause| invalid("supabase_url", cause))?;
        ApiKey::parse(&key, jiff::Timestamp::now()).map_err(|cause| invalid("supabase_key", cause))?;
        let url = url.to_string();
        let set = [("SUPABASE_URL", url.as_str()), ("SUPABASE_KEY", key.as_str())];
        let file = self.file.clone();
        let settings = prepare(file.as_deref(), &set)?;
        let used = &self.settings.supabase;
        // What is in use already is no reason to begin anew.
        let same = used.endpoint().is_ok_and(|(known, held)| known.to_string() == url && held.apikey() == key);
        if !same {
            self.turn(settings).await?;
        }
        info!(project = %url, "the project's address and key were written into .env");
        Ok(self.show())
    }

    async fn reload(&mut self) -> Result<Value, Refusal> {
        let layers = config::layers(self.file.as_deref()).map_err(conflict)?;
        if layers.credentials.is_some() {
            warn!(
                "systemd's credential lockstep.env is as it was at the unit's start: for what was changed there, restart"
            );
        }
        let settings = config::read(&layers).map_err(conflict)?;
        settings.source.url().map_err(conflict)?;
        self.turn(settings).await?;
        Ok(self.show())
    }

    async fn turn(&mut self, settings: Settings) -> Result<(), Refusal> {
        let changed = only_at_start(&self.settings.http, &settings.http);
        if !changed.is_empty() {
            warn!(settings = changed.join(", "), "these take effect with the next start");
        }
        self.settings = settings.clone();
        let gone = |_| Refusal::Unavailable("the service is stopping".into());
        self.changes.send(settings).await.map_err(gone)
    }
}

/// What the window keeps as long as it is open: those that have changed.
fn only_at_start(old: &Http, new: &Http) -> Vec<&'static str> {
    let changed = [
        ("http.listen", old.listen != new.listen),
        ("http.token", exposed(&old.token) != exposed(&new.token)),
        ("http.read_token", exposed(&old.read_token) != exposed(&new.read_token)),
        ("http.behind_tls", old.behind_tls != new.behind_tls),
        ("http.in_step_within", old.in_step_within != new.in_step_within),
    ];
    changed.into_iter().filter(|(_, changed)| *changed).map(|(name, _)| name).collect()
}

fn exposed(token: &Option<SecretString>) -> Option<&str> {
    token.as_ref().map(ExposeSecret::expose_secret)
}

/// Writes `.env`, once it is known that what comes out can be used.
fn prepare(file: Option<&Path>, set: &[(&str, &str)]) -> Result<Settings, Refusal> {
    if let Some(name) = elsewhere().into_iter().find(|name| differs(name, set)) {
        let cause = format!("{name} is set in the environment of the service, which wins over .env; change it there");
        return Err(Refusal::Conflict(cause));
    }
    let layers = config::layers(file).map_err(conflict)?;
    let text = dotenv::edit(layers.dotenv.as_deref().unwrap_or(""), set).map_err(conflict)?;
    let settings = config::read(&Layers { dotenv: Some(text.clone()), ..layers }).map_err(|problem| {
        match problem.place.split_whitespace().next() {
            Some("SUPABASE_URL") => invalid("supabase_url", problem.cause),
            Some("SUPABASE_KEY") => invalid("supabase_key", problem.cause),
            _ => conflict(problem),
        }
    })?;
    dotenv::replace(Path::new(ENV_FILE), &text).map_err(|error| {
        let cause =
            format!("{ENV_FILE} cannot be written: {error}; let the service's user write it, or set both by hand");
        Refusal::Conflict(cause)
    })?;
    Ok(settings)
}

/// Those of the two variables that the environment sets.
fn elsewhere() -> Vec<&'static str> {
    let set = |name: &&str| std::env::var(name).is_ok_and(|value| !value.trim().is_empty());
    ["SUPABASE_URL", "SUPABASE_KEY"].into_iter().filter(set).collect()
}

fn differs(name: &str, set: &[(&str, &str)]) -> bool {
    let wanted = set.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
    let there = std::env::var(name).unwrap_or_default();
    wanted.is_some_and(|wanted| wanted.trim_end_matches('/') != there.trim().trim_end_matches('/'))
}

fn invalid(field: &'static str, cause: impl Into<String>) -> Refusal {
    Refusal::invalid(field, cause)
}

fn conflict(problem: Problem) -> Refusal {
    Refusal::Conflict(problem.to_string())
}
