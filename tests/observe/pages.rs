//! The pages that are made: from the metrics, and from the example of all settings. `LOCKSTEP_WRITE_DOCS=1` writes them.

use std::fs;

use lockstep::config::SETTINGS;

use super::{read, root};

/// Holds a page against what it is made of, or writes it.
fn current(name: &str, made: &str) {
    if std::env::var_os("LOCKSTEP_WRITE_DOCS").is_some() {
        fs::write(root().join(name), made).unwrap();
    }
    let found = fs::read_to_string(root().join(name)).unwrap_or_default();
    let differs = found.lines().zip(made.lines()).find(|(found, made)| found != made);
    assert!(found == made, "{name} is not current: run `make docs`; the first difference: {differs:#?}");
}

#[test]
fn the_page_on_metrics_is_made_of_the_declarations() {
    current("docs/metrics.md", &lockstep::metrics::page());
}

/// The example shows what these could be.
const NO_DEFAULT: [&str; 16] = [
    "source.url",
    "supabase.url",
    "supabase.key",
    "supabase.ca_file",
    "tables.include",
    "tables.exclude",
    "table.*.columns",
    "table.*.reconcile",
    "http.token",
    "http.read_token",
    "workflows.signing_secret",
    "workflows.signing_secret_before",
    "workflows.allow",
    "agent_api.url",
    "agent_api.token",
    "webhook.secret",
];

/// The example file as a table: for each setting its default and the words above it.
fn settings_table() -> String {
    let mut rows = String::new();
    let (mut section, mut words, mut opening, mut last) =
        (String::new(), Vec::<String>::new(), String::new(), String::new());
    for line in read("lockstep.example.toml").lines() {
        let setting = line.strip_prefix('#').filter(|rest| !rest.starts_with([' ', '#']) && !rest.is_empty());
        if let Some(prose) = line.strip_prefix("# ") {
            words.push(prose.to_owned());
        } else if let Some(name) = setting.unwrap_or(line).strip_prefix('[') {
            let name = name.trim_end_matches(']');
            section = if name.starts_with("table.") { "table.*".into() } else { name.to_owned() };
            opening = std::mem::take(&mut words).join(" ");
        } else if let Some((name, value)) = setting.and_then(|text| text.split_once(" = ")) {
            let key = format!("{section}.{name}");
            let env = SETTINGS.iter().find(|setting| setting.key == key).and_then(|setting| setting.env);
            let env = env.map_or(String::new(), |env| format!("`{env}`"));
            // Settings that stand together share the words above the first of them.
            let own = std::mem::take(&mut words).join(" ").replace('|', "\\|");
            let opened = std::mem::take(&mut opening);
            let first = if own.is_empty() { opened } else { own };
            let text = if first.is_empty() { last.clone() } else { first };
            last.clone_from(&text);
            let shown = if NO_DEFAULT.contains(&key.as_str()) { "none".into() } else { format!("`{value}`") };
            rows += &format!("| `{key}` | {env} | {} | {text} |\n", shown.replace('|', "\\|"));
        } else if line.is_empty() {
            words.clear();
        }
    }
    rows
}

#[test]
fn the_table_of_settings_is_made_of_the_example_file() {
    let page = read("docs/config.md");
    let (head, rest) = page.split_once("\n|---|---|---|---|\n").expect("docs/config.md has its table");
    let after = rest.split_once("\n\n").map_or("", |(_, after)| after);
    let after = if after.is_empty() { String::new() } else { format!("\n{after}") };
    current("docs/config.md", &format!("{head}\n|---|---|---|---|\n{}{after}", settings_table()));
}
