//! A real Prometheus with our rules, in a hurry: it looks every second, and minutes in the rules become seconds.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use lockstep::lab::{Port, Temp};
use serde_json::Value;
use tokio::process::{Child, Command};

use super::super::rig::until;

pub struct Prometheus {
    _dir: Temp,
    _port: Port,
    child: Child,
    url: String,
    http: reqwest::Client,
}

/// One series at one time, or over time: its labels, and its values with their times.
pub struct Series {
    pub labels: Vec<(String, String)>,
    pub values: Vec<(f64, f64)>,
}

impl Series {
    pub fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(label, _)| label == name).map_or("", |(_, value)| value)
    }
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn program() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"));
    cache.join("lockstep/prometheus-2.42.0/usr/bin/prometheus")
}

/// What stands in the rules, and what becomes of it here. Each must be there, or the rules have changed.
const HURRY: [(&str, &str); 15] = [
    ("[10m]", "[8s]"),
    ("[15m]", "[20s]"),
    ("[30m]", "[20s]"),
    ("[1h]", "[60s]"),
    ("for: 2m", "for: 4s"),
    ("for: 5m", "for: 1s"),
    ("for: 10m", "for: 1s"),
    ("for: 15m", "for: 1s"),
    ("lockstep_lag_seconds > 300", "lockstep_lag_seconds > 4"),
    ("lockstep_reconcile_interval_seconds + 3600", "lockstep_reconcile_interval_seconds + 4"),
    ("timestamp_seconds > 600", "timestamp_seconds > 3"),
    ("lockstep_workflow_oldest_waiting_seconds > 900", "lockstep_workflow_oldest_waiting_seconds > 3"),
    ("> 67108864", "> 1048576"),
    ("lockstep_journal_open_transaction_seconds > 600", "lockstep_journal_open_transaction_seconds > 3"),
    ("lockstep_journal_bytes > 1073741824", "lockstep_journal_bytes > 1048576"),
];

/// Five seconds of an answer are too many for a short test.
const SLOW: (&str, &str) = ("[8s]))) > 5", "[8s]))) > 2");

impl Prometheus {
    /// Scrapes these addresses under these names.
    pub async fn start(port: Port, targets: &[(&str, String)]) -> Self {
        let program = program();
        assert!(program.exists(), "{} is missing: `make prometheus` gets it", program.display());
        let dir = Temp::new("prometheus").unwrap();
        let mut rules = std::fs::read_to_string(root().join("grafana/alerts/lockstep.rules.yml")).unwrap();
        for (from, to) in HURRY.into_iter().chain([SLOW]) {
            assert!(rules.contains(from), "the rules hold no `{from}` any more: follow them here");
            rules = rules.replace(from, to);
        }
        std::fs::write(dir.path().join("rules.yml"), rules).unwrap();
        let jobs: String = targets
            .iter()
            .map(|(name, address)| format!("      - targets: ['{address}']\n        labels: {{instance: '{name}'}}\n"))
            .collect();
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 500ms}}\n\
             rule_files: [rules.yml]\nscrape_configs:\n  - job_name: lockstep\n    static_configs:\n{jobs}"
        );
        std::fs::write(dir.path().join("prometheus.yml"), config).unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new(program)
            .arg(format!("--web.listen-address=127.0.0.1:{}", port.number()))
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=warn"])
            .current_dir(dir.path())
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let url = format!("http://127.0.0.1:{}", port.number());
        let http =
            reqwest::Client::builder().no_proxy().read_timeout(std::time::Duration::from_secs(30)).build().unwrap();
        until("Prometheus is ready", async || {
            http.get(format!("{url}/-/ready")).send().await.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
        Self { _dir: dir, _port: port, child, url, http }
    }

    async fn ask(&self, path: &str, query: &[(&str, String)]) -> Vec<Series> {
        let query: Vec<String> =
            query.iter().map(|(name, value)| format!("{name}={}", lockstep::rest::encoded(value))).collect();
        let url = format!("{}/api/v1/{path}?{}", self.url, query.join("&"));
        let answer = self.http.get(&url).send().await.unwrap().text().await.unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["status"], "success", "{url}: {answer}");
        let number = |value: &Value| value.as_str().unwrap().replace("Inf", "inf").parse::<f64>().unwrap();
        let pair = |pair: &Value| (pair[0].as_f64().unwrap(), number(&pair[1]));
        let series = |one: &Value| Series {
            labels: one["metric"]
                .as_object()
                .unwrap()
                .iter()
                .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
                .collect(),
            values: match one["values"].as_array() {
                Some(values) => values.iter().map(pair).collect(),
                None => vec![pair(&one["value"])],
            },
        };
        answer["data"]["result"].as_array().unwrap().iter().map(series).collect()
    }

    /// What a query gives now.
    pub async fn now(&self, query: &str) -> Vec<Series> {
        self.ask("query", &[("query", query.into())]).await
    }

    /// What it gave, second by second, since `from`.
    pub async fn since(&self, from: f64, query: &str) -> Vec<Series> {
        let now = jiff::Timestamp::now().as_millisecond() as f64 / 1e3;
        let range =
            [("query", query.into()), ("start", from.to_string()), ("end", now.to_string()), ("step", "1".into())];
        self.ask("query_range", &range).await
    }

    /// Names of the alerts that fire, or have ever fired, for an instance.
    pub async fn fired(&self, instance: &str, ever: bool) -> Vec<String> {
        let alerts = format!("ALERTS{{alertstate=\"firing\", instance=\"{instance}\"}}");
        let query = if ever { format!("count_over_time({alerts}[10m])") } else { alerts };
        let found = self.now(&query).await;
        let mut names: Vec<String> = found.iter().map(|series| series.label("alertname").to_owned()).collect();
        names.sort();
        names.dedup();
        names
    }

    pub async fn fires(&self, instance: &str, alerts: &[&str]) {
        let mut missing: Vec<&&str> = Vec::new();
        let deadline = std::time::Instant::now() + super::super::rig::PATIENCE;
        loop {
            let firing = self.fired(instance, true).await;
            missing.clear();
            missing.extend(alerts.iter().filter(|alert| !firing.iter().any(|name| name == *alert)));
            if missing.is_empty() {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "{missing:?} never fired for {instance}; {firing:?} did");
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}
