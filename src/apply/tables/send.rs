//! Sends one request to a table until it is answered, and makes the request.

use bytes::Bytes;
use tokio::sync::mpsc;
use tracing::warn;

use super::form::{Form, Unfit};
use super::latest::Item;
use super::words;
use crate::apply::Event;
use crate::apply::plan::Write;
use crate::apply::send::{LONGEST_ASKED, waits};
use crate::rest::{Class, Client, Failure, TableAnswer, TableRequest, Verb};
use crate::types::{Cell, Fault};

/// What became of a request.
#[derive(Debug)]
pub enum Outcome {
    /// Carried out; of a patch it is known how many rows there were.
    Done { rows: Option<u64> },
    /// A row in it was refused.
    Refused(Failure),
    /// It is too much at once: too large, or too long at work.
    TooMuch(Failure),
}

#[derive(Clone)]
pub struct Wire {
    pub client: Client,
    pub events: mpsc::UnboundedSender<Event>,
}

impl Wire {
    /// Writes rows of one form and kind in one request. Only upserts and deletes may be many.
    pub async fn write(&self, items: &[Item]) -> Result<Outcome, Fault> {
        match request(items) {
            Ok(Some(request)) => self.send(&request, items.len() > 1).await,
            Ok(None) => Ok(Outcome::Done { rows: None }),
            Err(Unfit { column, why }) => {
                let message = format!("column {column} {why}");
                Ok(Outcome::Refused(Failure { class: Class::Row, ..Failure::unanswered(message) }))
            }
        }
    }

    /// Deletes every row of a table.
    pub async fn empty(&self, form: &Form) -> Result<Outcome, Fault> {
        let table = form.mapped.table.clone();
        let request = TableRequest { verb: Verb::Delete, table, query: form.everything(), body: Bytes::new() };
        self.send(&request, true).await
    }

    /// Until it is answered. `parted`: less of it can be sent at once, so that it need not be waited for.
    async fn send(&self, request: &TableRequest, parted: bool) -> Result<Outcome, Fault> {
        let failure = match self.until_answered(request, parted).await {
            Ok(answer) => return Ok(Outcome::Done { rows: answer.rows }),
            Err(failure) => failure,
        };
        match failure.class {
            Class::TooLarge if parted => Ok(Outcome::TooMuch(failure)),
            Class::Transient => Ok(Outcome::TooMuch(failure)),
            // The table itself does not take such rows: that is no single row's fault.
            Class::Row if failure.code.as_deref() != Some("428C9") => Ok(Outcome::Refused(failure)),
            _ => Err(words::setup(&failure, &request.table, request.body.len())),
        }
    }

    /// Sends the same request again for as long as what stands in the way passes by itself.
    pub async fn until_answered(&self, request: &TableRequest, parted: bool) -> Result<TableAnswer, Failure> {
        let metrics = crate::metrics::get();
        let (mut waits, mut failed) = (waits(), false);
        loop {
            metrics.in_flight_bytes.set(request.body.len() as i64);
            let answer = self.client.table(request).await;
            metrics.in_flight_bytes.set(0);
            metrics.bytes.inc_by(request.body.len() as u64);
            let failure = match answer {
                Err(failure) if failure.class == Class::Transient => failure,
                answered => {
                    if failed {
                        let _ = self.events.send(Event::Trouble(None));
                    }
                    return answered;
                }
            };
            // A time limit was met: half of it may keep within.
            if parted && failure.code.as_deref() == Some("57014") {
                return Err(failure);
            }
            let asked = failure.retry_after.unwrap_or_default().min(LONGEST_ASKED);
            let wait = waits.next().unwrap_or_default().max(asked);
            warn!(table = %request.table, cause = %failure, retry_in = ?wait, "Supabase did not take the rows; they are sent again");
            metrics.retries.with_label_values(&["transient"]).inc();
            let _ = self.events.send(Event::Trouble(Some(failure.to_string())));
            failed = true;
            tokio::time::sleep(wait).await;
        }
    }
}

/// The request for rows of one form and kind; none when there is nothing to write.
fn request(items: &[Item]) -> Result<Option<TableRequest>, Unfit> {
    let Some(first) = items.first() else { return Ok(None) };
    let form = &first.form;
    let columns = columns(first);
    let list = form.columns(&columns).map(|list| format!("&columns={list}")).unwrap_or_default();
    let mut body = Vec::new();
    let (verb, query) = match &first.write {
        Write::Upsert(_) => {
            body.push(b'[');
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    body.push(b',');
                }
                form.object(item.row(), &columns, &mut body)?;
            }
            body.push(b']');
            (Verb::Upsert, format!("on_conflict={}{list}", form.key_columns()))
        }
        Write::Delete(_) => {
            let filters: Vec<String> = items.iter().map(|item| form.filter(item.row())).collect::<Result<_, _>>()?;
            (Verb::Delete, format!("or=({})", filters.join(",")))
        }
        Write::Patch(row) | Write::Rekey { old: row, .. } => {
            if columns.is_empty() {
                return Ok(None);
            }
            form.object(first.row(), &columns, &mut body)?;
            (Verb::Patch, format!("or=({}){list}", form.filter(row)?))
        }
    };
    Ok(Some(TableRequest { verb, table: form.mapped.table.clone(), query, body: body.into() }))
}

/// Which of the mapping's columns a change brings: all, or those that came.
fn columns(item: &Item) -> Vec<usize> {
    let all = 0..item.form.mapped.columns.len();
    match &item.write {
        Write::Patch(row) | Write::Rekey { new: row, .. } => {
            let came: Vec<bool> = row.cells().map(|cell| cell != Cell::Unchanged).collect();
            all.filter(|&at| came.get(item.form.mapped.columns[at].0).copied().unwrap_or(false)).collect()
        }
        Write::Upsert(_) | Write::Delete(_) => all.collect(),
    }
}
