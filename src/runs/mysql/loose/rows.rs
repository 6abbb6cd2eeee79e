//! Deletes rows of a window by their keys, on condition that they still are what may go.

use chrono::{DateTime, Utc};

use super::{Question, Row, Table};
use crate::runs::mysql::{
    Fail, MysqlStore, NAME, code,
    delete::execute,
    marks, portions,
    read::{select, written},
    session::{Transaction, text},
};

/// How many rows one statement deletes by their keys.
const KEYS_MAX: usize = 100;

impl MysqlStore {
    /// Deletes rows, but for those that the owner holds; answers how many went.
    pub(super) async fn delete_rows(
        &self,
        transaction: &mut Transaction,
        table: &Table,
        rows: &[&Row],
        cutoff: DateTime<Utc>,
    ) -> Result<u64, Fail> {
        let (mut gone, mut held) = (0, 0);
        for some in rows.chunks(KEYS_MAX) {
            if let Some(count) = self.try_rows(transaction, table, some, cutoff).await? {
                gone += count;
                continue;
            }
            for row in some {
                match self.try_rows(transaction, table, &[*row], cutoff).await? {
                    Some(count) => gone += count,
                    None => held += 1,
                }
            }
        }
        if held > 0 {
            tracing::warn!(store = NAME, table = table.name, held, "the owner holds rows that were to go");
        }
        Ok(gone)
    }

    /// Deletes rows together; none where something of the owner's refuses, and then nothing has changed.
    async fn try_rows(
        &self,
        transaction: &mut Transaction,
        table: &Table,
        rows: &[&Row],
        cutoff: DateTime<Utc>,
    ) -> Result<Option<u64>, Fail> {
        sqlx::raw_sql("SAVEPOINT some").execute(transaction.go_on()?).await?;
        match self.delete_together(transaction, table, rows, cutoff).await {
            Err(Fail::Sql(error)) if code(&error).is_some_and(|(_, class)| matches!(class.as_str(), "23" | "45")) => {
                sqlx::raw_sql("ROLLBACK TO SAVEPOINT some").execute(transaction.go_on()?).await?;
                Ok(None)
            }
            answer => Ok(Some(answer?)),
        }
    }

    async fn delete_together(
        &self,
        transaction: &mut Transaction,
        table: &Table,
        rows: &[&Row],
        cutoff: DateTime<Utc>,
    ) -> Result<u64, Fail> {
        let one =
            format!("({})", table.key.iter().map(|column| format!("{column} = ?")).collect::<Vec<_>>().join(" AND "));
        // Asked again: what was written since it was read is not old, and what was revived has another status.
        let words: &[&str] = match table.question {
            Question::Unread | Question::SignalGone => &[],
            Question::Ended => self.layout.ended_subscriptions,
            Question::DeletedSchedule => self.layout.deleted_schedules,
        };
        let status = if words.is_empty() { String::new() } else { format!("AND status IN ({})", marks(words.len())) };
        let (name, time) = (table.name, table.time);
        let query =
            format!("DELETE FROM {name} WHERE ({}) AND {time} < ? {status}", vec![one; rows.len()].join(" OR "));
        let cutoff = written(cutoff);
        let mut values: Vec<&str> = rows.iter().flat_map(|row| &row.key).map(String::as_str).collect();
        values.push(&cutoff);
        values.extend(words);
        let gone = execute(transaction, query, &values).await?;
        if table.question == Question::Ended && self.schema.has("checkpoints") {
            self.delete_saved(transaction, rows).await?;
        }
        Ok(gone)
    }

    /// Deletes what the steps of ended subscriptions saved, where no other subscription is of the same step.
    async fn delete_saved(&self, transaction: &mut Transaction, rows: &[&Row]) -> Result<(), Fail> {
        let mut steps: Vec<&str> = rows.iter().map(|row| row.key[1].as_str()).collect();
        steps.sort_unstable();
        steps.dedup();
        for portion in portions(&steps) {
            let query = format!("SELECT step_run_id FROM checkpoints WHERE step_run_id IN ({})", marks(portion.len()));
            let saved: Vec<String> =
                select(transaction.go_on()?, query, &portion).await?.iter().filter_map(|row| text(row, 0)).collect();
            let saved: Vec<&str> = saved.iter().map(String::as_str).filter(|key| steps.contains(key)).collect();
            if saved.is_empty() {
                continue;
            }
            // No index finds these: few steps save anything under their own id, so it is asked seldom.
            let query = format!(
                "SELECT DISTINCT step_run_id FROM stream_subscriptions WHERE step_run_id IN ({})",
                marks(saved.len())
            );
            let others: Vec<String> =
                select(transaction.go_on()?, query, &saved).await?.iter().filter_map(|row| text(row, 0)).collect();
            let gone: Vec<&str> = saved.into_iter().filter(|key| !others.iter().any(|other| other == key)).collect();
            for portion in portions(&gone) {
                let query = format!("DELETE FROM checkpoints WHERE step_run_id IN ({})", marks(portion.len()));
                execute(transaction, query, &portion).await?;
            }
        }
        Ok(())
    }
}
