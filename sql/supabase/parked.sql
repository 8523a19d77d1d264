-- Rows that are refused: how they are set aside, what takes them back, and the door through which somebody sees them.
--
-- A row is set aside under its key, with the newest thing that the source did to it. From then on the row over here is
-- not the source's: a change that brings it whole (or ends it) settles the matter, one that brings a part of it cannot,
-- and is answered with `missing`, so that the row is read again from the source.

-- The keys of a group's rows, as the source wrote them; of a changed key, the old one.
create or replace function lockstep.keys_of(part jsonb, vals bytea) returns jsonb[]
language plpgsql as $$
declare
  columns text[] := array(select jsonb_array_elements_text(part->'columns'));
begin
  return array(
    with placed as (
      select l.n, l.length::int as length,
        1 + coalesce(sum(l.length::int) over (order by l.n rows between unbounded preceding and 1 preceding), 0) as at
      from jsonb_array_elements_text(part->'lengths') with ordinality l(length, n)
    ), chosen as (
      select k.n, convert_from(substring(vals from p.at::int for p.length), 'UTF8')::text[] as texts
      from jsonb_array_elements_text(part->'key') with ordinality k(name, n)
      join placed p on p.n = case part->>'op' when 'rekey' then k.n else array_position(columns, k.name) end
    )
    select jsonb_agg(x.text order by c.n) from chosen c, unnest(c.texts) with ordinality x(text, place)
    group by x.place order by x.place);
end $$;

-- Of rows that got another key, the new ones.
create or replace function lockstep.new_keys_of(part jsonb, vals bytea) returns jsonb[]
language plpgsql as $$
declare
  columns text[] := array(select jsonb_array_elements_text(part->'columns'));
  keys int := jsonb_array_length(part->'key');
begin
  return array(
    with placed as (
      select l.n, l.length::int as length,
        1 + coalesce(sum(l.length::int) over (order by l.n rows between unbounded preceding and 1 preceding), 0) as at
      from jsonb_array_elements_text(part->'lengths') with ordinality l(length, n)
    ), chosen as (
      select k.n, convert_from(substring(vals from p.at::int for p.length), 'UTF8')::text[] as texts
      from jsonb_array_elements_text(part->'key') with ordinality k(name, n)
      join placed p on p.n = keys + array_position(columns, k.name)
    )
    select jsonb_agg(x.text order by c.n) from chosen c, unnest(c.texts) with ordinality x(text, place)
    group by x.place order by x.place);
end $$;

-- The first row of a group, column by column as text. Very long values are cut: it is for people, and the row is read
-- again from the source before it is written.
create or replace function lockstep.image(part jsonb, vals bytea) returns jsonb
language plpgsql as $$
declare
  keys int := case part->>'op' when 'rekey' then jsonb_array_length(part->'key') else 0 end;
begin
  return (
    with placed as (
      select l.n, l.length::int as length,
        1 + coalesce(sum(l.length::int) over (order by l.n rows between unbounded preceding and 1 preceding), 0) as at
      from jsonb_array_elements_text(part->'lengths') with ordinality l(length, n)
    )
    select jsonb_object_agg(c.name, left((convert_from(substring(vals from p.at::int for p.length), 'UTF8')::text[])[1], 65536))
    from jsonb_array_elements_text(part->'columns') with ordinality c(name, n) join placed p on p.n = keys + c.n);
end $$;

-- A row as it stands here, column by column as text; NULL when there is none.
create or replace function lockstep.held(relation regclass, key_names jsonb, key jsonb) returns jsonb
language plpgsql as $$
declare
  names text[]; texts text; matches text; found_row jsonb;
begin
  select array_agg(a.attname::text order by a.attnum), string_agg(format('left(t.%I::text, 65536)', a.attname), ', ' order by a.attnum)
  into names, texts from pg_attribute a where a.attrelid = relation and a.attnum > 0 and not a.attisdropped;
  select string_agg(format('t.%I %s %L::%s', k.name, lockstep.equals(a.atttypid), key->>(k.n - 1)::int, format_type(a.atttypid, -1)), ' and ')
  into matches from jsonb_array_elements_text(key_names) with ordinality k(name, n)
  join pg_attribute a on a.attrelid = relation and a.attname = k.name;
  execute format('select jsonb_object($1, array[%s]) from %s t where %s limit 1', texts, lockstep.alone(relation), matches)
  into found_row using names;
  return found_row;
exception when others then
  return null; -- a key that this side's type does not take: there is no such row
end $$;

-- Everything of a table that may refuse a row, in one word: once it is another one, what was refused is tried again.
create or replace function lockstep.shape_of(relation regclass) returns text
language plpgsql stable as $$
begin
  return md5(concat_ws(e'\n',
    (select string_agg(concat_ws(' ', a.attname, a.atttypid, a.atttypmod, a.attnotnull, a.attidentity, a.attgenerated), ','
       order by a.attnum) from pg_attribute a where a.attrelid = relation and a.attnum > 0 and not a.attisdropped),
    (select string_agg(pg_get_constraintdef(k.oid), ',' order by k.oid) from pg_constraint k where k.conrelid = relation),
    (select string_agg(pg_get_indexdef(i.indexrelid), ',' order by i.indexrelid) from pg_index i
     where i.indrelid = relation and i.indisunique),
    (select string_agg(concat_ws(' ', t.tgname, t.tgfoid, t.tgenabled), ',' order by t.oid) from pg_trigger t
     where t.tgrelid = relation and not t.tgisinternal)));
end $$;

-- Sets one row aside, or brings its entry up to date.
create or replace function lockstep.park(route_name text, part jsonb, row_key jsonb, operation text, old jsonb, new jsonb,
  state text, why text, at_major bigint, at_minor bigint, at_step int) returns void
language plpgsql as $$
begin
  insert into lockstep.parked as p (route, schema_name, table_name, id, key, key_names, operation, old, new, sqlstate,
    reason, major, minor, xid, step, shape, next_at)
  values (route_name, part->>'schema', part->>'table', md5(row_key::text), row_key, part->'key', operation, old, new,
    state, why, at_major, at_minor, (part->>'xid')::bigint, at_step,
    lockstep.shape_of(lockstep.target(part->>'schema', part->>'table')), now() + interval '1 minute')
  on conflict (route, schema_name, table_name, id) do update set key_names = excluded.key_names,
    operation = excluded.operation, old = excluded.old, new = excluded.new, sqlstate = excluded.sqlstate,
    reason = excluded.reason, major = excluded.major, minor = excluded.minor,
    xid = coalesce(excluded.xid, p.xid), step = excluded.step, shape = excluded.shape,
    -- Tried again within one batch, it is one attempt.
    attempts = p.attempts + case when p.step is null then 1 else 0 end, updated_at = now(),
    -- From a minute to an hour: what it waits for may take a person.
    next_at = now() + least(interval '1 minute' * power(2, least(p.attempts, 10)), interval '1 hour');
end $$;

-- For a foreign key's refusal: which parked row it waits for, if it is one.
create or replace function lockstep.waits_for(route_name text, constraint_of regclass, name text, image jsonb) returns text
language plpgsql as $$
begin
  return (
    select format('; it refers to row %s of %s.%s, which is parked itself', p.key, p.schema_name, p.table_name)
    from pg_constraint k
    join pg_class f on f.oid = k.confrelid
    join pg_namespace n on n.oid = f.relnamespace
    join lockstep.parked p on p.route = route_name and p.schema_name = n.nspname and p.table_name = f.relname
    where k.conrelid = constraint_of and k.conname = name and k.contype = 'f'
      and (select bool_and(image->>c.attname = p.new->>r.attname) from unnest(k.conkey, k.confkey) u(child, parent)
           join pg_attribute c on c.attrelid = k.conrelid and c.attnum = u.child
           join pg_attribute r on r.attrelid = k.confrelid and r.attnum = u.parent)
    limit 1);
end $$;

-- Writes one row, or sets it aside. How many rows were written; -1: it must be read again; -2: it is parked.
create or replace function lockstep.try(route_name text, part jsonb, vals bytea, relation regclass,
  at_major bigint, at_minor bigint, at_step int, aside jsonb) returns bigint
language plpgsql as $$
declare
  op text := part->>'op';
  row_key jsonb := (lockstep.keys_of(part, vals))[1];
  row_id text := md5(row_key::text);
  blamed constant jsonb := aside->concat_ws('.', part->>'schema', part->>'table', row_id);
  touched bigint;
  image jsonb; new_key jsonb; why text;
  state text; message text; detail text; constraint_name text; schema_of text; table_of text;
begin
  -- What stands here under a parked key is stale, so a part of the row makes no row of it.
  if (op = 'patch' or part ? 'partial') and exists (
    select from lockstep.parked p where p.route = route_name and p.schema_name = part->>'schema'
      and p.table_name = part->>'table' and p.id = row_id) then
    return -1;
  end if;
  if blamed is not null then
    state := blamed->>0;
    why := blamed->>1;
  else
    begin
      touched := lockstep.write(route_name, part, vals, relation);
      if touched >= 0 then
        perform lockstep.parked_after(route_name, part, vals);
      end if;
      return touched;
    exception when others then
      get stacked diagnostics state = returned_sqlstate, message = message_text, detail = pg_exception_detail,
        constraint_name = constraint_name, schema_of = schema_name, table_of = table_name;
      if not (state ~ '^(22|23)' or state in ('P0001', '428C9', '21000')) then
        raise; -- not about the row
      end if;
      why := left(concat_ws('; ', message, nullif(detail, '')), 1000);
    end;
  end if;
  image := case when op <> 'delete' then lockstep.image(part, vals) end;
  if state = '23503' and image is not null then
    why := why || coalesce(lockstep.waits_for(route_name,
      to_regclass(format('%I.%I', coalesce(nullif(schema_of, ''), part->>'schema'), coalesce(nullif(table_of, ''), part->>'table'))),
      constraint_name, image), '');
  end if;
  if op = 'rekey' then
    -- Two matters from now on: the row under its old key must go, the one under the new key must come.
    new_key := (select jsonb_agg(image->>k order by n) from jsonb_array_elements_text(part->'key') with ordinality x(k, n));
    perform lockstep.park(route_name, part, row_key, 'delete', lockstep.held(relation, part->'key', row_key), null,
      state, why, at_major, at_minor, null);
    perform lockstep.park(route_name, part, new_key, 'write', lockstep.held(relation, part->'key', new_key), image,
      state, why, at_major, at_minor, null);
  else
    perform lockstep.park(route_name, part, row_key, case op when 'upsert' then 'write' when 'patch' then 'update' else op end,
      lockstep.held(relation, part->'key', row_key), image, state, why, at_major, at_minor, at_step);
  end if;
  return -2;
end $$;

-- What was refused in this batch may only have come too early (a row that refers to a later one): it is tried again
-- behind the others, until a round brings nothing more. Rounds go back and forth: rows that refer to each other in a
-- row, in whichever direction, are done in two. More than a few are left to the next time that they are due. Each entry
-- is the newest change of its key.
create or replace function lockstep.try_again(route_name text, header jsonb, body bytea, first int,
  at_major bigint, at_minor bigint, aside jsonb) returns void
language plpgsql as $$
declare
  starts int[] := array(
    select first + coalesce(sum(g.total) over (order by g.n rows between unbounded preceding and 1 preceding), 0)
    from (select n, (select coalesce(sum(l::int), 0) from jsonb_array_elements_text(coalesce(x->'lengths', '[]')) l) as total
          from jsonb_array_elements(header->'groups') with ordinality y(x, n)) g order by g.n);
  at int; part jsonb; progress boolean;
begin
  for round in 1..6 loop
    progress := false;
    for at in select p.step from lockstep.parked p where p.route = route_name and p.step is not null
              order by p.step * (2 * (round % 2) - 1) desc loop
      part := header->'groups'->at;
      if lockstep.try(route_name, part,
        substring(body from starts[at + 1] for (select sum(l::int)::int from jsonb_array_elements_text(part->'lengths') l)),
        lockstep.target(part->>'schema', part->>'table'), at_major, at_minor, at, aside) >= 0
      then
        progress := true;
      end if;
    end loop;
    exit when not progress;
  end loop;
  perform lockstep.change_places(route_name, header, body, starts, aside);
end $$;

-- What is left may stand in each other's way: unique values that changed places while their rows were not followed. Such
-- rows go and come again together, where to delete them acts on nothing else and they have no column of this side alone.
create or replace function lockstep.change_places(route_name text, header jsonb, body bytea, starts int[], aside jsonb)
returns void
language plpgsql as $$
declare
  steps int[]; relation regclass; at int; part jsonb; vals bytea[];
begin
  for relation, steps in
    select lockstep.target(p.schema_name, p.table_name), array_agg(p.step order by p.step) from lockstep.parked p
    where p.route = route_name and p.step is not null and p.sqlstate = '23505' and p.operation = 'write'
      and not aside ? concat_ws('.', p.schema_name, p.table_name, p.id)
    group by p.schema_name, p.table_name having count(*) > 1
  loop
    continue when lockstep.delete_acts(relation) or exists (
      select from pg_attribute a, unnest(steps) s
      where a.attrelid = relation and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
        and not header->'groups'->s->'columns' ? a.attname::text);
    begin
      vals := '{}';
      foreach at in array steps loop
        part := header->'groups'->at;
        vals := vals || substring(body from starts[at + 1]
          for (select sum(l::int)::int from jsonb_array_elements_text(part->'lengths') l));
        perform lockstep.run(lockstep.statement(relation, part || '{"op": "delete"}'), vals[cardinality(vals)]);
      end loop;
      for n in 1..cardinality(steps) loop
        part := header->'groups'->steps[n];
        perform lockstep.write(route_name, part, vals[n], relation);
        perform lockstep.parked_after(route_name, part, vals[n]);
      end loop;
    exception when integrity_constraint_violation or data_exception or raise_exception then
      null; -- somebody else stands in their way: they stay parked
    end;
  end loop;
end $$;

-- Before a set is written: whether it has a parked row that came only in part, which does not settle it.
create or replace function lockstep.part_of_parked(route_name text, part jsonb, vals bytea) returns boolean
language plpgsql as $$
begin
  return (part->>'op' = 'patch' or part ? 'partial') and exists (
    select from lockstep.parked p where p.route = route_name and p.schema_name = part->>'schema'
      and p.table_name = part->>'table'
      and p.id in (select md5(k::text) from unnest(lockstep.keys_of(part, vals)) k));
end $$;

-- Behind it: what was written whole, or ended, is settled; under a new key too.
create or replace function lockstep.parked_after(route_name text, part jsonb, vals bytea) returns void
language plpgsql as $$
declare
  keys jsonb[];
begin
  if part->>'op' = 'patch' or not exists (select from lockstep.parked p where p.route = route_name
      and p.schema_name = part->>'schema' and p.table_name = part->>'table') then
    return;
  end if;
  keys := lockstep.keys_of(part, vals);
  if part->>'op' = 'rekey' then
    keys := keys || lockstep.new_keys_of(part, vals);
  end if;
  delete from lockstep.parked p
  where p.route = route_name and p.schema_name = part->>'schema' and p.table_name = part->>'table'
    and p.id in (select md5(k::text) from unnest(keys) k);
  if found then
    -- What waits for such a row need not wait until it is due.
    update lockstep.parked p set next_at = now() where p.route = route_name and p.sqlstate = '23503';
  end if;
end $$;

-- More refused rows than this are no accident of single rows.
create or replace function lockstep.check_room(route_name text, park_rows bigint) returns void
language plpgsql as $$
declare
  crowded record;
begin
  select p.schema_name, p.table_name, count(*) as rows, min(p.reason) as reason into crowded from lockstep.parked p
  where p.route = route_name group by 1, 2 having count(*) > park_rows limit 1;
  if found then
    raise sqlstate 'LS002' using schema = crowded.schema_name, table = crowded.table_name,
      message = format('%s rows were refused; for one: %s', crowded.rows, crowded.reason);
  end if;
end $$;

-- How many rows of each table are parked, and since when (seconds since the Unix epoch).
create or replace function lockstep.parked_counts(route_name text) returns jsonb
language plpgsql stable as $$
begin
  return coalesce((select jsonb_agg(to_jsonb(x)) from (
    select p.schema_name as schema, p.table_name as table, count(*) as rows,
      extract(epoch from min(p.first_parked_at))::bigint as oldest
    from lockstep.parked p where p.route = route_name group by 1, 2 order by 1, 2) x), '[]');
end $$;

-- Checks what was deferred. Refused, it raises LS003 with the rows of this batch at whose door it lies, by id, or what
-- was raised where that cannot be said. Who is aside already is not blamed again.
create or replace function lockstep.check_deferred(header jsonb, body bytea, first int, aside jsonb) returns void
language plpgsql as $$
declare
  state text; message text; detail text; name text; schema_of text; table_of text;
  blamed text[];
begin
  perform lockstep.settle();
exception when integrity_constraint_violation then
  get stacked diagnostics state = returned_sqlstate, message = message_text, detail = pg_exception_detail,
    name = constraint_name, schema_of = schema_name, table_of = table_name;
  blamed := lockstep.blame(header, body, first, to_regclass(format('%I.%I', schema_of, table_of)), name, aside);
  if coalesce(cardinality(blamed), 0) = 0 then
    raise;
  end if;
  raise sqlstate 'LS003' using message = (
    select jsonb_object_agg(id, jsonb_build_array(state, left(concat_ws('; ', message, nullif(detail, '')), 1000)))
    from unnest(blamed) id)::text;
end $$;

-- Rows of this batch that break a deferred constraint, as the tables stand now, as schema.table.id.
create or replace function lockstep.blame(header jsonb, body bytea, first int, owner regclass, name text, aside jsonb)
returns text[]
language plpgsql as $$
declare
  held pg_constraint;
  columns text[]; others text[];   -- the constraint's columns, and for a foreign key those that they refer to
  broken text;                     -- which rows of its table break it: a FROM and a WHERE
  found_ids text[];
begin
  select k.* into held from pg_constraint k where k.conrelid = owner and k.conname = name;
  if held.contype is null or held.contype not in ('f', 'u', 'p') then
    return null;
  end if;
  columns := array(select a.attname from unnest(held.conkey) with ordinality u(n, i)
                   join pg_attribute a on a.attrelid = held.conrelid and a.attnum = u.n order by u.i);
  if held.contype = 'f' then
    others := array(select a.attname from unnest(held.confkey) with ordinality u(n, i)
                    join pg_attribute a on a.attrelid = held.confrelid and a.attnum = u.n order by u.i);
    broken := format('from %s c where %s and not exists (select from %s p where %s)', held.conrelid::regclass,
      (select string_agg(format('c.%I is not null', x), ' and ') from unnest(columns) x), held.confrelid::regclass,
      (select string_agg(format('p.%I = c.%I', o, x), ' and ') from unnest(columns, others) u(x, o)));
  else
    broken := format('from %s c join (select %s from %1$s group by %2$s having count(*) > 1) d using (%2$s)',
      held.conrelid::regclass, (select string_agg(quote_ident(x), ', ') from unnest(columns) x));
  end if;
  found_ids := lockstep.blamed(header, body, first, held.conrelid, '{upsert,patch,rekey}', broken, null, null);
  found_ids := array(select x from unnest(found_ids) x where not aside ? x);
  if held.contype = 'f' and cardinality(found_ids) = 0 then
    -- Not the rows that refer, then: those that they refer to went.
    found_ids := lockstep.blamed(header, body, first, held.confrelid, '{delete,rekey}', broken, others, columns);
  end if;
  return array(select x from unnest(found_ids) x where not aside ? x);
end $$;

-- Which rows that the batch brought to a table are among those that `broken` selects. With `others`, the rows of
-- another table point at them: by `columns`, which refer to `others`.
create or replace function lockstep.blamed(header jsonb, body bytea, first int, relation regclass, ops text[], broken text,
  others text[], columns text[]) returns text[]
language plpgsql as $$
declare
  part jsonb; start int := first; total int; keys jsonb[]; names text[]; ids text[] := '{}'; wrong text[]; expected jsonb;
  shape jsonb; -- the key names for which `wrong` was asked
begin
  for part in select jsonb_array_elements(header->'groups') loop
    total := (select coalesce(sum(l::int), 0) from jsonb_array_elements_text(coalesce(part->'lengths', '[]')) l);
    if part->>'op' = any (ops) and lockstep.target(part->>'schema', part->>'table') = relation then
      if shape is distinct from part->'key' then
        shape := part->'key';
        names := array(select jsonb_array_elements_text(shape));
        if others is not null and not names <@ others then
          return '{}'; -- it refers to something else than the key
        end if;
        execute format('select array_agg(distinct md5(jsonb_build_array(%s)::text)) %s',
          (select string_agg(format('c.%I::text', case when others is null then n else columns[array_position(others, n)] end), ', ' order by i)
           from unnest(names) with ordinality u(n, i)), broken) into wrong;
      end if;
      keys := lockstep.keys_of(part, substring(body from start for total));
      if part->>'op' = 'rekey' and others is null then
        -- It stands under its new key, and is known by its old one.
        expected := lockstep.image(part, substring(body from start for total));
        if md5((select jsonb_agg(expected->>k order by n) from jsonb_array_elements_text(shape) with ordinality x(k, n))::text) = any (wrong) then
          ids := ids || concat_ws('.', part->>'schema', part->>'table', md5(keys[1]::text));
        end if;
      else
        ids := ids || array(select concat_ws('.', part->>'schema', part->>'table', md5(k::text)) from unnest(keys) k
          where md5(k::text) = any (wrong));
      end if;
    end if;
    start := start + total;
  end loop;
  return ids;
end $$;

-- Lists, retries and discards: what `lockstep parked` and the service ask for. A row is shown to whom may read it.
create or replace function lockstep.parked_door(request jsonb) returns jsonb
language plpgsql as $$
declare
  route_name text := request->>'route';
  action text := request->>'action';
  most int := least(coalesce((request->>'limit')::int, 100), 1000);
  answer jsonb;
  number bigint;
begin
  if action = 'due' then
    select coalesce(jsonb_agg(jsonb_build_object('schema', d.schema_name, 'table', d.table_name, 'key', d.key,
        'key_names', d.key_names,
        -- Within a day the source has shown the transaction to everybody; later its number may mean another one.
        'xid', case when d.updated_at > now() - interval '1 day' then d.xid end)), '[]') into answer
    from (select p.* from lockstep.parked p
          join (select distinct t.schema_name, t.table_name, lockstep.shape_of(lockstep.target(t.schema_name, t.table_name)) as shape
                from lockstep.parked t where t.route = route_name) s using (schema_name, table_name)
          where p.route = route_name and (p.next_at <= now() or p.shape is distinct from s.shape)
            and not exists (select from lockstep.copy c where c.route = route_name and c.schema_name = p.schema_name
                              and c.table_name = p.table_name and c.parked is not null)
          order by p.next_at, p.first_parked_at, p.major, p.minor limit most) d;
    return jsonb_build_object('due', answer, 'parked', lockstep.parked_counts(route_name), 'discarded',
      (select coalesce(sum(d.rows), 0) from lockstep.discarded d where d.route = route_name));
  elsif action = 'list' then
    select coalesce(jsonb_agg(jsonb_build_object('schema', d.schema_name, 'table', d.table_name, 'key', d.key,
        'key_names', d.key_names, 'operation', d.operation, 'sqlstate', d.sqlstate, 'reason', d.reason,
        'old', case when d.readable then d.old end, 'new', case when d.readable then d.new end,
        'position', jsonb_build_array(d.major, d.minor), 'attempts', d.attempts,
        'first_parked_at', to_char(d.first_parked_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
        'updated_at', to_char(d.updated_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
        'next_at', to_char(d.next_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))), '[]') into answer
    from (select p.*, coalesce(has_table_privilege(lockstep.caller(), lockstep.target(p.schema_name, p.table_name), 'select'), true) as readable
          from lockstep.parked p where p.route = route_name and lockstep.is_asked_for(p, request)
          order by p.first_parked_at, p.major, p.minor, p.schema_name, p.table_name limit most) d;
    return jsonb_build_object('rows', answer, 'parked', lockstep.parked_counts(route_name),
      'tables', (select coalesce(jsonb_agg(jsonb_build_object('schema', c.schema_name, 'table', c.table_name, 'reason', c.parked)
                   order by c.schema_name, c.table_name), '[]')
                 from lockstep.copy c where c.route = route_name and c.parked is not null));
  elsif action = 'retry' then
    update lockstep.parked p set next_at = now() where p.route = route_name and lockstep.is_asked_for(p, request);
    get diagnostics number = row_count;
  elsif action = 'discard' then
    with gone as (
      delete from lockstep.parked p where p.route = route_name and lockstep.is_asked_for(p, request) returning p.*
    ), counted as (
      insert into lockstep.discarded as d (route, schema_name, table_name, rows)
      select route_name, g.schema_name, g.table_name, count(*) from gone g group by 2, 3
      on conflict (route, schema_name, table_name) do update set rows = d.rows + excluded.rows
    )
    select count(*) into number from gone;
  else
    raise invalid_parameter_value using message = format('lockstep_parked: there is no action %s', action);
  end if;
  return jsonb_build_object('rows', number, 'parked', lockstep.parked_counts(route_name));
end $$;

-- Whether a request is about this entry: all of them, those of one table, or some keys of it.
create or replace function lockstep.is_asked_for(entry lockstep.parked, request jsonb) returns boolean
language plpgsql stable as $$
begin
  return (not request ? 'table' or (entry.schema_name = request->'table'->>0 and entry.table_name = request->'table'->>1))
    and (not request ? 'keys' or exists (select from jsonb_array_elements(request->'keys') k where k = entry.key));
end $$;

create or replace function public.lockstep_parked(request jsonb) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set statement_timeout = '60s'
as $$ begin return lockstep.parked_door(request); end $$;
