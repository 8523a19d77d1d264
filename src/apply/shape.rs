//! How a table's rows in the stream become rows of its target: which columns are sent, which make the key.

use std::collections::HashMap;
use std::sync::Arc;

use crate::types::{Fault, Position, Relation, RelationColumn, TableName};

/// What is agreed about one table before the stream starts.
#[derive(Clone, Debug)]
pub struct Shape {
    pub name: TableName,
    /// Columns that are replicated.
    pub columns: Vec<String>,
    /// Columns of its primary key.
    pub key: Vec<String>,
    /// The settings chose the columns: others in the stream are left out, not missed.
    pub chosen: bool,
}

/// A relation of the stream laid over the shape of its table.
#[derive(Debug, PartialEq, Eq)]
pub struct Mapped {
    pub table: TableName,
    pub key_names: Vec<String>,
    /// Where the key's columns stand in a row of the stream.
    pub key: Vec<usize>,
    /// Where each replicated column stands in a row of the stream, and its name.
    pub columns: Vec<(usize, String)>,
}

/// The shapes by the table's oid, and what the stream's relations came to.
pub struct Shapes {
    shapes: HashMap<u32, Shape>,
    /// The shapes hold what the source's catalogs said at this point of its history, or later.
    read_at: Position,
    /// By oid, the latest first. A first copy and the stream describe a table each in their own way, and a column
    /// added in mid-stream makes one more: a few are remembered.
    known: HashMap<u32, Vec<Known>>,
}

type Known = (Arc<Relation>, Arc<Mapped>);

const REMEMBERED: usize = 4;

impl Shapes {
    pub fn new(shapes: HashMap<u32, Shape>, read_at: Position) -> Self {
        Self { shapes, read_at, known: HashMap::new() }
    }

    /// A replicated table as a reader would describe it, and its key's columns.
    pub fn described(&self, table: &TableName) -> Option<(Arc<Relation>, Vec<String>)> {
        let (&oid, shape) = self.shapes.iter().find(|(_, shape)| shape.name == *table)?;
        let column = |name: &String| RelationColumn {
            name: name.clone(),
            key: shape.key.contains(name),
            type_oid: 0, // only the stream's relations know it, and nobody asks for it
            type_modifier: -1,
        };
        let columns = shape.columns.iter().map(column).collect();
        Some((Arc::new(Relation { oid, name: shape.name.clone(), identity: b'd', columns }), shape.key.clone()))
    }

    /// The mapping of a relation that came up to `upto`; `None` when its table is not replicated.
    pub fn of(&mut self, relation: &Arc<Relation>, upto: Position) -> Result<Option<Arc<Mapped>>, Fault> {
        let past = upto <= self.read_at;
        let renamed = |shape: &Shape| !past && shape.name != relation.name;
        let Some(shape) = self.shapes.get(&relation.oid) else {
            // Another table under a name that we know: the one that we know was dropped, or has another name now.
            return if past || self.shapes.values().all(renamed) { Ok(None) } else { Err(altered(&relation.name)) };
        };
        if renamed(shape) {
            return Err(altered(&shape.name));
        }
        let known = self.known.entry(relation.oid).or_default();
        if let Some((_, mapped)) = known.iter().find(|(seen, _)| Arc::ptr_eq(seen, relation)) {
            return Ok(Some(mapped.clone()));
        }
        let mapped = map(shape, relation, past)?;
        // Relations that come to the same share one mapping, so that their rows fold together.
        let same = known.iter().map(|(_, known)| known).find(|known| ***known == mapped).cloned();
        let mapped = same.unwrap_or_else(|| Arc::new(mapped));
        known.insert(0, (relation.clone(), mapped.clone()));
        known.truncate(REMEMBERED);
        Ok(Some(mapped))
    }
}

/// `past`: the shape is younger than the relation, so a column that only the relation has was dropped since.
fn map(shape: &Shape, relation: &Relation, past: bool) -> Result<Mapped, Fault> {
    let table = &shape.name;
    let place = |name: &String| relation.columns.iter().position(|column| &column.name == name);
    let key: Option<Vec<usize>> = shape.key.iter().map(place).collect();
    let key = key.ok_or_else(|| {
        let cause = format!("{table}: the stream does not hold the key ({})", shape.key.join(", "));
        Fault::stop(cause, "let the publication include the key's columns")
    })?;
    // Rows that were told apart by another key must not be taken for one another. FULL marks every column; otherwise old
    // rows hold only the identity's, and we look for rows by the key.
    let flagged = relation.columns.iter().filter(|column| column.key).count();
    let by_key = key.iter().all(|&at| relation.columns[at].key);
    let same = match relation.identity {
        b'f' => true,
        b'd' => by_key && flagged == key.len(),
        _ => by_key,
    };
    if !same && past {
        let cause = format!("its key became ({}) while changes were on their way", shape.key.join(", "));
        return Err(Fault::Park { table: table.clone(), cause });
    } else if !same && (flagged > 0 || relation.identity != b'd') {
        return Err(altered(table));
    }
    let lacks = shape.columns.iter().any(|name| place(name).is_none());
    let mut columns = Vec::with_capacity(relation.columns.len());
    for (at, column) in relation.columns.iter().enumerate() {
        if shape.columns.contains(&column.name) {
            columns.push((at, column.name.clone()));
        } else if !shape.chosen && !past {
            return Err(altered(table));
        } else if !shape.chosen && lacks {
            return Err(renamed_column(shape, &column.name));
        }
    }
    Ok(Mapped { table: table.clone(), key_names: shape.key.clone(), key, columns })
}

/// Altered at the source after the start. The supervisor looks at both sides again before it goes on.
fn altered(table: &TableName) -> Fault {
    Fault::retry(format!("{table} was altered at the source; both sides are looked at again"))
}

/// Changes from before an ALTER hold a column that is gone and lack one that is there: renamed, or dropped and another
/// one added? Only somebody who knows can say whether its values may be left out.
fn renamed_column(shape: &Shape, column: &str) -> Fault {
    let table = &shape.name;
    Fault::stop(
        format!("{table}: changes on their way hold column {column}, which the source has no more; was it renamed?"),
        format!(
            "if it was dropped, name the columns to replicate in lockstep.toml: [table.\"{table}\"] columns = {:?}; if \
             it was renamed, rename it back until Lockstep has caught up",
            shape.columns
        ),
    )
}
