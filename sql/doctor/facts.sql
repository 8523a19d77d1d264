-- What the catalogs of either side say about the chosen tables and about the server, as one document. One statement
-- for both sides, so that what is compared was asked alike: at the source and over a direct connection it is run with
-- the request as $1, in Supabase it is the body of lockstep.facts(jsonb).
--
-- It decides nothing. It changes nothing. What only some versions have is read through to_jsonb(); what may not be there
-- at all, or may not be read, through query_to_xml(), which takes a statement as text.
with recursive request as (
  select coalesce($1->>'reader', current_user::text) as reader, $1->>'slot' as slot, $1->>'publication' as publication,
         $1->>'route' as route, coalesce((select r.oid from pg_roles r
           where r.rolname = coalesce($1->>'reader', current_user::text)), 0::oid) as reader_oid
), wanted as (
  select c.oid, c.relname, n.nspname, c.relkind, c.relpersistence, c.relreplident, c.relowner, c.relrowsecurity,
         c.relforcerowsecurity, w.at
  from jsonb_array_elements(coalesce($1->'tables', '[]')) with ordinality w (name, at)
  join pg_namespace n on n.nspname = w.name->>'schema'
  join pg_class c on c.relnamespace = n.oid and c.relname = w.name->>'name' and c.relkind in ('r', 'p')
), readable as (
  -- Whose rows the reader may see, every one of them.
  select w.oid from wanted w, request q
  where q.reader_oid <> 0 and has_table_privilege(q.reader_oid, w.oid, 'select') and has_table_privilege(w.oid, 'select')
    and has_schema_privilege(w.nspname, 'usage') and not row_security_active(w.oid)
), attributes as (
  select a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod, a.attnotnull, a.atthasdef, a.attidentity,
         a.attgenerated
  from pg_attribute a join wanted w on w.oid = a.attrelid where a.attnum > 0 and not a.attisdropped
), used (type) as (
  select atttypid from attributes
  union
  select x.next from used u join pg_type t on t.oid = u.type, lateral (
    select t.typbasetype where t.typtype = 'd'
    union all select t.typelem where t.typelem <> 0 and t.typlen = -1
    union all select g.rngsubtype from pg_range g where g.rngtypid = t.oid
    union all select a.atttypid from pg_attribute a
      where a.attrelid = t.typrelid and t.typtype = 'c' and a.attnum > 0 and not a.attisdropped
  ) x (next)
  where x.next <> 0
), types as (
  -- An extension may live in another schema over there: its types go without one.
  select t.oid, t.typname, t.typtype, t.typrelid, t.typnotnull, t.typbasetype, t.typtypmod, n.nspname,
         coalesce(e.extname, o.extname)::text as extension,
         case when coalesce(e.extname, o.extname) is not null and n.nspname <> 'pg_catalog'
              then length(quote_ident(n.nspname)) + 2 else 1 end as from_char
  from used u join pg_type t on t.oid = u.type join pg_namespace n on n.oid = t.typnamespace
  left join pg_depend d on d.classid = 'pg_type'::regclass and d.objid = t.oid and d.deptype = 'e'
  left join pg_extension e on e.oid = d.refobjid
  left join pg_depend p on p.classid = 'pg_type'::regclass and p.objid = t.typelem and t.typelem <> 0
    and t.typlen = -1 and p.deptype = 'e'
  left join pg_extension o on o.oid = p.refobjid
)
select jsonb_build_object(
  'server', (select jsonb_build_object(
    'version', current_setting('server_version_num')::int,
    'now', extract(epoch from clock_timestamp())::float8,
    'database', current_database(),
    'encoding', getdatabaseencoding(),
    'role', q.reader,
    'owner', current_user,
    'superuser', r.rolsuper, 'replication', r.rolreplication, 'bypass_rls', r.rolbypassrls,
    'owner_bypasses_rls', (select o.rolsuper or o.rolbypassrls from pg_roles o where o.rolname = current_user),
    'rds', exists (select from pg_roles m where m.rolname = 'rds_replication'),
    'rds_member', exists (select from pg_roles m where m.rolname = 'rds_replication' and pg_has_role(m.oid, 'member')),
    'may_create', has_database_privilege(current_database(), 'create'),
    'standby', pg_is_in_recovery(),
    'wal_level', current_setting('wal_level'),
    'wal_end', case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_insert_lsn() end,
    'max_slots', current_setting('max_replication_slots')::int,
    'slots', (select count(*) from pg_replication_slots),
    'max_senders', current_setting('max_wal_senders')::int,
    'senders', (select count(*) from pg_stat_activity a where a.backend_type = 'walsender'),
    'slot_keep_mb', (select setting::bigint from pg_settings where name = 'max_slot_wal_keep_size'),
    'sender_timeout_ms', (select setting::bigint from pg_settings where name = 'wal_sender_timeout'),
    'decoding_kb', (select setting::bigint from pg_settings where name = 'logical_decoding_work_mem'),
    'idle_slot_timeout_s', (select case unit when 'min' then setting::bigint * 60 else setting::bigint end
                            from pg_settings where name = 'idle_replication_slot_timeout'),
    'read_only', exists (select from pg_db_role_setting s, unnest(s.setconfig) c
                         where s.setdatabase in (0, (select d.oid from pg_database d where d.datname = current_database()))
                           and s.setrole = 0 and c = 'default_transaction_read_only=on'),
    'encrypted', (select s.ssl from pg_stat_ssl s where s.pid = pg_backend_pid()),
    'role_settings', (select coalesce(jsonb_object_agg(o.rolname, to_jsonb(o.rolconfig)), '{}') from pg_roles o
                      where o.rolname in ('authenticator', 'service_role') and o.rolconfig is not null),
    'open', (select coalesce(jsonb_agg(jsonb_build_object('pid', a.pid, 'application', a.application_name,
               'state', a.state, 'seconds', extract(epoch from clock_timestamp() - a.xact_start)::float8,
               'writes', a.backend_xid is not null) order by a.xact_start), '[]')
             from (select * from pg_stat_activity s where s.pid <> pg_backend_pid() and s.xact_start is not null
                     and s.backend_type = 'client backend' and (s.backend_xid is not null or s.backend_xmin is not null)
                   order by s.xact_start limit 5) a),
    'prepared', (select coalesce(jsonb_agg(jsonb_build_object('gid', p.gid,
                   'seconds', extract(epoch from clock_timestamp() - p.prepared)::float8) order by p.prepared), '[]')
                 from pg_prepared_xacts p where p.database = current_database()))
    from request q left join pg_roles r on r.oid = q.reader_oid),
  'slot', (select jsonb_build_object(
    'plugin', s.plugin, 'type', s.slot_type, 'database', s.database, 'temporary', s.temporary, 'pid', s.active_pid,
    'application', a.application_name, 'confirmed', s.confirmed_flush_lsn, 'wal_status', s.wal_status,
    'safe_bytes', s.safe_wal_size, 'invalid', to_jsonb(s)->>'invalidation_reason',
    'failover', (to_jsonb(s)->>'failover')::boolean,
    'retained', case when not pg_is_in_recovery() then pg_wal_lsn_diff(pg_current_wal_insert_lsn(), s.restart_lsn) end)
    from pg_replication_slots s join request q on q.slot = s.slot_name
    left join pg_stat_activity a on a.pid = s.active_pid),
  'publication', (select jsonb_build_object(
    'owner', pg_get_userbyid(p.pubowner), 'mine', pg_has_role(p.pubowner, 'usage'), 'all_tables', p.puballtables,
    'via_root', p.pubviaroot,
    'insert', p.pubinsert, 'update', p.pubupdate, 'delete', p.pubdelete, 'truncate', p.pubtruncate,
    'tables', (select coalesce(jsonb_agg(jsonb_build_object('schema', n.nspname, 'name', c.relname,
        'filter', to_jsonb(t)->>'rowfilter',
        -- Before 15 there are no column lists.
        'columns', to_jsonb(t)->'attnames',
        'identity', c.relreplident = 'f'
          or (c.relreplident = 'd' and exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary))
          or (c.relreplident = 'i' and exists (select from pg_index i where i.indrelid = c.oid and i.indisreplident))
        ) order by n.nspname, c.relname), '[]')
      from pg_publication_tables t join pg_namespace n on n.nspname = t.schemaname
      join pg_class c on c.relnamespace = n.oid and c.relname = t.tablename where t.pubname = p.pubname),
    -- As they were named: without via_root a root's partitions are listed in its place.
    'named', (select coalesce(jsonb_agg(jsonb_build_object('schema', n.nspname, 'name', c.relname)), '[]')
              from pg_publication_rel r join pg_class c on c.oid = r.prrelid join pg_namespace n on n.oid = c.relnamespace
              where r.prpubid = p.oid))
    from pg_publication p join request q on q.publication = p.pubname),
  'extensions', (select coalesce(jsonb_object_agg(e.extname, e.extversion), '{}') from pg_extension e),
  'doors', (select coalesce(jsonb_agg(jsonb_build_object('name', format('public.%I(%s)', p.proname,
        pg_get_function_identity_arguments(p.oid)), 'settings', to_jsonb(p.proconfig), 'definer', p.prosecdef,
        'strangers', (select coalesce(jsonb_agg(x.who), '[]') from (
            select 'public' as who
            where exists (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) l where l.grantee = 0)
            union all
            select r.rolname::text from pg_roles r where r.rolname in ('anon', 'authenticated')
              and exists (select from aclexplode(p.proacl) l where l.grantee = r.oid)) x),
        'service', (select has_function_privilege(r.oid, p.oid, 'execute') from pg_roles r
                    where r.rolname = 'service_role')) order by p.proname), '[]')
    from pg_proc p where p.pronamespace = 'public'::regnamespace and p.proname ~ '^lockstep_'),
  'open_schemas', (select coalesce(jsonb_agg(jsonb_build_object('schema', n.nspname, 'role', x.who) order by n.nspname, x.who), '[]')
    from pg_namespace n, lateral (
      select 'public' as who where exists (
        select from aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) l where l.grantee = 0 and l.privilege_type = 'CREATE')
      union all
      select r.rolname::text from pg_roles r join aclexplode(n.nspacl) l on l.grantee = r.oid and l.privilege_type = 'CREATE'
      where r.rolname in ('anon', 'authenticated')) x
    where n.nspname in ('public', 'extensions')),
  'installed', case when to_regnamespace('lockstep') is null then null
                    when not has_schema_privilege(to_regnamespace('lockstep'), 'usage') then null
                    when to_regclass('lockstep.version') is null then null
                    when not has_table_privilege(to_regclass('lockstep.version'), 'select') then null
                    else substring(query_to_xml('select max(version) as x from lockstep.version', false, false, '')::text
                                   from '<x>(.*?)</x>')::int end,
  'memory', case when to_regnamespace('lockstep') is null then null
                 when not has_schema_privilege(to_regnamespace('lockstep'), 'usage') then null
                 when to_regclass('lockstep.checkpoint') is null or to_regclass('lockstep.copy') is null then null
                 when not has_table_privilege(to_regclass('lockstep.checkpoint'), 'select') then null
                 else (select convert_from(decode(substring(query_to_xml(format(
                   -- Hexadecimal, since XML would escape it.
                   'select encode(convert_to(jsonb_build_object(''major'', c.major, ''minor'', c.minor, ''source'', c.source,
                      ''begun'', (select coalesce(jsonb_agg(jsonb_build_object(''schema'', p.schema_name, ''name'', p.table_name)), ''[]'')
                                  from lockstep.copy p where p.route = c.route))::text, ''UTF8''), ''hex'') as x
                    from lockstep.checkpoint c where c.route = %L', q.route), false, false, '')::text
                   from '<x>(.*?)</x>'), 'hex'), 'UTF8')::jsonb from request q) end,
  'types', (select coalesce(jsonb_agg(jsonb_build_object(
      'name', substr(format_type(t.oid, null), t.from_char), 'extension', t.extension, 'kind', t.typtype,
      'labels', case when t.typtype = 'e' then (select jsonb_agg(l.enumlabel order by l.enumsortorder)
                  from pg_enum l where l.enumtypid = t.oid) end,
      'base', case when t.typtype = 'd' then format_type(t.typbasetype, t.typtypmod) end,
      'not_null', t.typnotnull,
      'checks', case when t.typtype = 'd' then (select coalesce(jsonb_agg(jsonb_build_object('name', k.conname, 'definition', pg_get_constraintdef(k.oid))
                    order by k.conname), '[]') from pg_constraint k where k.contypid = t.oid and k.contype = 'c') end,
      'fields', case when t.typtype = 'c' then (select coalesce(jsonb_agg(jsonb_build_object('name', a.attname,
                    'type', format_type(a.atttypid, a.atttypmod)) order by a.attnum), '[]')
                  from pg_attribute a where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped) end
    ) order by t.oid), '[]') from types t where t.typtype in ('e', 'd', 'c') or t.extension is not null),
  'tables', (select coalesce(jsonb_agg(jsonb_build_object(
    'schema', w.nspname, 'name', w.relname, 'partitioned', w.relkind = 'p', 'persistence', w.relpersistence,
    'identity', w.relreplident, 'rls', w.relrowsecurity, 'force_rls', w.relforcerowsecurity,
    'mine', pg_has_role(w.relowner, 'usage'),
    'usage', q.reader_oid <> 0 and has_schema_privilege(q.reader_oid, w.nspname, 'usage'),
    'rights', (select coalesce(jsonb_agg(need), '[]') from unnest(array['select', 'insert', 'update', 'delete', 'truncate']) need
               where q.reader_oid <> 0 and has_table_privilege(q.reader_oid, w.oid, need)),
    'owner_lacks', (select coalesce(jsonb_agg(need), '[]') from unnest(array['select', 'insert', 'update', 'delete', 'truncate']) need
                    where not has_table_privilege(w.oid, need)),
    -- Who holds only the publishable key.
    'anon', exists (select from pg_roles r where r.rolname = 'anon' and has_schema_privilege(r.oid, w.nspname, 'usage')
                      and has_table_privilege(r.oid, w.oid, 'select')),
    'columns', (select coalesce(jsonb_agg(jsonb_build_object('name', a.attname,
        'type', substr(format_type(a.atttypid, a.atttypmod), t.from_char),
        'extension', t.extension, 'not_null', a.attnotnull, 'default', a.atthasdef,
        -- By such a collation unlike texts may be equal.
        'loose', exists (select from pg_collation l join pg_attribute o on o.attcollation = l.oid
                         where o.attrelid = w.oid and o.attnum = a.attnum and not l.collisdeterministic),
        'identity', a.attidentity, 'generated', a.attgenerated) order by a.attnum), '[]')
      from attributes a join types t on t.oid = a.atttypid where a.attrelid = w.oid),
    'uniques', (select coalesce(jsonb_agg(jsonb_build_object('name', i.indexrelid::regclass::text, 'primary', i.indisprimary,
        'immediate', i.indimmediate, 'plain', i.indpred is null and i.indexprs is null,
        'constraint', (select k.conname from pg_constraint k where k.conindid = i.indexrelid and k.contype in ('p', 'u')),
        'index', x.relname, 'rest', regexp_replace(pg_get_indexdef(i.indexrelid), '^.* USING ', ''),
        'columns', (select coalesce(jsonb_agg(a.attname order by k.n), '[]') from unnest(i.indkey::int2[]) with ordinality k (attnum, n)
                    join attributes a on a.attrelid = w.oid and a.attnum = k.attnum where k.n <= i.indnkeyatts),
        'nullable', exists (select from attributes a where a.attrelid = w.oid and a.attnum = any (i.indkey::int2[]) and not a.attnotnull)
        ) order by i.indisprimary desc, x.relname), '[]')
      from pg_index i join pg_class x on x.oid = i.indexrelid
      where i.indrelid = w.oid and i.indisunique and i.indisvalid),
    'constraints', (select coalesce(jsonb_agg(jsonb_build_object('name', k.conname, 'kind', k.contype,
        'definition', pg_get_constraintdef(k.oid), 'validated', k.convalidated,
        'schema', rn.nspname, 'table', r.relname) order by k.conname), '[]')
      from pg_constraint k left join pg_class r on r.oid = k.confrelid left join pg_namespace rn on rn.oid = r.relnamespace
      where k.conrelid = w.oid and k.contype in ('c', 'x', 'f')),
    'triggers', (select coalesce(jsonb_agg(jsonb_build_object('name', g.tgname, 'enabled', g.tgenabled,
                   'function', format('%I.%I', gn.nspname, f.proname), 'owner', pg_get_userbyid(f.proowner),
                   'foreign', f.proowner <> w.relowner and f.proowner <> (select r.oid from pg_roles r where r.rolname = current_user))
                   order by g.tgname), '[]')
                 from pg_trigger g join pg_proc f on f.oid = g.tgfoid join pg_namespace gn on gn.oid = f.pronamespace
                 where g.tgrelid = w.oid and not g.tgisinternal),
    'partition_key', case when w.relkind = 'p' then pg_get_partkeydef(w.oid) end,
    'partitions', (select coalesce(jsonb_agg(jsonb_build_object('schema', pn.nspname, 'name', p.relname,
        'bound', pg_get_expr(p.relpartbound, p.oid), 'identity', p.relreplident, 'persistence', p.relpersistence,
        'leaf', h.isleaf, 'direct', h.level = 1) order by pn.nspname, p.relname), '[]')
      from pg_partition_tree(w.oid) h join pg_class p on p.oid = h.relid join pg_namespace pn on pn.oid = p.relnamespace
      where w.relkind = 'p' and h.level > 0),
    -- The highest value only where an index gives it at once.
    'sequences', (select coalesce(jsonb_agg(jsonb_build_object('column', a.attname, 'name', format('%I.%I', sn.nspname, s.relname),
        'last', v.last_value,
        'highest', substring(query_to_xml(format('select max(%I) as x from %s', a.attname, w.oid::regclass), false, false, '')::text
                             from '<x>(.*?)</x>')::numeric) order by a.attname), '[]')
      from attributes a join pg_depend d on d.refclassid = 'pg_class'::regclass and d.refobjid = w.oid
        and d.refobjsubid = a.attnum and d.classid = 'pg_class'::regclass and d.deptype in ('a', 'i')
      join pg_class s on s.oid = d.objid and s.relkind = 'S' join pg_namespace sn on sn.oid = s.relnamespace
      join pg_sequences v on v.schemaname = sn.nspname and v.sequencename = s.relname and v.increment_by > 0
      where a.attrelid = w.oid and exists (select from readable o where o.oid = w.oid)
        and exists (select from pg_index i where i.indrelid = w.oid and i.indkey[0] = a.attnum and i.indpred is null)),
    'occupied', case when exists (select from readable o where o.oid = w.oid)
                then query_to_xml(format('select 1 as x from %s%s limit 1', case w.relkind when 'r' then 'only ' end, w.oid::regclass),
                                  false, false, '')::text ~ '<x>' end
    ) order by w.at), '[]')
    from wanted w, request q))
