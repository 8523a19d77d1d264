//! `lockstep setup webhooks`: the SQL that has Supabase tell of changes there. It is printed, to be read before it is run
//! in Supabase's SQL editor: it holds the secret.

use secrecy::ExposeSecret;

use super::Failure;
use crate::config::{Problem, Settings};
use crate::pg::quote::{ident, literal, table};
use crate::types::TableName;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Print the SQL (there is nothing else it does)
    #[arg(long, required = true)]
    print: bool,
    /// Where Supabase reaches this Lockstep: https://lockstep.example.com
    #[arg(long, value_name = "URL", required_unless_present = "remove")]
    url: Option<String>,
    /// A table that tells, as name or schema.name; may be given more than once
    #[arg(long = "table", value_name = "TABLE", required = true)]
    tables: Vec<String>,
    /// The SQL that takes the triggers away again
    #[arg(long)]
    remove: bool,
}

pub(super) fn run(args: &Args, settings: &Settings) -> Result<(), Failure> {
    let tables: Vec<TableName> = args.tables.iter().map(|name| TableName::parse(name)).collect();
    if args.remove {
        print!("{}", removed(&tables));
        return Ok(());
    }
    let base = args.url.as_deref().unwrap_or_default().trim_end_matches('/');
    let url = url::Url::parse(base).ok().filter(|url| matches!(url.scheme(), "https" | "http") && url.has_host());
    if url.is_none() {
        return Err(Problem::new("--url", "is not an address such as https://lockstep.example.com").into());
    }
    let secret = settings.webhook.secret.as_ref().ok_or_else(|| {
        let cause = "is not set: webhooks from elsewhere must show it; `openssl rand -hex 24` makes a good one";
        Problem::new("LOCKSTEP_WEBHOOK_SECRET", cause)
    })?;
    print!("{}", script(base, &settings.webhook.header, secret.expose_secret(), &tables));
    Ok(())
}

/// Each delivery gets an id when the change is made, so that one that comes twice is known. What the trigger cannot send
/// it leaves: nobody's write fails for a webhook.
fn script(base: &str, header: &str, secret: &str, tables: &[TableName]) -> String {
    let mut out = format!(
        "-- Tells Lockstep of changes in Supabase, through pg_net. Run it in the SQL editor; it may be run again.\n\
         -- Deliveries are made once, without order, and not repeated: workflows of the side `target` start from them.\n\
         begin;\n\
         create extension if not exists pg_net;\n\
         create schema if not exists lockstep;\n\
         create or replace function lockstep.tell() returns trigger language plpgsql security definer\n\
         set search_path = pg_catalog as $tell$\n\
         declare\n  body jsonb;\n\
         begin\n  \
           -- What Lockstep itself writes is no news to it: by its function, or by the REST API of the tables. Anybody\n  \
           -- may send its header there; with its role (PostgREST sets it) only who has the secret key.\n  \
           if coalesce(current_setting('lockstep.applying', true), '') <> ''\n     \
              or (current_setting('role', true) = 'service_role'\n         \
                and nullif(current_setting('request.headers', true), '')::jsonb ? 'x-lockstep') then\n    \
             return null;\n  end if;\n  \
           body := jsonb_build_object('type', tg_op, 'table', tg_table_name, 'schema', tg_table_schema,\n    \
             'record', case when tg_op <> 'DELETE' then to_jsonb(new) end,\n    \
             'old_record', case when tg_op <> 'INSERT' then to_jsonb(old) end);\n  \
           perform net.http_post(\n    url := {},\n    body := body,\n    \
             headers := jsonb_build_object('content-type', 'application/json', {}, {},\n      \
               'x-lockstep-delivery', gen_random_uuid()::text),\n    \
             timeout_milliseconds := 5000);\n  return null;\n\
         exception when others then\n  return null;\n\
         end\n$tell$;\n\
         revoke all on function lockstep.tell() from public;\n",
        literal(&format!("{base}/webhooks/supabase")),
        literal(header),
        literal(secret),
    );
    for name in tables {
        out += &format!(
            "drop trigger if exists {0} on {1};\ncreate trigger {0} after insert or update or delete on {1}\n  \
             for each row execute function lockstep.tell();\n",
            ident("lockstep_tell"),
            table(name)
        );
    }
    out + "commit;\n"
}

fn removed(tables: &[TableName]) -> String {
    let drop = |name: &TableName| format!("drop trigger if exists {} on {};\n", ident("lockstep_tell"), table(name));
    let drops: String = tables.iter().map(drop).collect();
    format!("{drops}drop function if exists lockstep.tell();\n")
}
