//! Deletes a batch of runs with all that is their own, in one short transaction.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::{Duration, Instant},
};

use sqlx::Row;

use super::{
    Fail, MysqlStore, NAME, code, codes, marks, portions,
    read::{select, stamp},
    session::{Transaction, is_worth_a_try, text},
    statement,
};
use crate::{
    lock::Fence,
    runs::{Deleted, Seen, StoreError},
};

/// The highest fence that each job's deletes have carried.
pub(super) const FENCE_TABLE: &str = "CREATE TABLE IF NOT EXISTS janitor_fence (job VARBINARY(255) NOT NULL PRIMARY KEY, fence BIGINT UNSIGNED NOT NULL) ENGINE = InnoDB";
/// How long raising a fence may take: a batch of the last holder may still be in hand.
const RAISE_MAX: Duration = Duration::from_secs(10);

impl MysqlStore {
    /// Sets the job's fence, which must grow; makes the table that remembers it.
    pub(super) async fn raise_fence(&self, job: &str, fence: Fence) -> Result<(), Fail> {
        self.guard_engines()?;
        let (until, mut tries) = (Instant::now() + RAISE_MAX, 0);
        loop {
            let mut transaction = self.begin(until).await?;
            let raised = raise_in(&mut transaction, job, fence).await;
            match self.end(transaction, raised).await {
                Err(Fail::Sql(error)) if code(&error).is_some_and(|(number, _)| number == codes::NO_SUCH_TABLE) => {
                    self.make_fence_table().await?;
                }
                Err(fail) if is_worth_a_try(&fail, &mut tries).await => {}
                answer => return answer.map_err(|fail| self.with_statement(fail)),
            }
        }
    }

    async fn make_fence_table(&self) -> Result<(), Fail> {
        let mut connection = self.take().await?;
        sqlx::raw_sql(FENCE_TABLE).execute(&mut connection).await.map_err(|error| self.with_statement(error.into()))?;
        self.give_back(connection).await;
        Ok(())
    }

    /// Says what the table of fences is where it cannot be written or made, so that it can be made by hand.
    fn with_statement(&self, fail: Fail) -> Fail {
        match self.error(fail) {
            StoreError::Unavailable { source, .. } => Fail::Told(StoreError::unavailable(
                NAME,
                format!("{source} (a real run needs to write, at first: {FENCE_TABLE})"),
            )),
            error => Fail::Told(error),
        }
    }

    /// Refuses tables whose engine can neither lock rows nor take back half of a batch.
    fn guard_engines(&self) -> Result<(), Fail> {
        let tables = self.layout.owned.iter().map(|(table, _)| *table).chain([self.layout.runs, "checkpoints"]);
        for table in tables {
            if let Some(engine) = self.schema.unsafe_engine(table) {
                return Err(Fail::Schema(format!(
                    "table {table:?} is of engine {engine}, which has no transactions: ALTER TABLE {table} ENGINE = InnoDB"
                )));
            }
        }
        Ok(())
    }

    pub(super) async fn delete_batch(
        &self,
        job: &str,
        fence: Fence,
        runs: &[Seen],
        limit: Duration,
    ) -> Result<Deleted, Fail> {
        let (until, mut tries) = (Instant::now() + limit, 0);
        loop {
            let mut transaction = self.begin(until).await?;
            let deleted = self.delete_fenced(&mut transaction, job, fence, runs).await;
            match self.end(transaction, deleted).await {
                Err(fail) if is_worth_a_try(&fail, &mut tries).await => {}
                answer => return answer,
            }
        }
    }

    async fn delete_fenced(
        &self,
        transaction: &mut Transaction,
        job: &str,
        fence: Fence,
        runs: &[Seen],
    ) -> Result<Deleted, Fail> {
        guard_fence(transaction, job, fence).await?;
        let mut wanted: BTreeMap<&str, &Seen> = BTreeMap::new();
        for run in runs {
            wanted.entry(&run.id).or_insert(run);
        }
        let mut going = self.lock_unchanged(transaction, &wanted).await?;
        let changed = (wanted.len() - going.len()) as u64;
        let parents = self.drop_held(transaction, &mut going).await?;
        let held = wanted.len() as u64 - changed - going.len() as u64;
        let mut deleted = Deleted { changed, held, ..Deleted::default() };
        let mut ids: Vec<&str> = going.iter().copied().collect();
        ids.sort_unstable();
        self.delete_checkpoints(transaction, &ids, &going, &mut deleted.counts).await?;
        for (table, kind) in self.layout.owned.iter().filter(|(table, _)| self.schema.has(table)) {
            deleted.counts.add(kind, self.delete_owned(transaction, table, &ids).await?);
        }
        deleted.counts.add("runs", self.delete_runs(transaction, &ids, &parents).await?);
        deleted.runs = runs.iter().filter(|run| going.remove(run.id.as_str())).map(|run| run.id.clone()).collect();
        Ok(deleted)
    }

    /// Locks the rows of the batch; answers those that are as they were read. A read that locks is of the newest rows, so
    /// what it answers is what stays locked.
    async fn lock_unchanged<'a>(
        &self,
        transaction: &mut Transaction,
        wanted: &BTreeMap<&'a str, &Seen>,
    ) -> Result<HashSet<&'a str>, Fail> {
        let runs = self.layout.runs;
        let hint = self.schema.hint(runs, &["run_id"]);
        let ids: Vec<&str> = wanted.keys().copied().collect();
        let mut same = HashSet::with_capacity(ids.len());
        for portion in portions(&ids) {
            let query = format!(
                "SELECT r.run_id, r.status, CAST(r.updated_at AS CHAR) FROM {runs} AS r {hint} WHERE r.run_id IN ({}) FOR UPDATE",
                marks(portion.len())
            );
            for row in select(transaction.go_on()?, query, &portion).await? {
                let id = text(&row, 0).unwrap_or_default();
                let Some((id, seen)) = wanted.get_key_value(id.as_str()) else { continue };
                let is_same =
                    text(&row, 1).as_ref() == Some(&seen.status) && stamp(text(&row, 2)).raw == seen.updated_at.raw;
                if is_same {
                    same.insert(*id);
                }
            }
        }
        Ok(same)
    }

    /// Takes out of the batch what has a child outside, and whatever that holds in turn; answers each child's parent among
    /// the rest. The rows of the batch are locked: no foreign key lets a new child in.
    async fn drop_held<'a>(
        &self,
        transaction: &mut Transaction,
        going: &mut HashSet<&'a str>,
    ) -> Result<HashMap<&'a str, &'a str>, Fail> {
        let runs = self.layout.runs;
        let by_id = self.schema.hint(runs, &["run_id"]);
        let by_parent = self.schema.hint(runs, self.layout.parent_index.columns);
        let mut ids: Vec<&str> = going.iter().copied().collect();
        ids.sort_unstable();
        let (mut parents, mut held) = (HashMap::new(), Vec::new());
        for portion in portions(&ids) {
            // Joined, because the server's comparison says who is whose child, and the parent's own row how it is called.
            let query = format!(
                "SELECT p.run_id, c.run_id FROM {runs} AS p {by_id} STRAIGHT_JOIN {runs} AS c {by_parent} ON c.parent_run_id = p.run_id \
                 WHERE p.run_id IN ({})",
                marks(portion.len())
            );
            for row in select(transaction.go_on()?, query, &portion).await? {
                let [parent, child] = [0, 1].map(|column| text(&row, column).unwrap_or_default());
                let Some(parent) = going.get(parent.as_str()) else { continue };
                match going.get(child.as_str()) {
                    Some(child) => {
                        parents.insert(*child, *parent);
                    }
                    None => held.push(*parent),
                }
            }
        }
        while let Some(run) = held.pop() {
            if going.remove(run) {
                held.extend(parents.get(run));
            }
        }
        parents.retain(|child, parent| going.contains(child) && going.contains(parent));
        Ok(parents)
    }

    /// Deletes the rows of a table that are a run's own.
    async fn delete_owned(&self, transaction: &mut Transaction, table: &str, ids: &[&str]) -> Result<u64, Fail> {
        let hint = self.schema.hint(table, &["run_id"]);
        let mut gone = 0;
        for portion in portions(ids) {
            let marks = marks(portion.len());
            let mut values = portion.clone();
            let mut exactly = String::new();
            if !self.schema.is_of_runs(table) {
                // Nothing but the id itself says whose a row is: it must be that id, and not one that compares equal.
                exactly = format!("AND CAST(CONVERT(t.run_id USING utf8mb4) AS BINARY) IN ({marks})");
                values.extend(portion);
            }
            let query = format!("DELETE t FROM {table} AS t {hint} WHERE t.run_id IN ({marks}) {exactly}");
            gone += execute(transaction, query, &values).await?;
        }
        Ok(gone)
    }

    /// Deletes the runs, those first that are nobody's parent: the server checks foreign keys row by row, so a parent goes in
    /// a later statement than its children.
    async fn delete_runs(
        &self,
        transaction: &mut Transaction,
        ids: &[&str],
        parents: &HashMap<&str, &str>,
    ) -> Result<u64, Fail> {
        let runs = self.layout.runs;
        let hint = self.schema.hint(runs, &["run_id"]);
        let mut gone = 0;
        for level in levels(ids, parents) {
            for portion in portions(&level) {
                let query = format!("DELETE r FROM {runs} AS r {hint} WHERE r.run_id IN ({})", marks(portion.len()));
                gone += execute(transaction, query, &portion).await?;
            }
        }
        if gone != ids.len() as u64 {
            return Err(Fail::Schema(format!(
                "{gone} rows of {runs:?} have the ids of {} runs: its column run_id must be unique",
                ids.len()
            )));
        }
        Ok(gone)
    }
}

/// The runs in the order that they can go in: each behind those below it.
fn levels<'a>(ids: &[&'a str], parents: &HashMap<&str, &'a str>) -> Vec<Vec<&'a str>> {
    let mut children: HashMap<&str, usize> = HashMap::new();
    for parent in parents.values() {
        *children.entry(parent).or_default() += 1;
    }
    let (mut level, mut rest): (Vec<&str>, Vec<&str>) = ids.iter().partition(|id| !children.contains_key(*id));
    let mut levels = Vec::new();
    while !level.is_empty() {
        let mut next = Vec::new();
        for id in &level {
            let Some(parent) = parents.get(id) else { continue };
            let left = children.get_mut(parent).expect("each parent was counted");
            *left -= 1;
            if *left == 0 {
                next.push(*parent);
            }
        }
        levels.push(std::mem::replace(&mut level, next));
    }
    // What goes round has no first one: the server says whether it may go together.
    let placed: HashSet<&str> = levels.iter().flatten().copied().collect();
    rest.retain(|id| !placed.contains(id));
    if !rest.is_empty() {
        levels.push(rest);
    }
    levels
}

/// Executes a statement that writes; answers how many rows went.
pub(super) async fn execute(transaction: &mut Transaction, query: String, values: &[&str]) -> Result<u64, Fail> {
    let mut query = sqlx::query(statement(query));
    for value in values {
        query = query.bind((*value).to_owned());
    }
    Ok(query.execute(transaction.go_on()?).await?.rows_affected())
}

async fn raise_in(transaction: &mut Transaction, job: &str, fence: Fence) -> Result<(), Fail> {
    let connection = transaction.go_on()?;
    let begun = "INSERT IGNORE INTO janitor_fence (job, fence) VALUES (?, 0)";
    sqlx::query(begun).bind(job).execute(&mut *connection).await?;
    let raise = "UPDATE janitor_fence SET fence = ? WHERE job = ? AND fence < ?";
    let query = sqlx::query(raise).bind(fence.get()).bind(job).bind(fence.get());
    if query.execute(&mut *connection).await?.rows_affected() == 1 {
        return Ok(());
    }
    Err(fenced(fence, seen_fence(transaction, job).await?))
}

/// Refuses a fence that is not the one that the store has seen last, and holds it until the transaction ends.
pub(super) async fn guard_fence(transaction: &mut Transaction, job: &str, fence: Fence) -> Result<(), Fail> {
    let highest = seen_fence(transaction, job).await?;
    if highest == fence.get() { Ok(()) } else { Err(fenced(fence, highest)) }
}

fn fenced(fence: Fence, highest: u64) -> Fail {
    Fail::Told(StoreError::Fenced { store: NAME, fence, highest })
}

/// The highest fence that the store has seen of `job`; 0 where it has seen none.
async fn seen_fence(transaction: &mut Transaction, job: &str) -> Result<u64, Fail> {
    // The words that both MySQL and MariaDB know.
    let text = "SELECT fence FROM janitor_fence WHERE job = ? LOCK IN SHARE MODE";
    let row = sqlx::query(text).bind(job).fetch_optional(transaction.go_on()?).await?;
    Ok(row.map(|row| row.try_get::<u64, _>(0)).transpose()?.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_goes_behind_those_below_it() {
        let parents = HashMap::from([("child", "root"), ("other", "root"), ("leaf", "child")]);
        let order = levels(&["child", "leaf", "lone", "other", "root"], &parents);
        assert_eq!(order, [vec!["leaf", "lone", "other"], vec!["child"], vec!["root"]]);
    }

    #[test]
    fn what_goes_round_comes_last() {
        let parents = HashMap::from([("one", "two"), ("two", "one"), ("itself", "itself"), ("below", "one")]);
        let order = levels(&["below", "itself", "lone", "one", "two"], &parents);
        assert_eq!(order, [vec!["below", "lone"], vec!["itself", "one", "two"]]);
    }
}
