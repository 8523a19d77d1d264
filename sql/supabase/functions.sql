-- The doors in `public` that PostgREST calls, and the bodies behind them in schema `lockstep`.
--
-- The doors run with their owner's rights, because the owner may set session_replication_role and the caller may not.
-- They never do more to a table than the calling role could do itself: every table is checked against its grants. They
-- also pin the search_path, for all that lies behind them.
--
-- A batch of one row costs what its fixed parts cost. So what every batch runs is in plpgsql, which keeps its plans for
-- the session, has no settings of its own, and sets session_replication_role only where that changes anything: setting
-- it throws away every plan of the session.

-- The role on whose behalf PostgREST called, or the one that called directly.
create or replace function lockstep.caller() returns name
language plpgsql stable as $$
begin
  return coalesce(nullif(current_setting('role', true), 'none'), session_user);
end $$;

-- Which of the rights that applying needs the caller lacks on a table.
create or replace function lockstep.missing_rights(relation regclass) returns text[]
language plpgsql stable as $$
declare
  caller name := lockstep.caller();
begin
  return array(
    select need from unnest(array['select', 'insert', 'update', 'delete', 'truncate']) need
    where not has_table_privilege(caller, relation, need)
  );
end $$;

-- The table, or NULL when it is not there or is not ours to write: nothing below pg_catalog or lockstep is a target.
create or replace function lockstep.target(schema_name text, table_name text) returns regclass
language plpgsql stable as $$
begin
  return (
    select c.oid::regclass from pg_class c
    where c.relnamespace = to_regnamespace(quote_ident(schema_name)) and c.relname = table_name
      and c.relkind in ('r', 'p')
      and schema_name <> 'lockstep' and schema_name <> 'information_schema' and schema_name !~ '^pg_'
  );
end $$;

-- The table as a statement must name it: rows of tables that inherit from it are theirs, those of partitions are its own.
create or replace function lockstep.alone(relation regclass) returns text
language plpgsql stable as $$
begin
  return case (select c.relkind from pg_class c where c.oid = relation) when 'p' then '' else 'only ' end || relation;
end $$;

-- Whether anything but us may act on a write to the table: triggers (foreign keys are some), rules, those of partitions
-- and of tables that inherit.
create or replace function lockstep.acts(relation regclass) returns boolean
language plpgsql stable as $$
begin
  return (select c.relhastriggers or c.relhasrules or c.relhassubclass or c.relkind = 'p'
          from pg_class c where c.oid = relation);
end $$;

-- Whether triggers and foreign keys may be left to the source. The statement is tried, not the right looked up: on
-- Supabase it is a hook on the statement that permits it.
create or replace function lockstep.may_suppress() returns boolean
language plpgsql as $$
begin
  set local session_replication_role = replica;
  set local session_replication_role = origin;
  return true;
exception when insufficient_privilege then
  return false;
end $$;

-- What stands in the way of one table: an object with one entry for each finding, and how far its first copy is.
create or replace function lockstep.examine(route_name text, wanted jsonb) returns jsonb
language plpgsql as $$
declare
  relation regclass := lockstep.target(wanted->>'schema', wanted->>'name');
  columns text[] := array(select jsonb_array_elements_text(wanted->'columns'));
  key text[] := array(select jsonb_array_elements_text(wanted->'key'));
  finding jsonb := jsonb_build_object('schema', wanted->>'schema', 'name', wanted->>'name', 'exists', relation is not null);
  progress lockstep.copy;
  is_empty boolean;
begin
  select * into progress from lockstep.copy c
  where c.route = route_name and c.schema_name = wanted->>'schema' and c.table_name = wanted->>'name';
  finding := finding || jsonb_build_object('begun', found, 'parked', progress.parked);
  if relation is null then
    return finding;
  end if;
  finding := finding || jsonb_build_object(
    'missing_rights', lockstep.missing_rights(relation),
    'missing_columns', array(
      select c from unnest(columns) c
      where not exists (select from pg_attribute a where a.attrelid = relation and a.attname = c
                          and a.attnum > 0 and not a.attisdropped)),
    'generated_columns', array(
      select a.attname from pg_attribute a
      where a.attrelid = relation and a.attgenerated <> '' and a.attname = any (columns)),
    'required_columns', array(
      select a.attname from pg_attribute a
      where a.attrelid = relation and a.attnum > 0 and not a.attisdropped and a.attnotnull and not a.atthasdef
        and a.attidentity = '' and a.attgenerated = '' and not a.attname = any (columns)),
    'other_key', exists (select from pg_index i where i.indrelid = relation and i.indisprimary),
    'has_key', exists (
      select from pg_index i
      where i.indrelid = relation and i.indisunique and i.indisvalid and i.indimmediate
        and i.indpred is null and i.indexprs is null
        and (select array_agg(a.attname::text order by a.attname::text collate "C")
             from unnest(i.indkey::int2[]) with ordinality k(attnum, n)
             join pg_attribute a on a.attrelid = relation and a.attnum = k.attnum
             where k.n <= i.indnkeyatts)
          = (select array_agg(k order by k collate "C") from unnest(key) k)));
  -- What is undone keeps no lock: of thousands of tables there would be more than the server has room for.
  begin
    execute format('select not exists (select from %s)', lockstep.alone(relation)) into is_empty;
    raise 'looked' using errcode = 'LS000';
  exception when sqlstate 'LS000' then null;
  end;
  return finding || jsonb_build_object('empty', is_empty, 'copied', coalesce(progress.done, false),
    'cursor', progress.cursor, 'rows', coalesce(progress.rows, 0), 'oid', progress.source_oid);
end $$;

-- First call of every start: who is there, how far the route is, what stands in the way. Makes the route's checkpoint.
create or replace function lockstep.hello(request jsonb) returns jsonb
language plpgsql as $$
declare
  here lockstep.checkpoint;
begin
  insert into lockstep.checkpoint (route, major, minor, source)
  values (request->>'route', 0, 0, coalesce(request->'source', '{}')) on conflict (route) do nothing;
  -- What this call answers is confirmed to the source: its own commit writes all before it down to the disk.
  if current_setting('synchronous_commit') = 'off' then
    set local synchronous_commit = on;
  end if;
  update lockstep.checkpoint c set updated_at = clock_timestamp() where c.route = request->>'route';
  -- The positions from before mean nothing any more. Every table is compared and repaired from here on.
  if request ? 'restart' then
    update lockstep.checkpoint c set source = request->'source',
      major = (request->'restart'->>0)::bigint, minor = (request->'restart'->>1)::bigint
    where c.route = request->>'route';
    update lockstep.copy c set done = false, cursor = null, rows = 0 where c.route = request->>'route';
  end if;
  delete from lockstep.shape; -- what is not asked for any more does not stay for ever
  -- What lies there was laid down by an earlier start, and is sent again.
  if not request ? 'look' then
    delete from lockstep.stage s where s.route = request->>'route';
  end if;
  -- The first look does not know yet which source it is; until something is written it may become another one.
  update lockstep.checkpoint c set source = request->'source'
  where c.route = request->>'route' and request->'source' not in ('{}', c.source)
    and (c.source = '{}' or (c.major, c.minor) = (0, 0));
  -- What is known of the publication; the rest says whose copy this is, and stays.
  update lockstep.checkpoint c set source = c.source || jsonb_build_object('publication', request->'source'->'publication')
  where c.route = request->>'route' and c.source->'system' = request->'source'->'system'
    and c.source->'slot' = request->'source'->'slot' and request->'source' ? 'publication'
    and c.source->'publication' is distinct from request->'source'->'publication';
  -- A table that was renamed at the source is the same one; another one under its name is not.
  update lockstep.copy c set schema_name = t.schema, table_name = t.name
  from jsonb_to_recordset(request->'tables') t (schema text, name text, oid bigint)
  where c.route = request->>'route' and c.source_oid = t.oid and (c.schema_name, c.table_name) <> (t.schema, t.name)
    and not exists (select from lockstep.copy o
                    where o.route = c.route and o.schema_name = t.schema and o.table_name = t.name);
  update lockstep.copy c set done = false, cursor = null, rows = 0, source_oid = t.oid
  from jsonb_to_recordset(request->'tables') t (schema text, name text, oid bigint)
  where c.route = request->>'route' and c.schema_name = t.schema and c.table_name = t.name and c.source_oid <> t.oid;
  -- A table that missed changes, or of which nothing shall be taken for granted: it is compared and repaired.
  update lockstep.copy c set done = false, cursor = null, rows = 0
  from jsonb_to_recordset(coalesce(request->'again', '[]')) t (schema text, name text)
  where c.route = request->>'route' and c.schema_name = t.schema and c.table_name = t.name
    and (c.done or c.cursor is not null);
  -- A table that is not replicated any more misses changes from now on: should it come back, it is not copied.
  if request->'tables' <> '[]' and not request ? 'look' then
    delete from lockstep.copy c
    where c.route = request->>'route' and not exists (
      select from jsonb_to_recordset(request->'tables') t (schema text, name text)
      where t.schema = c.schema_name and t.name = c.table_name);
  end if;
  -- Judged fit: from now on rows in them may be ours, brought by the stream before their copy has begun.
  insert into lockstep.copy (route, schema_name, table_name)
  select request->>'route', t.schema, t.name
  from jsonb_to_recordset(coalesce(request->'begin', '[]')) t (schema text, name text)
  on conflict (route, schema_name, table_name) do update set parked = null where lockstep.copy.parked is not null;
  -- Set aside, a table misses changes: from now on it is not copied.
  update lockstep.copy c set parked = t.reason, done = false, cursor = null, rows = 0
  from jsonb_to_recordset(coalesce(request->'park', '[]')) t (schema text, name text, reason text)
  where c.route = request->>'route' and c.schema_name = t.schema and c.table_name = t.name;
  -- What was parked under another key cannot be found any more; the table is compared.
  delete from lockstep.parked p using jsonb_to_recordset(coalesce(request->'park', '[]')) t (schema text, name text, key jsonb)
  where p.route = request->>'route' and p.schema_name = t.schema and p.table_name = t.name and p.key_names <> t.key;
  select * into here from lockstep.checkpoint c where c.route = request->>'route';
  return jsonb_build_object(
    'version', (select max(v.version) from lockstep.version v),
    'server_version', current_setting('server_version_num')::int,
    'checkpoint', jsonb_build_array(here.major, here.minor),
    'source', here.source,
    'suppress', lockstep.may_suppress(),
    'parked', lockstep.parked_counts(request->>'route'),
    'tables', (select coalesce(jsonb_agg(lockstep.examine(request->>'route', t)), '[]')
               from jsonb_array_elements(request->'tables') t));
end $$;

-- The operator by which a unique index compares values of a type. Named with its schema: an extension's is not in
-- pg_catalog, and without it citext, for one, would be compared as text.
create or replace function lockstep.equals(type_oid oid) returns text
language plpgsql stable as $$
begin
  return coalesce((select format('operator(%I.%s)', n.nspname, o.oprname)
   from pg_type t
   join pg_opclass c on c.opcintype = coalesce(nullif(t.typbasetype, 0), t.oid) and c.opcdefault
   join pg_am m on m.oid = c.opcmethod and m.amname = 'btree'
   join pg_amop a on a.amopfamily = c.opcfamily and a.amoplefttype = c.opcintype and a.amoprighttype = c.opcintype
     and a.amopstrategy = 3
   join pg_operator o on o.oid = a.amopopr
   join pg_namespace n on n.oid = o.oprnamespace
   where t.oid = type_oid and t.typnamespace <> 'pg_catalog'::regnamespace), 'operator(pg_catalog.=)');
end $$;

-- The statement of one group of a batch. Its values are array literals, one for each column, that lie one after the
-- other in $1; element n of each makes row n. Each literal is read by the column's own type, so
-- a value arrives as the source wrote it. What cannot be an element of such an array travels as text and is cast one by
-- one.
-- The body is named as `(select $1)`, which the planner cannot look into: it would read every literal once more, only to
-- count its elements.
-- One query makes it, for every batch pays for each one here.
create or replace function lockstep.statement(relation regclass, part jsonb) returns text
language plpgsql stable as $$
declare
  op constant text := part->>'op';
  rest constant text := part->>'rest'; -- of rows with another identity: `unlike` finds them, `remove` and `add` replace
                              -- them; `lost` gives the places of rows that are not here, or not with this identity
  statement text;
begin
  statement := (
    with typed as (
      select w.i, quote_ident(w.name) as name, part->'key' ? w.name as is_key,
             -- A changed key sends the old key's values first, then the row's.
             op = 'rekey' and w.i <= jsonb_array_length(part->'key') as is_old,
             a.attidentity = 'a' as always, -- an identity that only an insert may set
             -- unnest() would take a composite apart (a domain may be one), and not every array is cut by commas.
             t.typarray = 0 or (t.typcategory = 'A' and t.typtype = 'b') or t.typcategory = 'C'
               or t.typdelim <> ',' as as_text,
             format_type(t.oid, -1) as type, t.typarray, t.typnamespace, t.oid as type_oid,
             -- For a comparison, where the column has one of its own: a hash join asks for it.
             case when a.attcollation not in (0, 100) then ' collate ' || a.attcollation::regcollation else '' end as coll,
             (part->'lengths'->>(w.i - 1)::int)::int as length
      from jsonb_array_elements_text(case op when 'rekey' then part->'key' || (part->'columns') else part->'columns' end)
             with ordinality w (name, i)
      join pg_attribute a on a.attrelid = relation and a.attname = w.name and a.attnum > 0 and not a.attisdropped
      join pg_type t on t.oid = a.atttypid
    ), parts as (
      select count(*) as there,
        string_agg(name, ', ' order by i) as names,
        -- The functions that give the values, unnest() by its full name, so each by itself; and their columns: v1, v2, ..
        string_agg(format('pg_catalog.unnest(pg_catalog.convert_from(substring((select $1) from %s for %s), ''UTF8'')::%s)',
          at, length, case when as_text then 'text[]' else format_type(typarray, -1) end), ', ' order by i) as arrays,
        string_agg('v' || i, ', ' order by i) as aliases,
        string_agg(val, ', ' order by i) as vals,
        string_agg(name, ', ') filter (where is_key) as key,
        -- The rows are found by key. Postgres compares keys by their own operators, as the source's index did.
        string_agg(format('t.%s %s %s%s', name,
          -- Asked only where it may be another one: the question costs more than all the rest here.
          case when typnamespace = 'pg_catalog'::regnamespace then 'operator(pg_catalog.=)' else lockstep.equals(type_oid) end,
          val, coll), ' and ' order by i) filter (where case op when 'rekey' then is_old else is_key end) as matches,
        string_agg(format('%s = %s', name, case op when 'upsert' then 'excluded.' || name else val end), ', ' order by i)
          filter (where not is_old and not always and (op = 'rekey' or not is_key)) as assignments,
        -- No update may set a `generated always` identity: a row in which it changed is left alone, and lockstep.write,
        -- which counts, sees to it. Under a changed key the identity may be a part of the key itself.
        string_agg(format('%s is not distinct from %s',
          case when is_key then (select 'v' || k.n from jsonb_array_elements_text(part->'key') with ordinality k (name, n)
                                 where quote_ident(k.name) = typed.name) else 't.' || name end,
          case when op = 'upsert' and coalesce(rest, 'add') = 'add' then 'excluded.' || name else val end), ' and ' order by i)
          filter (where not is_old and always and (op = 'rekey' or not is_key)) as fixed
      from (select *, case when as_text then format('v%s::%s', i, type) else 'v' || i end as val,
              1 + coalesce(sum(length) over (order by i rows between unbounded preceding and 1 preceding), 0) as at
            from typed) typed
    )
    select case
      when there <> jsonb_array_length(part->'lengths') then null
      when op = 'upsert' and coalesce(rest, 'add') = 'add' then
        format('insert into %s as t (%s) overriding system value select %s from rows from (%s) u (%s) on conflict (%s) do %s',
          relation, names, vals, arrays, aliases, key, case when rest is null and assignments is not null
            then 'update set ' || assignments || coalesce(' where ' || fixed, '') else 'nothing' end)
      when rest = 'lost' then
        format('select pg_catalog.array_agg(u.n::pg_catalog.int4) from rows from (%s) with ordinality u (%s, n) where not exists (select from %s t where %s)',
          arrays, aliases, lockstep.alone(relation), matches || coalesce(' and ' || fixed, ''))
      when rest is not null then
        format('%s %s t %s rows from (%s) u (%s) where %s and not (%s)',
          case rest when 'remove' then 'delete from' else 'select from' end, lockstep.alone(relation),
          case rest when 'remove' then 'using' else ',' end, arrays, aliases, matches, coalesce(fixed, 'true'))
      when op = 'delete' then
        format('delete from %s t using rows from (%s) u (%s) where %s', lockstep.alone(relation), arrays, aliases, matches)
      else
        -- With nothing but the key there is only to look that the row is there.
        format(case when assignments is null then 'select from %1$s t, rows from (%3$s) u (%4$s) where %5$s'
                    else 'update %1$s t set %2$s from rows from (%3$s) u (%4$s) where %5$s' end,
          lockstep.alone(relation), assignments, arrays, aliases, matches || coalesce(' and ' || fixed, ''))
      end
    from parts);
  if statement is null then
    raise undefined_column using message = format('a column of %s is not there: %s', relation, part->>'columns');
  end if;
  return statement;
end $$;

-- Whether taking a row away does more than that: triggers (foreign keys that refer to the table are some), rules.
create or replace function lockstep.delete_acts(relation regclass) returns boolean
language plpgsql stable as $$
begin
  return current_setting('session_replication_role') <> 'replica' and lockstep.acts(relation) and exists (
    select from (select relation as part union select p.relid from pg_partition_tree(relation) p) r
    where exists (select from pg_trigger t where t.tgrelid = r.part and t.tgtype & 8 <> 0 and t.tgenabled in ('O', 'A'))
      or exists (select from pg_rewrite w where w.ev_class = r.part and w.ev_type = '4'));
end $$;

-- Behind the statement of a group that touched fewer rows than came: sees to the rows whose `generated always` identity
-- is another one at the source, which only a delete and an insert make so here too. How many rows are as they came.
create or replace function lockstep.identify(part jsonb, vals bytea, relation regclass, touched bigint) returns bigint
language plpgsql as $$
declare
  identity_column text := (
    select a.attname from pg_attribute a
    where a.attrelid = relation and a.attidentity = 'a' and part->'columns' ? a.attname::text
      and (part->>'op' = 'rekey' or not part->'key' ? a.attname::text) limit 1);
begin
  if identity_column is null
    or lockstep.run(lockstep.statement(relation, part || '{"rest": "unlike"}'), vals) = 0
  then
    return touched;
  elsif lockstep.delete_acts(relation) then
    raise sqlstate '428C9' using column = identity_column, message = format(
      'identity column %s of %s changed at the source; no update may set it here, and to delete the row would act on others',
      identity_column, relation);
  elsif part->>'op' <> 'upsert' then
    return -1; -- what came is not the whole row, or had another key: it comes again, to be deleted and inserted
  end if;
  perform lockstep.run(lockstep.statement(relation, part || '{"rest": "remove"}'), vals);
  perform lockstep.run(lockstep.statement(relation, part || '{"rest": "add"}'), vals);
  return (part->>'rows')::bigint;
end $$;

-- Runs a statement that writes. While rows are written the target's own triggers, checks and defaults run, and few of
-- them fix a search_path: here, and where deferred ones are settled, they find `public` and `extensions`. Nothing of ours
-- runs here but statements in which every name has its schema, so nobody who may create something there is called by us.
create or replace function lockstep.run(statement text, vals bytea) returns bigint
language plpgsql set search_path = pg_catalog, public, extensions, pg_temp as $$
declare
  touched bigint;
begin
  execute statement using vals;
  get diagnostics touched = row_count;
  return touched;
end $$;

-- The same for a statement that only looks, and answers with one array of numbers.
create or replace function lockstep.numbers(statement text, vals bytea) returns int[]
language plpgsql set search_path = pg_catalog, public, extensions, pg_temp as $$
declare
  found_numbers int[];
begin
  execute statement into found_numbers using vals;
  return coalesce(found_numbers, '{}');
end $$;

create or replace function lockstep.settle() returns void
language plpgsql set search_path = pg_catalog, public, extensions, pg_temp as $$
begin
  set constraints all immediate;
end $$;

-- Writes one group. How many rows were written; -1: of some only a part came, and the rest is not here (lockstep.lost
-- says which). Raises what refuses it.
create or replace function lockstep.write(route_name text, part jsonb, vals bytea, relation regclass) returns bigint
language plpgsql as $$
declare
  lacking text[] := lockstep.missing_rights(relation);
  touched bigint;
begin
  if relation is null then
    raise undefined_table using message = format('table %I.%I is not there', part->>'schema', part->>'table');
  elsif lacking <> '{}' then
    raise insufficient_privilege using message = format('%s may not %s on %s', lockstep.caller(),
      array_to_string(lacking, ', '), relation);
  end if;
  touched := lockstep.run(lockstep.statement(relation, part), vals);
  if touched < (part->>'rows')::bigint and part->>'op' <> 'delete' then
    touched := lockstep.identify(part, vals, relation, touched);
    if touched >= 0 and touched < (part->>'rows')::bigint and part->>'op' = 'upsert'
      and jsonb_array_length(part->'columns') > jsonb_array_length(part->'key')
    then
      raise exception using message = format('%s of %s rows of %s were not written: a trigger or rule in Supabase keeps them out',
        (part->>'rows')::bigint - touched, part->>'rows', relation);
    end if;
    -- Upserts that wrote nothing: in a table of nothing but its key that is as it should be. While a table is being
    -- copied, the row of a patch is brought by a later range. (One that is compared has no cursor.)
    if touched >= 0 and touched < (part->>'rows')::bigint and part->>'op' <> 'upsert' and (part->>'op' = 'rekey'
      or exists (select from lockstep.copy c where c.route = route_name
            and c.schema_name = part->>'schema' and c.table_name = part->>'table' and (c.done or c.cursor is null)))
    then
      return -1;
    end if;
  end if;
  return touched;
end $$;

-- Which rows of a group can only be written once they came whole, at most so many: they are not here, have another
-- identity, or are parked.
create or replace function lockstep.lost(route_name text, part jsonb, vals bytea, relation regclass, most int) returns jsonb
language plpgsql as $$
declare
  keys jsonb[] := lockstep.keys_of(part, vals);
  places int[] := lockstep.numbers(lockstep.statement(relation, part || '{"rest": "lost"}'), vals);
begin
  return jsonb_build_object('schema', part->>'schema', 'table', part->>'table', 'keys', (
    select coalesce(jsonb_agg(x.key), '[]') from (
      select k.key from unnest(keys) with ordinality k (key, n)
      where k.n = any (places) or exists (
        select from lockstep.parked p where p.route = route_name and p.schema_name = part->>'schema'
          and p.table_name = part->>'table' and p.id = md5(k.key::text))
      order by k.n limit most) x));
end $$;

-- Applies one batch and moves the route's checkpoint, both or neither.
--
-- Body: four bytes, big-endian: the length of the header; the header, JSON; then the values (see lockstep.statement).
-- With `"refused": "park"` each group is one row, and a row that is refused is set aside (see parked.sql); otherwise
-- one refusal refuses the batch. With `"repair": true` the checkpoint stays where it is.
-- Answers: applied | duplicate | gap | missing | refused | overflow | retry. Only a body that is not a batch raises.
create or replace function lockstep.apply(body bytea) returns jsonb
language plpgsql as $$
declare
  first int := lockstep.header_end(body) + 1;  -- where the values begin
  header jsonb := lockstep.header_of(body);
  parts int;                     -- that were laid down before; this request comes behind them
  current bytea;                 -- of them or of this request: what is at work
  head jsonb;
  route_name text := header->>'route';
  base_major bigint := header->'base'->>0;  base_minor bigint := header->'base'->>1;
  upto_major bigint := header->'upto'->>0;  upto_minor bigint := header->'upto'->>1;
  here lockstep.checkpoint;
  part jsonb;
  number int;                    -- of the group at work, for the answer when it is refused; -1: none of them
  start int;
  total int;
  vals bytea;
  relation regclass;
  careful boolean;
  repair boolean := header ? 'repair';
  any_parked boolean;
  aside jsonb := '{}';           -- rows to set aside untried, by schema.table.id, with the reason
  suppress boolean;
  touched bigint;
  written bigint;
  deleted_nothing bigint;        -- rows that should have been there to delete
  lost jsonb;                    -- rows that must come whole
  lost_rows int;
  most_lost constant int := 1000; -- told at once: their whole rows must fit into the memory of who reads them again
  state text; message text; detail text; constraint_name text; column_name text; schema_of text; table_of text;
begin
  select * into here from lockstep.checkpoint c where c.route = route_name for update;
  if here is null then
    return jsonb_build_object('status', 'gap', 'at', null);
  end if;
  -- A row is seen the sooner when its commit does not wait for the disk. What is then confirmed to the source is only
  -- what lies before a commit that did wait: such a one, even without rows, writes all before it down too.
  if (header->>'durable')::boolean is not true then
    set local synchronous_commit = off;
  elsif current_setting('synchronous_commit') = 'off' then
    set local synchronous_commit = on;
  end if;
  if not repair and (upto_major, upto_minor) <= (here.major, here.minor) then
    update lockstep.checkpoint c set updated_at = clock_timestamp()
    where c.route = route_name and (header->>'durable')::boolean;
    return jsonb_build_object('status', 'duplicate', 'at', jsonb_build_array(here.major, here.minor));
  end if;
  if (base_major, base_minor) <> (here.major, here.minor) then
    return jsonb_build_object('status', 'gap', 'at', jsonb_build_array(here.major, here.minor));
  end if;

  -- What was sent only points to the request.
  if header ? 'pieces' then
    body := lockstep.laid_down(route_name, header->'pieces'->>'run', 0, (header->'pieces'->>'count')::int);
    if body is null then
      return jsonb_build_object('status', 'unstaged');
    end if;
    first := lockstep.header_end(body) + 1;
    header := lockstep.header_of(body) || jsonb_build_object('pieces', true);
    repair := header ? 'repair';
  end if;
  careful := coalesce(header->>'refused' = 'park', false);
  parts := coalesce(jsonb_array_length(header->'staged'->'parts'), 0);

  -- Marks this transaction as ours, in the WAL and for triggers, so that the way back can tell an echo.
  perform pg_logical_emit_message(true, 'lockstep', route_name);
  perform set_config('lockstep.applying', route_name, true);
  any_parked := exists (select from lockstep.parked p where p.route = route_name);
  <<attempt>> loop
  number := -1;
  suppress := header->>'triggers' = 'suppress';
  written := 0;
  deleted_nothing := 0;
  lost := '[]';
  lost_rows := 0;
  begin
    set constraints all deferred; -- values may change places among rows, as they did at the source
    if careful then
      update lockstep.parked p set step = null where p.route = route_name and p.step is not null;
    end if;
    for which in 0..parts loop
    if which = parts then
      current := body;
    else
      current := lockstep.laid_down(route_name, header->'staged'->>'run', which, (header->'staged'->'parts'->>which)::int);
      if current is null then
        raise sqlstate 'LS004';
      end if;
    end if;
    head := case when which = parts then header else lockstep.header_of(current) end;
    start := lockstep.header_end(current) + 1;
    for part in select jsonb_array_elements(head->'groups') loop
      number := number + 1;
      relation := lockstep.target(part->>'schema', part->>'table');
      if suppress and (part->>'op' = 'truncate' or lockstep.acts(relation)) then
        set local session_replication_role = replica;
        suppress := false; -- done, for the rest of the batch
      end if;
      if part->>'op' = 'truncate' then
        perform lockstep.truncate(part);
        if any_parked or careful then
          delete from lockstep.parked p using jsonb_array_elements(part->'tables') t
          where p.route = route_name and p.schema_name = t->>0 and p.table_name = t->>1;
        end if;
        continue;
      end if;
      -- Its own values only: handed the whole body, every group would read past those of all the others.
      total := (select coalesce(sum(l::int), 0) from jsonb_array_elements_text(part->'lengths') l);
      vals := substring(current from start for total);
      if careful then
        touched := lockstep.try(route_name, part, vals, relation, upto_major, upto_minor, number, aside);
      elsif any_parked and lockstep.part_of_parked(route_name, part, vals) then
        touched := -1;
      else
        touched := lockstep.write(route_name, part, vals, relation);
        if any_parked then
          perform lockstep.parked_after(route_name, part, vals);
        end if;
      end if;
      if touched = -1 then
        lost := lost || lockstep.lost(route_name, part, vals, relation, most_lost - lost_rows);
        lost_rows := lost_rows + jsonb_array_length(lost->-1->'keys');
        if lost_rows >= most_lost then
          raise sqlstate 'LS001';
        end if;
      end if;
      written := written + greatest(touched, 0);
      if part->>'op' = 'delete' and touched >= 0 then
        deleted_nothing := deleted_nothing + (part->>'rows')::bigint - touched;
      end if;
      start := start + total;
    end loop;
    if head ? 'copies' then
      insert into lockstep.copy as c (route, schema_name, table_name, source_oid, cursor, done, rows, updated_at)
      select route_name, x->>'schema', x->>'table', (x->>'oid')::bigint, x->'cursor', (x->>'done')::boolean,
        (x->>'rows')::bigint, clock_timestamp()
      from jsonb_array_elements(head->'copies') x
      on conflict (route, schema_name, table_name)
      do update set source_oid = excluded.source_oid, cursor = excluded.cursor, done = excluded.done, rows = excluded.rows, updated_at = excluded.updated_at;
      -- Rows may have been refused only because others were still wrong.
      update lockstep.parked p set next_at = now() from jsonb_array_elements(head->'copies') x
      where p.route = route_name and p.schema_name = x->>'schema' and p.table_name = x->>'table' and (x->>'done')::boolean;
    end if;
    end loop;
    if lost <> '[]' then
      raise sqlstate 'LS001';
    end if;
    if careful then
      perform lockstep.try_again(route_name, header, body, first, upto_major, upto_minor, aside);
    end if;
    number := -1;
    if careful then
      perform lockstep.check_deferred(header, body, first, aside);
      perform lockstep.check_room(route_name, (header->>'park_rows')::bigint);
    else
      perform lockstep.settle(); -- what was deferred is refused here, where it can be answered, not at commit
    end if;
    if parts > 0 or header ? 'pieces' then
      delete from lockstep.stage s where s.route = route_name;
    end if;
    if not repair then
      update lockstep.checkpoint c set major = upto_major, minor = upto_minor, updated_at = clock_timestamp()
      where c.route = route_name;
    end if;
    exit attempt;
  exception
    when sqlstate 'LS003' then
      -- A deferred constraint refused at the end; whose fault it was is known now.
      get stacked diagnostics message = message_text;
      aside := aside || message::jsonb;
    when others then
      get stacked diagnostics state = returned_sqlstate, message = message_text, detail = pg_exception_detail,
        constraint_name = constraint_name, column_name = column_name, schema_of = schema_name, table_of = table_name;
      return jsonb_build_object('group', number, 'sqlstate', state, 'message', left(message, 1000),
        'detail', left(detail, 1000), 'lost', lost,
        'constraint', constraint_name, 'column', column_name, 'schema', schema_of, 'table', table_of,
        -- Classes that pass by themselves are answered too: PostgREST would retry a raised 40001 for ever.
        -- What refused a row may have missed one that was lost: those come first.
        'status', case when state = 'LS001' or lost <> '[]' and state ~ '^(21|22|23|P0001|428C9)' then 'missing'
                       when state = 'LS002' then 'overflow'
                       when state = 'LS004' then 'unstaged'
                       when state ~ '^(40|53|55P03|57|58)' then 'retry' else 'refused' end);
  end;
  end loop;
  return jsonb_build_object('status', 'applied', 'rows', written, 'absent', deleted_nothing,
    'parked', case when any_parked or careful then lockstep.parked_counts(route_name) end);
end $$;

-- A body is four bytes with the header's length (big-endian), the header, the values. Where the header ends:
create or replace function lockstep.header_end(body bytea) returns int
language plpgsql immutable as $$
begin
  return 4 + ((get_byte(body, 0) << 24) | (get_byte(body, 1) << 16) | (get_byte(body, 2) << 8) | get_byte(body, 3));
end $$;

create or replace function lockstep.header_of(body bytea) returns jsonb
language plpgsql immutable as $$
begin
  return convert_from(substring(body from 5 for lockstep.header_end(body) - 4), 'UTF8')::jsonb;
end $$;

-- Empties tables together, as the source did. Never CASCADE: the stream names every table that the source emptied.
create or replace function lockstep.truncate(part jsonb) returns void
language plpgsql as $$
declare
  relations regclass[] := array(select lockstep.target(t->>0, t->>1) from jsonb_array_elements(part->'tables') t);
  relation regclass;
  statement text;
begin
  foreach relation in array relations loop
    if relation is null then
      raise undefined_table using message = format('a table to truncate is not there: %s', part->>'tables');
    elsif not has_table_privilege(lockstep.caller(), relation, 'truncate') then
      raise insufficient_privilege using message = format('%s may not truncate %s', lockstep.caller(), relation);
    end if;
  end loop;
  statement := format('truncate %s %s restrict', (select string_agg(lockstep.alone(r), ', ') from unnest(relations) r),
    case when (part->>'restart_identity')::boolean then 'restart identity' else 'continue identity' end);
  perform lockstep.run(statement, null);
exception when object_in_use then
  -- Rows of these tables that the batch wrote before await a check that was put off; at the source it had been made.
  begin
    perform lockstep.settle();
    set constraints all deferred;
    perform lockstep.run(statement, null);
  exception when integrity_constraint_violation then
    perform lockstep.emptied(relations, (part->>'restart_identity')::boolean);
  end;
end $$;

-- The same while other tables hold what is only right again at the end of the source's transaction. One statement: which
-- of the tables refers to which does not matter.
create or replace function lockstep.emptied(relations regclass[], restart boolean) returns void
language plpgsql as $$
declare
  sequence regclass;
begin
  perform lockstep.run(format('with %s select', (select string_agg(format('d%s as (delete from %s)', n, lockstep.alone(r)), ', ')
    from unnest(relations) with ordinality x (r, n))), null);
  for sequence in select d.objid from pg_depend d where restart and d.classid = 'pg_class'::regclass
    and d.refclassid = 'pg_class'::regclass and d.refobjid = any (relations) and d.deptype in ('a', 'i')
    and (select c.relkind = 'S' from pg_class c where c.oid = d.objid)
  loop
    perform lockstep.run(format('alter sequence %s restart', sequence), null);
  end loop;
end $$;

-- The doors. The time limit is the function's own: PostgREST lifts it into the transaction, where `authenticator`
-- would otherwise bring 8 s. The parameter has no name, so that PostgREST passes the body on unread.
create or replace function public.lockstep_apply(bytea) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set statement_timeout = '120s'
  -- What a policy hides must be an error, and NULL is no text.
  set row_security = off set array_nulls = on
as $$
begin
  -- A large one is not tried in vain.
  return coalesce(case when octet_length($1) < 65536 then lockstep.quick($1) end, lockstep.apply($1));
end $$;

create or replace function public.lockstep_hello(request jsonb) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set statement_timeout = '120s'
as $$ begin return lockstep.hello(request); end $$;
