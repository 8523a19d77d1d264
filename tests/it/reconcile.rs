//! Proof and repair: what was damaged by hand is named and made good, row for row, beside traffic; nothing else is
//! written; what is equal costs next to nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use lockstep::config::Layers;
use lockstep::lab::{PairOptions, Seeded};
use lockstep::pg::{self, Url};
use lockstep::reconcile;
use lockstep::types::{Difference, DifferenceKind, Job, TableName, TableReport, Verdict};
use tokio::sync::watch;

use super::rig::{Rig, public, until};

/// Compares without the service's help, as a verb does.
pub async fn verify(rig: &Rig, tables: &[&str]) -> Vec<TableReport> {
    let url = Url::parse(&rig.pair.source.url("postgres")).unwrap();
    let source = pg::connect(&url, "test").await.unwrap();
    let selection = pg::catalog::Selection { schemas: vec!["public".into()], include: vec![], exclude: vec![] };
    let found = pg::catalog::tables(&source, &selection).await.unwrap();
    let key = lockstep::types::ApiKey::parse(rig.pair.supabase.secret_key(), jiff::Timestamp::now()).unwrap();
    let target = lockstep::rest::Client::new(&lockstep::rest::Settings {
        url: rig.pair.supabase.rest_url(),
        key,
        ca_pem: None,
        timeout: Duration::from_secs(65),
    })
    .unwrap();
    let settings = reconcile::Settings {
        url,
        target,
        route: "to_supabase".into(),
        range_bytes: 1_000_000,
        rows_per_second: 0,
        listed: 10_000,
        keep_surplus: false,
    };
    let job = Job { tables: public(tables), repair: false, why: "test".into() };
    reconcile::run(&settings, &found, &job, None, &watch::Sender::new(None)).await.unwrap()
}

fn keys(report: &TableReport, kind: DifferenceKind) -> BTreeSet<String> {
    report.keys.iter().filter(|found| found.kind == kind).map(|found| found.key.join("|")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_table_that_is_equal_is_called_equal_for_little() {
    let mut rig = Rig::new(
        "create table n (id bigint primary key, body text); create table w (code text primary key, v jsonb);
         create table none (id uuid primary key)",
    )
    .await;
    rig.pair
        .source
        .execute(
            "insert into n select i, md5(i::text) from generate_series(1, 30000) i;
             insert into w select 'k' || i, jsonb_build_object('i', i) from generate_series(1, 30000) i",
        )
        .await
        .unwrap();
    rig.start();
    rig.settled().await;
    for report in verify(&rig, &[]).await {
        println!("{report:?}");
        assert_eq!((&report.verdict, report.differences()), (&Verdict::Equal, 0), "{}", report.table);
    }
}
