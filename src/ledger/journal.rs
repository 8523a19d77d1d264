//! The journal in the source: its tables, and the triggers that write it.
//!
//! `plan` looks at what is there and says as SQL what is missing: printed, or run with `apply`. A table's trigger function
//! names its columns, so it is made anew when they change; until then what it meets is noted as `x`, and the table is
//! compared.

use std::collections::{BTreeMap, HashSet};

use tokio_postgres::Client;

use super::install;
use crate::pg::client::fault;
use crate::pg::quote::literal;
use crate::types::{Fault, Lsn, Position, TableName};

mod others;
mod rights;
mod triggers;

pub use others::{leave_others, sort_out, with_parts};
pub use rights::allowed;
use rights::grants;
use triggers::{Place, SIGNATURE};

/// The journal's tables and functions. Whoever changes them so that an older one must be brought up to date counts on.
const INSTALL: &str = include_str!("../../sql/source/journal.sql");
const VERSION: i32 = 1;

/// What there is to do.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub statements: Vec<String>,
    /// Tables whose triggers are missing or switched off: their changes were missed.
    pub unwatched: Vec<TableName>,
    /// Tables whose triggers are made for other columns: who began before they were altered may still write as they were.
    pub remade: Vec<TableName>,
    /// There is a journal already.
    pub began: bool,
}

/// What the source says of its journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What was committed before is not in it.
    pub began: Lsn,
    /// What lies before may be forgotten already.
    pub confirmed: Lsn,
    version: i32,
}

/// Of the catalog: a role that may not use the schema may ask, too.
const THERE: &str = "select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace \
     where n.nspname = 'lockstep' and c.relname = 'journal_state')";
const STATE: &str = "select began::text, confirmed::text, version from lockstep.journal_state";

pub async fn is_there(client: &Client) -> Result<bool, Fault> {
    Ok(client.query_one(THERE, &[]).await.map_err(|error| fault(&error))?.get(0))
}

/// The journal, if there is one.
pub async fn find(client: &Client) -> Result<Option<Found>, Fault> {
    let db = |error: tokio_postgres::Error| fault(&error);
    if !is_there(client).await? {
        return Ok(None);
    }
    let Some(row) = client.query_opt(STATE, &[]).await.map_err(db)? else { return Ok(None) };
    let lsn = |at: usize| row.get::<_, String>(at).parse().map_err(Fault::retry);
    Ok(Some(Found { began: lsn(0)?, confirmed: lsn(1)?, version: row.get(2) }))
}

const HOLDS: &str = "select exists (select from lockstep.journal h where h.n = 0 and h.lsn = $1::text::pg_lsn and $2 <= ( \
     select count(*) from (select from lockstep.journal j where j.xid = h.xid limit $2) j))";

/// Whether the journal can go on from this position: of a transaction that was applied in part, that part is still there.
pub async fn holds(client: &Client, from: Position) -> Result<bool, Fault> {
    let half = i64::try_from(from.minor).unwrap_or(i64::MAX);
    if half == 0 {
        return Ok(true);
    }
    let row = client.query_one(HOLDS, &[&from.lsn().to_string(), &half]).await;
    Ok(row.map_err(|error| fault(&error))?.get(0))
}

const READER: &str = "select pid from pg_locks where locktype = 'advisory' and granted and objsubid = 2 \
     and database = (select oid from pg_database where datname = current_database()) \
     and classid = hashtext('lockstep journal')::oid and objid = 0";

/// Who holds the lock of the journal's reader.
pub async fn reader(client: &Client) -> Result<Option<i32>, Fault> {
    Ok(client.query_opt(READER, &[]).await.map_err(|error| fault(&error))?.map(|row| row.get(0)))
}

/// Partitions have their columns in an order of their own, and lack none.
const PLACES: &str = "
with wanted as (
  select c.oid as root from unnest($1::text[], $2::text[]) w (s, n)
  join pg_namespace ns on ns.nspname = w.s join pg_class c on c.relnamespace = ns.oid and c.relname = w.n
), place as (
  select w.root, coalesce(t.relid, w.root)::oid as oid from wanted w
  left join lateral pg_partition_tree(w.root) t on true
)
select p.oid, n.nspname::text, c.relname::text, p.root, c.relkind::text, s.columns, s.types, k.key, k.equal,
  {signature},
  (select count(*) from pg_trigger g where g.tgrelid = p.oid and g.tgname like 'lockstep\\_journal\\_%'
    and g.tgenabled in ('O', 'A') and not g.tgisinternal and g.tgfoid = f.oid),
  f.prosrc
from place p join pg_class c on c.oid = p.oid join pg_namespace n on n.oid = c.relnamespace
join pg_class r on r.oid = p.root
left join pg_proc f on f.pronamespace = to_regnamespace('lockstep') and f.proname = 'journal_' || p.oid,
lateral (
  select array_agg(a.attname::text order by a.attnum) as columns, array_agg(a.atttypid order by a.attnum) as types
  from pg_attribute a where a.attrelid = p.root and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
) s,
lateral (
  select array_agg(a.attname::text order by x.at) as key,
    array_agg(format('operator(%I.%s)', on_.nspname, o.oprname) order by x.at) as equal
  from pg_index i cross join unnest(i.indkey::int2[], i.indclass::oid[]) with ordinality x (attnum, class, at)
  join pg_opclass oc on oc.oid = x.class
  join pg_amop am on am.amopfamily = oc.opcfamily and am.amopstrategy = 3
    and am.amoplefttype = oc.opcintype and am.amoprighttype = oc.opcintype
  join pg_operator o on o.oid = am.amopopr join pg_namespace on_ on on_.oid = o.oprnamespace
  join pg_attribute a on a.attrelid = i.indrelid and a.attnum = x.attnum
  where i.indrelid = p.root and i.indisvalid and x.at <= i.indnkeyatts
    and case when r.relreplident <> 'i' then i.indisprimary else i.indisreplident end
) k
where k.key is not null order by p.root, p.oid";

const SHAPES: &str = "select id, relation, schema_name, table_name, columns, types, key from lockstep.journal_shape";

/// What a line holds; kept once.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Shape {
    relation: u32,
    name: TableName,
    columns: Vec<String>,
    types: Vec<u32>,
    key: Vec<String>,
}

const MARKS: &str = "select w.root, md5(string_agg(p.relid::oid || coalesce(( \
       select string_agg(' ' || g.oid || ':' || g.xmin || ':' || f.xmin || g.tgenabled::text, '' order by g.oid) \
       from pg_trigger g join pg_proc f on f.oid = g.tgfoid where g.tgrelid = p.relid and g.tgname like 'lockstep\\_journal\\_%' and not g.tgisinternal), ''), ';' order by p.relid)) \
     from unnest($1::oid[]) w (root) join pg_class c on c.oid = w.root, lateral ( \
       select w.root as relid where c.relkind <> 'p' union all \
       select t.relid::oid from pg_partition_tree(w.root) t where c.relkind = 'p') p group by w.root";

/// A mark of each table: another one whenever somebody has touched one of our triggers on it, what they do, or its
/// partitions.
pub async fn marks(client: &Client, tables: &[u32]) -> Result<BTreeMap<u32, String>, Fault> {
    let rows = client.query(MARKS, &[&tables]).await.map_err(|error| fault(&error))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// What is missing for the journal to hold every change to these tables.
pub async fn plan(client: &Client, tables: &[TableName], role: Option<&str>) -> Result<Plan, Fault> {
    let places = places(client, tables).await?;
    if let Some(name) = tables.iter().find(|name| places.iter().all(|place| place.name != **name)) {
        return Err(Fault::retry(format!("{name} has no key any more, by which the journal finds its rows")));
    }
    let found = find(client).await?;
    let mut shapes = if found.is_some() { shapes(client).await? } else { Vec::new() };
    let mut plan = Plan { began: found.is_some(), ..Plan::default() };
    if found.is_none_or(|found| found.version < VERSION) {
        plan.statements.push(INSTALL.trim_end().replace("{version}", &VERSION.to_string()));
    }
    for place in &places {
        let root = places.iter().find(|root| root.oid == place.root).unwrap_or(place);
        let shape = Shape {
            relation: root.oid,
            name: root.name.clone(),
            columns: root.columns.clone(),
            types: root.types.clone(),
            key: root.key.clone(),
        };
        let mut sql = String::new();
        let id = match shapes.iter().find(|(_, known)| *known == shape) {
            Some((id, _)) => *id,
            None => {
                let id = shapes.iter().map(|(id, _)| *id).max().unwrap_or(0) + 1;
                sql += &shape.insert(id);
                shapes.push((id, shape));
                id
            }
        };
        let body = place.function(id);
        if place.body.as_deref() != Some(body.prosrc.as_str()) {
            sql += &body.text;
            if place.body.is_some() && !plan.remade.contains(&root.name) {
                plan.remade.push(root.name.clone());
            }
        }
        if place.triggers != place.wanted_triggers() {
            sql += &place.trigger_statements();
            if !plan.unwatched.contains(&root.name) {
                plan.unwatched.push(root.name.clone());
            }
        }
        if !sql.is_empty() {
            plan.statements.push(sql.trim_end().to_owned());
        }
    }
    if let Some(role) = role {
        plan.statements.extend(grants(role));
    }
    Ok(plan)
}

/// Does what the plan says, a table at a time: none waits for the lock of another.
pub async fn apply(client: &Client, plan: &Plan) -> Result<(), Fault> {
    for statement in &plan.statements {
        install::run(client, &format!("begin;\n{statement}\ncommit;")).await?;
    }
    Ok(())
}

/// Takes the journal away, with its triggers; each statement is harmless where there is none.
pub fn remove() -> Vec<String> {
    vec![
        "do $$\ndeclare f regprocedure;\nbegin\n  \
         for f in select oid from pg_proc where pronamespace = to_regnamespace('lockstep') and proname ~ '^journal_[0-9]+$' loop\n    \
         execute format('drop function %s cascade', f);\n  end loop;\nend\n$$;"
            .to_owned(),
        "do $$\ndeclare f regprocedure;\nbegin\n  \
         for f in select oid from pg_proc where pronamespace = to_regnamespace('lockstep') and proname like 'journal\\_%' loop\n    \
         execute format('drop function %s', f);\n  end loop;\nend\n$$;"
            .to_owned(),
        "drop table if exists lockstep.journal, lockstep.journal_shape, lockstep.journal_state;".to_owned(),
    ]
}

const LOST: &str = "select s.relation, n.nspname::text, c.relname::text from ( \
       select distinct j.shape from lockstep.journal j where j.op = 'x' and exists ( \
         select from lockstep.journal k where k.xid = j.xid and k.lsn >= $1::text::pg_lsn)) j \
     join lockstep.journal_shape s on s.id = j.shape left join pg_class c on c.oid = s.relation \
     left join pg_namespace n on n.oid = c.relnamespace";

/// Tables of which some transaction that has not ended before `from` has changes that nobody knows: they were altered
/// meanwhile. By oid, and by name where they are still there.
pub async fn lost(client: &Client, from: Lsn) -> Result<(HashSet<u32>, Vec<TableName>), Fault> {
    let rows = client.query(LOST, &[&from.to_string()]).await.map_err(|error| fault(&error))?;
    let name = |row: &tokio_postgres::Row| {
        let part = |at: usize| row.get::<_, Option<String>>(at);
        part(1).zip(part(2)).map(|(schema, name)| TableName::new(schema, name))
    };
    let mut names: Vec<TableName> = rows.iter().filter_map(name).collect();
    names.sort();
    names.dedup();
    Ok((rows.iter().map(|row| row.get(0)).collect(), names))
}

async fn places(client: &Client, tables: &[TableName]) -> Result<Vec<Place>, Fault> {
    let schemas: Vec<&str> = tables.iter().map(|table| table.schema.as_str()).collect();
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    let sql = PLACES.replace("{signature}", &SIGNATURE.replace("{oid}", "p.oid"));
    let rows = client.query(&sql, &[&schemas, &names]).await.map_err(|error| fault(&error))?;
    let place = |row: &tokio_postgres::Row| Place {
        oid: row.get(0),
        name: TableName::new(row.get::<_, String>(1), row.get::<_, String>(2)),
        root: row.get(3),
        kind: row.get(4),
        columns: row.get(5),
        types: row.get(6),
        key: row.get(7),
        equal: row.get(8),
        signature: row.get(9),
        triggers: row.get(10),
        body: row.get(11),
    };
    Ok(rows.iter().map(place).collect())
}

async fn shapes(client: &Client) -> Result<Vec<(i32, Shape)>, Fault> {
    let rows = client.query(SHAPES, &[]).await.map_err(|error| fault(&error))?;
    let shape = |row: &tokio_postgres::Row| {
        let name = TableName::new(row.get::<_, String>(2), row.get::<_, String>(3));
        let shape = Shape { relation: row.get(1), name, columns: row.get(4), types: row.get(5), key: row.get(6) };
        (row.get(0), shape)
    };
    Ok(rows.iter().map(shape).collect())
}

impl Shape {
    fn insert(&self, id: i32) -> String {
        let texts = |values: &[String]| values.iter().map(|value| literal(value)).collect::<Vec<_>>().join(", ");
        let types = self.types.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        format!(
            "insert into lockstep.journal_shape (id, relation, schema_name, table_name, columns, types, key) \
             overriding system value\nvalues ({id}, {}, {}, {}, array[{}]::text[], array[{types}]::oid[], array[{}]::text[]);\n",
            self.relation,
            literal(&self.name.schema),
            literal(&self.name.name),
            texts(&self.columns),
            texts(&self.key),
        )
    }
}
