//! What the settings choose to replicate, applied to what the source has.

use super::settings::{OneTable, Tables};
use crate::pg::catalog::Selection;
use crate::types::{Fault, Table};

impl Tables {
    pub fn selection(&self) -> Selection {
        Selection { schemas: self.schemas.clone(), include: self.include.clone(), exclude: self.exclude.clone() }
    }
}

impl OneTable {
    /// Narrows a table to the chosen columns.
    pub fn choose(&self, table: &mut Table) -> Result<(), Fault> {
        let columns = &self.columns;
        if columns.is_empty() {
            return Ok(());
        }
        let place = format!("[table.\"{}\"] columns", table.name);
        let has = |name: &String| table.columns.iter().any(|column| &column.name == name);
        if let Some(unknown) = columns.iter().find(|name| !has(name)) {
            let all: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
            return Err(Fault::stop(
                format!("{place}: there is no column `{unknown}`"),
                format!("choose of {}", all.join(", ")),
            ));
        }
        if let Some(key) = table.key.iter().find(|key| !columns.contains(key)) {
            return Err(Fault::stop(format!("{place} leaves out `{key}`, which is in the primary key"), "add it"));
        }
        table.columns.retain(|column| columns.contains(&column.name));
        Ok(())
    }
}

/// A section `[table."…"]` for which there is no table.
pub fn not_chosen(name: &str) -> Fault {
    let fix = "write it as schema.table, and let [tables] choose it";
    Fault::stop(format!("[table.\"{name}\"] is about a table that is not replicated"), fix)
}
