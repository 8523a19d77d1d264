use super::*;

fn lines(page: &str) -> Vec<&str> {
    page.lines().collect()
}

#[test]
fn the_page_for_prometheus_holds_every_metric_and_leaves_out_what_is_not_known() {
    let metrics = Metrics::new();
    metrics.rows.with_label_values(&["public.agents", "insert"]).inc_by(3);
    let page = metrics.render(Format::Text);
    for line in [
        "lockstep_up 1",
        "lockstep_rows_dropped_total{route=\"to_supabase\"} 0",
        "lockstep_connected{route=\"to_supabase\",side=\"target\"} 0",
        "lockstep_retries_total{class=\"too_large\",route=\"to_supabase\"} 0",
        "lockstep_rows_total{kind=\"insert\",route=\"to_supabase\",table=\"public.agents\"} 3",
        "lockstep_apply_seconds_count{route=\"to_supabase\"} 0",
        concat!("lockstep_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
    ] {
        assert!(lines(&page).contains(&line), "no line `{line}` in:\n{page}");
    }
    assert!(!page.contains("NaN") && !page.contains("lockstep_lag_seconds{"), "{page}");
    metrics.lag_seconds.set(Some(0.25));
    assert!(metrics.render(Format::Text).contains("lockstep_lag_seconds{route=\"to_supabase\"} 0.25\n"));
    assert_eq!(metrics.lag_seconds.get(), Some(0.25));
    metrics.lag_seconds.set(None);
    assert!(!metrics.render(Format::Text).contains("lockstep_lag_seconds{"));
    assert!(metrics.resident_bytes.get() > 1 << 20, "a running process has more than 1 MiB");
    assert!(metrics.open_files.get() > 2 && metrics.cpu_seconds.get() > 0.0);
}

#[test]
fn open_metrics_names_counters_units_and_its_end() {
    let metrics = Metrics::new();
    metrics.apply_seconds.observe(0.004);
    let page = metrics.render(Format::OpenMetrics);
    for line in [
        "# TYPE lockstep_rows_dropped counter",
        "lockstep_rows_dropped_total{route=\"to_supabase\"} 0.0",
        "# TYPE lockstep_build info",
        "# UNIT lockstep_apply_seconds seconds",
        "lockstep_apply_seconds_bucket{route=\"to_supabase\",le=\"0.005\"} 1.0",
        "lockstep_apply_seconds_bucket{route=\"to_supabase\",le=\"+Inf\"} 1.0",
        "lockstep_apply_seconds_sum{route=\"to_supabase\"} 0.004",
    ] {
        assert!(lines(&page).contains(&line), "no line `{line}` in:\n{page}");
    }
    assert!(page.ends_with("\n# EOF\n"));
}

#[test]
fn who_asks_for_open_metrics_gets_it_and_everybody_else_the_text_of_old() {
    let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                      text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    assert_eq!(Format::asked(Some(prometheus)), Format::OpenMetrics);
    for other in [None, Some("*/*"), Some("text/plain"), Some("application/openmetrics-text;q=0")] {
        assert_eq!(Format::asked(other), Format::Text, "{other:?}");
    }
    assert_eq!(Format::asked(Some("application/openmetrics-text;q=0.1, text/plain")), Format::Text);
}

#[test]
fn ten_thousand_tables_do_not_make_ten_thousand_labels() {
    let metrics = Metrics::new();
    let names: Vec<String> = (0..10_000).map(|at| format!("public.t{at}")).collect();
    metrics.begin_tables(names.iter().map(String::as_str));
    assert_eq!((metrics.table("public.t5"), metrics.table("public.t9999")), ("public.t5", "other"));
    let page = metrics.render(Format::Text);
    let series = page.lines().filter(|line| line.starts_with("lockstep_parked_rows{")).count();
    assert_eq!(series, TABLES + 1);
}

#[test]
fn a_name_says_its_unit_and_its_kind() {
    for entry in ALL {
        let name = entry.name;
        assert_eq!(name.ends_with("_total"), entry.kind == "counter", "{name}");
        assert!(entry.help.len() > 12 && !entry.help.ends_with('.'), "{name}: {}", entry.help);
        assert!(entry.labels.len() <= 2, "{name} has more labels than a reader or Prometheus wants");
    }
}
