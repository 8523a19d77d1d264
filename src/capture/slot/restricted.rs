//! What somebody has set in the publication by hand: tables of which only some columns, or only some rows, are
//! published.
//!
//! Some columns are as good as a choice in the settings, and are honoured. Some rows are not: a comparison of both sides
//! would bring the others, and a row that leaves the filter would stay for ever. That is refused.

use crate::pg::{Client, client, quote};
use crate::remedy;
use crate::types::{Fault, Table, TableName};

/// A table that is not published whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restricted {
    pub table: TableName,
    /// The columns that are published, where not all of them are.
    pub columns: Option<Vec<String>>,
    /// The condition on rows, as the source writes it.
    pub filter: Option<String>,
}

/// Before PostgreSQL 15 there is neither: the columns of the catalog are asked for by name.
const MARKED: &str = "select n.nspname::text, c.relname::text, to_jsonb(r)->>'prattrs' is not null \
     from pg_publication_rel r join pg_publication p on p.oid = r.prpubid join pg_class c on c.oid = r.prrelid \
     join pg_namespace n on n.oid = c.relnamespace where p.pubname = $1 \
     and (to_jsonb(r)->>'prattrs' is not null or to_jsonb(r)->>'prqual' is not null)";

const SHOWN: &str = "select array(select jsonb_array_elements_text(to_jsonb(t)->'attnames')), to_jsonb(t)->>'rowfilter' \
     from pg_publication_tables t where t.pubname = $1 and t.schemaname = $2 and t.tablename = $3";

/// The tables that the publication shows only in part.
pub async fn read(source: &Client, publication: &str) -> Result<Vec<Restricted>, Fault> {
    let fault = |error: tokio_postgres::Error| client::fault(&error);
    let mut restricted = Vec::new();
    for row in source.query(MARKED, &[&publication]).await.map_err(fault)? {
        let table = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        let shown = source.query_opt(SHOWN, &[&publication, &table.schema, &table.name]).await.map_err(fault)?;
        let Some(shown) = shown else { continue }; // taken out between the two questions
        let columns = row.get::<_, bool>(2).then(|| shown.get(0));
        restricted.push(Restricted { table, columns, filter: shown.get(1) });
    }
    Ok(restricted)
}

impl Restricted {
    /// Leaves the columns that are published.
    pub fn choose(&self, table: &mut Table) -> Result<(), Fault> {
        let Some(columns) = &self.columns else { return Ok(()) };
        if let Some(key) = table.key.iter().find(|key| !columns.contains(key)) {
            let name = quote::table(&table.name);
            return Err(Fault::stop(
                format!("the publication leaves out {key} of {}, which is in its primary key", table.name),
                format!("at the source: let the column list of {name} hold the key"),
            ));
        }
        table.columns.retain(|column| columns.contains(&column.name));
        Ok(())
    }

    /// Whether a table is published otherwise than it was: less of its columns, or only some rows.
    pub fn differs(&self, table: &Table) -> bool {
        let lacks = |columns: &Vec<String>| table.columns.iter().any(|column| !columns.contains(&column.name));
        self.table == table.name && (self.filter.is_some() || self.columns.as_ref().is_some_and(lacks))
    }

    /// Of some rows only: that cannot be kept in step.
    pub fn refusal(&self, publication: &str) -> Option<Fault> {
        let filter = self.filter.as_ref()?;
        let tables = [self.table.clone()];
        let (out, back) = (remedy::unpublish(publication, &tables), remedy::publish(publication, &tables));
        let exclude = toml::Value::from(vec![self.table.to_string()]);
        Some(Fault::stop(
            format!(
                "publication {publication} shows only some rows of {} ({filter}), and a comparison of both sides would \
                 bring the others",
                self.table
            ),
            format!("at the source: {out}; {back}\n       or leave the table out: tables.exclude = {exclude}"),
        ))
    }
}
