//! What a scrape sees, and what it costs.

use std::time::{Duration, Instant};

use super::super::rig::{Rig, until};

#[tokio::test(flavor = "multi_thread")]
async fn lag_grows_by_the_sources_clock_while_the_target_is_away_and_is_zero_when_all_is_there() {
    let mut rig = Rig::new("create table item (id int primary key)").await;
    rig.start();
    rig.settled().await;
    until("idle, the lag is known and none", async || rig.metric("lockstep_lag_seconds").await == 0.0).await;
    until("the source's clock is known", async || rig.metric("lockstep_source_answer_seconds").await > 0.0).await;
    rig.pair.supabase.gateway.faults().down().await;
    let began = Instant::now();
    rig.pair.source.execute("insert into item values (1)").await.unwrap();
    until("three seconds late", async || rig.metric("lockstep_lag_seconds").await > 3.0).await;
    let took = began.elapsed().as_secs_f64();
    assert!(took > 2.9 && rig.metric("lockstep_lag_seconds").await <= began.elapsed().as_secs_f64() + 0.5, "{took}");
    // A restart knows how old the oldest commit is, though it was not there.
    rig.kill9().await;
    rig.start();
    until("it answers", async || rig.get("/healthz").await.is_ok()).await;
    until("the target is asked", async || {
        rig.pair.supabase.gateway.faults().up().await;
        rig.metric("lockstep_latency_seconds_count").await >= 1.0
    })
    .await;
    assert!(rig.metric("lockstep_latency_seconds_sum").await > took, "it took longer than {took} s altogether");
    rig.settled().await;
    until("no lag", async || rig.metric("lockstep_lag_seconds").await == 0.0).await;
    // Only enumerated values stand in labels.
    let page = rig.get("/metrics").await.unwrap().text().await.unwrap();
    for entry in lockstep::metrics::ALL {
        for (label, values) in entry.labels.iter().filter(|(label, _)| !["table", "version"].contains(label)) {
            let lines = page.lines().filter(|line| line.starts_with(&format!("{}{{", entry.name)));
            let found = lines.filter_map(|line| line.split(&format!("{label}=\"")).nth(1)?.split('"').next());
            for value in found {
                assert!(values.split(", ").any(|known| known == value), "{} has {label} {value}", entry.name);
            }
        }
    }
}

/// Prints what scraping costs, as a ratio; asserts nothing about time. `LOCKSTEP_TEST_ROWS` for more.
#[tokio::test(flavor = "multi_thread")]
async fn the_cost_of_being_scraped_is_printed() {
    let rows: u64 = std::env::var("LOCKSTEP_TEST_ROWS").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000);
    let mut rig = Rig::new("create table item (id int primary key, v text)").await;
    rig.start();
    rig.settled().await;
    let mut took = [Vec::new(), Vec::new()];
    let mut scrapes = 0u64;
    for round in 0..6 {
        let scraped = round % 2 == 1;
        let url = format!("http://127.0.0.1:{}/metrics", rig.http);
        // Ten times a second: a hundred and fifty times as often as Prometheus does.
        let scraper = scraped.then(|| {
            let web = rig.web.clone();
            tokio::spawn(async move {
                let mut count = 0u64;
                loop {
                    count += u64::from(web.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()));
                    COUNT.store(count, std::sync::atomic::Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            })
        });
        let began = Instant::now();
        let fill = format!(
            "insert into item select i, 'x' || i from generate_series({}, {}) i",
            round * rows + 1,
            (round + 1) * rows
        );
        rig.pair.source.execute(&fill).await.unwrap();
        rig.settled().await;
        took[usize::from(scraped)].push(began.elapsed().as_secs_f64());
        if let Some(scraper) = scraper {
            scraper.abort();
            scrapes += COUNT.load(std::sync::atomic::Ordering::Relaxed);
        }
    }
    let middle = |times: &mut Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let [alone, scraped] = took.each_mut().map(middle);
    println!(
        "{rows} rows: {alone:.2} s alone, {scraped:.2} s with ten scrapes a second ({scrapes} in all): ratio {:.3}",
        alone / scraped
    );
    assert_eq!(rig.metric("lockstep_rows_total{kind=\"insert\",table=\"public.item\"}").await, (6 * rows) as f64);
    assert!(scrapes > 0);
}

static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
