//! Looks at both sides: connections and requests, no judgement. Nothing is changed on either.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::case::{Case, Clock, Listen, Rest, Source, Target};
use super::facts::Facts;
use super::finding::Trouble;
use super::listing::Listing;
use crate::app::ROUTE;
use crate::app::capturing::{self, Kind};
use crate::capture::slot::restricted;
use crate::config::{Problem, Settings};
use crate::http;
use crate::ledger::install::FACTS;
use crate::ledger::{journal, progress};
use crate::pg::catalog::{self, Survey};
use crate::pg::replication::{Connection, System};
use crate::pg::url::Host;
use crate::pg::{self, Client, Url};
use crate::rest::{self, Body};
use crate::types::{Fault, Table, TableName};

/// Whom to look at.
#[derive(Clone)]
pub struct Ask {
    pub settings: Settings,
    /// Why the key in the settings will not do.
    pub key: Option<Problem>,
    /// A direct connection to the target.
    pub target_url: Option<Url>,
    /// The settings file.
    pub file: PathBuf,
}

pub(super) async fn look(ask: Ask) -> Case {
    let url = source_url(&ask);
    let source_addresses = match &url {
        Ok(url) => resolve(url).await,
        Err(_) => Vec::new(),
    };
    let mut client = None;
    let mut source = match url {
        Ok(url) => source(&ask, url, &mut client).await.map_err(|fault| Trouble::fault(&fault)),
        Err(fault) => Err(Trouble::fault(&fault)),
    };
    let tables = source.as_ref().map_or(Vec::new(), |source| names(&source.tables));
    let target = target(&ask, &tables).await;
    // A checkpoint that was read later may be newer than the end of the WAL that was read before.
    if let (Ok(source), Some(client)) = (&mut source, &client)
        && let Ok(end) = progress::wal_end(client).await
    {
        source.facts.server.wal_end = Some(end.lsn().to_string());
    }
    let absent = |name: &TableName| match (&target.facts, &target.listing) {
        (Some(facts), _) => facts.table(name).is_none(),
        (None, Some(listing)) => listing.tells(&name.schema) && listing.columns(name).is_none(),
        (None, None) => false,
    };
    if let (Ok(source), Some(client)) = (&mut source, &client)
        && source.tables.iter().any(|table| absent(&table.name))
    {
        source.script = crate::schema::sql(client, &ask.settings.tables.selection()).await.ok();
    }
    let readable = [".env".as_ref(), ask.file.as_path()].into_iter().filter_map(readable).collect();
    let listen = listen(&ask.settings).await;
    Case { settings: ask.settings, key: ask.key, readable, listen, source, target, source_addresses }
}

/// A file with secrets that others on this host may read.
fn readable(path: &Path) -> Option<(String, u32)> {
    let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
    let text = std::fs::read_to_string(path).ok()?;
    let secret = ["sb_secret_", "eyJ", "postgres://", "postgresql://", "TOKEN=", "token ="];
    let told = mode & 0o077 != 0 && secret.iter().any(|mark| text.contains(mark));
    told.then(|| (path.display().to_string(), mode))
}

async fn listen(settings: &Settings) -> Listen {
    let Err(fault) = http::bind(settings.http.listen).await else { return Listen::Free };
    let ask = async {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(2)).build()?;
        client.get(format!("http://{}/healthz", settings.http.listen)).send().await?.text().await
    };
    match ask.await {
        Ok(answer) if answer == "alive\n" => Listen::Ours,
        _ => Listen::Refused(fault),
    }
}

pub(super) fn source_url(ask: &Ask) -> Result<Url, Fault> {
    crate::app::preflight::source_url(&ask.settings)
}

async fn resolve(url: &Url) -> Vec<IpAddr> {
    let Host::Tcp(host) = &url.host else { return Vec::new() };
    let found = tokio::time::timeout(PATIENCE, tokio::net::lookup_host((host.as_str(), url.port))).await;
    found.ok().and_then(Result::ok).map_or(Vec::new(), |all| all.map(|address| address.ip()).collect())
}

/// For a name server that does not answer.
const PATIENCE: Duration = Duration::from_secs(10);

fn names(tables: &[Table]) -> Vec<TableName> {
    tables.iter().map(|table| table.name.clone()).collect()
}

async fn source(ask: &Ask, url: Url, keep: &mut Option<Client>) -> Result<Source, Fault> {
    let client = pg::connect(&url, "lockstep doctor").await?;
    let clock = clock(&client).await?;
    let (mut choice, mut tables, mut left_out) = (Vec::new(), Vec::new(), Vec::new());
    let by_journal = capturing::choose(&ask.settings, &client).await? == Kind::Journal;
    let selection = ask.settings.tables.selection();
    let mut survey = catalog::survey(&client, &selection).await;
    if let (true, Ok(found)) = (by_journal, &mut survey) {
        survey = match journal::sort_out(&client, found, &selection).await {
            Ok(()) => survey,
            Err(fault) => Err(fault),
        };
    }
    match survey {
        Ok(Survey { tables: found, left_out: others, .. }) => (tables, left_out) = (found, others),
        Err(fault) => choice.push(fault),
    }
    for (name, one) in &ask.settings.table {
        match tables.iter_mut().find(|table| table.name.to_string() == *name) {
            Some(table) => choice.extend(one.choose(table).err()),
            None if choice.is_empty() => choice.push(crate::config::not_chosen(name)),
            None => {}
        }
    }
    let mut restricted = restricted::read(&client, &ask.settings.source.publication).await?;
    restricted.retain(|one| tables.iter().any(|table| table.name == one.table));
    for one in &restricted {
        // A list that will not do is said by its own check, and the table looked at as a whole.
        tables.iter_mut().filter(|table| table.name == one.table).for_each(|table| _ = one.choose(table));
    }
    let request = json!({"slot": ask.settings.source.slot, "publication": ask.settings.source.publication,
        "route": ROUTE});
    let facts = facts(&client, &request, &names(&tables)).await?;
    let not_tables = not_tables(&client, &ask.settings).await?;
    let replication = replication(&url).await;
    let journal = match by_journal {
        true => Some(plan_of_journal(&client, &names(&tables), ask.settings.source.create).await),
        false => None,
    };
    *keep = Some(client);
    let script = None;
    Ok(Source { url, facts, clock, tables, left_out, restricted, not_tables, choice, replication, journal, script })
}

/// What the journal lacks; an error where somebody else must make it.
async fn plan_of_journal(client: &Client, tables: &[TableName], create: bool) -> Result<journal::Plan, Fault> {
    let plan = journal::plan(client, tables, None).await?;
    if create && !plan.statements.is_empty() {
        journal::allowed(client, tables).await?;
    }
    Ok(plan)
}

const NOT_TABLES: &str = "select n.nspname::text, c.relname::text, c.relkind::text \
     from pg_class c join pg_namespace n on n.oid = c.relnamespace \
     where c.relkind in ('f', 'm') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema' order by 1, 2";

async fn not_tables(client: &Client, settings: &Settings) -> Result<Vec<(TableName, &'static str)>, Fault> {
    let selection = settings.tables.selection();
    let rows = client.query(NOT_TABLES, &[]).await.map_err(|error| pg::client::fault(&error))?;
    let all = rows.iter().map(|row| {
        let kind = if row.get::<_, String>(2) == "f" { "foreign table" } else { "materialized view" };
        (TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)), kind)
    });
    Ok(all.filter(|(name, _)| selection.takes(name)).collect())
}

async fn replication(url: &Url) -> Result<System, Fault> {
    let mut connection = Connection::open(url, "lockstep doctor").await?;
    let system = connection.identify().await.map_err(|failure| failure.fault())?;
    connection.close().await;
    Ok(system)
}

async fn clock(client: &Client) -> Result<Clock, Fault> {
    let before = seconds();
    let now = "select extract(epoch from clock_timestamp())::float8";
    let row = client.query_one(now, &[]).await.map_err(|error| pg::client::fault(&error))?;
    Ok(Clock::read(row.get(0), before, seconds()))
}

fn seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// The door pins the same. Compiled, so large a statement would take seconds.
const PINNED: &str = "set jit = off; set search_path = pg_catalog, pg_temp; set datestyle = 'ISO, YMD'";

async fn facts(client: &Client, request: &Value, tables: &[TableName]) -> Result<Facts, Fault> {
    client.batch_execute(PINNED).await.map_err(|error| pg::client::fault(&error))?;
    let statement = client
        .prepare_typed(FACTS, &[tokio_postgres::types::Type::JSONB])
        .await
        .map_err(|error| pg::client::fault(&error))?;
    gather(request, tables, async |request| {
        let row = client.query_one(&statement, &[&JsonB(request)]).await.map_err(|error| pg::client::fault(&error))?;
        let JsonB(answer) = row.try_get(0).map_err(|error| pg::client::fault(&error))?;
        Ok::<_, Fault>(answer)
    })
    .await
    .and_then(|answer| read(answer, "the catalogs"))
}

/// A table's facts are about 2 kB, and an answer of a REST end is read up to 32 MiB.
const TABLES_AT_ONCE: usize = 500;

/// Asks for some tables at a time, and puts the answers together.
async fn gather<E>(
    request: &Value,
    tables: &[TableName],
    mut ask: impl AsyncFnMut(Value) -> Result<Value, E>,
) -> Result<Value, E> {
    let mut all: Option<Value> = None;
    let mut parts = tables.chunks(TABLES_AT_ONCE);
    let first = parts.next().unwrap_or(&[]);
    for part in std::iter::once(first).chain(parts) {
        let mut request = request.clone();
        request["tables"] = part.iter().map(|table| json!({"schema": table.schema, "name": table.name})).collect();
        let answer = ask(request).await?;
        match &mut all {
            None => all = Some(answer),
            Some(all) => {
                for list in ["tables", "types"] {
                    let more = answer[list].as_array().cloned().unwrap_or_default();
                    all[list].as_array_mut().into_iter().for_each(|list| list.extend(more.iter().cloned()));
                }
            }
        }
    }
    Ok(all.unwrap_or_default())
}

fn read(answer: Value, of: &str) -> Result<Facts, Fault> {
    serde_json::from_value(answer)
        .map_err(|error| Fault::stop(format!("{of} answer what is not ours: {error}"), crate::remedy::INSTALL))
}

async fn target(ask: &Ask, tables: &[TableName]) -> Target {
    let (rest, mut seen) = match (&ask.key, crate::app::preflight::client(&ask.settings)) {
        (Some(_), _) => {
            (Rest::NotSet(Trouble::unknown("without a key that may write it is not asked")), Seen::default())
        }
        (None, Err(fault)) => (Rest::NotSet(Trouble::fault(&fault)), Seen::default()),
        (None, Ok(client)) => through_rest(&client, tables).await,
    };
    let mut direct = None;
    if let Some(url) = &ask.target_url {
        let looked = directly(url, tables).await;
        direct = Some(looked.as_ref().map(|_| ()).map_err(Clone::clone));
        if let Ok((facts, clock)) = looked {
            (seen.facts, seen.clock) = (Some(facts), Some(clock));
        }
    }
    let Seen { facts, listing, exposed, clock } = seen;
    Target { rest, facts, listing, exposed, clock, direct }
}

#[derive(Default)]
struct Seen {
    facts: Option<Facts>,
    listing: Option<Listing>,
    exposed: Vec<(String, bool)>,
    clock: Option<Clock>,
}

async fn through_rest(client: &rest::Client, tables: &[TableName]) -> (Rest, Seen) {
    let mut seen = Seen::default();
    let request = json!({"slot": null, "publication": null, "route": ROUTE});
    let examine = async |request: Value| -> Result<Value, rest::Failure> {
        client.rpc("lockstep_examine", Body::Json(json!({"request": request}))).await
    };
    // Once for nothing: whether it answers, and its clock.
    let before = seconds();
    let first = examine(json!({"tables": [], "route": ROUTE})).await;
    let after = seconds();
    let rest = match first {
        Ok(answer) => {
            seen.clock = answer["server"]["now"].as_f64().map(|now| Clock::read(now, before, after));
            match gather(&request, tables, examine).await {
                Ok(answer) => match read(answer, "lockstep_examine in Supabase") {
                    Ok(facts) => {
                        seen.facts = Some(facts);
                        Rest::Works
                    }
                    Err(fault) => Rest::NotSet(Trouble::fault(&fault)),
                },
                Err(failure) => Rest::Failed(failure),
            }
        }
        Err(failure) => Rest::Failed(failure),
    };
    if !matches!(rest, Rest::Works) {
        describe(client, tables, &mut seen).await;
    }
    (rest, seen)
}

/// What PostgREST tells of the schemas, where our door does not answer.
async fn describe(client: &rest::Client, tables: &[TableName], seen: &mut Seen) {
    let schemas: BTreeSet<&str> = tables.iter().map(|table| table.schema.as_str()).chain(["public"]).collect();
    let mut listing = Listing::default();
    for schema in schemas {
        match client.describe(schema).await {
            Ok(description) => {
                listing.add(schema, &description);
                seen.exposed.push((schema.to_owned(), true));
            }
            Err(failure) if failure.code.as_deref() == Some("PGRST106") => {
                seen.exposed.push((schema.to_owned(), false));
            }
            Err(_) => return,
        }
    }
    seen.listing = Some(listing);
}

async fn directly(url: &Url, tables: &[TableName]) -> Result<(Facts, Clock), Fault> {
    let client = pg::connect(url, "lockstep doctor").await?;
    let clock = clock(&client).await?;
    let request = json!({"reader": "service_role", "route": ROUTE});
    let mut facts = facts(&client, &request, tables).await?;
    // Tried, not looked up: on Supabase a hook on the statement permits it.
    let suppress = "begin; set local session_replication_role = replica";
    facts.may_suppress = Some(client.batch_execute(suppress).await.is_ok());
    client.batch_execute("rollback").await.map_err(|error| pg::client::fault(&error))?;
    Ok((facts, clock))
}

/// `jsonb`, in either direction.
#[derive(Debug)]
struct JsonB(Value);

impl tokio_postgres::types::ToSql for JsonB {
    fn to_sql(
        &self,
        _: &tokio_postgres::types::Type,
        out: &mut bytes::BytesMut,
    ) -> Result<tokio_postgres::types::IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(&[1]); // the version of the format
        out.extend_from_slice(&serde_json::to_vec(&self.0)?);
        Ok(tokio_postgres::types::IsNull::No)
    }

    fn accepts(kind: &tokio_postgres::types::Type) -> bool {
        *kind == tokio_postgres::types::Type::JSONB
    }

    tokio_postgres::types::to_sql_checked!();
}

impl<'a> tokio_postgres::types::FromSql<'a> for JsonB {
    fn from_sql(
        _: &tokio_postgres::types::Type,
        raw: &'a [u8],
    ) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(serde_json::from_slice(raw.get(1..).unwrap_or_default())?))
    }

    fn accepts(kind: &tokio_postgres::types::Type) -> bool {
        *kind == tokio_postgres::types::Type::JSONB
    }
}
