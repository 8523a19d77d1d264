//! What the lines of the journal hold, asked of the source once for each shape.

use std::collections::HashMap;
use std::sync::Arc;

use super::assemble::Known;
use super::horizon::db;
use crate::pg::Client;
use crate::types::{Fault, Relation, RelationColumn, TableName};

const SHAPE: &str = "select relation, schema_name, table_name, columns, types, key \
     from lockstep.journal_shape where id = $1";

/// A few for each table: one more with each time that it was altered.
#[derive(Default)]
pub(super) struct Shapes(HashMap<i32, Arc<Known>>);

impl Shapes {
    pub(super) async fn known(&mut self, client: &Client, id: i32) -> Result<Arc<Known>, Fault> {
        if let Some(known) = self.0.get(&id) {
            return Ok(known.clone());
        }
        let row = client.query_opt(SHAPE, &[&id]).await.map_err(db)?;
        let row = row.ok_or_else(|| Fault::retry(format!("the journal does not know shape {id}")))?;
        let (names, types, key): (Vec<String>, Vec<u32>, Vec<String>) = (row.get(3), row.get(4), row.get(5));
        let place = |name: &String| names.iter().position(|column| column == name);
        let places: Option<Vec<usize>> = key.iter().map(place).collect();
        let columns = names.iter().zip(types).map(|(name, type_oid)| RelationColumn {
            name: name.clone(),
            key: key.contains(name),
            type_oid,
            type_modifier: -1,
        });
        let relation = Relation {
            oid: row.get(0),
            name: TableName::new(row.get::<_, String>(1), row.get::<_, String>(2)),
            identity: b'd',
            columns: columns.collect(),
        };
        let known = Arc::new(Known { relation: Arc::new(relation), key: places.unwrap_or_default() });
        self.0.insert(id, known.clone());
        Ok(known)
    }
}
