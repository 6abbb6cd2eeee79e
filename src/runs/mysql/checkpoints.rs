//! The checkpoints of a batch: those keyed `run:step`, and those keyed by the id of a step that is a row of the run's own.
//! Keys that a run which stays might mean too stay.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{
    Fail, MysqlStore,
    delete::execute,
    marks, portions,
    read::{exactly, select},
    session::{Transaction, text},
};
use crate::report::Counts;

/// What takes the meaning from a character of a pattern.
const ESCAPE: char = '|';

impl MysqlStore {
    /// Deletes the checkpoints of the runs `ids`, which are all that goes.
    pub(super) async fn delete_checkpoints(
        &self,
        transaction: &mut Transaction,
        ids: &[&str],
        going: &HashSet<&str>,
        counts: &mut Counts,
    ) -> Result<(), Fail> {
        if !self.schema.has("checkpoints") {
            return Ok(());
        }
        // Each key with the run that it was found by.
        let mut keys = self.keys_by_run(transaction, ids).await?;
        self.drop_steps_of_others(transaction, &mut keys, going).await?;
        keys.extend(self.keys_by_step(transaction, ids).await?);
        self.drop_ambiguous(transaction, &mut keys, going).await?;
        let found: BTreeSet<&str> = keys.iter().map(|(key, _)| key.as_str()).collect();
        let found: Vec<&str> = found.into_iter().collect();
        let mut gone = 0;
        for portion in portions(&found) {
            let query = format!("DELETE FROM checkpoints WHERE step_run_id IN ({})", marks(portion.len()));
            gone += execute(transaction, query, &portion).await?;
        }
        counts.add("checkpoints", gone);
        Ok(())
    }

    /// The keys that begin with the id of one of the runs and a colon.
    async fn keys_by_run(&self, transaction: &mut Transaction, ids: &[&str]) -> Result<Vec<(String, String)>, Fail> {
        let hint = self.schema.hint("checkpoints", &["step_run_id"]);
        let wanted: HashSet<&str> = ids.iter().copied().collect();
        let mut keys = Vec::new();
        for portion in portions(ids) {
            // In the order of a collation what begins alike need not stand between two texts: only a pattern finds it.
            let one = format!("p.step_run_id LIKE ? ESCAPE '{ESCAPE}'");
            let condition = vec![one; portion.len()].join(" OR ");
            let query = format!("SELECT p.step_run_id FROM checkpoints AS p {hint} WHERE {condition}");
            let patterns: Vec<String> = portion.iter().map(|id| format!("{}:%", literal(id))).collect();
            let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
            for row in select(transaction.go_on()?, query, &patterns).await? {
                let key = text(&row, 0).unwrap_or_default();
                let owners =
                    prefixes(&key).filter(|prefix| wanted.contains(prefix)).map(|run| (key.clone(), run.to_owned()));
                keys.extend(owners.collect::<Vec<_>>());
            }
        }
        Ok(keys)
    }

    /// Takes out the keys that are ids of steps of runs that stay.
    async fn drop_steps_of_others(
        &self,
        transaction: &mut Transaction,
        keys: &mut Vec<(String, String)>,
        going: &HashSet<&str>,
    ) -> Result<(), Fail> {
        if !self.schema.has("steps") {
            return Ok(());
        }
        let (by_key, by_step) =
            (self.schema.hint("checkpoints", &["step_run_id"]), self.schema.hint("steps", &["step_id"]));
        let found: BTreeSet<&str> = keys.iter().map(|(key, _)| key.as_str()).collect();
        let found: Vec<&str> = found.into_iter().collect();
        let mut stay = HashSet::new();
        for portion in portions(&found) {
            let query = format!(
                "SELECT p.step_run_id, s.run_id FROM checkpoints AS p {by_key} STRAIGHT_JOIN steps AS s {by_step} \
                 ON s.step_id = p.step_run_id WHERE p.step_run_id IN ({})",
                marks(portion.len())
            );
            for row in select(transaction.go_on()?, query, &portion).await? {
                if !going.contains(text(&row, 1).unwrap_or_default().as_str()) {
                    stay.insert(text(&row, 0).unwrap_or_default());
                }
            }
        }
        keys.retain(|(key, _)| !stay.contains(key));
        Ok(())
    }

    /// The keys that are ids of steps of the runs.
    async fn keys_by_step(&self, transaction: &mut Transaction, ids: &[&str]) -> Result<Vec<(String, String)>, Fail> {
        let mut keys = Vec::new();
        if !self.schema.has("steps") {
            return Ok(keys);
        }
        let (by_run, by_key) =
            (self.schema.hint("steps", &["run_id"]), self.schema.hint("checkpoints", &["step_run_id"]));
        let wanted: HashSet<&str> = ids.iter().copied().collect();
        for portion in portions(ids) {
            let query = format!(
                "SELECT p.step_run_id, s.step_id, s.run_id FROM steps AS s {by_run} STRAIGHT_JOIN checkpoints AS p {by_key} \
                 ON p.step_run_id = s.step_id WHERE s.run_id IN ({})",
                marks(portion.len())
            );
            for row in select(transaction.go_on()?, query, &portion).await? {
                let [key, step, run] = [0, 1, 2].map(|column| text(&row, column).unwrap_or_default());
                if key == step && wanted.contains(run.as_str()) {
                    keys.push((key, run));
                }
            }
        }
        Ok(keys)
    }

    /// Takes out the keys that another run which stays could own: with a colon in a run's id or a step's, `a:b:c` may be step
    /// `b:c` of run `a` or step `c` of run `a:b`.
    async fn drop_ambiguous(
        &self,
        transaction: &mut Transaction,
        keys: &mut Vec<(String, String)>,
        going: &HashSet<&str>,
    ) -> Result<(), Fail> {
        let mut others: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (key, run) in &*keys {
            for other in prefixes(key).filter(|other| other != run && !going.contains(other)) {
                others.entry(other).or_default().push(key);
            }
        }
        let asked: Vec<&str> = others.keys().copied().collect();
        let wanted: HashSet<&str> = asked.iter().copied().collect();
        let (runs, hint) = (self.layout.runs, self.schema.hint(self.layout.runs, &["run_id"]));
        let mut stay: HashSet<String> = HashSet::new();
        for portion in portions(&asked) {
            let query = format!("SELECT r.run_id FROM {runs} AS r {hint} WHERE r.run_id IN ({})", marks(portion.len()));
            let rows = select(transaction.go_on()?, query, &portion).await?;
            stay.extend(exactly(&rows, 0, &wanted).iter().flat_map(|run| &others[run]).map(|key| (*key).to_owned()));
        }
        keys.retain(|(key, _)| !stay.contains(key));
        Ok(())
    }
}

/// What stands before each colon of a key: the ids of the runs that it may be of.
fn prefixes(key: &str) -> impl Iterator<Item = &str> {
    key.match_indices(':').map(|(at, _)| &key[..at])
}

/// A text as a pattern that nothing else matches.
fn literal(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len() + 4);
    for character in text.chars() {
        if matches!(character, '%' | '_' | ESCAPE) {
            pattern.push(ESCAPE);
        }
        pattern.push(character);
    }
    pattern
}
