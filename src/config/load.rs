//! Puts the layers together: file, `.env`, environment. `read` is pure; `load` fetches the layers and calls it.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Duration;

use secrecy::ExposeSecret;
use toml::{Table, Value};

use super::names::{SETTINGS, Setting, find, nearest};
use super::problem::Problem;
use super::settings::Settings;
use crate::scheduler::Timetable;

/// What the settings are made of. Later ones win: file, credentials, `.env`, environment.
#[derive(Default)]
pub struct Layers {
    /// Name and text of the settings file, if there is one.
    pub file: Option<(String, String)>,
    /// The text of `lockstep.env` among systemd's credentials, if there is one: secrets that lie in no readable file.
    pub credentials: Option<String>,
    /// The text of `.env`, if there is one.
    pub dotenv: Option<String>,
    pub env: HashMap<String, String>,
}

/// Reads the settings of this process: the file at `path` (which must exist when it was asked for; without one,
/// `lockstep.toml` in the working directory is read if it is there), `.env` there, and the environment.
pub fn load(path: Option<&Path>) -> Result<Settings, Problem> {
    read(&layers(path)?)
}

/// The same without one setting, for who looks at what is wrong with it.
pub fn load_without(path: Option<&Path>, key: &str) -> Result<Settings, Problem> {
    build(&layers(path)?, Some(key))
}

/// The layers of this process, unread.
pub fn layers(path: Option<&Path>) -> Result<Layers, Problem> {
    let file = path.unwrap_or(Path::new("lockstep.toml"));
    let text = optional(file)?;
    if let (None, Some(path)) = (&text, path) {
        return Err(Problem::new(path.display().to_string(), "there is no such file"));
    }
    Ok(Layers {
        file: text.map(|text| (file.display().to_string(), text)),
        credentials: credentials()?,
        dotenv: optional(Path::new(".env"))?,
        // A variable that is not UTF-8 cannot be one of ours.
        env: std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect(),
    })
}

/// systemd lays credentials into a folder that only the service sees (`LoadCredential=lockstep.env:…`).
fn credentials() -> Result<Option<String>, Problem> {
    let folder = std::env::var_os("CREDENTIALS_DIRECTORY").filter(|folder| !folder.is_empty());
    folder.map_or(Ok(None), |folder| optional(&Path::new(&folder).join(CREDENTIALS)))
}

const CREDENTIALS: &str = "lockstep.env";

fn optional(path: &Path) -> Result<Option<String>, Problem> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Problem::new(path.display().to_string(), format!("cannot be read: {error}"))),
    }
}

/// Merges the layers and checks the whole.
pub fn read(layers: &Layers) -> Result<Settings, Problem> {
    build(layers, None)
}

fn build(layers: &Layers, without: Option<&str>) -> Result<Settings, Problem> {
    let file = layers.file.as_ref().map_or("lockstep.toml", |(name, _)| name.as_str());
    let mut tree = match &layers.file {
        Some((name, text)) => parse(name, text)?,
        None => Table::new(),
    };
    unknown(file, &tree, &mut Vec::new())?;
    let mut places = BTreeMap::new();
    for (name, text) in [(CREDENTIALS, &layers.credentials), (".env", &layers.dotenv)] {
        let found = text.as_deref().map(|text| parse_dotenv(name, text)).transpose()?.unwrap_or_default();
        overlay(&mut tree, &mut places, &found, name)?;
    }
    overlay(&mut tree, &mut places, &layers.env, "the environment")?;
    if let Some((section, name)) = without.and_then(|key| key.split_once('.'))
        && let Some(Value::Table(section)) = tree.get_mut(section)
    {
        section.remove(name);
    }
    let place = |key: &str| places.get(key).cloned().unwrap_or_else(|| format!("{key} in {file}"));

    let settings: Settings = serde_path_to_error::deserialize(Value::Table(tree))
        .map_err(|error| Problem::new(place(&error.path().to_string()), error.inner().message()))?;
    check(&settings).map_err(|(key, cause)| Problem::new(place(key), cause))?;
    Ok(settings)
}

/// A syntax error is shown by its line's number, never by the line: that may hold a key.
fn parse(name: &str, text: &str) -> Result<Table, Problem> {
    text.parse::<Table>().map_err(|error| {
        let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        Problem::new(format!("{name}, line {line}"), error.message())
    })
}

fn parse_dotenv(file: &str, text: &str) -> Result<HashMap<String, String>, Problem> {
    let mut found = HashMap::new();
    for item in dotenvy::from_read_iter(text.as_bytes()) {
        let (name, value) = item.map_err(|error| match error {
            dotenvy::Error::LineParse(bad, _) => {
                let line = text.lines().position(|line| line.contains(bad.trim()) && !bad.trim().is_empty());
                let line = line.map_or(String::new(), |line| format!(", line {}", line + 1));
                Problem::new(format!("{file}{line}"), "is not NAME=value; put quotes around a value with spaces")
            }
            _ => Problem::new(file, "cannot be read"),
        })?;
        // In our own file a misspelt name is a mistake. In the environment it may be anybody's: Kubernetes, for one,
        // sets LOCKSTEP_PORT beside a service that is called lockstep.
        let ours = SETTINGS.iter().filter_map(|setting| setting.env).chain(["LOCKSTEP_CONFIG"]);
        if name.starts_with("LOCKSTEP_") && !ours.clone().any(|known| known == name) {
            let hint = nearest(&name, ours).map_or(String::new(), |near| format!("; did you mean {near}?"));
            return Err(Problem::new(format!("{name} in {file}"), format!("there is no such setting{hint}")));
        }
        found.insert(name, value);
    }
    Ok(found)
}

/// Refuses the first key that no setting has.
fn unknown(file: &str, tree: &Table, path: &mut Vec<String>) -> Result<(), Problem> {
    for (name, value) in tree {
        path.push(name.clone());
        let parts: Vec<&str> = path.iter().map(String::as_str).collect();
        let depth = parts.len();
        // Names that are possible here: the settings that share the way down to this point.
        let siblings: Vec<&str> = SETTINGS
            .iter()
            .filter_map(|setting| {
                let mut names = setting.key.split('.');
                let above = names.by_ref().take(depth - 1).zip(&parts).all(|(a, b)| a == "*" || a == *b);
                above.then(|| names.next()).flatten()
            })
            .collect();
        if !siblings.iter().any(|sibling| *sibling == "*" || sibling == name) {
            let hint = match elsewhere(name).or_else(|| nearest(name, siblings)) {
                Some(near) => format!("; did you mean `{near}`?"),
                None => String::new(),
            };
            return Err(Problem::new(
                format!("{} in {file}", parts.join(".")),
                format!("there is no such setting{hint}"),
            ));
        }
        match value {
            Value::Table(inner) if find(&parts).is_none() => unknown(file, inner, path)?,
            _ if find(&parts).is_none() => {
                return Err(Problem::new(format!("{} in {file}", parts.join(".")), "this is a section, not a value"));
            }
            _ => {}
        }
        path.pop();
    }
    Ok(())
}

/// The full path of a setting that was written in the wrong section.
fn elsewhere(name: &str) -> Option<&'static str> {
    SETTINGS.iter().map(|setting| setting.key).find(|key| key.rsplit('.').next() == Some(name))
}

/// Puts the variables over the tree, and notes where each value came from. An empty variable counts as not set: that
/// is what compose files pass for one that is missing.
fn overlay(
    tree: &mut Table,
    places: &mut BTreeMap<String, String>,
    variables: &HashMap<String, String>,
    from: &str,
) -> Result<(), Problem> {
    for Setting { key, env, switch } in SETTINGS {
        let Some((env, text)) = env.and_then(|env| variables.get_key_value(env)) else { continue };
        if text.trim().is_empty() {
            continue;
        }
        let place = format!("{env} in {from}");
        let value = match (switch, text.trim().to_ascii_lowercase().as_str()) {
            (false, _) => Value::String(text.clone()),
            (true, "true" | "1" | "yes" | "on") => Value::Boolean(true),
            (true, "false" | "0" | "no" | "off") => Value::Boolean(false),
            (true, _) => return Err(Problem::new(place, "is neither true nor false")),
        };
        let (section, name) = key.split_once('.').unwrap_or(("", key));
        let section = tree.entry(section).or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(section) = section {
            section.insert(name.to_owned(), value);
        }
        places.insert((*key).to_owned(), place);
    }
    Ok(())
}

/// Rules that no single value can break, and the bounds of numbers: `(setting, cause)`.
fn check(settings: &Settings) -> Result<(), (&'static str, String)> {
    let Settings { supabase, tables, apply, copy, schedule, retry, http, shutdown, .. } = settings;
    if let Some(url) = supabase.url.as_ref().filter(|url| url.is_exposed() && !supabase.allow_http) {
        let cause = format!("{url} would carry the key unencrypted; use https, or set SUPABASE_ALLOW_HTTP=true");
        return Err(("supabase.url", cause));
    }
    if !http.listen.ip().is_loopback() && http.token.is_none() {
        let cause =
            format!("{} can be reached from other hosts; set LOCKSTEP_TOKEN, or listen on 127.0.0.1", http.listen);
        return Err(("http.listen", cause));
    }
    if let Some(read) = &http.read_token {
        let same = http.token.as_ref().map(|token| token.expose_secret() == read.expose_secret());
        let cause = match same {
            None => "alone it would keep nobody from anything; set LOCKSTEP_TOKEN too",
            Some(true) => "is the same as LOCKSTEP_TOKEN, so that it would open everything; make another one",
            Some(false) => "",
        };
        if !cause.is_empty() {
            return Err(("http.read_token", cause.into()));
        }
    }
    if tables.schemas.is_empty() {
        return Err(("tables.schemas", "names no schema, so nothing would be replicated".into()));
    }
    for (key, names) in [("tables.include", &tables.include), ("tables.exclude", &tables.exclude)] {
        if let Some(bad) = names.iter().find(|name| !name.contains('.')) {
            return Err((key, format!("`{bad}` names no schema; write `public.{bad}`")));
        }
    }
    if let Some(bad) = settings.table.keys().find(|name| !name.contains('.')) {
        return Err(("table", format!("[table.\"{bad}\"] names no schema; write [table.\"public.{bad}\"]")));
    }
    timetables(settings)?;
    // The hard limits: below, the overhead of a request outweighs its rows; above, memory and Supabase's own limits.
    within("apply.max_batch_bytes", apply.max_batch_bytes, 16 << 10, 64 << 20)?;
    within("apply.queue_bytes", apply.queue_bytes, 1 << 20, 1 << 30)?;
    // Its upper limit: the function in Supabase has two minutes.
    within("apply.whole_bytes", apply.whole_bytes, 64 << 10, 512 << 20)?;
    if !(1..=1_000_000).contains(&apply.park_rows) {
        return Err(("apply.park_rows", format!("{} is outside 1 to 1000000", apply.park_rows)));
    }
    within("copy.chunk_bytes", copy.chunk_bytes, 16 << 10, 64 << 20)?;
    workflows(settings)?;
    lasts("supabase.timeout", supabase.timeout, 1, 600)?;
    lasts("schedule.jitter", schedule.jitter, 0, 3600)?;
    lasts("retry.look_again", retry.look_again, 1, 3600)?;
    lasts("http.in_step_within", http.in_step_within, 1, 86_400)?;
    lasts("shutdown.deadline", shutdown.deadline, 1, 600)
}

fn workflows(settings: &Settings) -> Result<(), (&'static str, String)> {
    let Settings { workflows, webhook, .. } = settings;
    if let Some(cause) = workflows.allow.iter().find_map(|text| text.parse::<crate::workflows::Allowed>().err()) {
        return Err(("workflows.allow", cause));
    }
    let counts = [
        ("workflows.attempts", u64::from(workflows.attempts), 1000),
        ("workflows.concurrency", workflows.concurrency as u64, 256),
        ("workflows.per_workflow", workflows.per_workflow as u64, 256),
        ("workflows.per_second", u64::from(workflows.per_second), 10_000),
        ("webhook.per_second", u64::from(webhook.per_second), 10_000),
    ];
    if let Some((key, count, most)) = counts.iter().find(|(_, count, most)| !(1..=*most).contains(count)) {
        return Err((key, format!("{count} is outside 1 to {most}")));
    }
    if !(256..=1 << 20).contains(&workflows.kept_bytes) {
        return Err(("workflows.kept_bytes", format!("{} is outside 256 bytes to 1 MiB", workflows.kept_bytes)));
    }
    within("webhook.max_bytes", webhook.max_bytes, 1 << 10, 16 << 20)?;
    lasts("workflows.timeout", workflows.timeout, 1, 300)?;
    lasts("workflows.max_wait", workflows.max_wait, 1, 86_400)?;
    if workflows.first_wait > workflows.max_wait || workflows.first_wait < Duration::from_millis(100) {
        let cause = format!("{:?} is outside 100 ms to workflows.max_wait", workflows.first_wait);
        return Err(("workflows.first_wait", cause));
    }
    lasts("workflows.keep", workflows.keep, 60, 10 * 365 * 86_400)
}

/// A timetable that nobody can read is found at the start, not at the hour at which nothing happens.
fn timetables(settings: &Settings) -> Result<(), (&'static str, String)> {
    let schedule = &settings.schedule;
    crate::scheduler::zone(&schedule.timezone).map_err(|cause| ("schedule.timezone", cause))?;
    Timetable::parse(&schedule.reconcile, &schedule.timezone).map_err(|cause| ("schedule.reconcile", cause))?;
    for (name, one) in &settings.table {
        let Some(own) = &one.reconcile else { continue };
        Timetable::parse(own, &schedule.timezone)
            .map_err(|cause| ("table", format!("[table.\"{name}\"] reconcile: {cause}")))?;
    }
    Ok(())
}

fn within(key: &'static str, bytes: usize, least: usize, most: usize) -> Result<(), (&'static str, String)> {
    match (least..=most).contains(&bytes) {
        true => Ok(()),
        false => Err((key, format!("{bytes} bytes are outside {} KiB to {} MiB", least >> 10, most >> 20))),
    }
}

fn lasts(key: &'static str, time: Duration, least: u64, most: u64) -> Result<(), (&'static str, String)> {
    match (Duration::from_secs(least)..=Duration::from_secs(most)).contains(&time) {
        true => Ok(()),
        false => Err((key, format!("{time:?} is outside {least} s to {most} s"))),
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
