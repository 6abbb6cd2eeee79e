//! Which checkpoints go with a batch: those keyed `run:step`, and those keyed by the id of a step of the run's own.

use std::collections::HashSet;

use sqlx::PgPool;

use super::{PostgresStore, delete::Fail, statement, work::Work};
use crate::runs::StoreError;

/// Finds the keys of run `b` in the primary key's index, by the database's own order of texts. What is behind the colon may
/// be anything; in the order of Unicode U+FFFF is behind everything, in that of bytes the last code point is.
const IN_ORDER: &str = "p.step_run_id >= b.run_id || ':' \
    AND p.step_run_id <= greatest(b.run_id || ':' || chr(65535), b.run_id || ':' || chr(1114111), b.run_id || '0') \
    AND starts_with(p.step_run_id, b.run_id || ':')";
/// For an order that scatters the keys of a run, such as one that does not see colons. An index on these bytes helps.
const IN_BYTES: &str =
    "p.step_run_id COLLATE \"C\" >= b.run_id || ':' AND p.step_run_id COLLATE \"C\" < b.run_id || ';'";

/// Ids and step ids by which an order of texts is tried out, beside every character of ASCII.
const IDS: [&str; 10] =
    ["run_0123456789abcdef", "run_ffffffffffffffff", "sched_a_0", "a", "a:b", "", "Z ", "0", "名前", "🧹"];
const STEPS: [&str; 10] =
    ["", "step_charge_0123456789abcdef", "stream_step_x", "ü", "ß", "名", "🧹", "\u{301}", "\u{feff}", "\u{fffd}"];

/// How the keys of a run are found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys {
    condition: &'static str,
}

impl Default for Keys {
    fn default() -> Self {
        Self { condition: IN_ORDER }
    }
}

impl Keys {
    /// Tries whether the database's order keeps the keys of a run together. Reads no rows.
    pub(super) async fn probe(pool: &PgPool) -> Result<Self, sqlx::Error> {
        // A column with an order of its own is not what is tried out here.
        let is_default = "SELECT o.collname = 'default' FROM pg_attribute AS a JOIN pg_collation AS o ON o.oid = a.attcollation \
                          WHERE a.attrelid = to_regclass('checkpoints') AND a.attname = 'step_run_id'";
        let text = format!(
            "SELECT bool_and({IN_ORDER}) AND ({is_default}) FROM (SELECT b.run_id, b.run_id || ':' || x.rest AS step_run_id \
             FROM unnest($1::text[]) AS b (run_id) CROSS JOIN unnest($2::text[]) AS x (rest)) AS p \
             CROSS JOIN LATERAL (SELECT p.run_id) AS b"
        );
        let ascii = (1..=127_u8).flat_map(|byte| [char::from(byte).to_string(), format!("{0}{0}", char::from(byte))]);
        let steps: Vec<String> = ascii.chain(STEPS.map(str::to_owned)).collect();
        let probed = sqlx::query_scalar(statement(text)).bind(&IDS[..]).bind(steps).fetch_one(pool).await;
        match probed {
            Ok(Some(true)) => Ok(Self { condition: IN_ORDER }),
            // A database of another encoding than UTF-8 does not know such characters.
            Ok(_) | Err(sqlx::Error::Database(_)) => Ok(Self { condition: IN_BYTES }),
            Err(error) => Err(error),
        }
    }

    /// Whether the primary key's index finds them.
    pub(super) fn are_in_order(self) -> bool {
        self.condition == IN_ORDER
    }
}

impl PostgresStore {
    /// The checkpoints that go with `gone`. Keys that a run which stays might mean too stay: with a colon in an id, `a:b:c`
    /// may be step `b:c` of run `a` or step `c` of run `a:b`.
    pub(super) async fn checkpoints_of(
        &self,
        work: &mut Work<'_>,
        gone: &[&str],
        others: &HashSet<&str>,
    ) -> Result<Vec<String>, Fail> {
        let keys = self.candidates(work, gone).await?;
        let gone: HashSet<&str> = gone.iter().copied().collect();
        let owners = self.strange_owners(work, &keys, &gone).await?;
        if owners.iter().any(|(_, run)| others.contains(run.as_str())) {
            return Err(Fail::Tangled);
        }
        Ok(without(keys, owners))
    }

    /// Those of `keys` that no run beside `gone` may own.
    pub(super) async fn own_keys(
        &self,
        work: &mut Work<'_>,
        keys: HashSet<String>,
        gone: &HashSet<&str>,
    ) -> Result<Vec<String>, StoreError> {
        let owners = self.strange_owners(work, &keys, gone).await?;
        Ok(without(keys, owners))
    }

    /// The keys that look like those of `gone`.
    async fn candidates(&self, work: &mut Work<'_>, gone: &[&str]) -> Result<HashSet<String>, StoreError> {
        let mut keys = self.keys_by_run(work, gone).await?;
        if self.tables.has("steps") {
            let text = "SELECT p.step_run_id FROM steps AS s JOIN checkpoints AS p ON p.step_run_id = s.step_id \
                        WHERE s.run_id = ANY($1)";
            let query = sqlx::query_scalar::<_, String>(text).bind(gone);
            keys.extend(work.run(async |connection| query.fetch_all(connection).await).await?);
        }
        Ok(keys)
    }

    /// The keys that begin with the id of one of `gone`.
    pub(super) async fn keys_by_run(&self, work: &mut Work<'_>, gone: &[&str]) -> Result<HashSet<String>, StoreError> {
        let text = format!(
            "SELECT p.step_run_id FROM unnest($1::text[]) AS b (run_id) JOIN checkpoints AS p ON {}",
            self.keys.condition
        );
        let query = sqlx::query_scalar::<_, String>(statement(text)).bind(gone);
        Ok(HashSet::from_iter(work.run(async |connection| query.fetch_all(connection).await).await?))
    }

    /// Keys with the runs beside `gone` that may own them: by the key's beginning, or by a step of that id.
    async fn strange_owners(
        &self,
        work: &mut Work<'_>,
        keys: &HashSet<String>,
        gone: &HashSet<&str>,
    ) -> Result<Vec<(String, String)>, StoreError> {
        let mut owners = Vec::new();
        if !keys.is_empty() && self.tables.has("steps") {
            let text = "SELECT s.step_id, s.run_id FROM steps AS s WHERE s.step_id = ANY($1)";
            let query = sqlx::query_as(text).bind(Vec::from_iter(keys));
            let steps: Vec<(String, String)> = work.run(async |connection| query.fetch_all(connection).await).await?;
            owners.extend(steps.into_iter().filter(|(_, run)| !gone.contains(run.as_str())));
        }
        let strange = |key| prefixes(key).filter(|id| !gone.contains(id));
        let named: HashSet<&str> = keys.iter().flat_map(|key| strange(key)).collect();
        if !named.is_empty() {
            let text = format!("SELECT r.run_id FROM {} AS r WHERE r.run_id = ANY($1)", self.layout.runs);
            let query = sqlx::query_scalar(statement(text)).bind(Vec::from_iter(named));
            let runs: HashSet<String> =
                work.run(async |connection| query.fetch_all(connection).await).await?.into_iter().collect();
            let found = keys.iter().flat_map(|key| strange(key).map(move |run| (key, run)));
            owners.extend(found.filter(|(_, run)| runs.contains(*run)).map(|(key, run)| (key.clone(), run.to_owned())));
        }
        Ok(owners)
    }
}

/// The ids of runs that a key may begin with.
fn prefixes(key: &str) -> impl Iterator<Item = &str> {
    key.match_indices(':').map(|(at, _)| &key[..at])
}

fn without(keys: HashSet<String>, owners: Vec<(String, String)>) -> Vec<String> {
    let stay: HashSet<String> = owners.into_iter().map(|(key, _)| key).collect();
    keys.into_iter().filter(|key| !stay.contains(key)).collect()
}
