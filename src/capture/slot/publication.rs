//! The publication: an explicit list of tables, so that a table without a key is never published by accident and its
//! updates are never refused at the source.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::pg::{Client, client, quote};
use crate::remedy;
use crate::types::{Fault, TableName};

use super::Want;

/// Makes sure that every wanted table is published, with every kind of change and partitions as their root.
pub(super) async fn ensure(client: &Client, want: &Want<'_>, version: u32, slot_exists: bool) -> Result<(), Fault> {
    let found = Found::read(client, want.publication).await?;
    if found.is_none() && slot_exists {
        return Err(gone(want.slot, want.publication));
    }
    let missing = missing(client, want).await?;
    let Some(statement) = plan(want, found.as_ref(), &missing) else { return Ok(()) };
    let name = want.publication;
    if !want.create {
        return Err(Fault::stop(
            match &found {
                None => format!("the source has no publication {name}"),
                Some(_) if missing.is_empty() => format!("publication {name} leaves out kinds of changes"),
                Some(_) => format!("publication {name} lacks {}", names(&missing)),
            },
            statement,
        ));
    }
    tracing::debug!(version, %statement, "publication");
    client.batch_execute(&statement).await.map_err(|error| match error.code().map(|code| code.code()) {
        Some("42501") => refused(want, found.as_ref(), &statement, &client::fault(&error)),
        _ => client::fault(&error),
    })
}

/// The publication is not there, though its slot is: the stream reads the catalogs as they were at each change, so one
/// that is created now does not exist for what the slot still holds.
pub(crate) fn gone(slot: &str, publication: &str) -> Fault {
    Fault::stop(
        format!(
            "publication {publication} was dropped or made anew while slot {slot} existed, which cannot go on without it"
        ),
        format!("{}; then start again: both sides are compared and repaired", remedy::drop_slot(slot)),
    )
}

/// One statement string, run as one transaction: all of it or nothing.
fn plan(want: &Want<'_>, found: Option<&Found>, missing: &[TableName]) -> Option<String> {
    let Some(found) = found else { return Some(remedy::create_publication(want.publication, want.tables)) };
    let mut statements = Vec::new();
    if !found.whole {
        statements.push(remedy::publish_all(want.publication));
    }
    if !missing.is_empty() {
        statements.push(remedy::publish(want.publication, missing));
    }
    (!statements.is_empty()).then(|| statements.join("; "))
}

const FOUND: &str = "select pubinsert and pubupdate and pubdelete and pubtruncate and pubviaroot, pubowner::regrole::text \
     from pg_publication where pubname = $1";

struct Found {
    /// It publishes every kind of change, and partitions as their root.
    whole: bool,
    owner: String,
}

impl Found {
    async fn read(client: &Client, name: &str) -> Result<Option<Self>, Fault> {
        let row = client.query_opt(FOUND, &[&name]).await.map_err(|error| client::fault(&error))?;
        Ok(row.map(|row| Self { whole: row.get(0), owner: row.get(1) }))
    }
}

/// Whether the publication leaves out kinds of changes, or brings partitions by their own names: what a stream of it
/// brought has missed some. One that is not there leaves out nothing.
pub async fn leaves_out(client: &Client, publication: &str) -> Result<bool, Fault> {
    Ok(Found::read(client, publication).await?.is_some_and(|found| !found.whole))
}

/// What changes whenever somebody alters the publication: by tables, and for what holds for all of them (oid 0).
const MARKS: &str = "select 0::oid, p.oid::text || ' ' || p.xmin::text from pg_publication p where p.pubname = $1 \
     union all select r.prrelid, r.oid::text || ' ' || r.xmin::text from pg_publication_rel r \
     join pg_publication p on p.oid = r.prpubid where p.pubname = $1";

/// What tells a publication from what it was: a mark of the whole under 0, and of each table in it by its oid. A table
/// that was taken out and put in again has another one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Marks(BTreeMap<u32, String>);

impl From<BTreeMap<u32, String>> for Marks {
    fn from(marks: BTreeMap<u32, String>) -> Self {
        Self(marks)
    }
}

impl Marks {
    /// Whether what was published of the table may have been something else between then and `now`. Of a table that was
    /// published with its schema, or with all, nothing else is known.
    pub fn altered(&self, now: &Self, table: u32) -> bool {
        !self.0.is_empty() && [0, table].iter().any(|oid| self.0.get(oid) != now.0.get(oid))
    }

    /// Whether another one has its name now.
    pub fn replaced(&self, now: &Self) -> bool {
        let oid = |marks: &Self| marks.0.get(&0).and_then(|mark| mark.split(' ').next().map(str::to_owned));
        oid(self).zip(oid(now)).is_some_and(|(was, is)| was != is)
    }
}

pub async fn marks(client: &Client, publication: &str) -> Result<Marks, Fault> {
    let rows = client.query(MARKS, &[&publication]).await.map_err(|error| client::fault(&error))?;
    Ok(Marks(rows.iter().map(|row| (row.get(0), row.get(1))).collect()))
}

/// Per wanted table: whether it is there, whether it is published, and whether the source could still name its rows.
/// With `relreplident = 'd'` that takes a primary key; without any identity, publishing a table blocks its updates.
/// A partitioned table that was published leaf by leaf counts as published once the publication goes by roots.
const TABLES: &str = "select c.oid is not null, \
       exists (select from pg_publication_tables p where p.pubname = $3 and p.schemaname = w.schema and p.tablename = w.name) \
         or exists (select from pg_publication_rel r join pg_publication p on p.oid = r.prpubid \
                    where p.pubname = $3 and r.prrelid = c.oid), \
       c.relreplident = 'f' \
         or (c.relreplident = 'd' and exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary)) \
         or (c.relreplident = 'i' and exists (select from pg_index i where i.indrelid = c.oid and i.indisreplident)) \
     from unnest($1::text[], $2::text[]) with ordinality w(schema, name, at) \
     left join (pg_class c join pg_namespace n on n.oid = c.relnamespace) \
       on n.nspname = w.schema and c.relname = w.name and c.relkind in ('r', 'p') \
     order by w.at";

/// The wanted tables that are not published.
pub async fn missing(client: &Client, want: &Want<'_>) -> Result<Vec<TableName>, Fault> {
    let schemas: Vec<&str> = want.tables.iter().map(|table| table.schema.as_str()).collect();
    let tables: Vec<&str> = want.tables.iter().map(|table| table.name.as_str()).collect();
    let rows = client.query(TABLES, &[&schemas, &tables, &want.publication]).await.map_err(|e| client::fault(&e))?;
    let mut missing = Vec::new();
    for (table, row) in want.tables.iter().zip(&rows) {
        if !row.get::<_, bool>(0) {
            return Err(Fault::stop(
                format!("the source has no table {table}"),
                "create it, or take it off the list of tables",
            ));
        }
        if row.get::<_, Option<bool>>(2) != Some(true) {
            let name = quote::table(table);
            return Err(Fault::stop(
                format!("table {table} has no replica identity; publishing it would make its updates fail"),
                format!("alter table {name} add primary key (…); or: alter table {name} replica identity full"),
            ));
        }
        if !row.get::<_, bool>(1) {
            missing.push(table.clone());
        }
    }
    Ok(missing)
}

fn refused(want: &Want<'_>, found: Option<&Found>, statement: &str, fault: &Fault) -> Fault {
    let cause = match (fault, found) {
        (Fault::Stop { cause, .. } | Fault::Retry { cause } | Fault::Park { cause, .. }, None) => {
            format!("the role may not create publication {}: {cause}", want.publication)
        }
        (Fault::Stop { cause, .. } | Fault::Retry { cause } | Fault::Park { cause, .. }, Some(found)) => {
            format!("the role may not change publication {}, which {} owns: {cause}", want.publication, found.owner)
        }
    };
    Fault::stop(cause, format!("as the owner of the tables and the publication: {statement}"))
}

fn names(tables: &[TableName]) -> String {
    tables.iter().map(TableName::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_added_and_never_all_tables() {
        let tables = [TableName::new("public", "a"), TableName::new("s", "B c")];
        let want = Want { slot: "s", publication: "p", tables: &tables, create: true };
        let found = |whole| Found { whole, owner: "o".into() };
        assert_eq!(
            plan(&want, None, &tables).unwrap(),
            r#"create publication "p" for table "public"."a", "s"."B c" with (publish_via_partition_root = true)"#
        );
        assert_eq!(plan(&want, Some(&found(true)), &[]), None);
        assert_eq!(
            plan(&want, Some(&found(true)), &tables[1..]).unwrap(),
            r#"alter publication "p" add table "s"."B c""#
        );
        assert!(plan(&want, Some(&found(false)), &[]).unwrap().contains("publish_via_partition_root = true"));
    }
}
