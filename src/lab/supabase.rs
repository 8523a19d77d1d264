//! A Supabase project: a cluster prepared like one, a real PostgREST, and the gateway before it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::access::{sql_error, tcp_url};
use super::place::{Temp, random_hex, write_secret};
use super::{
    Cluster, ClusterOptions, Doing, Faults, Gateway, GatewayOptions, Keys, PostgRest, PostgRestOptions, Result,
};

/// What the role `postgres` may do: it owns what users make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Owner {
    /// Neither superuser nor allowed to set `session_replication_role`.
    #[default]
    Plain,
    /// May set `session_replication_role`, as on Supabase, where an extension grants it. PostgreSQL 14 can grant it to
    /// nobody but a superuser.
    SetReplicationRole,
    /// As in a self-hosted project.
    Superuser,
}

#[derive(Clone, Debug, Default)]
pub struct SupabaseOptions {
    pub owner: Owner,
    /// The gateway serves HTTPS: [`Supabase::ca_pem`].
    pub tls: bool,
    /// Its `superuser` is always `supabase_admin`.
    pub cluster: ClusterOptions,
    pub postgrest: PostgRestOptions,
}

/// What must be known again at the next start.
#[derive(Serialize, Deserialize)]
struct Kept {
    keys: Keys,
    password: String,
    authenticator: String,
    gateway: u16,
    postgrest: u16,
}

/// A running project.
pub struct Supabase {
    // In the order in which they may go: the door first, the data last.
    pub gateway: Gateway,
    pub postgrest: PostgRest,
    pub cluster: Cluster,
    pub keys: Keys,
    password: String,
    _temp: Option<Temp>,
}

impl Supabase {
    /// In a folder of its own that goes when this value is dropped.
    pub async fn temp(options: SupabaseOptions) -> Result<Self> {
        let temp = Temp::new("supabase")?;
        let mut supabase = Self::open(temp.path(), options).await?;
        supabase._temp = Some(temp);
        Ok(supabase)
    }

    /// The project in `dir`: the one that is there, with its keys and, if they are free, its ports; or a new one.
    pub async fn open(dir: &Path, options: SupabaseOptions) -> Result<Self> {
        let superuser = "supabase_admin".to_owned();
        let cluster = ClusterOptions { superuser, ..options.cluster };
        let cluster = Cluster::open(&dir.join("pg"), cluster).await?;
        let note = dir.join("project.json");
        let before: Option<Kept> =
            std::fs::read_to_string(&note).ok().and_then(|text| serde_json::from_str(&text).ok());
        let mut kept = match before {
            Some(kept) => kept,
            None => {
                let (keys, password, authenticator) = (Keys::new()?, random_hex(12), random_hex(12));
                Kept { keys, password, authenticator, gateway: 0, postgrest: 0 }
            }
        };
        if cluster.value("select 1 from pg_roles where rolname = 'authenticator'").await?.is_empty() {
            let sql = PREPARE.replace("{password}", &kept.password).replace("{authenticator}", &kept.authenticator);
            cluster.execute(&sql).await?; // one implicit transaction: all of it or nothing
            cluster.execute(options.owner.sql(cluster.major())).await?;
        }
        let sockets: String =
            url::form_urlencoded::byte_serialize(cluster.sockets().as_os_str().as_encoded_bytes()).collect();
        let url = format!(
            "postgresql://authenticator:{}@/postgres?host={sockets}&port={}",
            kept.authenticator,
            cluster.port()
        );
        let mut rest = options.postgrest;
        rest.port = rest.port.or(Some(kept.postgrest).filter(|&port| port > 0));
        let postgrest = PostgRest::start(dir, &url, &kept.keys.jwt_secret, rest).await?;
        let port = Some(kept.gateway).filter(|&port| port > 0);
        let door = GatewayOptions { tls: options.tls, port };
        let gateway = Gateway::start(postgrest.port(), kept.keys.clone(), door).await?;
        (kept.gateway, kept.postgrest) = (gateway.port(), postgrest.port());
        let text = serde_json::to_string(&kept).doing(|| "cannot keep the project's note".into())?;
        write_secret(&note, &text)?;
        Ok(Self { gateway, postgrest, cluster, keys: kept.keys, password: kept.password, _temp: None })
    }

    /// The project's URL, as `SUPABASE_URL` has it.
    pub fn rest_url(&self) -> String {
        self.gateway.url()
    }

    /// As role `postgres`, the one that users of Supabase get.
    pub fn database_url(&self) -> String {
        tcp_url(self.cluster.port(), "postgres", &self.password, "postgres")
    }

    pub fn service_key(&self) -> &str {
        &self.keys.service
    }

    pub fn secret_key(&self) -> &str {
        &self.keys.secret
    }

    pub fn anon_key(&self) -> &str {
        &self.keys.anon
    }

    pub fn publishable_key(&self) -> &str {
        &self.keys.publishable
    }

    pub fn ca_pem(&self) -> Option<&str> {
        self.gateway.ca_pem()
    }

    pub fn faults(&self) -> &Faults {
        self.gateway.faults()
    }

    /// A connection as role `postgres`.
    pub async fn connect_owner(&self) -> Result<tokio_postgres::Client> {
        self.cluster.connect_as("postgres", "postgres").await
    }

    /// Runs a script as role `postgres`; returns once PostgREST, if it runs, knows the schema as it is then.
    pub async fn execute(&self, sql: &str) -> Result<()> {
        let owner = self.connect_owner().await?;
        owner.batch_execute(sql).await.map_err(|error| sql_error(&error, sql))?;
        self.reload_schema().await
    }

    /// Has PostgREST read the schema anew, if it runs; returns once it has.
    pub async fn reload_schema(&self) -> Result<()> {
        let client = self.cluster.connect().await?;
        let notify = async || {
            let sent = client.batch_execute("notify pgrst, 'reload schema'").await;
            sent.doing(|| "cannot notify PostgREST".into())
        };
        self.postgrest.reload(notify).await
    }
}

impl Owner {
    fn sql(self, major: u32) -> &'static str {
        match self {
            Self::Plain => "",
            Self::SetReplicationRole if major < 15 => Self::Superuser.sql(major),
            Self::SetReplicationRole => "grant set on parameter session_replication_role to postgres",
            Self::Superuser => "alter role postgres superuser",
        }
    }
}

const PREPARE: &str = include_str!("supabase.sql");
