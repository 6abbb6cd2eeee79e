//! Deletes a batch from a database that Citus spreads over several nodes.
//!
//! A run and what names it lie in one shard, so a statement on the runs of one shard goes to one node. The transactions
//! are by node: each changes its own node's shards, and commits there. What the checkpoints' table changes, which every node
//! has a copy of, one transaction after the other does.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Instant,
};

use futures::future::join_all;

use super::{
    PostgresStore,
    delete::{Done, Fail, Locked, all_or_none, delete_rows, held_by, settled},
    parts::PARTS_MAX,
    statement,
    work::Work,
};
use crate::{
    lock::Fence,
    runs::{Seen, StoreError},
};

/// The runs of a batch on some nodes, by shard.
type Shards<T> = BTreeMap<i64, Vec<T>>;

impl PostgresStore {
    /// Deletes the runs of each node in a transaction of its own.
    pub(super) async fn delete_by_node(
        &self,
        holder: (&str, Fence),
        runs: &[&Seen],
        until: Instant,
    ) -> Result<Vec<Done>, Fail> {
        let nodes = self.by_node(runs).await?;
        let locked = join_all(nodes.iter().map(|shards| self.lock_shards(holder, shards, until))).await;
        let mut parts = all_or_none(locked).await?;
        match self.delete_locked(&mut parts).await {
            Ok((held, done)) => {
                let count = parts.iter().flat_map(|(_, shards)| shards.values()).map(Vec::len).sum::<usize>();
                let changed = runs.len().saturating_sub(count + held) as u64;
                let mut all = self.commit_in_turn(parts, done).await?;
                all.push(Done { changed, held: held as u64, ..Done::default() });
                Ok(all)
            }
            Err(error) => {
                join_all(parts.into_iter().map(|(work, _)| work.roll_back())).await;
                Err(error.into())
            }
        }
    }

    /// The runs by the node that they lie on, and there by shard.
    async fn by_node<'r>(&self, runs: &[&'r Seen]) -> Result<Vec<Shards<&'r Seen>>, StoreError> {
        let text = format!(
            "SELECT s.run_id, s.shardid, (SELECT min(n.groupid) FROM pg_catalog.pg_dist_placement AS n WHERE n.shardid = s.shardid) \
             FROM (SELECT u.run_id, get_shard_id_for_distribution_column('{}', u.run_id) AS shardid FROM unnest($1::text[]) AS u (run_id)) AS s",
            self.layout.runs
        );
        let by_id: HashMap<&str, &'r Seen> = runs.iter().map(|run| (run.id.as_str(), *run)).collect();
        let ids: Vec<&str> = by_id.keys().copied().collect();
        let query = sqlx::query_as::<_, (String, i64, i32)>(statement(text)).bind(ids);
        let mut nodes: BTreeMap<i32, Shards<&'r Seen>> = BTreeMap::new();
        for (id, shard, node) in self.read(query.fetch_all(&self.pool)).await? {
            if let Some(run) = by_id.get(id.as_str()) {
                nodes.entry(node).or_default().entry(shard).or_default().push(run);
            }
        }
        // With more nodes than connections some share one. An empty batch is one part too: its fence is asked.
        let mut parts = vec![Shards::new(); nodes.len().clamp(1, PARTS_MAX as usize)];
        let count = parts.len();
        for (at, shards) in nodes.into_values().enumerate() {
            parts[at % count].extend(shards);
        }
        Ok(parts)
    }

    async fn lock_shards(
        &self,
        holder: (&str, Fence),
        shards: &Shards<&Seen>,
        until: Instant,
    ) -> Result<(Work<'_>, Shards<Locked>), Fail> {
        let mut work = Work::begin(self, until).await?;
        let locked = async {
            self.guard_fence(&mut work, holder).await?;
            let mut locked = Shards::new();
            for (shard, runs) in shards {
                locked.insert(*shard, self.lock_as_seen(&mut work, runs).await?);
            }
            Ok(locked)
        };
        match locked.await {
            Ok(locked) => Ok((work, locked)),
            Err(error) => {
                work.roll_back().await;
                Err(Fail::Store(error))
            }
        }
    }

    /// Takes out what is held and deletes the rest, but for the checkpoints, of which it finds the keys; answers how many
    /// are held.
    async fn delete_locked(
        &self,
        parts: &mut [(Work<'_>, Shards<Locked>)],
    ) -> Result<(usize, Vec<(Done, HashSet<String>)>), StoreError> {
        let ids: Vec<&str> =
            parts.iter().flat_map(|(_, shards)| shards.values().flatten()).map(|run| &*run.id).collect();
        let text = format!(
            "SELECT DISTINCT c.parent_run_id FROM {} AS c WHERE c.parent_run_id = ANY($1) AND NOT c.run_id = ANY($1)",
            self.layout.runs
        );
        let above = self.read(sqlx::query_scalar(statement(text)).bind(ids).fetch_all(&self.pool)).await?;
        let held = held_by(parts.iter().flat_map(|(_, shards)| shards.values().flatten()), above);
        for (_, shards) in parts.iter_mut() {
            for runs in shards.values_mut() {
                runs.retain(|run| !held.contains(&run.id));
            }
        }
        let deleted = join_all(parts.iter_mut().map(|(work, shards)| self.delete_shards(work, shards))).await;
        Ok((held.len(), deleted.into_iter().collect::<Result<_, _>>()?))
    }

    /// Deletes the runs of each shard with what names them, in one statement: there are no foreign keys between shards. The
    /// same statement finds the checkpoints by the steps that it deletes, where the steps are.
    async fn delete_shards(
        &self,
        work: &mut Work<'_>,
        shards: &Shards<Locked>,
    ) -> Result<(Done, HashSet<String>), StoreError> {
        let mut keys = HashSet::new();
        if self.tables.has("checkpoints") {
            let gone: Vec<&str> = shards.values().flatten().map(|run| run.id.as_str()).collect();
            keys = self.keys_by_run(work, &gone).await?;
        }
        let tables: Vec<(&str, &str)> = self
            .layout
            .owned
            .iter()
            .copied()
            .filter(|(table, _)| self.tables.has(table))
            .chain([(self.layout.runs, "runs")])
            .collect();
        let text = self.delete_statement(&tables);
        let mut done = Done::default();
        for runs in shards.values().filter(|runs| !runs.is_empty()) {
            let ids: Vec<&str> = runs.iter().map(|run| run.id.as_str()).collect();
            let query = sqlx::query_as::<_, (Vec<i64>, Vec<String>)>(statement(text.clone())).bind(ids);
            let (counts, by_step) = work.run(async |connection| query.fetch_one(connection).await).await?;
            for ((_, kind), count) in tables.iter().zip(counts) {
                done.counts.add(kind, u64::try_from(count).unwrap_or(0));
            }
            keys.extend(by_step);
            done.gone.extend(runs.iter().map(|run| run.id.clone()));
        }
        let (gone, count) = (done.gone.len() as u64, done.counts.get("runs"));
        if count < gone {
            let source = format!("{}: a trigger or a policy keeps {} runs", self.place, gone - count);
            return Err(StoreError::Refused { store: self.name, source: source.into() });
        }
        Ok((done, keys))
    }

    /// The statement that deletes the rows of `tables` for the runs in `$1`, and answers how many of each, and which
    /// checkpoints have the id of such a step.
    fn delete_statement(&self, tables: &[(&str, &str)]) -> String {
        let mut deletes = Vec::new();
        for (table, _) in tables {
            let column = if *table == "steps" { "step_id" } else { "1" };
            deletes.push(format!("gone_{table} AS (DELETE FROM {table} WHERE run_id = ANY($1) RETURNING {column})"));
        }
        let counts: Vec<String> =
            tables.iter().map(|(table, _)| format!("(SELECT count(*) FROM gone_{table})")).collect();
        let by_step = if self.tables.has("steps") && self.tables.has("checkpoints") {
            "(SELECT coalesce(array_agg(p.step_run_id), '{}') FROM gone_steps AS s JOIN checkpoints AS p ON p.step_run_id = s.step_id)"
        } else {
            "'{}'::text[]"
        };
        format!("WITH {} SELECT ARRAY[{}], {by_step}", deletes.join(", "), counts.join(", "))
    }

    /// Commits one after the other, each with its checkpoints: the table of these is locked for whoever writes it. A key that
    /// runs of two parts may own stays with the first and goes with the last.
    async fn commit_in_turn(
        &self,
        parts: Vec<(Work<'_>, Shards<Locked>)>,
        done: Vec<(Done, HashSet<String>)>,
    ) -> Result<Vec<Done>, Fail> {
        let mut committed = Vec::new();
        for ((mut work, _), (mut part, keys)) in parts.into_iter().zip(done) {
            let answer = match self.delete_checkpoints(&mut work, &mut part, keys).await {
                Ok(()) => work.commit().await,
                Err(error) => {
                    work.roll_back().await;
                    Err(error)
                }
            };
            committed.push((part, answer));
        }
        settled(committed.into_iter())
    }

    async fn delete_checkpoints(
        &self,
        work: &mut Work<'_>,
        part: &mut Done,
        keys: HashSet<String>,
    ) -> Result<(), StoreError> {
        let gone: HashSet<&str> = part.gone.iter().map(String::as_str).collect();
        let keys = self.own_keys(work, keys, &gone).await?;
        part.counts.add("checkpoints", delete_rows(work, "checkpoints", "step_run_id", &keys).await?);
        Ok(())
    }
}
