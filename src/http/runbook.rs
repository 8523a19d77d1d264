//! The runbook of this very version, for who comes from an alert: the page of the docs, with its headings as anchors.

use std::fmt::Write;

const RUNBOOK: &str = include_str!("../../docs/runbook.md");

/// As HTML: plain enough to be read in any browser at three in the morning.
pub(super) fn page() -> String {
    let mut page = String::from(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Lockstep: runbook</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><link rel=\"stylesheet\" href=\"/page/base.css\"><main>\n",
    );
    for block in RUNBOOK.split("\n\n") {
        let text = escaped(block.trim());
        let _ = match (text.strip_prefix("# "), text.strip_prefix("## ")) {
            // Writing into a String cannot fail.
            (Some(title), _) => writeln!(page, "<h1>{title}</h1>"),
            (_, Some(name)) => writeln!(page, "<h2 id=\"{name}\">{name}</h2>"),
            _ => writeln!(page, "<p>{}</p>", marked(&text)),
        };
    }
    page + "</main></html>\n"
}

/// `**bold**` and code spans; a list's lines stay lines.
fn marked(text: &str) -> String {
    let text = text.replace("\n- ", "<br>• ").replacen("- ", "• ", usize::from(text.starts_with("- ")));
    let bold = alternate(&text, "**", "<strong>", "</strong>");
    alternate(&bold, "`", "<code>", "</code>")
}

fn alternate(text: &str, mark: &str, open: &str, close: &str) -> String {
    let mut parts = text.split(mark);
    let mut made = parts.next().unwrap_or_default().to_owned();
    for (at, part) in parts.enumerate() {
        made += if at % 2 == 0 { open } else { close };
        made += part;
    }
    made
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_leads_to_its_section() {
        let page = page();
        assert!(page.contains("<h2 id=\"LockstepLagging\">LockstepLagging</h2>"), "{page}");
        assert!(page.contains("<code>lockstep doctor</code>") && page.contains("<strong>Means</strong>"));
        assert!(!page.contains("**") && !page.contains("<script"));
    }
}
