//! What Prometheus itself says of the rules, of their tests, and of the page that it scrapes.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use super::{cached, root};

fn promtool(args: &[&str], input: Option<&str>) -> Output {
    let program = cached("prometheus-2.42.0/usr/bin/promtool");
    assert!(program.exists(), "{} is missing: `make prometheus` gets it", program.display());
    let mut command = Command::new(program);
    command.args(args).current_dir(root()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.unwrap_or("").as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn prometheus_accepts_the_rules_and_each_alert_fires_and_is_silent_where_it_should() {
    let checked = promtool(&["check", "rules", super::alerts::RULES], None);
    assert!(checked.status.success(), "{}", said(&checked));
    let tested = promtool(&["test", "rules", "grafana/alerts/lockstep.test.yml"], None);
    assert!(tested.status.success(), "{}", said(&tested));
}

#[test]
fn the_page_for_prometheus_is_as_prometheus_wants_it() {
    let metrics = lockstep::metrics::get();
    metrics.begin_tables(["public.agents", "public.a\"b\\c"].into_iter());
    metrics.lag_seconds.set(Some(0.5));
    let page = metrics.render(lockstep::metrics::Format::Text);
    let checked = promtool(&["check", "metrics"], Some(&page));
    assert!(checked.status.success() && said(&checked).trim().is_empty(), "{}", said(&checked));
}
