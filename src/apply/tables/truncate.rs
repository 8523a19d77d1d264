//! Empties a table piece by piece, where deleting all of it at once takes longer than the target allows.

use bytes::Bytes;

use super::form::{FILTER_BYTES, Form};
use super::send::Wire;
use super::words;
use crate::rest::{TableRequest, Verb, encoded};
use crate::types::{Cell, Fault, Tuple, TupleBuilder};

/// Keys that are read at once: less than a project's `max_rows`, so that a short answer means the end.
const KEYS: usize = 500;

impl Wire {
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
