//! A route in the test's own process, beside which it can compare and repair, and which it can kill at any moment. The
//! binary has made slot, publication and first copy before.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use lockstep::apply::{Apply, Limits, Parked, Reached, Rereader, Shape, Shapes};
use lockstep::capture;
use lockstep::pg::{self, Url};
use lockstep::pipeline;
use lockstep::reconcile::{self, Inlet};
use lockstep::rest;
use lockstep::types::{Job, Position, Table, TableName, TableReport, queue};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::rig::Rig;

/// What a comparison is told.
pub async fn settings(rig: &Rig) -> reconcile::Settings {
    let key = lockstep::types::ApiKey::parse(rig.pair.supabase.secret_key(), jiff::Timestamp::now()).unwrap();
    let url = rig.pair.supabase.rest_url();
    let target =
        rest::Client::new(&rest::Settings { url, key, ca_pem: None, timeout: Duration::from_secs(65) }).unwrap();
    reconcile::Settings {
        reading: reconcile::Reading::Digests,
        marks: marks(rig),
        url: Url::parse(&rig.pair.source.url("postgres")).unwrap(),
        target,
        route: "to_supabase".into(),
        range_bytes: 1_000_000,
        rows_per_second: 0,
        listed: 10_000,
        keep_surplus: false,
    }
}

fn marks(rig: &Rig) -> reconcile::Marks {
    if rig.by_journal() { reconcile::Marks::Journal } else { reconcile::Marks::Wal }
}

pub async fn tables(rig: &Rig) -> Vec<Table> {
    let source = pg::connect(&Url::parse(&rig.pair.source.url("postgres")).unwrap(), "test").await.unwrap();
    let selection = pg::catalog::Selection { schemas: vec!["public".into()], include: vec![], exclude: vec![] };
    pg::catalog::tables(&source, &selection).await.unwrap()
}

/// Compares without the service's help, as a verb does.
pub async fn verify(rig: &Rig, names: &[TableName]) -> Vec<TableReport> {
    let job = Job { tables: names.to_vec(), repair: false, why: "test".into() };
    let settings = settings(rig).await;
    reconcile::run(&settings, &tables(rig).await, &job, None, &watch::Sender::new(None)).await.unwrap()
}

/// Dropped, it is gone in the middle of whatever it did.
pub struct Route {
    parts: JoinSet<()>,
    inlet: Inlet,
    pub settings: reconcile::Settings,
    tables: Vec<Table>,
    /// Alive for as long as the route.
    _stop: watch::Sender<bool>,
}

impl Route {
    pub async fn start(rig: &Rig, run: u64) -> Self {
        let log = tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_test_writer();
        let _ = log.try_init(); // another test of this process was first
        let (settings, tables) = (settings(rig).await, tables(rig).await);
        let hello = json!({"request": {"route": settings.route, "source": {}, "tables": [], "begin": []}});
        let hello: serde_json::Value = settings.target.rpc("lockstep_hello", rest::Body::Json(hello)).await.unwrap();
        let number = |at: usize| hello["checkpoint"][at].as_u64().unwrap();
        let checkpoint = Position { major: number(0), minor: number(1) };

        let (changes, queued) = queue(16 << 20);
        let (settled, reached) = watch::channel(checkpoint);
        let (durable, confirmable) = watch::channel(checkpoint);
        let (ranges, ranges_in) = mpsc::channel(2);
        let (pulls, pulled) = mpsc::channel(2);
        let (rereads, wanted) = mpsc::channel(1);
        let (events, mut happened) = mpsc::unbounded_channel();
        let (stop, stopping) = watch::channel(false);
        let inlet = Inlet::new(run, ranges, reached, settings.marks);
        let mut parts = JoinSet::new();
        let progress = watch::Sender::new(capture::Progress::default());
        let (by_journal, url) = (rig.by_journal(), settings.url.clone());
        let watched = tables.iter().map(|table| table.oid).collect();
        let lost = capture::journal::Lost { watched, ..Default::default() };
        parts.spawn(async move {
            let end = if by_journal {
                let held_up = watch::Sender::new(None);
                let watches = capture::journal::Watches { checkpoint: confirmable, stop: stopping, progress, held_up };
                capture::journal::run(&capture::journal::Settings::new(url, lost), checkpoint, changes, watches).await
            } else {
                let reading = capture::Settings::new(url);
                capture::run(&reading, checkpoint, changes, confirmable, stopping, progress).await
            };
            panic!("capture ended: {end:?}");
        });
        let keys: HashMap<u32, Vec<String>> = tables.iter().map(|table| (table.oid, table.key.clone())).collect();
        let limits = Limits::new(1_000_000);
        let gathering = pipeline::Settings { run, keys, batch_bytes: limits.batch_bytes() };
        parts.spawn(async move {
            let _ = pipeline::run(gathering, queued, ranges_in, pulled).await;
        });
        let shape = |table: &Table| Shape {
            name: table.name.clone(),
            columns: table.columns.iter().map(|column| column.name.clone()).collect(),
            key: table.key.clone(),
            chosen: false,
        };
        let shapes = tables.iter().map(|table| (table.oid, shape(table))).collect();
        let apply = Apply {
            settings: lockstep::apply::Settings {
                route: settings.route.clone(),
                suppress: false,
                park_rows: None,
                whole_bytes: 64 << 20,
                limits,
            },
            client: settings.target.clone(),
            shapes: Shapes::new(shapes, checkpoint),
            copying: HashSet::new(),
            reached: Reached::new(checkpoint, settled, durable),
            events,
            reader: Rereader::new(rereads),
            parked: Parked::new(Vec::new()),
            staged: None,
            vain: 0,
        };
        parts.spawn(async move {
            let end = apply.run(pulls).await;
            panic!("apply ended: {end:?}");
        });
        let url = settings.url.clone();
        parts.spawn(async move {
            let _ = reconcile::reread(&url, wanted).await;
        });
        parts.spawn(async move { while happened.recv().await.is_some() {} });
        Self { parts, inlet, settings, tables, _stop: stop }
    }

    pub async fn verify(&mut self, names: &[TableName]) -> Vec<TableReport> {
        self.run(names, false).await
    }

    pub async fn sync(&mut self, names: &[TableName]) -> Vec<TableReport> {
        self.run(names, true).await
    }

    async fn run(&mut self, names: &[TableName], repair: bool) -> Vec<TableReport> {
        let job = Job { tables: names.to_vec(), repair, why: "test".into() };
        let progress = watch::Sender::new(None);
        let run = reconcile::run(&self.settings, &self.tables, &job, Some(&self.inlet), &progress);
        tokio::select! {
            reports = run => reports.unwrap(),
            Some(end) = self.parts.join_next() => panic!("a part of the route ended: {end:?}"),
        }
    }
}

/// Waits until the slot, or the journal, is free again after a kill: a walsender or a session may still hold it.
pub async fn slot_is_free(rig: &Rig) {
    super::rig::until("the slot is free", async || {
        let held = "select (select count(*) from pg_replication_slots where active) + (select count(*) from pg_locks \
                    where locktype = 'advisory' and granted and classid = hashtext('lockstep journal')::oid)";
        rig.pair.source.value(held).await.unwrap() == "0"
    })
    .await;
}
