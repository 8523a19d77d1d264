//! Every query of every dashboard, asked as Grafana asks it.

use serde_json::Value;

use super::prometheus::{Prometheus, root};

pub const BOARDS: [&str; 3] = ["overview", "tables", "internals"];

pub struct Panel {
    pub title: String,
    pub kind: String,
    pub unit: String,
    pub at: [i64; 4],
    /// Queries with their legends.
    pub queries: Vec<(String, String)>,
}

pub fn board(name: &str) -> Vec<Panel> {
    let text = std::fs::read_to_string(root().join(format!("grafana/dashboards/{name}.json"))).unwrap();
    let board: Value = serde_json::from_str(&text).unwrap();
    let panels = board["panels"].as_array().unwrap().iter();
    panels
        .map(|panel| {
            let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
            let targets = panel["targets"].as_array().cloned().unwrap_or_default();
            Panel {
                title: text(&panel["title"]),
                kind: text(&panel["type"]),
                unit: text(&panel["fieldConfig"]["defaults"]["unit"]),
                at: ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_i64().unwrap()),
                queries: targets.iter().map(|one| (text(&one["expr"]), text(&one["legendFormat"]))).collect(),
            }
        })
        .collect()
}

/// As Grafana fills in its variables.
pub fn filled(query: &str, instance: &str) -> String {
    let query = query.replace("$instance", instance).replace("$route", "to_supabase").replace("$table", ".*");
    query.replace("$__rate_interval", "10s").replace("[1h]", "[1m]")
}

pub fn alerts() -> Vec<String> {
    let rules = std::fs::read_to_string(root().join("grafana/alerts/lockstep.rules.yml")).unwrap();
    rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).map(str::to_owned).collect()
}

pub async fn all_show_something(prometheus: &Prometheus, began: f64) {
    let mut wrong = Vec::new();
    let mut asked = 0;
    for name in BOARDS {
        for panel in board(name) {
            for (query, _) in panel.queries {
                asked += 1;
                // Only where triggers capture is there a journal.
                let instance = if query.contains("lockstep_journal_") { "journal" } else { "faults" };
                let found = prometheus.since(began, &filled(&query, instance)).await;
                if found.is_empty() {
                    wrong.push(format!("{name}, {}: nothing for {query}", panel.title));
                }
                if found.iter().any(|series| series.values.iter().any(|(_, value)| value.is_nan())) {
                    wrong.push(format!("{name}, {}: NaN for {query}", panel.title));
                }
            }
        }
    }
    assert!(asked > 60, "only {asked} queries were found");
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}
