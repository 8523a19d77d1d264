//! What a live view is told: everything once, then only the rows that are new. With two thousand tables a whole status is
//! half a megabyte; twice a second that would be more than all the changes that are replicated.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use crate::status::{Synced, TableStatus, Verified, View};

/// Rows in one message, at most: the others are sent with the next ones. So a message stays below 100 kB, and a view that
/// is behind catches up in a second or two.
const ROWS: usize = 250;

/// One table, with all that other lists say of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Row {
    #[serde(flatten)]
    table: TableStatus,
    /// Rows that a comparison found to differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    differs: Option<u64>,
    /// Rows that the target refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    parked: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verified: Option<Verified>,
    /// As the table of sync states says.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    records: Option<i64>,
    /// Until when everything of it is in the target; left out while it is in step, when that moves all the time.
    #[serde(skip_serializing_if = "Option::is_none")]
    synced_at: Option<Timestamp>,
}

/// What one view has been sent.
#[derive(Debug, Default)]
pub(super) struct Seen {
    rows: HashMap<String, Row>,
    /// Where the next message goes on looking for news: whatever changes all the time keeps nobody else out.
    next: usize,
    begun: bool,
}

impl Seen {
    /// The next message.
    pub(super) fn message(&mut self, mut view: View, synced: &Synced, within: Duration) -> Value {
        let rows = rows(&mut view, synced);
        let counts = counts(&rows);
        let partial = std::mem::replace(&mut self.begun, true);
        let (news, gone) = match partial {
            true => self.news(rows),
            false => {
                self.rows = rows.iter().map(|row| (row.table.name.clone(), row.clone())).collect();
                (rows, Vec::new())
            }
        };
        let mut message = json!(view);
        message["tables"] = json!(news);
        message["gone"] = json!(gone);
        message["partial"] = json!(partial);
        message["counts"] = counts;
        message["synced_at"] = json!(synced.reached);
        message["in_step_within"] = json!(within.as_secs_f64());
        message
    }

    fn news(&mut self, rows: Vec<Row>) -> (Vec<Row>, Vec<String>) {
        let mut news = Vec::new();
        let many = rows.len();
        let from = if self.next < many { self.next } else { 0 };
        for (at, row) in rows.iter().enumerate().cycle().skip(from).take(many) {
            if self.rows.get(&row.table.name) == Some(row) {
                continue;
            }
            if news.len() == ROWS {
                self.next = at;
                break;
            }
            self.rows.insert(row.table.name.clone(), row.clone());
            news.push(row.clone());
        }
        if self.rows.len() == many {
            return (news, Vec::new());
        }
        let there: HashMap<&str, ()> = rows.iter().map(|row| (row.table.name.as_str(), ())).collect();
        let gone: Vec<String> = self.rows.keys().filter(|name| !there.contains_key(name.as_str())).cloned().collect();
        gone.iter().for_each(|name| _ = self.rows.remove(name));
        (news, gone)
    }
}

/// Takes out of the view what it says of single tables.
fn rows(view: &mut View, synced: &Synced) -> Vec<Row> {
    let different = std::mem::take(&mut view.jobs.different);
    let mut verified: BTreeMap<String, Verified> = std::mem::take(&mut view.jobs.verified);
    let parked: HashMap<String, u64> = view.status.parked.iter().map(|table| (table.name(), table.rows)).collect();
    view.status.parked.clear();
    let row = |table: TableStatus| {
        let known = synced.tables.get(&table.name);
        Row {
            differs: different.get(&table.name).copied(),
            parked: parked.get(&table.name).copied(),
            verified: verified.remove(&table.name),
            status: known.map(|known| known.status),
            error: known.and_then(|known| known.error.clone()),
            records: known.map(|known| known.records),
            synced_at: known.filter(|known| known.status != "completed").and_then(|known| known.synced_at),
            table,
        }
    };
    std::mem::take(&mut view.status.tables).into_iter().map(row).collect()
}

fn counts(rows: &[Row]) -> Value {
    let mut states: BTreeMap<&str, u64> = BTreeMap::new();
    rows.iter().for_each(|row| *states.entry(row.table.state.word()).or_default() += 1);
    let written: u64 = rows.iter().map(|row| row.table.rows).sum();
    json!({"tables": rows.len(), "rows": written, "states": states})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Status, TableState};

    fn view(tables: usize) -> View {
        let mut status = Status::starting("to_supabase", "db:5432/shop", "https://abc.supabase.co");
        let table = |n: usize| TableStatus {
            name: format!("public.t{n:05}"),
            state: TableState::Streaming,
            rows: 0,
            changed_at: None,
        };
        status.tables = (0..tables).map(table).collect();
        let now = status.updated_at;
        View::new(status, now, Duration::from_secs(10))
    }

    fn message(seen: &mut Seen, view: &View) -> Value {
        seen.message(view.clone(), &Synced::default(), Duration::from_secs(10))
    }

    fn names(message: &Value) -> Vec<String> {
        message["tables"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn everything_is_told_once_and_then_only_what_is_new() {
        let mut seen = Seen::default();
        let mut view = view(2000);
        view.jobs.different.insert("public.t00007".into(), 3);
        let first = message(&mut seen, &view);
        assert_eq!((names(&first).len(), &first["partial"]), (2000, &json!(false)));
        assert_eq!(first["tables"][7]["differs"], 3);
        let second = message(&mut seen, &view);
        assert_eq!((names(&second).len(), &second["partial"]), (0, &json!(true)));
        assert!(second.to_string().len() < 2000, "{second}");
        view.status.tables[9].rows = 5;
        view.jobs.different.clear();
        view.status.tables.remove(0);
        let third = message(&mut seen, &view);
        assert_eq!(names(&third), ["public.t00007", "public.t00009"]);
        assert_eq!(third["gone"], json!(["public.t00000"]));
        assert_eq!(third["counts"]["rows"], 5);
    }

    #[test]
    fn a_message_is_bounded_and_nobody_is_kept_out_by_what_changes_all_the_time() {
        let mut seen = Seen::default();
        let mut view = view(2000);
        message(&mut seen, &view);
        let mut told = std::collections::BTreeSet::new();
        for round in 1..=8 {
            view.status.tables.iter_mut().for_each(|table| table.rows = round);
            let message = message(&mut seen, &view);
            assert!(message.to_string().len() < 100_000);
            told.extend(names(&message));
        }
        assert_eq!(told.len(), 2000, "each has its turn");
        let rest = (0..8).map(|_| names(&message(&mut seen, &view)).len()).sum::<usize>();
        assert_eq!(rest, 2000 - ROWS, "and what was left out comes later");
        assert_eq!(names(&message(&mut seen, &view)).len(), 0);
    }
}
