//! The page: one document and the few files it loads, all from here. They are small, so they travel as they are; a browser
//! that has them already is told so.

use std::collections::HashMap;
use std::sync::LazyLock;

use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::POLICY;
use super::api::say;
use super::asked::Named;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

pub(super) const DOCUMENT: &str = "index.html";

macro_rules! files {
    ($($kind:ident $name:literal),* $(,)?) => { &[$(($name, $kind, include_str!(concat!("page/", $name)))),*] };
}

const FILES: &[(&str, &str, &str)] = files![
    HTML "index.html",
    CSS "base.css",
    CSS "views.css",
    SCRIPT "activity.js",
    SCRIPT "api.js",
    SCRIPT "builder.js",
    SCRIPT "chart.js",
    SCRIPT "compare.js",
    SCRIPT "condition.js",
    SCRIPT "configure.js",
    SCRIPT "dialog.js",
    SCRIPT "dom.js",
    SCRIPT "live.js",
    SCRIPT "main.js",
    SCRIPT "overview.js",
    SCRIPT "parked.js",
    SCRIPT "runs.js",
    SCRIPT "settings.js",
    SCRIPT "tables.js",
    SCRIPT "words.js",
    SCRIPT "workflows.js",
];

struct Asset {
    kind: &'static str,
    text: String,
    /// What it holds, in short.
    tag: String,
}

static ASSETS: LazyLock<HashMap<&str, Asset>> = LazyLock::new(|| {
    let asset = |&(name, kind, text): &(&'static str, &'static str, &'static str)| {
        let text = if kind == HTML { text.to_owned() } else { lean(text) };
        let digest = Sha256::digest(text.as_bytes());
        let tag = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>();
        (name, Asset { kind, text, tag: format!("\"{tag}\"") })
    };
    FILES.iter().map(asset).collect()
});

/// Without what only its authors read: indentation, and lines of comment. A sixth of the weight.
fn lean(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//"));
    lines.fold(String::with_capacity(text.len()), |lean, line| lean + line + "\n")
}

/// `GET /`
pub(super) async fn document(headers: HeaderMap) -> Response {
    answer(DOCUMENT, &headers)
}

/// `GET /page/{name}`
pub(super) async fn file(Named(name): Named<String>, headers: HeaderMap) -> Response {
    answer(&name, &headers)
}

fn answer(name: &str, asked: &HeaderMap) -> Response {
    let Some(asset) = ASSETS.get(name) else { return say(StatusCode::NOT_FOUND, "there is no such file") };
    let headers: [(HeaderName, &str); 6] = [
        (header::CONTENT_TYPE, asset.kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::ETAG, &asset.tag),
    ];
    let known = asked.get(header::IF_NONE_MATCH).is_some_and(|tag| tag.as_bytes() == asset.tag.as_bytes());
    match known {
        true => (StatusCode::NOT_MODIFIED, headers).into_response(),
        false => (headers, asset.text.as_str()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_that_one_names_is_served_and_none_names_another_host() {
        let names: Vec<&str> = FILES.iter().map(|(name, ..)| *name).collect();
        for (name, _, text) in FILES {
            for part in text.split("\"/page/").skip(1) {
                let other = part.split('"').next().unwrap_or_default();
                assert!(names.contains(&other), "{name} names {other}, which is not served");
            }
            let strange = text.replace("http://www.w3.org/2000/svg", "");
            let strange = strange.replace("https://PROJECT.supabase.co", ""); // a placeholder
            let strange = strange.replace("https://example.com", "");
            assert!(!strange.contains("http:") && !strange.contains("https:"), "{name} names another host");
            assert!(!text.contains("innerHTML") && !text.contains("document.write"), "{name} reads a string as HTML");
        }
    }

    #[test]
    fn the_whole_page_weighs_little_and_no_text_of_it_spans_lines() {
        let weight: usize = ASSETS.values().map(|asset| asset.text.len()).sum();
        assert!(weight < 150_000, "the page weighs {weight} bytes");
        for (name, _, text) in FILES.iter().filter(|(_, kind, _)| *kind == SCRIPT) {
            for line in text.lines().filter(|line| !line.trim().starts_with("//")) {
                assert!(line.matches('`').count() % 2 == 0, "{name}: what is lean would change this text: {line}");
            }
        }
    }
}
