//! Empties tables. Nothing but deletes will do that through plain PostgREST: one request a table, or piece by piece,
//! where all at once takes longer than the target allows.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use tracing::warn;

use super::Tables;
use super::form::{FILTER_BYTES, Form};
use super::send::{Outcome, Wire};
use super::words;
use crate::rest::{TableRequest, Verb, encoded};
use crate::types::{Cell, Fault, Tuple, TupleBuilder};

/// Keys that are read at once: less than a project's `max_rows`, so that a short answer means the end.
const KEYS: usize = 500;

impl Tables {
    /// One by one, the ones that others refer to when these are empty.
    pub(super) async fn truncate(&mut self, forms: &[Arc<Form>]) -> Result<(), Fault> {
        let mut left: Vec<_> = forms.to_vec();
        left.sort_by_key(|form| Reverse(self.facts.rank.get(&form.oid).copied().unwrap_or(0)));
        let mut loosened = false;
        loop {
            let (before, mut refused, mut why) = (left.len(), Vec::new(), None);
            for form in left {
                match self.wire.empty(&form).await? {
                    Outcome::Done { .. } => {}
                    Outcome::TooMuch(failure) => {
                        warn!(table = %form.mapped.table, cause = %failure, "emptying it takes too long at once");
                        self.wire.empty_by_parts(&form).await?;
                    }
                    Outcome::Refused(failure) => {
                        why = Some((form.mapped.table.clone(), failure));
                        refused.push(form);
                    }
                }
            }
            match why {
                None => return Ok(()),
                Some(_) if refused.len() < before => {}
                Some((table, failure)) if loosened => return Err(words::not_emptied(&table, &failure)),
                Some(_) => {
                    self.let_go(&refused).await?;
                    loosened = true;
                }
            }
            left = refused;
        }
    }

    /// They refer to each other in a circle: what refers and may be NULL is made so, just before all of it goes.
    async fn let_go(&self, forms: &[Arc<Form>]) -> Result<(), Fault> {
        for form in forms {
            let loose = self.facts.loose.iter().filter(|((oid, _), _)| *oid == form.oid);
            let loose: BTreeSet<&String> = loose.flat_map(|(_, columns)| columns).collect();
            let columns = form.mapped.columns.iter().enumerate().filter(|(_, (_, name))| loose.contains(name));
            let columns: Vec<usize> = columns.map(|(at, _)| at).collect();
            if !columns.is_empty() {
                self.wire.clear(form, &columns).await?;
            }
        }
        Ok(())
    }
}

impl Wire {
    /// Deletes every row of a table.
    async fn empty(&self, form: &Form) -> Result<Outcome, Fault> {
        let table = form.mapped.table.clone();
        let request = TableRequest { verb: Verb::Delete, table, query: form.everything(), body: Bytes::new() };
        self.send(&request, true).await
    }

    /// Makes columns NULL in every row.
    async fn clear(&self, form: &Form, columns: &[usize]) -> Result<Outcome, Fault> {
        let nothing: Tuple = TupleBuilder::new().finish(); // a row without values: NULL in every column
        let mut body = Vec::new();
        if form.object(&nothing, columns, &mut body).is_err() {
            return Ok(Outcome::Done { rows: None }); // no value, nothing unfit
        }
        let list = form.columns(columns).map(|list| format!("&columns={list}")).unwrap_or_default();
        let (table, query) = (form.mapped.table.clone(), format!("{}{list}", form.everything()));
        self.send(&TableRequest { verb: Verb::Patch, table, query, body: body.into() }, true).await
    }

    /// Deletes all rows by their keys. Rows that come meanwhile are none of ours.
    pub async fn empty_by_parts(&self, form: &Form) -> Result<(), Fault> {
        loop {
            let keys = self.keys(form).await?;
            for filter in filters(form, &keys)? {
                let table = form.mapped.table.clone();
                let request =
                    TableRequest { verb: Verb::Delete, table, query: format!("or=({filter})"), body: Bytes::new() };
                let answer = self.until_answered(&request, false).await;
                answer.map_err(|failure| words::not_emptied(&form.mapped.table, &failure))?;
            }
            if keys.len() < KEYS {
                return Ok(());
            }
        }
    }

    async fn keys(&self, form: &Form) -> Result<Vec<Tuple>, Fault> {
        // As text: a number in JSON may have more digits than a reader keeps.
        let names: Vec<String> = form.key_names_as_text();
        let query = format!("select={}&limit={KEYS}", encoded(&names.join(",")));
        let table = form.mapped.table.clone();
        let request = TableRequest { verb: Verb::Read, table, query, body: Bytes::new() };
        let answer = self.until_answered(&request, false).await;
        let answer = answer.map_err(|failure| words::setup(&failure, &form.mapped.table, 0))?;
        let rows: Vec<serde_json::Map<String, serde_json::Value>> = serde_json::from_slice(&answer.body)
            .map_err(|error| Fault::retry(format!("{}: an answer that is no list: {error}", form.mapped.table)))?;
        Ok(rows.iter().map(|row| key(form, row)).collect())
    }
}

/// The key in the place that it has in a row of the stream.
fn key(form: &Form, row: &serde_json::Map<String, serde_json::Value>) -> Tuple {
    let width = form.mapped.key.iter().max().map_or(0, |last| last + 1);
    let mut out = TupleBuilder::new();
    for place in 0..width {
        let name = form.mapped.key.iter().position(|&at| at == place).map(|n| format!("k{n}"));
        match name.and_then(|name| row.get(&name)).and_then(|value| value.as_str()) {
            Some(text) => out.push(Cell::Text(text.as_bytes())),
            None => out.push(Cell::Null),
        }
    }
    out.finish()
}

fn filters(form: &Form, keys: &[Tuple]) -> Result<Vec<String>, Fault> {
    let mut all: Vec<String> = Vec::new();
    for key in keys {
        let filter = form.filter(key).map_err(|unfit| {
            let cause = format!("{}: {} {}", form.mapped.table, unfit.column, unfit.why);
            Fault::stop(cause, "install our SQL in Supabase: lockstep setup supabase")
        })?;
        match all.last_mut() {
            Some(last) if last.len() + filter.len() < FILTER_BYTES => {
                last.push(',');
                last.push_str(&filter);
            }
            _ => all.push(filter),
        }
    }
    Ok(all)
}
