//! Whether a project with this address and key would do, as a list from the outside in: each line says what was looked at
//! and, where it fails, what mends it. What fails makes those behind it `skipped`: they could not be told.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::net::TcpStream;
use url::{Host, Url};

use crate::config::{ProjectUrl, Settings};
use crate::doctor::{Ask, Finding, Level, examine};
use crate::ledger::install;
use crate::types::{ApiKey, ApiKeyKind};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Ok,
    Warn,
    Fail,
    Skipped,
}

#[derive(Clone, Debug, Serialize)]
pub struct Check {
    pub code: &'static str,
    pub title: &'static str,
    pub state: State,
    pub line: String,
    pub fix: Option<String>,
    /// To paste into Supabase's SQL editor.
    pub sql: Option<String>,
}

impl Check {
    fn new(code: &'static str, title: &'static str, state: State, line: impl Into<String>) -> Self {
        Self { code, title, state, line: line.into(), fix: None, sql: None }
    }

    fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    fn passes(&self) -> bool {
        matches!(self.state, State::Ok | State::Warn)
    }
}

/// For a name server or a host that does not answer.
const PATIENCE: Duration = Duration::from_secs(8);
/// For all that is asked once the project answers; a person waits for it.
const LONG: Duration = Duration::from_secs(40);

pub async fn run(mut settings: Settings, file: PathBuf, url: &str, key: &str) -> Vec<Check> {
    let (address, project) = address(url, settings.supabase.allow_http);
    let mut checks = vec![address];
    match &project {
        Some(project) => checks.extend(reach(project.as_url(), &settings).await),
        None => checks.extend(OUTSIDE.map(|(code, title)| skipped(code, title))),
    }
    let (kind, key) = kind(key);
    checks.push(kind);
    let reached = checks.iter().all(Check::passes);
    match (project, key) {
        (Some(project), Some(key)) if reached => {
            (settings.supabase.url, settings.supabase.key) = (Some(project), Some(key));
            let ask = Ask { settings, key: None, target_url: None, file };
            match tokio::time::timeout(LONG, examine(ask)).await {
                Ok(report) => {
                    for part in INSIDE {
                        // Of a project that does not let us in, nothing more is known.
                        let inside = checks.iter().all(|check| check.code != "role" || check.passes());
                        let check = if inside { part.judge(&report.findings) } else { skipped(part.code, part.title) };
                        checks.push(check);
                    }
                }
                Err(_) => {
                    let said = format!("no answer within {} s", LONG.as_secs());
                    checks.push(Check::new(INSIDE[0].code, INSIDE[0].title, State::Fail, said));
                    checks.extend(INSIDE[1..].iter().map(|part| skipped(part.code, part.title)));
                }
            }
        }
        _ => checks.extend(INSIDE.iter().map(|part| skipped(part.code, part.title))),
    }
    checks
}

const OUTSIDE: [(&str, &str); 2] = [("dns", "Name"), ("tls", "Connection")];

fn skipped(code: &'static str, title: &'static str) -> Check {
    Check::new(code, title, State::Skipped, "not looked at: something before it is to be mended first")
}

fn address(url: &str, allow_http: bool) -> (Check, Option<ProjectUrl>) {
    let check = |state, line: String| Check::new("address", "Address", state, line);
    match ProjectUrl::parse(url) {
        Err(cause) => (check(State::Fail, cause).fix("copy it from Project Settings > Data API"), None),
        Ok(url) if url.is_exposed() && !allow_http => {
            let cause = check(State::Fail, format!("{url} would carry the key unencrypted"));
            (cause.fix("write https://, or set SUPABASE_ALLOW_HTTP=true where the way there is trusted"), None)
        }
        Ok(url) if url.is_exposed() => {
            (check(State::Warn, format!("{url}, and the key travels unencrypted")).fix("write https://"), Some(url))
        }
        Ok(url) => (check(State::Ok, url.to_string()), Some(url)),
    }
}

/// Name, connection, TLS: without the key.
async fn reach(url: &Url, settings: &Settings) -> [Check; 2] {
    let [dns, tls] = OUTSIDE;
    let port = url.port_or_known_default().unwrap_or(443);
    let (name, host) = match url.host() {
        Some(Host::Domain(name)) => (Some(name), name.to_owned()),
        Some(Host::Ipv4(ip)) => (None, ip.to_string()),
        Some(Host::Ipv6(ip)) => (None, ip.to_string()),
        None => (None, String::new()),
    };
    let found = tokio::time::timeout(PATIENCE, tokio::net::lookup_host((host.as_str(), port))).await;
    let addresses: Vec<_> = match found {
        Ok(Ok(found)) => found.collect(),
        _ => Vec::new(),
    };
    if addresses.is_empty() {
        let cause = Check::new(dns.0, dns.1, State::Fail, format!("there is no host {host}"));
        let fix = "look for a slip in the project's name; a project that was deleted or is paused has no name";
        return [cause.fix(fix), skipped(tls.0, tls.1)];
    }
    let known = match name {
        Some(name) => format!("{name} is {}", addresses[0].ip()),
        None => "an address, not a name".into(),
    };
    let known = Check::new(dns.0, dns.1, State::Ok, known);
    let connect = async {
        let mut last = None;
        for address in addresses.iter().take(4) {
            match TcpStream::connect(address).await {
                Ok(_) => return Ok(()),
                Err(error) => last = Some(error.to_string()),
            }
        }
        Err(last.unwrap_or_default())
    };
    let connected = tokio::time::timeout(PATIENCE, connect).await.unwrap_or_else(|_| Err("no answer".into()));
    if let Err(cause) = connected {
        let cause = Check::new(tls.0, tls.1, State::Fail, format!("{host}:{port} cannot be reached: {cause}"));
        let fix = "look whether the project is paused, and whether a firewall lets this host out";
        return [known, cause.fix(fix)];
    }
    [known, encrypted(url, settings).await]
}

async fn encrypted(url: &Url, settings: &Settings) -> Check {
    let check = |state, line: String| Check::new("tls", "Connection", state, line);
    if url.scheme() == "http" {
        return check(State::Ok, "it answers (plain http)".into());
    }
    let pem = match settings.supabase.ca_pem() {
        Ok(pem) => pem,
        Err(fault) => return check(State::Fail, fault.to_string()),
    };
    let mut client = reqwest::Client::builder().timeout(PATIENCE).redirect(reqwest::redirect::Policy::none());
    for certificate in pem.and_then(|pem| reqwest::Certificate::from_pem_bundle(&pem).ok()).unwrap_or_default() {
        client = client.add_root_certificate(certificate);
    }
    let asked = match client.build() {
        Ok(client) => client.head(url.clone()).send().await,
        Err(error) => Err(error),
    };
    match asked {
        Ok(_) => check(State::Ok, "encrypted, and the certificate is the host's".into()),
        Err(error) => {
            let cause = deepest(&error);
            check(State::Fail, format!("TLS does not come about: {cause}")).fix(
                "behind a private authority set SUPABASE_CA_FILE to its certificate; otherwise somebody is in between",
            )
        }
    }
}

/// The last of an error's causes says what it was.
fn deepest(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

/// A key that ends soon is to be changed while there is time.
const SOON: i64 = 30 * 86_400;

fn kind(key: &str) -> (Check, Option<ApiKey>) {
    let check = |state, line: String| Check::new("key", "Kind of key", state, line);
    let now = Timestamp::now();
    let key = match ApiKey::parse(key, now) {
        Ok(key) => key,
        Err(cause) => return (check(State::Fail, cause).fix("take a secret key: Project Settings > API Keys"), None),
    };
    let said = match key.kind() {
        ApiKeyKind::Secret => check(State::Ok, "a secret key".into()),
        ApiKeyKind::ServiceJwt { expires: Some(at) } if at.as_second() - now.as_second() < SOON => {
            check(State::Warn, format!("a service_role key that expires at {at}"))
                .fix("take a secret key (sb_secret_…), which does not expire")
        }
        ApiKeyKind::ServiceJwt { .. } => check(State::Ok, "a service_role key".into()),
    };
    (said, Some(key))
}

/// What the doctor looks at, gathered into one line.
struct Part {
    code: &'static str,
    title: &'static str,
    /// The doctor's codes.
    of: &'static [&'static str],
    well: &'static str,
}

const INSIDE: [Part; 6] = [
    Part { code: "role", title: "Role", of: &["target-reach", "target-key"], well: "the project takes the key" },
    Part { code: "schema", title: "Exposed schema", of: &["exposed"], well: "the schemas that are needed are served" },
    Part {
        code: "sql",
        title: "Our SQL",
        of: &["installed", "installed-version"],
        well: "installed, in the version of this program",
    },
    Part {
        code: "version",
        title: "Version",
        of: &["target-server", "target-read-only", "target-encoding"],
        well: "PostgreSQL 14 or newer, which takes writes",
    },
    Part {
        code: "grants",
        title: "Rights",
        of: &["doors-closed", "doors-settings", "target-rights", "owner-rights", "target-rls"],
        well: "service_role may write every table, and nobody else may call our functions",
    },
    Part {
        code: "tables",
        title: "Tables",
        of: &[
            "table-missing",
            "column-missing",
            "column-type",
            "column-required",
            "column-generated",
            "key",
            "occupied",
            "another-source",
        ],
        well: "every chosen table is there with its columns",
    },
];

/// Statements that are shown; more of them are a script of their own (`lockstep doctor` has all).
const SQL_BYTES: usize = 256 << 10;

impl Part {
    fn judge(&self, findings: &[Finding]) -> Check {
        let of = |finding: &&Finding| self.of.contains(&finding.code);
        let mut troubles: Vec<&Finding> =
            findings.iter().filter(of).filter(|finding| finding.level != Level::Ok).collect();
        // The worst is said, and of those the first.
        troubles.sort_by_key(|finding| std::cmp::Reverse(finding.level));
        let Some(worst) = troubles.first() else {
            return Check::new(self.code, self.title, State::Ok, self.well);
        };
        let state = match worst.level {
            Level::Bad => State::Fail,
            Level::Warn => State::Warn,
            Level::Ok | Level::Unknown => State::Skipped,
        };
        let told = troubles.iter().filter(|finding| finding.level > Level::Unknown).count();
        let more = if told > 1 { format!(" (and {} more)", told - 1) } else { String::new() };
        let mut sql: Vec<&str> = Vec::new();
        for finding in &troubles {
            for statement in finding.fix.iter().flat_map(|fix| &fix.sql) {
                // One script makes all tables: it is everyone's fix.
                let bytes: usize = sql.iter().map(|known| known.len()).sum();
                if !sql.contains(&statement.as_str()) && bytes + statement.len() <= SQL_BYTES {
                    sql.push(statement);
                }
            }
        }
        let mut check = Check::new(self.code, self.title, state, format!("{}{more}", worst.what));
        check.fix = worst.fix.as_ref().map(|fix| fix.text.clone());
        check.sql = (!sql.is_empty()).then(|| sql.iter().map(|one| ended(one)).collect::<Vec<_>>().join("\n"));
        if self.code == "sql" && told > 0 {
            check.fix = Some("run the SQL in Supabase's SQL editor".into());
            check.sql = Some(install::script());
        }
        check
    }
}

fn ended(sql: &str) -> String {
    let sql = sql.trim_end();
    if sql.ends_with(';') { sql.to_owned() } else { format!("{sql};") }
}
