//! Metrics, dashboards, alerts, runbook and pages say the same, word for word: remove or rename one, and a test fails.

#![allow(clippy::unwrap_used)] // a test that panics has failed, which is what it is for

mod alerts;
mod boards;
mod pages;
mod promtool;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use lockstep::metrics::ALL;

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

pub fn none(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// Folders where `make` puts programs that tests need.
pub fn cached(program: &str) -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"));
    cache.join("lockstep").join(program)
}

/// A query's metrics, each with the labels that the query matches or groups it by.
pub fn metrics_of(query: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = BTreeSet::new();
    for (at, _) in query.match_indices("lockstep_") {
        if query[..at].ends_with(is_name) {
            continue;
        }
        let rest = &query[at..];
        found.insert(rest[..rest.find(|c: char| !is_name(c)).unwrap_or(rest.len())].to_owned());
    }
    found
}

/// The labels in `metric{…}` of a query.
pub fn selectors(query: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    for (at, _) in query.match_indices('{') {
        let before = &query[..at];
        let from = before.rfind(|c: char| !(c.is_alphanumeric() || c == '_')).map_or(0, |at| at + 1);
        let inner = query[at + 1..].split('}').next().unwrap_or("");
        let labels = inner.split("\",").filter_map(|part| part.split(['=', '!']).next());
        found.push((before[from..].to_owned(), labels.map(|label| label.trim().to_owned()).collect()));
    }
    found
}

/// The declared metric that a name in a query belongs to: histograms have three.
pub fn declared(name: &str) -> Option<&'static lockstep::metrics::Entry> {
    let plain = |name: &str| ALL.iter().find(|entry| entry.name == name);
    let parts = ["_bucket", "_sum", "_count"].into_iter().filter_map(|part| name.strip_suffix(part));
    plain(name).or_else(|| parts.filter_map(plain).find(|entry| entry.kind == "histogram"))
}

/// What is wrong with the names and labels of a query.
pub fn wrong_with(query: &str) -> Vec<String> {
    let unknown = metrics_of(query).into_iter().filter(|name| declared(name).is_none());
    let mut wrong: Vec<String> = unknown.map(|name| format!("{name} is not declared")).collect();
    for (name, labels) in selectors(query) {
        let Some(entry) = declared(&name) else { continue };
        for label in labels {
            let of_route = label == "route" && entry.scope == lockstep::metrics::Scope::Route;
            let own = entry.labels.iter().any(|(own, _)| *own == label);
            if !(own || of_route || label == "instance") {
                wrong.push(format!("{name} has no label {label}"));
            }
        }
    }
    wrong
}

#[test]
fn a_query_is_taken_apart_as_prometheus_would() {
    let query =
        "sum by (le) (rate(lockstep_apply_seconds_bucket{instance=\"$instance\", route=\"a\"}[5m])) / lockstep_up";
    let names: Vec<String> = metrics_of(query).into_iter().collect();
    assert_eq!(names, ["lockstep_apply_seconds_bucket", "lockstep_up"]);
    assert_eq!(wrong_with(query), [""; 0]);
    assert_eq!(wrong_with("lockstep_uq"), ["lockstep_uq is not declared"]);
    assert_eq!(wrong_with("lockstep_up_count"), ["lockstep_up_count is not declared"]);
    assert_eq!(wrong_with("lockstep_lag_seconds{rout=\"a\"}"), ["lockstep_lag_seconds has no label rout"]);
    assert_eq!(wrong_with("lockstep_up{route=\"a\"}"), ["lockstep_up has no label route"]);
}
