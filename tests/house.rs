//! The rules of the house, checked: imports point down, files stay readable, and what is written about settings and
//! verbs is true.

#![allow(clippy::unwrap_used)] // a test that panics has failed, which is what it is for

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use lockstep::config::{Layers, SETTINGS, Settings};

/// Each part's floor. A part may name parts on floors below its own, and no other: those beside it are strangers.
const FLOORS: &[(u8, &[&str])] = &[
    (0, &["types"]),
    (1, &["clock"]),
    (2, &["metrics", "status"]),
    (3, &["pg", "rest", "scheduler", "http"]),
    (4, &["schema", "setup", "lab", "remedy"]), // tools that are made of tools
    (5, &["ledger"]),
    (6, &["capture", "pipeline", "apply"]),
    (7, &["workflows", "reconcile", "jobs"]),
    (8, &["config"]), // beside the way: only app and cli know it
    (9, &["app"]),
    (10, &["doctor"]),    // says what app would say
    (11, &["configure"]), // asks the doctor
    (12, &["cli"]),
];

/// Parts that may name less than their floor allows.
const ONLY: &[(&str, &[&str])] = &[
    ("http", &["types", "clock", "metrics", "status"]),
    ("config", &["types", "pg", "rest", "scheduler", "workflows"]),
    ("lab", &["types", "clock", "pg"]),
];

fn floor(part: &str) -> Option<u8> {
    FLOORS.iter().find(|(_, parts)| parts.contains(&part)).map(|(floor, _)| *floor)
}

/// What is wrong with the imports of one file of `part`; `depth` is how deep its module lies (src/pg/url.rs: 2).
fn wrong_imports(part: &str, depth: usize, source: &str) -> Vec<String> {
    let Some(own) = floor(part) else { return vec![format!("`{part}` has no floor: give it one in tests/house.rs")] };
    let mut wrong = Vec::new();
    for other in imports(depth, source) {
        let Some(theirs) = floor(&other) else { continue }; // a name of the crate's root, not a part
        let allowed =
            ONLY.iter().find(|(name, _)| *name == part).is_none_or(|(_, only)| only.contains(&other.as_str()));
        if other != part && (theirs >= own || !allowed) {
            wrong.push(format!("`{part}` names `{other}`, which is not below it"));
        }
    }
    wrong
}

/// The parts that a file names: `crate::a::…`, `crate::{a::…, b}`, and `super::` chains that climb to the root.
fn imports(depth: usize, source: &str) -> BTreeSet<String> {
    let code: String =
        source.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect();
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_') {
            continue; // some_crate::
        }
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(group_heads(group)),
            None => found.extend(word(rest)),
        }
    }
    let climb = "super::".repeat(depth);
    for (at, _) in code.match_indices(&climb) {
        let name = word(&code[at + climb.len()..]);
        found.extend(name.filter(|name| code[at + climb.len() + name.len()..].starts_with("::")));
    }
    found
}

/// The first words of the paths in `a::b, c::{d, e}, f}…`.
fn group_heads(group: &str) -> Vec<String> {
    let (mut depth, mut heads, mut fresh) = (0, Vec::new(), true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            c if fresh && c.is_alphabetic() => {
                heads.extend(word(&group[at..]));
                fresh = false;
            }
            _ => {}
        }
    }
    heads
}

fn word(text: &str) -> Option<String> {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_owned())
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let (mut folders, mut found) = (vec![root().join(folder)], Vec::new());
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            match path.is_dir() {
                true => folders.push(path),
                false if path.to_string_lossy().ends_with(ending) => found.push(path),
                false => {}
            }
        }
    }
    found.sort();
    found
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn short(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/")
}

fn none(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn imports_point_down() {
    let sources = files("src", ".rs");
    assert!(sources.len() > 20, "only {} files were found", sources.len());
    let mut wrong = Vec::new();
    for path in sources {
        let name = short(&path);
        let module: Vec<&str> = name.trim_start_matches("src/").trim_end_matches(".rs").split('/').collect();
        if matches!(module[..], ["lib"] | ["main"]) {
            continue;
        }
        let depth = module.len() - usize::from(module.last() == Some(&"mod"));
        let source = fs::read_to_string(&path).unwrap();
        wrong.extend(wrong_imports(module[0], depth, &source).into_iter().map(|what| format!("{name}: {what}")));
    }
    none(wrong);
}

#[test]
fn an_import_that_points_up_or_sideways_is_caught() {
    for (part, depth, source) in [
        ("types", 2, "use crate::pg::Url;"),
        ("pg", 2, "use crate::rest::Client;"),
        ("http", 1, "use crate::pg::Url;"),
        ("http", 1, "    let x = crate::app::run;"),
        ("capture", 2, "use crate::{\n    types::{Lsn, Position},\n    apply::Sent,\n};"),
        ("apply", 1, "pub(super) use crate::pipeline::Batch;"),
        ("pipeline", 2, "use super::super::apply::x;"),
        ("capture", 1, "use crate::config::Settings;"),
        ("lab", 1, "use crate::capture::Slot;"),
        ("reconcile", 1, "fn f(app: &crate::app::App) {}"),
        ("newcomer", 1, ""),
    ] {
        assert!(!wrong_imports(part, depth, source).is_empty(), "{part} may do this: {source}");
    }
    for (part, depth, source) in [
        ("capture", 2, "use crate::types::Lsn; use crate::pg::{quote, Url}; use crate::capture::slot::Slot;"),
        ("capture", 2, "// crate::apply is a stranger\nuse super::slot::Slot;"),
        ("reconcile", 1, "use crate::{capture, apply::{self, Batch}, types::Lsn};"),
        ("http", 1, "use crate::types::Fault; use crate::status::Status; use crate::metrics;"),
        ("pg", 2, "use some_crate::rest::X; mod tests { use super::*; }"),
        ("cli", 1, "use crate::app; use crate::config::Settings;"),
    ] {
        assert_eq!(wrong_imports(part, depth, source), [""; 0], "{part} may not do this: {source}");
    }
}

#[test]
fn every_file_says_why_it_exists_and_fits_a_reader() {
    let mut wrong = Vec::new();
    for path in files("src", ".rs").into_iter().chain(files("tests", ".rs")).chain(files("benches", ".rs")) {
        let (name, text) = (short(&path), fs::read_to_string(&path).unwrap());
        let head: String = text.lines().take_while(|line| line.starts_with("//!")).collect();
        let lines = text.lines().count();
        // A file of tests is named for what it tests.
        if head.is_empty() && !name.ends_with("tests.rs") {
            wrong.push(format!("{name} does not begin with `//!` and why it exists"));
        }
        if lines > 600 && !head.contains("Long because") {
            wrong.push(format!("{name} has {lines} lines: split it, or let its head say `Long because …`"));
        }
    }
    none(wrong);
}

/// The example with every setting switched on: `#key = value` is a setting, `# text` is prose.
fn example() -> String {
    let switch = |line: &str| match line.strip_prefix('#') {
        Some(setting) if !setting.starts_with([' ', '#']) && !setting.is_empty() => setting.to_owned(),
        _ => line.to_owned(),
    };
    read("lockstep.example.toml").lines().map(|line| switch(line) + "\n").collect()
}

#[test]
fn the_example_file_holds_every_setting_and_its_default() {
    let tree: toml::Table = example().parse().unwrap();
    let mut keys = BTreeSet::new();
    for (section, inner) in &tree {
        for (name, value) in inner.as_table().unwrap() {
            match (section.as_str(), value) {
                ("table", toml::Value::Table(one)) => keys.extend(one.keys().map(|key| format!("table.*.{key}"))),
                _ => _ = keys.insert(format!("{section}.{name}")),
            }
        }
    }
    assert_eq!(keys, SETTINGS.iter().map(|setting| setting.key.to_owned()).collect());

    let layers = Layers { file: Some(("lockstep.example.toml".into(), example())), ..Layers::default() };
    let mut settings = lockstep::config::read(&layers).unwrap_or_else(|problem| panic!("{problem}"));
    // These have no default, so the example shows one that could be.
    settings.source.url = None;
    settings.supabase.url = None;
    settings.supabase.key = None;
    settings.supabase.ca_file = None;
    settings.http.token = None;
    settings.http.read_token = None;
    settings.workflows.signing_secret = None;
    settings.workflows.signing_secret_before = None;
    settings.workflows.allow.clear();
    settings.agent_api.url = None;
    settings.agent_api.token = None;
    settings.webhook.secret = None;
    settings.tables.include.clear();
    settings.tables.exclude.clear();
    settings.table.clear();
    assert_eq!(format!("{settings:#?}"), format!("{:#?}", Settings::default()));
}

#[test]
fn the_page_on_settings_lists_every_setting_with_its_variable() {
    let mut listed = BTreeMap::new();
    for line in read("docs/config.md").lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        listed.insert(cells[1].to_owned(), cells[2].to_owned());
    }
    let known: BTreeMap<String, String> =
        SETTINGS.iter().map(|setting| (setting.key.to_owned(), setting.env.unwrap_or("").to_owned())).collect();
    assert_eq!(listed, known, "docs/config.md on the left, src/config/names.rs on the right");
}

#[test]
fn the_page_on_the_doctor_says_of_every_code_what_it_means_and_what_mends_it() {
    let page = read("docs/doctor.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let listed: Vec<&str> = rows.clone().filter_map(|row| row.split('`').next()).collect();
    let codes: Vec<&str> = lockstep::doctor::CHECKS.iter().map(|check| check.code).collect();
    assert_eq!(listed, codes, "docs/doctor.md on the left, src/doctor/checks on the right");
    let told = |row: &str| row.split(" | ").filter(|cell| !cell.trim_matches(['|', ' ']).is_empty()).count() == 3;
    none(rows.filter(|row| !told(row)).map(String::from).collect());
}

/// The pages that people read.
fn pages() -> Vec<PathBuf> {
    let root_pages = ["README.md", "CHANGELOG.md"].map(|name| root().join(name));
    root_pages.into_iter().chain(files("docs", ".md")).collect()
}

#[test]
fn every_make_verb_that_a_page_names_exists() {
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap_or_default();
    let verbs: BTreeSet<&str> =
        makefile.lines().filter_map(|line| line.split_once(':')).map(|(verb, _)| verb).collect();
    let mut wrong = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for (at, _) in text.match_indices("make ") {
            let code = text[..at].ends_with(['`', '\n']); // prose may "make sense"; code begins a line or a code span
            let Some(verb) = word(&text[at + "make ".len()..]).filter(|_| code) else { continue };
            if !verbs.contains(verb.as_str()) {
                wrong.push(format!("{} names `make {verb}`, which the Makefile does not know", short(&page)));
            }
        }
    }
    none(wrong);
}

#[test]
fn every_link_of_a_page_leads_to_a_file() {
    let mut wrong = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split([')', '#']).next().unwrap_or("");
            if !target.is_empty() && !target.contains("://") && !page.parent().unwrap().join(target).exists() {
                wrong.push(format!("{} links to {target}, which is not there", short(&page)));
            }
        }
    }
    none(wrong);
}

/// The methods and paths of every `.route(…)` of the window.
fn routed() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in files("src/http", ".rs") {
        let text = fs::read_to_string(&path).unwrap();
        for (at, _) in text.match_indices(".route(") {
            let call = &text[at + ".route(".len()..];
            let mut depth = 1;
            let end = call.find(|c| {
                depth += i32::from(c == '(') - i32::from(c == ')');
                depth == 0
            });
            let call = &call[..end.unwrap()];
            let (first, rest) = call.split_once(',').unwrap();
            // A path has a name where more than the router must know it.
            let path = match first.trim().strip_prefix('"') {
                Some(path) => path.trim_end_matches('"').to_owned(),
                None => {
                    let name = first.trim().rsplit("::").next().unwrap();
                    let all: String = files("src/http", ".rs").iter().map(|p| fs::read_to_string(p).unwrap()).collect();
                    all.split(&format!("{name}: &str = \"")).nth(1).unwrap().split('"').next().unwrap().to_owned()
                }
            };
            for method in ["get", "post", "put", "delete", "patch"] {
                let called = |before: char| before == '.' || before.is_whitespace();
                let found_here = rest.match_indices(&format!("{method}(")).any(|(at, _)| rest[..at].ends_with(called));
                if found_here {
                    found.insert(format!("{method} {path}"));
                }
            }
        }
    }
    found
}

#[test]
fn every_route_is_described_and_every_description_is_a_route() {
    let document = lockstep::http::openapi::document();
    let mut described = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        described.extend(item.as_object().unwrap().keys().map(|method| format!("{method} {path}")));
    }
    let routed = routed();
    assert!(routed.len() > 20, "{routed:?}");
    assert_eq!(described, routed, "src/http/openapi.rs on the left, the routers on the right");
    // Every reference leads somewhere.
    let text = document.to_string();
    let missing = text.split("\"#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next());
    none(missing.filter(|name| document["components"]["schemas"][name].is_null()).map(String::from).collect());
}

/// Rows of the page's tables: a promise, and the tests named in its last cell.
fn promises(page: &str) -> Vec<(String, Vec<String>)> {
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| promise "));
    rows.map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
        let tests = cells.last().unwrap().split('`').skip(1).step_by(2).map(str::to_owned).collect();
        (cells[0].trim().to_owned(), tests)
    })
    .collect()
}

#[test]
fn every_guarantee_names_tests_and_they_exist() {
    let code: String = files("src", ".rs")
        .into_iter()
        .chain(files("tests", ".rs"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let mut wrong = Vec::new();
    let promises = promises(&read("docs/guarantees.md"));
    assert!(promises.len() > 15, "only {} promises were found", promises.len());
    for (promise, tests) in promises {
        if tests.is_empty() {
            wrong.push(format!("no test holds `{promise}`"));
        }
        let gone = tests.iter().filter(|test| !code.contains(&format!("fn {test}(")));
        wrong.extend(gone.map(|test| format!("`{promise}` is held by {test}, which is not there")));
    }
    none(wrong);
}
