-- What a comparison asks of the target: digests of parts of a table, rows of parts, single rows; and the checkpoint of
-- the route in the same snapshot, so that the source knows what they are to be compared with. Nothing here writes: all
-- of it is STABLE, and so sees one snapshot.
--
-- A row's hash is the md5 of its replicated columns as their output functions write them, in the order asked for. A
-- part's digest is its count and two sums over 60 bits of each hash: the order of rows does not matter.

-- md5 of a row, as an expression over alias t.
create or replace function lockstep.hash_of(columns text[]) returns text
language plpgsql stable as $$
begin
  return format('md5(row(%s)::text)', (select string_agg('t.' || quote_ident(c), ', ' order by n)
                                       from unnest(columns) with ordinality x(c, n)));
end $$;

-- Which part of a table that is divided by the hash of its key a row belongs to.
create or replace function lockstep.bucket_of(key text[], modulus int) returns text
language plpgsql stable as $$
begin
  return format('(''x'' || left(%s, 7))::bit(28)::int4 %% %s', lockstep.hash_of(key), modulus);
end $$;

-- The key's values as text, as an expression.
create or replace function lockstep.key_of(key text[]) returns text
language plpgsql stable as $$
begin
  return format('jsonb_build_array(%s)', (select string_agg(format('concat(t.%I)', k), ', ' order by n)
                                          from unnest(key) with ordinality x(k, n)));
end $$;

-- The types of some columns, as SQL spells them.
create or replace function lockstep.types_of(relation regclass, columns text[]) returns text[]
language plpgsql stable as $$
begin
  return array(select format_type(a.atttypid, -1)
               from unnest(columns) with ordinality x(c, n)
               join pg_attribute a on a.attrelid = relation and a.attname = c and a.attnum > 0 and not a.attisdropped
               order by n);
end $$;

-- Rows behind one key and up to another one; either may be missing.
create or replace function lockstep.within(key text[], types text[], part jsonb) returns text
language plpgsql stable as $$
declare
  names text := (select string_agg(format('t.%I', k), ', ' order by n) from unnest(key) with ordinality x(k, n));
  after text := (select string_agg(format('%L::%s', v, types[n]), ', ' order by n)
                 from jsonb_array_elements_text(nullif(part->0, 'null')) with ordinality x(v, n));
  upto text := (select string_agg(format('%L::%s', v, types[n]), ', ' order by n)
                from jsonb_array_elements_text(nullif(part->1, 'null')) with ordinality x(v, n));
begin
  -- Joined by ||, which NULL makes NULL, as format() does not.
  return coalesce('(' || names || ') > (' || after || ')', 'true') || ' and '
    || coalesce('(' || names || ') <= (' || upto || ')', 'true');
end $$;

-- What must be known of a table before it is compared.
create or replace function lockstep.look(relation regclass, columns text[], key text[]) returns jsonb
language plpgsql stable as $$
begin
  return jsonb_build_object(
    'missing', array(select c from unnest(columns) c
                     where not exists (select from pg_attribute a where a.attrelid = relation and a.attname = c
                                         and a.attnum > 0 and not a.attisdropped)),
    'key_types', lockstep.types_of(relation, key),
    -- Its size, for reading it block by block. Partitions are read side by side.
    'blocks', (select coalesce(max(pg_relation_size(p.relid)), pg_relation_size(relation))
                      / current_setting('block_size')::int from pg_partition_tree(relation) p where p.isleaf));
end $$;

create or replace function lockstep.digest(request jsonb) returns jsonb
language plpgsql stable as $$
declare
  here lockstep.checkpoint;
  relation regclass;
  columns text[] := array(select jsonb_array_elements_text(request->'columns'));
  key text[] := array(select jsonb_array_elements_text(request->'key'));
  types text[];
  answer jsonb;
  hash text;
  source text;     -- what stands behind FROM
  bucket text;
  filter text;
  sums text := 'count(*) as n, coalesce(sum((''x'' || left(m, 15))::bit(60)::int8), 0)::text as a, '
    || 'coalesce(sum((''x'' || substr(m, 17, 15))::bit(60)::int8), 0)::text as b';
  part jsonb;
  one jsonb;
  result jsonb := '[]';
begin
  select * into here from lockstep.checkpoint c where c.route = request->>'route';
  answer := jsonb_build_object('at', jsonb_build_array(coalesce(here.major, 0), coalesce(here.minor, 0)));
  if here is null or (here.major, here.minor) < ((request->'at'->>0)::bigint, (request->'at'->>1)::bigint) then
    return answer || '{"behind": true}';
  end if;
  if not request ? 'table' then
    return answer;
  end if;
  relation := lockstep.target(request->>'schema', request->>'table');
  if relation is null then
    raise undefined_table using message = format('table %I.%I is not there', request->>'schema', request->>'table');
  elsif not has_table_privilege(lockstep.caller(), relation, 'select') then
    raise insufficient_privilege using message = format('%s may not select on %s', lockstep.caller(), relation);
  end if;
  if request ? 'look' then
    return answer || lockstep.look(relation, columns, key);
  end if;
  types := lockstep.types_of(relation, key);
  hash := lockstep.hash_of(columns);
  source := lockstep.alone(relation) || ' t';

  if request ? 'keys' then
    -- Found by the key's own operators, which is what the index knows; taken only where the text is the same too.
    execute format('select coalesce(jsonb_agg(jsonb_build_array(w.n, %s, t.xmin::text)), ''[]'')
        from jsonb_array_elements($1) with ordinality w(k, n) join %s on %s where %s = w.k', hash, source,
      (select string_agg(format('t.%I %s (w.k->>%s)::%s%s', k, lockstep.equals(a.atttypid), n - 1, types[n],
           case when a.attcollation not in (0, 100) then ' collate ' || a.attcollation::regcollation else '' end),
         ' and ' order by n)
       from unnest(key) with ordinality x(k, n) join pg_attribute a on a.attrelid = relation and a.attname = k),
      lockstep.key_of(key))
    into result using request->'keys';
    return answer || jsonb_build_object('found', result);
  end if;

  if request ? 'buckets' then
    bucket := lockstep.bucket_of(key, (request->'buckets'->>'modulus')::int);
    filter := format('t.ctid >= ''(%s,0)''', (request->'blocks'->>0)::bigint);
    if request->'blocks'->>1 is not null then
      filter := filter || format(' and t.ctid < ''(%s,0)''', (request->'blocks'->>1)::bigint);
    end if;
    if request->'buckets'->'of' <> 'null' then
      filter := filter || format(' and (%s) = any (%L::int4[])', bucket,
        array(select x::int from jsonb_array_elements_text(request->'buckets'->'of') x));
    end if;
    if request ? 'rows' then
      execute format('select coalesce(jsonb_agg(jsonb_build_array(%s, %s)), ''[]'') from %s where %s',
        lockstep.key_of(key), hash, source, filter) into result;
    else
      execute format('select coalesce(jsonb_agg(jsonb_build_array(p, n, a, b)), ''[]'') from (select p, %s
          from (select %s as p, %s as m from %s where %s offset 0) r group by p) g',
        sums, bucket, hash, source, filter) into result;
    end if;
    return answer || jsonb_build_object('found', result);
  end if;

  for part in select jsonb_array_elements(request->'ranges') loop
    filter := lockstep.within(key, types, part);
    if request ? 'rows' then
      execute format('select coalesce(jsonb_agg(jsonb_build_array(k, m)), ''[]'')
          from (select %s as k, %s as m from %s where %s order by %s limit %s) r',
        lockstep.key_of(key), hash, source, filter,
        (select string_agg(format('t.%I', k), ', ' order by n) from unnest(key) with ordinality x(k, n)),
        (request->>'rows')::bigint) into one;
    else
      -- The subquery stands, so that the hash is computed once for both sums.
      execute format('select jsonb_build_array(n, a, b) from (select %s from (select %s as m from %s where %s offset 0) r) g',
        sums, hash, source, filter) into one;
    end if;
    result := result || jsonb_build_array(one);
  end loop;
  return answer || jsonb_build_object('found', result);
end $$;

-- The door. It may read what its caller may read, and nothing else. The settings make values read as the stream brings
-- them; policies that would hide rows are an error.
create or replace function public.lockstep_digest(request jsonb) returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set statement_timeout = '120s'
  set datestyle = 'ISO' set intervalstyle = 'postgres' set timezone = 'UTC' set extra_float_digits = '3'
  set bytea_output = 'hex' set lc_monetary = 'C' set row_security = off
as $$ begin return lockstep.digest(request); end $$;
