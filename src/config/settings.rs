//! The settings themselves. Each says what the operator trades; its default stands here and nowhere else.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, de::Error};

use super::problem::Problem;
use super::units::{read_bytes, read_duration};
use super::urls::{ProjectUrl, check_source};
use super::workflows::{AgentApi, Webhook, Workflows};
use crate::types::{ApiKey, Fault, TableName};

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub source: Source,
    pub supabase: Supabase,
    pub tables: Tables,
    /// What is particular to one table, by `schema.name`.
    pub table: BTreeMap<String, OneTable>,
    pub apply: Apply,
    pub copy: Copy,
    pub schema: Schema,
    pub reconcile: Reconcile,
    pub schedule: Schedule,
    pub state: State,
    pub workflows: Workflows,
    pub agent_api: AgentApi,
    pub webhook: Webhook,
    pub retry: Retry,
    pub http: Http,
    pub log: Log,
    pub shutdown: Shutdown,
}

/// The Postgres that changes are read from.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Source {
    /// The database, as a `postgres://` address. Its role needs REPLICATION and SELECT on the tables.
    #[serde(deserialize_with = "source_url")]
    pub url: Option<SecretString>,
    /// The replication slot. Two services on one source need two names; renaming it starts a new history.
    #[serde(deserialize_with = "slot_name")]
    pub slot: String,
    /// The publication that lists the tables.
    #[serde(deserialize_with = "name")]
    pub publication: String,
    /// Create slot and publication when they are missing. Without it, their SQL is printed and you stay in charge.
    pub create: bool,
    /// How changes are read. A slot costs the source's writers nothing; triggers cost them something with each statement,
    /// and work where no slot is to be had. Changing it on a route that runs begins the stream anew, and every table is
    /// compared.
    pub capture: Capture,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Capture {
    /// By a slot where one can be had, else by triggers.
    Auto,
    Wal,
    Journal,
}

impl Default for Source {
    fn default() -> Self {
        Self { url: None, slot: "lockstep".into(), publication: "lockstep".into(), create: true, capture: Capture::Wal }
    }
}

impl Source {
    /// The address, for a verb that cannot do without it.
    pub fn url(&self) -> Result<&SecretString, Problem> {
        let missing = "is not set: the Postgres to read from, such as postgres://user:password@host:5432/database";
        self.url.as_ref().ok_or_else(|| Problem::new("DATABASE_URL", missing))
    }
}

/// The Supabase project that changes are written to.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Supabase {
    /// The project's address, without a path.
    #[serde(deserialize_with = "project_url")]
    pub url: Option<ProjectUrl>,
    /// A secret key (`sb_secret_…`) or the legacy service_role JWT.
    #[serde(deserialize_with = "api_key")]
    pub key: Option<ApiKey>,
    /// A file of PEM certificates to trust beside the public roots, for a project behind a private authority.
    pub ca_file: Option<PathBuf>,
    /// How long one request may take. Shorter notices a dead connection sooner, longer lets a slow project finish; a
    /// request that was cut off is sent again and applies once all the same.
    #[serde(deserialize_with = "read_duration")]
    pub timeout: Duration,
    /// Send the key over plain http to another host, where anyone on the way can read it.
    pub allow_http: bool,
}

impl Default for Supabase {
    fn default() -> Self {
        // Above the 60 s that Supabase's own gateway gives a request: past that no answer will come.
        Self { url: None, key: None, ca_file: None, timeout: Duration::from_secs(65), allow_http: false }
    }
}

impl Supabase {
    /// The address and the key, for a verb that cannot do without them.
    pub fn endpoint(&self) -> Result<(&ProjectUrl, &ApiKey), Problem> {
        let url = self.url.as_ref().ok_or_else(|| {
            Problem::new("SUPABASE_URL", "is not set: the project's address, such as https://PROJECT.supabase.co")
        })?;
        let key = self.key.as_ref().ok_or_else(|| {
            let cause = "is not set: a secret key (sb_secret_…) from Project Settings > API Keys";
            Problem::new("SUPABASE_KEY", cause)
        })?;
        Ok((url, key))
    }
}

impl Supabase {
    /// Those of the two that are not set.
    pub fn missing(&self) -> Vec<&'static str> {
        let both = [("SUPABASE_URL", self.url.is_none()), ("SUPABASE_KEY", self.key.is_none())];
        both.into_iter().filter(|(_, missing)| *missing).map(|(name, _)| name).collect()
    }

    /// What the certificate file holds, if one is set.
    pub fn ca_pem(&self) -> Result<Option<Vec<u8>>, Fault> {
        let Some(path) = &self.ca_file else { return Ok(None) };
        std::fs::read(path).map(Some).map_err(|error| {
            Fault::stop(format!("cannot read {}: {error}", path.display()), "correct [supabase] ca_file")
        })
    }
}

/// Which tables are replicated: those with a primary key in `schemas`, narrowed by `include`, less `exclude`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tables {
    /// Every table with a primary key in these schemas.
    pub schemas: Vec<String>,
    /// Only these, as `schema.name`; `*` stands for anything. Empty means all.
    pub include: Vec<String>,
    /// Never these, even when included; `*` stands for anything.
    pub exclude: Vec<String>,
}

impl Default for Tables {
    fn default() -> Self {
        Self { schemas: vec!["public".into()], include: Vec::new(), exclude: Vec::new() }
    }
}

/// What is particular to one table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OneTable {
    /// Replicate only these columns; the key's must be among them. Empty means all.
    pub columns: Vec<String>,
    /// When this table is compared and repaired, instead of `schedule.reconcile`. An empty list: never by itself.
    pub reconcile: Option<Vec<String>>,
}

/// How changes are written.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Apply {
    /// How rows are written: through our functions (`rpc`), by plain requests to the tables (`tables`), or as it can be
    /// done (`auto`): by `rpc` where our SQL is installed in Supabase.
    pub way: Way,
    /// Whether the target's triggers and foreign keys act on replicated rows. The source honoured its own already, so
    /// `suppress` avoids doing the work twice; `fire` is for triggers that exist only in Supabase.
    pub triggers: Triggers,
    /// Largest request. Larger catches up in fewer round trips, smaller keeps each transaction in Supabase short.
    #[serde(deserialize_with = "read_bytes")]
    pub max_batch_bytes: usize,
    /// Changes held in memory between reading and writing. Larger hides longer pauses of Supabase, smaller saves
    /// memory; when it is full the source keeps the WAL until there is room.
    #[serde(deserialize_with = "read_bytes")]
    pub queue_bytes: usize,
    /// A transaction of up to this size is seen in Supabase whole or not at all, however many requests it takes.
    /// Larger: longer transactions there. What is larger still arrives in parts, exactly once.
    #[serde(deserialize_with = "read_bytes")]
    pub whole_bytes: usize,
    /// What becomes of a row that Supabase refuses: `park` sets it aside with its reason while the rest goes on,
    /// `strict` stops the route until the row is taken.
    pub on_refusal: OnRefusal,
    /// More refused rows of one table than this are no accident of single rows: then the table is set aside.
    pub park_rows: u64,
}

impl Default for Apply {
    fn default() -> Self {
        Self {
            way: Way::Auto,
            triggers: Triggers::Suppress,
            max_batch_bytes: 1_000_000,
            queue_bytes: 16 << 20,
            whole_bytes: 64 << 20,
            on_refusal: OnRefusal::Park,
            park_rows: 1000,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    Auto,
    Rpc,
    Tables,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Triggers {
    Suppress,
    Fire,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnRefusal {
    Park,
    Strict,
}

/// How rows that exist already get there.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Copy {
    /// What to do about rows that a target table holds before its first copy: `refuse` to start, or `keep` them and
    /// copy over those with the same key.
    pub existing: Existing,
    /// How much of a table is read and sent at once. Larger copies faster, smaller holds back changes more briefly.
    #[serde(deserialize_with = "read_bytes")]
    pub chunk_bytes: usize,
}

impl Default for Copy {
    fn default() -> Self {
        Self { existing: Existing::Refuse, chunk_bytes: 1_000_000 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Existing {
    Refuse,
    Keep,
}

/// What happens when a table's shape changes at the source.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Schema {
    /// `additive`: a column that is added at the source is added in Supabase too. `park`: the table is set aside with
    /// the statement that adds it, until somebody has run that.
    pub evolve: Evolve,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Evolve {
    #[default]
    Park,
    Additive,
}

/// When both sides are compared and what differs is repaired.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Schedule {
    /// Cron expressions: minute, hour, day of month, month, day of week. More often finds damage sooner, and reads both
    /// sides more often. An empty list: never by itself.
    pub reconcile: Vec<String>,
    /// The zone in which the expressions are meant.
    pub timezone: String,
    /// A run begins up to this much later than it is due, so that many services do not begin at once.
    #[serde(deserialize_with = "read_duration")]
    pub jitter: Duration,
    /// Make up, once after the start, for a run that was due while the service was down.
    pub catch_up: bool,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            reconcile: vec!["0 * * * *".into(), "0 2 * * *".into()],
            timezone: "UTC".into(),
            jitter: Duration::from_secs(30),
            catch_up: true,
        }
    }
}

/// The table in the source that says of each replicated table where it stands.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct State {
    /// Keep it. It costs two connections to the source.
    pub enabled: bool,
    /// Its name, as `schema.table`. One that is there already is adopted with its rows.
    #[serde(deserialize_with = "table_name")]
    pub table: TableName,
    /// Keep the time line (`lockstep.activity` in the source): who did what, and what happened.
    pub activity: bool,
}

impl Default for State {
    fn default() -> Self {
        Self { enabled: true, table: TableName::new("public", "supabase_sync_state"), activity: true }
    }
}

/// How both sides are compared.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reconcile {
    /// Rows that are compared in a second at most; 0: as fast as it goes. More finishes sooner, fewer leaves the
    /// processors of both sides to others.
    pub max_rows_per_second: u64,
    /// Keys of different rows that a report lists for each table. All are counted and repaired, listed or not.
    pub listed: usize,
}

impl Default for Reconcile {
    fn default() -> Self {
        Self { max_rows_per_second: 100_000, listed: 1000 }
    }
}

/// What happens after a fault.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// A fault that somebody must mend is looked at again this often. Shorter goes on sooner once it is mended,
    /// longer asks a project that is down less often. What passes by itself is tried again much sooner.
    #[serde(deserialize_with = "read_duration")]
    pub look_again: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { look_again: Duration::from_secs(60) }
    }
}

/// The window: page, metrics, status.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Address and port to listen on. Anywhere but on this host, a token is demanded.
    #[serde(deserialize_with = "listen")]
    pub listen: SocketAddr,
    /// Whoever wants to see page, metrics or status must show it: as a bearer token, or as the password of a browser's
    /// login. At least 16 characters.
    #[serde(deserialize_with = "token")]
    pub token: Option<SecretString>,
    /// Whoever shows this one may look at everything and change nothing: for colleagues and Prometheus.
    #[serde(deserialize_with = "token")]
    pub read_token: Option<SecretString>,
    /// Something in front of the page speaks TLS: its cookie is for https only then.
    pub behind_tls: bool,
    /// The lag up to which both sides count as in step, on the page and for `/readyz`.
    #[serde(deserialize_with = "read_duration")]
    pub in_step_within: Duration,
}

impl Default for Http {
    fn default() -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], 9464));
        let in_step_within = Duration::from_secs(10);
        Self { listen, token: None, read_token: None, behind_tls: false, in_step_within }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `text` for people, `json` for collectors.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug` or `trace`, or a filter such as `info,lockstep::apply=debug`.
    #[serde(deserialize_with = "filter")]
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".into() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shutdown {
    /// How long to finish what is in flight when asked to stop. What is not finished is sent again after the start.
    #[serde(deserialize_with = "read_duration")]
    pub deadline: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        // Well below the 30 s that Kubernetes and the 90 s that systemd wait before they kill.
        Self { deadline: Duration::from_secs(20) }
    }
}

/// Text of a value that may be a secret: a wrong type is refused without showing the value.
pub(super) fn hidden<'de, D: Deserializer<'de>>(from: D) -> Result<SecretString, D::Error> {
    match toml::Value::deserialize(from)? {
        toml::Value::String(text) => Ok(text.into()),
        _ => Err(D::Error::custom("must be text in quotes")),
    }
}

fn source_url<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SecretString>, D::Error> {
    let text = hidden(from)?;
    check_source(text.expose_secret()).map_err(D::Error::custom)?;
    Ok(Some(text))
}

fn project_url<'de, D: Deserializer<'de>>(from: D) -> Result<Option<ProjectUrl>, D::Error> {
    ProjectUrl::parse(&String::deserialize(from)?).map(Some).map_err(D::Error::custom)
}

fn api_key<'de, D: Deserializer<'de>>(from: D) -> Result<Option<ApiKey>, D::Error> {
    ApiKey::parse(hidden(from)?.expose_secret(), Timestamp::now()).map(Some).map_err(D::Error::custom)
}

fn token<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SecretString>, D::Error> {
    let text = hidden(from)?;
    // Sixteen random characters are out of reach of guessing over a network.
    if text.expose_secret().len() < 16 || !text.expose_secret().bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(D::Error::custom(
            "needs at least 16 visible ASCII characters; `openssl rand -hex 24` makes a good one",
        ));
    }
    Ok(Some(text))
}

fn listen<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(from)?;
    let address = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    let address = address.as_deref().unwrap_or(&text).parse();
    address.map_err(|_| D::Error::custom(format!("`{text}` is not an address and port such as 127.0.0.1:9464")))
}

/// Postgres takes only these characters in a slot's name.
fn slot_name<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if text.is_empty() || text.len() > 63 || !text.bytes().all(fits) {
        let cause = format!("`{text}` cannot name a slot: up to 63 of a-z, 0-9 and _ are allowed");
        return Err(D::Error::custom(cause));
    }
    Ok(text)
}

fn name<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    if text.is_empty() || text.len() > 63 || text.contains('\0') {
        return Err(D::Error::custom("a name has 1 to 63 bytes in Postgres"));
    }
    Ok(text)
}

pub(super) fn table_name<'de, D: Deserializer<'de>>(from: D) -> Result<TableName, D::Error> {
    let text = String::deserialize(from)?;
    match text.split_once('.') {
        Some((schema, name)) if !schema.is_empty() && !name.is_empty() => Ok(TableName::new(schema, name)),
        _ => Err(D::Error::custom(format!("`{text}` names no schema; write `public.{text}`"))),
    }
}

fn filter<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    match tracing_subscriber::EnvFilter::try_new(&text) {
        Ok(_) => Ok(text),
        Err(_) => {
            Err(D::Error::custom(format!("`{text}` is not error, warn, info, debug, trace or a filter of these")))
        }
    }
}
