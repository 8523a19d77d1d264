//! Every panel asks for metrics that exist, says what it shows, in which unit, and leads to the runbook; and every
//! metric is on a panel or in an alert.

use std::collections::BTreeSet;

use lockstep::metrics::ALL;
use serde_json::Value;

use super::alerts::alerts;
use super::{declared, metrics_of, none, read, wrong_with};

pub const BOARDS: [&str; 3] = ["overview", "tables", "internals"];

fn board(name: &str) -> Value {
    serde_json::from_str(&read(&format!("grafana/dashboards/{name}.json"))).unwrap()
}

/// Every panel that shows data: (dashboard, title, panel).
fn panels() -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for name in BOARDS {
        for panel in board(name)["panels"].as_array().unwrap() {
            if panel["type"] != "row" {
                all.push((format!("{name}: {}", panel["title"].as_str().unwrap()), panel.clone()));
            }
        }
    }
    all
}

fn queries(panel: &Value) -> Vec<String> {
    let targets = panel["targets"].as_array().cloned().unwrap_or_default();
    targets.iter().map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_metric_is_shown_and_everything_shown_is_a_metric() {
    let mut used = BTreeSet::new();
    let mut wrong = Vec::new();
    for (title, panel) in panels() {
        for query in queries(&panel) {
            used.extend(metrics_of(&query).iter().filter_map(|name| declared(name)).map(|entry| entry.name));
            wrong.extend(wrong_with(&query).into_iter().map(|what| format!("{title}: {what}")));
        }
    }
    for alert in alerts() {
        used.extend(metrics_of(&alert.expr).iter().filter_map(|name| declared(name)).map(|entry| entry.name));
    }
    let unseen = ALL.iter().filter(|entry| !used.contains(entry.name));
    wrong.extend(unseen.map(|entry| format!("{} is on no panel and in no alert", entry.name)));
    none(wrong);
}

#[test]
fn every_panel_says_what_it_shows_in_which_unit_and_where_to_read_on() {
    let runbook = read("docs/runbook.md");
    let mut wrong = Vec::new();
    let all = panels();
    assert!(all.len() > 50, "only {} panels were found", all.len());
    for (title, panel) in all {
        let text = |pointer: &str| panel.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_owned();
        if text("/description").len() < 10 {
            wrong.push(format!("{title} has no description"));
        }
        if text("/fieldConfig/defaults/unit").is_empty() {
            wrong.push(format!("{title} has no unit"));
        }
        if panel.pointer("/fieldConfig/defaults/thresholds/steps").is_none() {
            wrong.push(format!("{title} has no thresholds"));
        }
        let url = text("/links/0/url");
        let section = url.strip_prefix("http://${instance}/runbook#").unwrap_or("");
        if section.is_empty() || !runbook.contains(&format!("\n## {section}\n")) {
            wrong.push(format!("{title} links to `{url}`, which is no section of the runbook"));
        }
    }
    none(wrong);
}

#[test]
fn every_dashboard_can_be_provisioned_chosen_from_and_compared() {
    let (mut uids, mut wrong) = (BTreeSet::new(), Vec::new());
    for name in BOARDS {
        let board = board(name);
        assert!(uids.insert(board["uid"].as_str().unwrap().to_owned()), "{name}: its uid is taken");
        assert!(board["schemaVersion"].as_i64().unwrap() >= 39, "{name}");
        assert!(board.get("id").is_none(), "{name}: an id belongs to one Grafana");
        let variables = board["templating"]["list"].as_array().unwrap();
        let names: BTreeSet<&str> = variables.iter().map(|variable| variable["name"].as_str().unwrap()).collect();
        for variable in ["datasource", "instance", "route"] {
            assert!(names.contains(variable), "{name} has no variable {variable}");
        }
        let ids: Vec<i64> =
            board["panels"].as_array().unwrap().iter().map(|panel| panel["id"].as_i64().unwrap()).collect();
        let distinct: BTreeSet<&i64> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len(), "{name}: two panels have one id");
        for variable in variables {
            let query = variable["query"]["query"].as_str().unwrap_or("");
            wrong.extend(wrong_with(query).into_iter().map(|what| format!("{name}, a variable: {what}")));
        }
        let longest = read(&format!("grafana/dashboards/{name}.json"))
            .lines()
            .filter(|line| !line.contains("description"))
            .map(str::len)
            .max();
        assert!(longest.unwrap() < 400, "{name} is not written so that a difference can be read");
        for variable in ["instance", "route", "table"] {
            let asked = format!("${variable}");
            let used = board.to_string().contains(&asked) || board.to_string().contains(&format!("${{{variable}}}"));
            if used != names.contains(variable) {
                wrong.push(format!("{name}: variable {variable} is used and not there, or there and not used"));
            }
        }
    }
    assert!(board("tables")["templating"].to_string().contains("\"table\""));
    none(wrong);
}
