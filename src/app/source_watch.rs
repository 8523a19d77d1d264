//! Looks at the source and at our slot every few seconds, for the metrics: what WAL is kept for us, how long that can
//! go on, what the source's clock says. It has a connection of its own and outlives every life of the route, because a
//! slot is in danger exactly while the route is down.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;

use crate::clock::SourceClock;
use crate::config::Capture;
use crate::metrics;
use crate::pg::{self, Client};
use crate::status::Status;
use crate::types::Fault;

pub struct SourceWatch {
    pub url: pg::Url,
    pub slot: String,
    pub capture: Capture,
    /// What `auto` came to.
    pub status: watch::Receiver<Status>,
    pub clock: watch::Sender<Option<SourceClock>>,
}

/// Three looks between two scrapes, as Prometheus commonly makes them. A look is one small query.
const TICK: Duration = Duration::from_secs(5);
/// A source that does not answer a small query for so long is as good as gone; its connection is made anew.
const PATIENCE: Duration = Duration::from_secs(20);

const LOOK: &str = "select (extract(epoch from clock_timestamp()) * 1000000)::int8, \
     pg_wal_lsn_diff(here.lsn, '0/0')::int8, s.active, s.wal_status, s.safe_wal_size, \
     pg_wal_lsn_diff(here.lsn, s.restart_lsn)::int8, pg_wal_lsn_diff(s.confirmed_flush_lsn, '0/0')::int8 \
     from (select case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end as lsn) here \
     left join pg_replication_slots s on s.slot_name = $1";

/// The journal, where changes are captured by triggers: its size, and since when the oldest writer is open.
const JOURNAL: &str = "select pg_total_relation_size(to_regclass('lockstep.journal'))::float8, \
     extract(epoch from clock_timestamp() - least( \
       (select min(xact_start) from pg_stat_activity where backend_xid is not null and pid <> pg_backend_pid()), \
       (select min(prepared) from pg_prepared_xacts)))::float8";

impl SourceWatch {
    pub async fn keep(self) -> Infallible {
        let mut rate = Rate::default();
        loop {
            // What stands in the way is the route's to tell; here it only means that nothing is known.
            let Err(_) = self.look_on(&mut rate).await;
            forget();
            tokio::time::sleep(TICK).await;
        }
    }

    async fn look_on(&self, rate: &mut Rate) -> Result<Infallible, Fault> {
        let client = pg::connect(&self.url, "lockstep metrics").await?;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let late = |_| Fault::retry("the source does not answer");
            let seen = tokio::time::timeout(PATIENCE, look(&client, &self.slot)).await.map_err(late)??;
            self.clock.send_modify(|clock| *clock = Some(clock.map_or(seen.clock, |known| known.better(seen.clock))));
            let rate = rate.after(seen.at, seen.wal);
            show(&seen, rate);
            match self.by_journal() {
                Some(true) => show_journal(&client).await?,
                Some(false) => show_slot(&seen, rate),
                None => {}
            }
        }
    }

    /// Not known before a route has begun whose capture is chosen by what the source allows.
    fn by_journal(&self) -> Option<bool> {
        match self.capture {
            Capture::Wal => Some(false),
            Capture::Journal => Some(true),
            Capture::Auto => self.status.borrow().capture.as_ref().map(|capture| capture == "journal"),
        }
    }
}

/// What one look tells.
struct Seen {
    at: Instant,
    took: Duration,
    clock: SourceClock,
    /// Where the WAL ends.
    wal: i64,
    slot: Option<Slot>,
}

struct Slot {
    active: bool,
    status: Option<String>,
    safe: Option<i64>,
    retained: Option<i64>,
    confirmed: Option<i64>,
}

async fn look(client: &Client, slot: &str) -> Result<Seen, Fault> {
    let asked = Instant::now();
    let row = client.query_one(LOOK, &[&slot]).await.map_err(|error| pg::client::fault(&error))?;
    let at = Instant::now();
    let slot = row.get::<_, Option<bool>>(2).map(|active| Slot {
        active,
        status: row.get(3),
        safe: row.get(4),
        retained: row.get(5),
        confirmed: row.get(6),
    });
    let clock = SourceClock::read(row.get(0), asked, at);
    Ok(Seen { at, took: at - asked, clock, wal: row.get::<_, Option<i64>>(1).unwrap_or(0), slot })
}

fn show(seen: &Seen, rate: Option<f64>) {
    let metrics = metrics::get();
    metrics.source_answer_seconds.set(Some(seen.took.as_secs_f64()));
    let here = Timestamp::now().as_microsecond();
    metrics.source_clock_offset.set(Some((seen.clock.at(Instant::now()) - here) as f64 / 1e6));
    metrics.wal_bytes.set(Some(seen.wal as f64));
    metrics.wal_rate.set(rate);
}

/// There is no slot whose state could be told, and nothing that could be lost with it.
async fn show_journal(client: &Client) -> Result<(), Fault> {
    let row = client.query_one(JOURNAL, &[]).await.map_err(|error| pg::client::fault(&error))?;
    let metrics = metrics::get();
    metrics.journal_bytes.set(row.get(0));
    metrics.journal_open_seconds.set(Some(row.get::<_, Option<f64>>(1).unwrap_or_default().max(0.0)));
    let of_a_slot = [&metrics.confirmed_bytes, &metrics.retained_wal_bytes, &metrics.slot_active];
    for gauge in of_a_slot.into_iter().chain([&metrics.slot_safe_bytes, &metrics.slot_loss_seconds]) {
        gauge.set(None);
    }
    for status in STATUSES {
        metrics.slot_status.with_label_values(&[status]).set(0);
    }
    Ok(())
}

const STATUSES: [&str; 5] = ["reserved", "extended", "unreserved", "lost", "missing"];

fn show_slot(seen: &Seen, rate: Option<f64>) {
    let metrics = metrics::get();
    for gauge in [&metrics.journal_bytes, &metrics.journal_open_seconds] {
        gauge.set(None);
    }
    let slot = seen.slot.as_ref();
    let number = |part: fn(&Slot) -> Option<i64>| slot.and_then(part).map(|bytes| bytes as f64);
    metrics.confirmed_bytes.set(number(|slot| slot.confirmed));
    metrics.retained_wal_bytes.set(number(|slot| slot.retained));
    metrics.slot_active.set(slot.map(|slot| f64::from(u8::from(slot.active))));
    let is = slot.map_or("missing", |slot| slot.status.as_deref().unwrap_or("lost"));
    for status in STATUSES {
        metrics.slot_status.with_label_values(&[status]).set(i64::from(status == is));
    }
    let safe = number(|slot| slot.safe);
    metrics.slot_safe_bytes.set(safe);
    metrics.slot_loss_seconds.set(safe.zip(rate).map(|(safe, rate)| forecast(safe, rate)));
}

/// Nothing is known while the source does not answer. The slot's last state stays: it is what there is to go by.
fn forget() {
    let metrics = metrics::get();
    for gauge in [&metrics.source_answer_seconds, &metrics.wal_rate] {
        gauge.set(None);
    }
}

/// A forecast beyond a year says nothing, and graphs of it cannot be read.
const FARTHEST: f64 = 365.0 * 86_400.0;

fn forecast(safe: f64, rate: f64) -> f64 {
    if rate > 0.0 { (safe.max(0.0) / rate).min(FARTHEST) } else { FARTHEST }
}

/// How fast the WAL grows, smoothed: a checkpoint or one large statement is no trend.
#[derive(Default)]
struct Rate {
    last: Option<(Instant, i64)>,
    smooth: Option<f64>,
}

/// What was so long ago counts a third as much as what is now.
const SMOOTHED: f64 = 300.0;

impl Rate {
    fn after(&mut self, at: Instant, wal: i64) -> Option<f64> {
        let last = self.last.replace((at, wal));
        let Some((before, from)) = last.filter(|(_, from)| *from <= wal) else {
            self.smooth = None; // another server, or the first look: nothing to compare with
            return None;
        };
        let seconds = at.saturating_duration_since(before).as_secs_f64();
        if seconds > 0.0 {
            let now = (wal - from) as f64 / seconds;
            let weight = 1.0 - (-seconds / SMOOTHED).exp();
            self.smooth = Some(self.smooth.map_or(now, |smooth| smooth + (now - smooth) * weight));
        }
        self.smooth
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_lost_when_the_safe_wal_is_written() {
        assert_eq!(forecast(1000.0, 10.0), 100.0);
        assert_eq!(forecast(-5.0, 10.0), 0.0);
        assert_eq!(forecast(1000.0, 0.0), FARTHEST);
        assert_eq!(forecast(1e18, 1e-3), FARTHEST);
    }

    #[test]
    fn the_rate_of_wal_follows_a_change_slowly_and_begins_anew_on_another_server() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut rate = Rate::default();
        assert_eq!(rate.after(start, 1000), None);
        assert_eq!(rate.after(start + 5 * second, 6000), Some(1000.0));
        let smooth = rate.after(start + 10 * second, 1_006_000).unwrap();
        assert!(smooth > 1000.0 && smooth < 10_000.0, "{smooth}");
        let settled = (0..400).fold(smooth, |_, n| rate.after(start + (15 + 5 * n) * second, 1_006_000).unwrap());
        assert!(settled < smooth / 100.0, "{settled}");
        assert_eq!(rate.after(start + 3000 * second, 5), None);
    }
}
