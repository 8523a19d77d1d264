-- A database as a new Supabase project has it, as far as PostgREST and its users can tell.
-- Runs as supabase_admin. {password} and {authenticator} are hex.
create role anon nologin noinherit;
create role authenticated nologin noinherit;
create role service_role nologin noinherit bypassrls;
create role authenticator login noinherit password '{authenticator}';
grant anon, authenticated, service_role to authenticator;
alter role anon set statement_timeout = '3s';
alter role authenticated set statement_timeout = '8s';
alter role authenticator set statement_timeout = '8s';
alter role authenticator set lock_timeout = '8s';

-- The owner of everything a user makes.
create role postgres login createrole createdb replication bypassrls password '{password}';
grant anon, authenticated, service_role to postgres with admin option;
grant authenticator to postgres;
alter role postgres set search_path = "$user", public, extensions;
alter database postgres owner to postgres;
grant pg_monitor, pg_read_all_data, pg_signal_backend to postgres;

create schema extensions authorization postgres;
grant usage on schema public, extensions to anon, authenticated, service_role;
alter schema public owner to postgres;
alter default privileges for role postgres in schema public grant all on tables to anon, authenticated, service_role;
alter default privileges for role postgres in schema public grant all on sequences to anon, authenticated, service_role;
alter default privileges for role postgres in schema public grant all on functions to anon, authenticated, service_role;
alter default privileges in schema public grant all on tables to postgres, anon, authenticated, service_role;
alter default privileges in schema public grant all on sequences to postgres, anon, authenticated, service_role;
alter default privileges in schema public grant all on functions to postgres, anon, authenticated, service_role;

create publication supabase_realtime;
alter publication supabase_realtime owner to postgres;
