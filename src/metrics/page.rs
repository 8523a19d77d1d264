//! The page docs/metrics.md, made of the declarations.

use super::declared::ALL;
use super::make::{ROUTE, Scope};

const HEAD: &str = "# Metrics

Made from [`src/metrics/declared.rs`](../src/metrics/declared.rs) by `make docs`; do not edit it here.

`GET /metrics` answers in Prometheus's text form, or in OpenMetrics to who asks for it. Dashboards and alerts on these
are in [`grafana/`](../grafana/); what to do about an alert is in the [runbook](runbook.md).

- Labels are bounded: an enumeration, or a table. The first 1000 tables get a label of their own, all others share
  `other`.
- A value that is not known is absent; there is no made-up zero and no NaN.
- What `lag` and `latency` compare are stamps of one clock, the source's: the clock of this host may be wrong.
- Metrics of a route carry `route`, which has one value today: `";

/// All of it.
pub fn page() -> String {
    let mut page = format!("{HEAD}{ROUTE}`.\n");
    let mut group = "";
    for entry in ALL {
        if entry.group != group {
            group = entry.group;
            page += &format!("\n## {group}\n\n| metric | kind | labels | meaning |\n|---|---|---|---|\n");
        }
        let route = matches!(entry.scope, Scope::Route).then(|| "`route`".to_owned());
        let own = entry.labels.iter().map(|(label, values)| format!("`{label}`: {values}"));
        let labels: Vec<String> = route.into_iter().chain(own).collect();
        page += &format!("| `{}` | {} | {} | {} |\n", entry.name, entry.kind, labels.join("; "), entry.help);
    }
    page
}
