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
  execute format('select not exists (select from %s)', lockstep.alone(relation)) into is_empty;
  select * into progress from lockstep.copy c
  where c.route = route_name and c.schema_name = wanted->>'schema' and c.table_name = wanted->>'name';
  return finding || jsonb_build_object('empty', is_empty, 'begun', found, 'copied', coalesce(progress.done, false),
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
  -- The first look does not know yet which source it is; until something is written it may become another one.
  update lockstep.checkpoint c set source = request->'source'
  where c.route = request->>'route' and request->'source' not in ('{}', c.source)
    and (c.source = '{}' or (c.major, c.minor) = (0, 0));
  -- A table that is not replicated any more misses changes from now on: should it come back, it is not copied.
  if request->'tables' <> '[]' then
    delete from lockstep.copy c
    where c.route = request->>'route' and not exists (
      select from jsonb_to_recordset(request->'tables') t (schema text, name text)
      where t.schema = c.schema_name and t.name = c.table_name);
  end if;
  -- Judged fit: from now on rows in them may be ours, brought by the stream before their copy has begun.
  insert into lockstep.copy (route, schema_name, table_name)
  select request->>'route', t.schema, t.name
  from jsonb_to_recordset(coalesce(request->'begin', '[]')) t (schema text, name text) on conflict do nothing;
  select * into here from lockstep.checkpoint c where c.route = request->>'route';
  return jsonb_build_object(
    'version', (select max(v.version) from lockstep.version v),
    'server_version', current_setting('server_version_num')::int,
    'checkpoint', jsonb_build_array(here.major, here.minor),
    'source', here.source,
    'suppress', lockstep.may_suppress(),
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
create or replace function lockstep.statement(relation regclass, part jsonb) returns text
language plpgsql stable as $$
declare
  op text := part->>'op';
  names text[];    -- quoted, in the order in which they travel
  arrays text;     -- the arguments of unnest()
  aliases text;    -- its columns: v1, v2, ..
  vals text[];     -- the values, cast where they travel as text
  key text[] := array(select quote_ident(k) from jsonb_array_elements_text(part->'key') k);
  equal text[];    -- the operators that compare them
  sorted text[];   -- the collations to do it by, where the column has one of its own: a hash join asks for it
  generated text[]; -- identity columns that only an insert may set
  fixed text;      -- that those outside the key are as they came
  keys int := case op when 'rekey' then jsonb_array_length(part->'key') else 0 end;
  assignments text;
  matches text;
begin
  with wanted as (
    -- A changed key sends the old key's values first, then the row's.
    select k as name, n as i from jsonb_array_elements_text(part->'key') with ordinality x(k, n) where op = 'rekey'
    union all
    select c, keys + n from jsonb_array_elements_text(part->'columns') with ordinality x(c, n)
  ), typed as (
    select w.i, quote_ident(w.name) as name, a.attidentity = 'a' as always,
           -- unnest() would take a composite apart (a domain may be one), and not every array is cut by commas.
           t.typarray = 0 or (t.typcategory = 'A' and t.typtype = 'b') or t.typtype in ('c', 'd')
             or t.typdelim <> ',' as as_text,
           -- Asked only where it may be another one: the question costs more than all the rest here.
           case when part->'key' ? w.name and t.typnamespace <> 'pg_catalog'::regnamespace then lockstep.equals(t.oid)
                else 'operator(pg_catalog.=)' end as eq,
           case when a.attcollation not in (0, 100) then ' collate ' || a.attcollation::regcollation else '' end as coll,
           format_type(t.oid, -1) as type, format_type(nullif(t.typarray, 0), -1) as array_type,
           (part->'lengths'->>(w.i - 1)::int)::int as length
    from wanted w
    join pg_attribute a on a.attrelid = relation and a.attname = w.name and a.attnum > 0 and not a.attisdropped
    join pg_type t on t.oid = a.atttypid
  ), placed as (
    select *, 1 + coalesce(sum(length) over (order by i rows between unbounded preceding and 1 preceding), 0) as at
    from typed
  )
  select array_agg(name order by i),
         string_agg(format('convert_from(substring((select $1) from %s for %s), ''UTF8'')::%s',
                           at, length, case when as_text then 'text[]' else array_type end), ', ' order by i),
         string_agg('v' || i, ', ' order by i),
         array_agg(case when as_text then format('v%s::%s', i, type) else 'v' || i end order by i),
         array_agg(eq order by i), array_agg(coll order by i),
         array_agg(name) filter (where always)
  into names, arrays, aliases, vals, equal, sorted, generated
  from placed;

  if coalesce(cardinality(names), 0) <> jsonb_array_length(part->'lengths') then
    raise undefined_column using message = format('a column of %s is not there: %s', relation, part->>'columns');
  end if;

  if op = 'upsert' then
    select string_agg(format('%s = excluded.%s', n, n), ', ') into assignments
    from unnest(names) n where n <> all (key) and n <> all (coalesce(generated, '{}'));
    -- No update may set such a column: a row in which it changed is left alone, and lockstep.apply notices.
    select string_agg(format('t.%s is not distinct from excluded.%s', n, n), ' and ') into fixed
    from unnest(generated) n where n <> all (key);
    return format('insert into %s as t (%s) overriding system value select %s from unnest(%s) u (%s) on conflict (%s) do %s',
      relation, array_to_string(names, ', '), array_to_string(vals, ', '), arrays, aliases, array_to_string(key, ', '),
      coalesce('update set ' || assignments || coalesce(' where ' || fixed, ''), 'nothing'));
  end if;

  -- The rest finds its rows by key. Postgres compares keys by their own operators, as the source's index did.
  select string_agg(format('t.%s %s %s%s', key[k], equal[i], vals[i], sorted[i]), ' and ' order by k)
  into matches
  from generate_subscripts(key, 1) k,
       lateral (select case op when 'rekey' then k else array_position(names, key[k]) end) x (i);
  if op = 'delete' then
    return format('delete from %s t using unnest(%s) u (%s) where %s', lockstep.alone(relation), arrays, aliases, matches);
  end if;
  select string_agg(format('%s = %s', names[i], vals[i]), ', ') into assignments
  from generate_subscripts(names, 1) i
  where i > keys and (op = 'rekey' or names[i] <> all (key))
    -- An identity in the key is set, and refused, rather than left as it was.
    and (names[i] <> all (coalesce(generated, '{}')) or names[i] = any (key));
  if assignments is null then
    -- Nothing but the key came: only look that the row is there.
    return format('select from %s t, unnest(%s) u (%s) where %s', lockstep.alone(relation), arrays, aliases, matches);
  end if;
  return format('update %s t set %s from unnest(%s) u (%s) where %s', lockstep.alone(relation), assignments, arrays, aliases, matches);
end $$;

-- Applies one batch and moves the route's checkpoint, both or neither.
--
-- Body: four bytes, big-endian: the length of the header; the header, JSON; then the values (see lockstep.statement).
-- Answers: applied | duplicate | gap | missing | refused | retry. Only a body that is not a batch raises.
create or replace function lockstep.apply(body bytea) returns jsonb
language plpgsql as $$
declare
  header_length int := (get_byte(body, 0) << 24) | (get_byte(body, 1) << 16) | (get_byte(body, 2) << 8) | get_byte(body, 3);
  header jsonb := convert_from(substring(body from 5 for header_length), 'UTF8')::jsonb;
  route_name text := header->>'route';
  base_major bigint := header->'base'->>0;  base_minor bigint := header->'base'->>1;
  upto_major bigint := header->'upto'->>0;  upto_minor bigint := header->'upto'->>1;
  here lockstep.checkpoint;
  part jsonb;
  number int := -1;              -- of the group at work, for the answer when it is refused
  start int := 5 + header_length;
  total int;
  relation regclass;
  suppress boolean := header->>'triggers' = 'suppress';
  lacking text[];
  touched bigint;
  written bigint := 0;
  deleted_nothing bigint := 0;   -- rows that should have been there to delete
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
  if (upto_major, upto_minor) <= (here.major, here.minor) then
    update lockstep.checkpoint c set updated_at = clock_timestamp()
    where c.route = route_name and (header->>'durable')::boolean;
    return jsonb_build_object('status', 'duplicate', 'at', jsonb_build_array(here.major, here.minor));
  end if;
  if (base_major, base_minor) <> (here.major, here.minor) then
    return jsonb_build_object('status', 'gap', 'at', jsonb_build_array(here.major, here.minor));
  end if;

  -- Marks this transaction as ours, in the WAL and for triggers, so that the way back can tell an echo.
  perform pg_logical_emit_message(true, 'lockstep', route_name);
  perform set_config('lockstep.applying', route_name, true);
  begin
    set constraints all deferred; -- values may change places among rows, as they did at the source
    for part in select jsonb_array_elements(header->'groups') loop
      number := number + 1;
      relation := lockstep.target(part->>'schema', part->>'table');
      if suppress and (part->>'op' = 'truncate' or lockstep.acts(relation)) then
        set local session_replication_role = replica;
        suppress := false; -- done, for the rest of the batch
      end if;
      if part->>'op' = 'truncate' then
        perform lockstep.truncate(part);
        continue;
      end if;
      lacking := lockstep.missing_rights(relation);
      if relation is null then
        raise undefined_table using message = format('table %I.%I is not there', part->>'schema', part->>'table');
      elsif lacking <> '{}' then
        raise insufficient_privilege using message = format('%s may not %s on %s', lockstep.caller(),
          array_to_string(lacking, ', '), relation);
      end if;
      -- Its own values only: handed the whole body, every group would read past those of all the others.
      total := (select coalesce(sum(l::int), 0) from jsonb_array_elements_text(part->'lengths') l);
      execute lockstep.statement(relation, part) using substring(body from start for total);
      get diagnostics touched = row_count;
      written := written + touched;
      if touched < (part->>'rows')::bigint then
        if part->>'op' = 'upsert' then
          -- Fewer than came: in a table of nothing but its key that is as it should be.
          select a.attname into column_name from pg_attribute a
          where a.attrelid = relation and a.attidentity = 'a' and part->'columns' ? a.attname::text
            and not part->'key' ? a.attname::text limit 1;
          if column_name is not null then
            raise sqlstate '428C9' using column = column_name,
              message = format('identity column %s of %s changed at the source, and here no update may set it',
                column_name, relation);
          end if;
        elsif part->>'op' = 'delete' then
          deleted_nothing := deleted_nothing + (part->>'rows')::bigint - touched;
        elsif part->>'op' in ('patch', 'rekey') then
          -- While a table is being copied, the row of a patch is brought by a later range.
          if part->>'op' = 'rekey' or exists (select from lockstep.copy c where c.route = route_name
                and c.schema_name = part->>'schema' and c.table_name = part->>'table' and c.done) then
            raise sqlstate 'LS001' using message = format('%s rows of %s are not there to update',
              (part->>'rows')::bigint - touched, relation);
          end if;
        end if;
      end if;
      start := start + total;
    end loop;
    number := -1;
    set constraints all immediate; -- what was deferred is refused here, where it can be answered, not at commit
    if header ? 'copies' then
      insert into lockstep.copy as c (route, schema_name, table_name, source_oid, cursor, done, rows, updated_at)
      select route_name, x->>'schema', x->>'table', (x->>'oid')::bigint, x->'cursor', (x->>'done')::boolean,
        (x->>'rows')::bigint, clock_timestamp()
      from jsonb_array_elements(header->'copies') x
      on conflict (route, schema_name, table_name)
      do update set source_oid = excluded.source_oid, cursor = excluded.cursor, done = excluded.done, rows = excluded.rows, updated_at = excluded.updated_at;
    end if;
    update lockstep.checkpoint c set major = upto_major, minor = upto_minor, updated_at = clock_timestamp()
    where c.route = route_name;
  exception when others then
    get stacked diagnostics state = returned_sqlstate, message = message_text, detail = pg_exception_detail,
      constraint_name = constraint_name, column_name = column_name, schema_of = schema_name, table_of = table_name;
    return jsonb_build_object('group', number, 'sqlstate', state, 'message', left(message, 1000),
      'detail', left(detail, 1000),
      'constraint', constraint_name, 'column', column_name, 'schema', schema_of, 'table', table_of,
      -- Classes that pass by themselves are answered too: PostgREST would retry a raised 40001 for ever.
      'status', case when state = 'LS001' then 'missing'
                     when state ~ '^(40|53|55P03|57|58)' then 'retry' else 'refused' end);
  end;
  return jsonb_build_object('status', 'applied', 'rows', written, 'absent', deleted_nothing);
end $$;

-- Empties tables together, as the source did. Never CASCADE: the stream names every table that the source emptied.
create or replace function lockstep.truncate(part jsonb) returns void
language plpgsql as $$
declare
  relations regclass[] := array(select lockstep.target(t->>0, t->>1) from jsonb_array_elements(part->'tables') t);
  relation regclass;
begin
  foreach relation in array relations loop
    if relation is null then
      raise undefined_table using message = format('a table to truncate is not there: %s', part->>'tables');
    elsif not has_table_privilege(lockstep.caller(), relation, 'truncate') then
      raise insufficient_privilege using message = format('%s may not truncate %s', lockstep.caller(), relation);
    end if;
  end loop;
  execute format('truncate %s %s restrict', (select string_agg(lockstep.alone(r), ', ') from unnest(relations) r),
    case when (part->>'restart_identity')::boolean then 'restart identity' else 'continue identity' end);
end $$;

-- The doors. The time limit is the function's own: PostgREST lifts it into the transaction, where `authenticator`
-- would otherwise bring 8 s. The parameter has no name, so that PostgREST passes the body on unread. While rows are
-- written the target's own triggers and checks run, and few of them fix a search_path: they find `public` and
-- `extensions`, behind everything that we call ourselves.
create or replace function public.lockstep_apply(bytea) returns jsonb
language plpgsql security definer set search_path = pg_catalog, public, extensions, pg_temp set statement_timeout = '120s'
as $$ begin return lockstep.apply($1); end $$;

create or replace function public.lockstep_hello(request jsonb) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set statement_timeout = '120s'
as $$ begin return lockstep.hello(request); end $$;
