//! A source and a Supabase project side by side: what nearly every test starts from.

use crate::types::TableName;

use super::{Cluster, ClusterOptions, Result, Supabase, SupabaseOptions, differences, log_changes};

#[derive(Clone, Debug, Default)]
pub struct PairOptions {
    pub source: ClusterOptions,
    pub supabase: SupabaseOptions,
}

pub struct Pair {
    pub source: Cluster,
    pub supabase: Supabase,
}

impl Pair {
    /// Both in temporary folders.
    pub async fn temp(options: PairOptions) -> Result<Self> {
        let both = tokio::try_join!(Cluster::temp(options.source), Supabase::temp(options.supabase));
        both.map(|(source, supabase)| Self { source, supabase })
    }

    /// Runs the same script on both sides; on Supabase as role `postgres`.
    pub async fn execute(&self, sql: &str) -> Result<()> {
        tokio::try_join!(self.source.execute(sql), self.supabase.execute(sql)).map(drop)
    }

    /// Everything in which the tables differ, one a line, every column compared as text; empty when they are equal.
    pub async fn differences(&self, tables: &[TableName]) -> Result<Vec<String>> {
        let (source, target) = tokio::try_join!(self.source.connect(), self.supabase.cluster.connect())?;
        differences(&source, &target, tables).await
    }

    /// From now on the target writes down every change that reaches these tables: [`super::logged`].
    pub async fn log_changes(&self, tables: &[TableName]) -> Result<()> {
        log_changes(&self.supabase.cluster.connect().await?, tables).await
    }
}
