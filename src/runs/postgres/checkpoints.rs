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
        let text = format!(
            "SELECT bool_and({IN_ORDER}) FROM unnest($1::text[]) AS b (run_id) CROSS JOIN unnest($2::text[]) AS x (rest) \
             CROSS JOIN LATERAL (SELECT step_run_id FROM checkpoints WHERE false UNION ALL SELECT b.run_id || ':' || x.rest) AS p (step_run_id)"
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
        let found = self.candidates(work, gone).await?;
        let gone: HashSet<&str> = gone.iter().copied().collect();
        let strange: Vec<&str> =
            found.iter().flat_map(|(key, _)| prefixes(key)).filter(|id| !gone.contains(id)).collect();
        let stay: HashSet<String> = if strange.is_empty() {
            HashSet::new()
        } else {
            let text = format!("SELECT r.run_id FROM {} AS r WHERE r.run_id = ANY($1)", self.layout.runs);
            let query = sqlx::query_scalar(statement(text)).bind(strange);
            work.run(async |connection| query.fetch_all(connection).await).await?.into_iter().collect()
        };
        let mut keys = Vec::new();
        for (key, steps_of) in &found {
            let owners = || steps_of.iter().map(String::as_str).chain(prefixes(key).filter(|id| stay.contains(*id)));
            if owners().any(|id| others.contains(id)) {
                return Err(Fail::Tangled);
            }
            if owners().all(|id| gone.contains(id)) {
                keys.push(key.clone());
            }
        }
        Ok(keys)
    }

    /// The keys that look like those of `gone`, each with the runs that have a step of that id.
    async fn candidates(&self, work: &mut Work<'_>, gone: &[&str]) -> Result<Vec<(String, Vec<String>)>, StoreError> {
        let has_steps = self.tables.has("steps");
        let steps_of = if has_steps {
            "ARRAY(SELECT o.run_id FROM steps AS o WHERE o.step_id = p.step_run_id)"
        } else {
            "ARRAY[]::text[]"
        };
        let mut text = format!(
            "SELECT p.step_run_id, {steps_of} FROM unnest($1::text[]) AS b (run_id) JOIN checkpoints AS p ON {}",
            self.keys.condition
        );
        if has_steps {
            text.push_str(
                " UNION ALL SELECT p.step_run_id, ARRAY(SELECT o.run_id FROM steps AS o WHERE o.step_id = p.step_run_id) \
                 FROM steps AS s JOIN checkpoints AS p ON p.step_run_id = s.step_id WHERE s.run_id = ANY($1)",
            );
        }
        let query = sqlx::query_as(statement(text)).bind(gone);
        work.run(async |connection| query.fetch_all(connection).await).await
    }
}

/// The ids of runs that a key may begin with.
fn prefixes(key: &str) -> impl Iterator<Item = &str> {
    key.match_indices(':').map(|(at, _)| &key[..at])
}
