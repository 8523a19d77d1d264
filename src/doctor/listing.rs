//! What PostgREST tells of a schema to everybody with a key: its OpenAPI description. Enough to see which tables and
//! columns are missing before any of our SQL is installed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::types::TableName;

/// Per table its columns.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    tables: BTreeMap<TableName, Vec<String>>,
    schemas: BTreeSet<String>,
    /// Our functions that it knows.
    pub doors: Vec<String>,
}

impl Listing {
    pub fn add(&mut self, schema: &str, description: &Value) {
        self.schemas.insert(schema.to_owned());
        for (name, definition) in description["definitions"].as_object().into_iter().flatten() {
            let columns = definition["properties"].as_object().into_iter().flatten().map(|(name, _)| name.clone());
            self.tables.insert(TableName::new(schema, name), columns.collect());
        }
        let paths = description["paths"].as_object().into_iter().flatten().map(|(path, _)| path);
        self.doors.extend(paths.filter_map(|path| path.strip_prefix("/rpc/lockstep_")).map(str::to_owned));
    }

    /// Whether it tells of this schema at all.
    pub fn tells(&self, schema: &str) -> bool {
        self.schemas.contains(schema)
    }

    pub fn columns(&self, table: &TableName) -> Option<&[String]> {
        self.tables.get(table).map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_columns_and_our_doors_are_read_from_the_description() {
        let text = r#"{"paths": {"/": {}, "/agents": {}, "/rpc/lockstep_hello": {}, "/rpc/other": {}},
            "definitions": {"agents": {"required": ["id"], "properties": {"id": {"format": "uuid"}, "name": {}}}}}"#;
        let mut listing = Listing::default();
        listing.add("public", &serde_json::from_str(text).unwrap());
        let agents = TableName::new("public", "agents");
        assert_eq!(listing.columns(&agents), Some(&["id".to_owned(), "name".to_owned()][..]));
        assert_eq!(listing.columns(&TableName::new("other", "agents")), None);
        assert_eq!((listing.tells("public"), listing.tells("other")), (true, false));
        assert_eq!(listing.doors, ["hello"]);
    }
}
