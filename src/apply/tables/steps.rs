//! What a batch does, step by step, in the source's order.

use std::collections::HashMap;
use std::sync::Arc;

use super::form::{Form, Json};
use super::latest::Item;
use crate::apply::plan::write;
use crate::apply::shape::{Mapped, Shapes};
use crate::types::{Batch, Change, Fault, TableName};

#[derive(Clone, Debug)]
pub enum Step {
    Row(Item),
    Truncate(Vec<Arc<Form>>),
}

#[derive(Debug, Default)]
pub struct Steps {
    pub steps: Vec<Step>,
    /// (table, kind, count), for status and metrics.
    pub counted: Vec<(TableName, &'static str, u64)>,
}

/// The form of each mapping, made once.
#[derive(Default)]
pub struct Forms {
    pub json: HashMap<u32, HashMap<String, Json>>,
    known: HashMap<u32, Vec<Arc<Form>>>,
}

/// Mappings of one table that are remembered: a first copy and the stream have one each, an altered table one more.
const REMEMBERED: usize = 4;

impl Forms {
    pub fn new(json: HashMap<u32, HashMap<String, Json>>) -> Self {
        Self { json, known: HashMap::new() }
    }

    fn of(&mut self, oid: u32, mapped: &Arc<Mapped>) -> Arc<Form> {
        let known = self.known.entry(oid).or_default();
        if let Some(form) = known.iter().find(|form| Arc::ptr_eq(&form.mapped, mapped)) {
            return form.clone();
        }
        let json = self.json.get(&oid);
        let json = mapped.columns.iter().map(|(_, name)| json.and_then(|json| json.get(name)).copied()).collect();
        let form = Arc::new(Form { mapped: mapped.clone(), json, oid });
        known.insert(0, form.clone());
        known.truncate(REMEMBERED);
        form
    }
}

/// Lays a batch out.
pub fn steps(batch: &Batch, shapes: &mut Shapes, forms: &mut Forms) -> Result<Steps, Fault> {
    let mut out = Steps::default();
    for (at, change) in batch.changes.iter().enumerate() {
        match change {
            Change::Truncate { relations, .. } => {
                let mut tables = Vec::new();
                for relation in relations {
                    if let Some(mapped) = shapes.of(relation, batch.upto)? {
                        out.count(&mapped.table, "truncate");
                        tables.push(forms.of(relation.oid, &mapped));
                    }
                }
                if !tables.is_empty() {
                    out.steps.push(Step::Truncate(tables));
                }
            }
            Change::Message { .. } => {}
            Change::Insert { relation, .. } | Change::Update { relation, .. } | Change::Delete { relation, .. } => {
                let Some(mapped) = shapes.of(relation, batch.upto)? else { continue };
                let (kind, write) = write(change, &mapped)?;
                out.count(&mapped.table, kind);
                let form = forms.of(relation.oid, &mapped);
                let (relation, xid) = (relation.clone(), batch.xid_of(at));
                out.steps.push(Step::Row(Item { form, relation, xid, write, incomplete: false, refusal: None }));
            }
        }
    }
    Ok(out)
}

impl Steps {
    fn count(&mut self, table: &TableName, kind: &'static str) {
        match self.counted.iter_mut().rev().find(|(name, seen, _)| *seen == kind && name == table) {
            Some((_, _, count)) => *count += 1,
            None => self.counted.push((table.clone(), kind, 1)),
        }
    }
}
