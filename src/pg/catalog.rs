//! Reads a database's catalogs: which tables a route can replicate and why others stay behind; and, for the schema
//! generator, everything that makes a table what it is (`shape`, `read`).

pub mod read;
pub mod select;
pub mod shape;

use std::fmt;

use tokio_postgres::{Client, Error};

pub use select::Selection;

use super::client::fault;
use super::quote;
use crate::types::{Column, Fault, Table, TableName};

/// What the selection finds.
#[derive(Clone, Debug)]
pub struct Survey {
    /// In the order of their names.
    pub tables: Vec<Table>,
    /// Chosen by the settings, but not possible; in the order of their names.
    pub left_out: Vec<LeftOut>,
    /// Those of them that lack nothing but a key.
    pub keyless: Vec<Table>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    pub table: TableName,
    pub why: Why,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.table, self.why)
    }
}

/// Why a table cannot be replicated. Reads as the rest of a sentence that begins with its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Ours,
    ExtensionOwned,
    Unlogged,
    NoPrimaryKey,
    /// Postgres takes no deferrable key as replica identity: published, the table would refuse every UPDATE.
    DeferrableKey,
    /// Old rows come as the partition names them, and are read as the root does.
    PartIdentity,
    /// Published, the table would refuse every UPDATE and DELETE.
    NoIdentity,
    /// Generated columns do not travel, and without its key a row cannot be found.
    GeneratedKey,
    /// To the journal's triggers, what a parent does to the rows of its heirs looks like its own.
    Inherits,
    /// From PostgreSQL 18 on: published, the table would refuse every UPDATE and DELETE.
    GeneratedIdentity,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ours => "is Lockstep's own",
            Self::ExtensionOwned => "belongs to an extension",
            Self::Unlogged => "is unlogged, so its changes are not in the WAL",
            Self::NoPrimaryKey => "has no primary key, and no unique index as its replica identity",
            Self::DeferrableKey => "has a deferrable primary key, by which its rows cannot be followed",
            Self::PartIdentity => "has a partition with another replica identity than its own",
            Self::NoIdentity => "has replica identity nothing",
            Self::GeneratedKey => "has a generated column in its primary key",
            Self::Inherits => "is part of an inheritance tree, whose changes capture by journal cannot tell apart",
            Self::GeneratedIdentity => "has replica identity full and a generated column, which PostgreSQL 18 refuses",
        })
    }
}

/// The tables that a route replicates. The survey's list of what was left out says why the others are not here.
pub async fn tables(client: &Client, selection: &Selection) -> Result<Vec<Table>, Fault> {
    survey(client, selection).await.map(|survey| survey.tables)
}

/// Looks at every table of the selection. A table that was asked for by its name and is missing, or cannot be
/// replicated, is an error: a wish that is half fulfilled would go unnoticed.
pub async fn survey(client: &Client, selection: &Selection) -> Result<Survey, Fault> {
    let rows = client.query(TABLES, &[]).await.map_err(|error| fault(&error))?;
    let seen = rows.iter().map(Seen::read).collect::<Result<Vec<_>, _>>().map_err(|error| fault(&error))?;
    let names: Vec<&TableName> = seen.iter().map(|seen| &seen.table.name).collect();
    selection.check(&names)?;

    let mut survey = Survey { tables: Vec::new(), left_out: Vec::new(), keyless: Vec::new() };
    for seen in seen.into_iter().filter(|seen| selection.takes(&seen.table.name)) {
        match seen.why() {
            None => survey.tables.push(seen.table),
            Some(why) if selection.names(&seen.table.name) => return Err(refused(&seen.table.name, why)),
            Some(why) => {
                survey.left_out.push(LeftOut { table: seen.table.name.clone(), why });
                if why == Why::NoPrimaryKey {
                    survey.keyless.push(seen.table);
                }
            }
        }
    }
    Ok(survey)
}

impl Survey {
    /// Takes a table out again, unless it was asked for by its name.
    pub fn leave_out(&mut self, oid: u32, why: Why, selection: &Selection) -> Result<(), Fault> {
        let Some(at) = self.tables.iter().position(|table| table.oid == oid) else { return Ok(()) };
        let table = self.tables.remove(at).name;
        if selection.names(&table) {
            return Err(refused(&table, why));
        }
        self.left_out.push(LeftOut { table, why });
        Ok(())
    }
}

fn refused(table: &TableName, why: Why) -> Fault {
    Fault::stop(format!("table {table} was asked for, but {why}"), fix(table, why))
}

/// How a table that was left out can take part.
pub(crate) fn fix(table: &TableName, why: Why) -> String {
    let name = quote::table(table);
    match why {
        Why::Ours | Why::ExtensionOwned => "take it off the list of tables".to_owned(),
        Why::Unlogged => format!("alter table {name} set logged;"),
        Why::NoPrimaryKey => format!(
            "alter table {name} add primary key (…); or, if columns are unique and not null: \
             alter table {name} replica identity using index …; or take it off the list of tables"
        ),
        Why::NoIdentity => format!("alter table {name} replica identity default;"),
        Why::DeferrableKey => format!(
            "make its primary key again without `deferrable`; or, with an immediate unique index on columns that are not \
             null: alter table {name} replica identity using index …"
        ),
        Why::PartIdentity => format!(
            "alter table … replica identity … for each partition of {name}, as {name} itself has it (default: the primary \
             key; or the partition's own part of the same index)"
        ),
        Why::Inherits => "capture by a slot (source.capture = \"wal\"), or take it off the list of tables".to_owned(),
        Why::GeneratedIdentity => format!("alter table {name} replica identity default;"),
        Why::GeneratedKey => format!("give {name} a primary key of plain columns, or take it off the list of tables"),
    }
}

/// Partitions travel through their root, so only roots and plain tables are read. Children by inheritance are tables
/// like any other. A row is found by its primary key, or by the unique index that the table names as its replica
/// identity: then the stream holds no other columns of an old row. `-1` as modifier makes format_type say `bpchar` and
/// `bit`, where it would otherwise say `character`, which SQL takes for `character(1)`.
const TABLES: &str = "
select c.oid,
       n.nspname,
       c.relname,
       c.relpersistence::text,
       case when c.relreplident = 'f' and current_setting('server_version_num')::int >= 180000
                 and exists (select from pg_catalog.pg_attribute a
                             where a.attrelid = c.oid and a.attgenerated <> '' and not a.attisdropped)
            then 'full and generated' else c.relreplident::text end,
       exists (select from pg_catalog.pg_depend d
               where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'),
       case c.relkind when 'p' then (select coalesce(sum(greatest(l.reltuples, 0)), 0)
                                     from pg_catalog.pg_partition_tree(c.oid) t
                                     join pg_catalog.pg_class l on l.oid = t.relid
                                     where t.isleaf)::float8
            else greatest(c.reltuples, 0)::float8 end,
       i.indimmediate,
       array(select a.attname::text
             from unnest(i.indkey) with ordinality k (attnum, place)
             join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum
             where k.place <= i.indnkeyatts
             order by k.place),
       array(select a.attname::text from pg_catalog.pg_attribute a
             where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
             order by a.attnum),
       array(select pg_catalog.format_type(a.atttypid, -1) from pg_catalog.pg_attribute a
             where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
             order by a.attnum),
       c.relkind = 'p' and exists (
         select from pg_catalog.pg_partition_tree(c.oid) t
         join pg_catalog.pg_class l on l.oid = t.relid and t.isleaf and l.relreplident in ('d', 'i')
         left join pg_catalog.pg_index li on li.indrelid = l.oid
              and case l.relreplident when 'd' then li.indisprimary else li.indisreplident end
         where array(select a.attname from pg_catalog.pg_attribute a
                     where a.attrelid = c.oid and a.attnum = any (i.indkey) order by 1)
               <> array(select a.attname from pg_catalog.pg_attribute a
                        where a.attrelid = l.oid and a.attnum = any (li.indkey) order by 1))
from pg_catalog.pg_class c
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
left join pg_catalog.pg_index i on i.indrelid = c.oid and i.indisvalid
     and case when c.relreplident <> 'i' then i.indisprimary else i.indisreplident end
where c.relkind in ('r', 'p') and not c.relispartition
  and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
order by n.nspname collate \"C\", c.relname collate \"C\"";

/// A table as the catalogs have it, before it is known whether it can be replicated.
struct Seen {
    table: Table,
    persistence: String,
    identity: String,
    extension_owned: bool,
    /// None without a key.
    key_is_immediate: Option<bool>,
    /// Old rows of some partition are named otherwise.
    odd_part: bool,
}

impl Seen {
    fn read(row: &tokio_postgres::Row) -> Result<Self, Error> {
        let names: Vec<String> = row.try_get(9)?;
        let types: Vec<String> = row.try_get(10)?;
        let columns = names.into_iter().zip(types).map(|(name, type_name)| Column { name, type_name }).collect();
        Ok(Self {
            table: Table {
                oid: row.try_get(0)?,
                name: TableName { schema: row.try_get(1)?, name: row.try_get(2)? },
                columns,
                key: row.try_get(8)?,
                estimated_rows: row.try_get::<_, f64>(6)? as u64,
            },
            persistence: row.try_get(3)?,
            identity: row.try_get(4)?,
            extension_owned: row.try_get(5)?,
            key_is_immediate: row.try_get(7)?,
            odd_part: row.try_get(11)?,
        })
    }

    fn why(&self) -> Option<Why> {
        let Table { name, columns, key, .. } = &self.table;
        if is_ours(name) {
            return Some(Why::Ours);
        }
        if self.extension_owned {
            return Some(Why::ExtensionOwned);
        }
        if self.persistence != "p" {
            return Some(Why::Unlogged);
        }
        match self.key_is_immediate {
            None => Some(Why::NoPrimaryKey),
            _ if self.identity == "n" => Some(Why::NoIdentity),
            _ if self.identity == "full and generated" => Some(Why::GeneratedIdentity),
            // Its rows may have each other's keys in between, which no row's changes alone can follow.
            Some(false) => Some(Why::DeferrableKey),
            _ if self.odd_part => Some(Why::PartIdentity),
            _ if key.iter().any(|key| columns.iter().all(|column| column.name != *key)) => Some(Why::GeneratedKey),
            _ => None,
        }
    }
}

/// What Lockstep keeps in the source is about replication, and is not itself replicated.
fn is_ours(name: &TableName) -> bool {
    name.schema == "lockstep" || name.name.starts_with("supabase_sync_")
}
