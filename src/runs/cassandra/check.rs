//! What `janitor check` says of a keyspace.

use std::collections::BTreeMap;

use super::{CassandraStore, NAME, fence::CREATE};
use crate::{
    config::Consistency,
    runs::{Findings, StoreError},
};

impl CassandraStore {
    pub(super) async fn findings(&self) -> Result<Findings, StoreError> {
        let mut found = Findings::default();
        let keyspace = self.url.keyspace.as_str();
        let versions: Vec<(String,)> = self.cql.read("SELECT release_version FROM system.local", ()).await?;
        let version = versions.into_iter().next().map_or_else(String::new, |(version,)| version);
        found.facts.push(format!(
            "{NAME}: {version}, keyspace {keyspace:?}: the tables of layout {:?} are there",
            self.layout.name
        ));
        if !self.own.are_there() {
            found.facts.push(format!("{NAME}: the first real run makes tables of its own: {}", CREATE.join("; ")));
        }
        let text = "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = ?";
        let replication: Vec<(BTreeMap<String, String>,)> = self.cql.read(text, (keyspace,)).await?;
        let replicas = replication
            .first()
            .map_or(0, |(options,)| options.values().filter_map(|value| value.parse::<u32>().ok()).max().unwrap_or(0));
        let level = self.url.consistency;
        found.facts.push(format!("{NAME}: {replicas} replicas, read and written at {}", level.name()));
        let is_weak = match level {
            Consistency::One | Consistency::LocalOne => replicas > 1,
            Consistency::Two => replicas > 3,
            Consistency::Quorum | Consistency::LocalQuorum | Consistency::All => false,
        };
        if is_weak {
            found.warnings.push(format!(
                "{NAME}: at {} of {replicas} replicas a read may miss what was written: use ?consistency=LOCAL_QUORUM",
                level.name()
            ));
        }
        let text = "SELECT table_name, gc_grace_seconds FROM system_schema.tables WHERE keyspace_name = ?";
        let tables: Vec<(String, Option<i32>)> = self.cql.read(text, (keyspace,)).await?;
        let short: Vec<&str> = tables
            .iter()
            .filter(|(table, grace)| grace.is_some_and(|grace| grace == 0) && !table.starts_with("janitor_"))
            .map(|(table, _)| table.as_str())
            .collect();
        if replicas > 1 && !short.is_empty() {
            found.warnings.push(format!(
                "{NAME}: gc_grace_seconds is 0 on {}: what was deleted may come back from a replica that was down",
                short.join(", ")
            ));
        }
        self.look_at_rights(&mut found).await?;
        Ok(found)
    }
}
