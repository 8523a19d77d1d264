//! Every alert names metrics that exist, gives its reason, and has a section in the runbook and a test.

use std::collections::BTreeSet;

use super::{none, read, wrong_with};

pub const RULES: &str = "grafana/alerts/lockstep.rules.yml";

#[derive(Debug, Default)]
pub struct Alert {
    pub name: String,
    pub expr: String,
    pub severity: String,
    pub reason: bool,
    pub runbook: String,
}

/// The alerts of the rules file; promtool reads it as Prometheus does, here its plain form is enough.
pub fn alerts() -> Vec<Alert> {
    let mut all: Vec<Alert> = Vec::new();
    let mut in_expr = false;
    for line in read(RULES).lines() {
        let text = line.trim();
        let value = |key: &str| text.strip_prefix(key).map(|rest| rest.trim().trim_matches('"').to_owned());
        if let Some(name) = value("- alert:") {
            all.push(Alert { name, ..Alert::default() });
        }
        let Some(alert) = all.last_mut() else { continue };
        in_expr = in_expr && line.starts_with("          ");
        if in_expr {
            alert.expr += &format!(" {text}");
        }
        if let Some(expr) = value("expr:") {
            in_expr = expr == ">-";
            alert.expr = if in_expr { String::new() } else { expr };
        }
        if let Some(labels) = value("labels: {severity:") {
            alert.severity = labels.trim_matches('}').to_owned();
        }
        alert.reason |= text.starts_with("# ") && text.len() > 30;
        if let Some(url) = value("runbook_url:") {
            alert.runbook = url;
        }
    }
    all
}

#[test]
fn every_alert_asks_for_metrics_that_exist_and_says_why_and_what_to_do() {
    let all = alerts();
    assert!(all.len() >= 20, "only {} alerts were found", all.len());
    let mut wrong = Vec::new();
    for alert in &all {
        let name = &alert.name;
        wrong.extend(wrong_with(&alert.expr).into_iter().map(|what| format!("{name}: {what}")));
        if !["critical", "warning", "info"].contains(&alert.severity.as_str()) {
            wrong.push(format!("{name} has severity `{}`", alert.severity));
        }
        if !alert.reason {
            wrong.push(format!("{name} gives no reason for its threshold"));
        }
        if !alert.runbook.to_lowercase().ends_with(&format!("#{}", name.to_lowercase())) {
            wrong.push(format!("{name} links to `{}`", alert.runbook));
        }
    }
    none(wrong);
}

#[test]
fn every_alert_has_a_section_in_the_runbook_and_every_section_an_alert() {
    let page = read("docs/runbook.md");
    let sections: BTreeSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("## ")).filter(|name| name.starts_with("Lockstep")).collect();
    let all = alerts();
    let names: BTreeSet<&str> = all.iter().map(|alert| alert.name.as_str()).collect();
    assert_eq!(sections, names, "docs/runbook.md on the left, {RULES} on the right");
    let mut wrong = Vec::new();
    for section in page.split("\n## ").skip(1).filter(|section| section.starts_with("Lockstep")) {
        let name = section.lines().next().unwrap();
        for part in ["**Means**", "**Look**", "**Do**"] {
            if !section.contains(part) {
                wrong.push(format!("section {name} of the runbook has no {part}"));
            }
        }
        wrong.extend(wrong_with(section).into_iter().map(|what| format!("the runbook, {name}: {what}")));
    }
    none(wrong);
}

#[test]
fn every_alert_is_tested_to_fire_and_to_be_silent() {
    let tests = read("grafana/alerts/lockstep.test.yml");
    // What fires is named completely there, so one silent hour is silent for all.
    assert!(tests.contains("eval_time: 59m, expr: 'count by (alertname) (ALERTS{alertstate=\"firing\", instance=\"well\"})', exp_samples: []"));
    let untested = alerts().into_iter().filter(|alert| !tests.contains(&format!("alertname=\"{}\"", alert.name)));
    none(untested.map(|alert| format!("{} is not tested to fire", alert.name)).collect());
}
