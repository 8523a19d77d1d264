-- Nobody but service_role may call the doors, and nobody at all may reach what lies behind them: the doors run with
-- their owner's rights. Said role by role, since Supabase's default privileges name the roles one by one. A plain
-- Postgres has none of these roles.
do $grants$
declare
  doors text[] := array['public.lockstep_hello(jsonb)', 'public.lockstep_apply(bytea)', 'public.lockstep_parked(jsonb)',
    'public.lockstep_evolve(jsonb)', 'public.lockstep_stage(bytea)', 'public.lockstep_examine(jsonb)',
    'public.lockstep_digest(jsonb)'];
  door text;
  stranger text;
begin
  for stranger in
    select 'public' union all
    select quote_ident(rolname) from pg_roles where rolname in ('anon', 'authenticated', 'service_role')
  loop
    execute 'revoke all on schema lockstep from ' || stranger;
    execute 'revoke all on all tables in schema lockstep from ' || stranger;
    execute 'revoke all on all sequences in schema lockstep from ' || stranger;
    execute 'revoke all on all routines in schema lockstep from ' || stranger;
    foreach door in array doors loop
      execute format('revoke all on function %s from %s', door, stranger);
    end loop;
  end loop;
  if exists (select from pg_roles where rolname = 'service_role') then
    foreach door in array doors loop
      execute format('grant execute on function %s to service_role', door);
    end loop;
  end if;
end
$grants$;
