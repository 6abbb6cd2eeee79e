//! Rows of closed threads, held by one transaction.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio::{
    sync::OwnedMutexGuard,
    time::{sleep, timeout},
};

use super::{IDS_MAX, SqlMarks, session::Session, statements::Statements, table::IdKind, thread};
use crate::volumes::{Hold, MarksError, Thread};

/// After how long in all, and for how long, this process leaves a SQLite file to other writers: those who have waited for
/// 128 ms to 228 ms ask for it every 50 ms.
const KEPT_MAX: Duration = Duration::from_millis(200);
const PAUSE: Duration = Duration::from_millis(60);

/// This process's turn to write into a SQLite file.
#[derive(Debug)]
pub(super) struct Turn {
    /// How long the turns since the last pause have kept others out.
    kept: OwnedMutexGuard<Duration>,
    began: Instant,
}

impl Drop for Turn {
    fn drop(&mut self) {
        *self.kept += self.began.elapsed();
    }
}

/// A transaction that holds rows. Dropped, its connection is closed, which rolls it back; where this process stops, the
/// database does so after a time, if it can.
#[derive(Debug)]
pub(super) struct SqlHold {
    marks: SqlMarks,
    threads: HashMap<String, Thread>,
    /// None where there is no row to hold.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    session: Session,
    /// SQLite's only turn to write.
    turn: Option<Turn>,
}

impl SqlMarks {
    /// This process's turn to write, where it has one at a time; none is free within the limit: the error.
    pub(super) async fn turn(&self) -> Result<Option<Turn>, ()> {
        let Some(writer) = &self.writer else { return Ok(None) };
        let mut kept = timeout(self.limits.hold, Arc::clone(writer).lock_owned()).await.map_err(drop)?;
        if *kept >= KEPT_MAX {
            sleep(PAUSE).await;
            *kept = Duration::ZERO;
        }
        Ok(Some(Turn { kept, began: Instant::now() }))
    }

    /// Holds the rows of those of these threads that are closed and that nobody else holds.
    pub(super) async fn hold_rows(&self, ids: &[&str]) -> Result<SqlHold, MarksError> {
        const WHAT: &str = "threads not held";
        let kind = self.fit().await?.id;
        let held = |threads, open| SqlHold { marks: self.clone(), threads, open };
        let none = || held(HashMap::new(), None);
        if ids.is_empty() {
            return Ok(none());
        }
        let Ok(turn) = self.turn().await else { return Ok(none()) };
        let mut session = self.session(WHAT).await?;
        match self.hold_on(&mut session, kind, ids).await {
            Ok(threads) if threads.is_empty() => {
                if self.turn_on(&mut session, "ROLLBACK").await.is_ok() {
                    session.give_back();
                }
                Ok(none())
            }
            Ok(threads) => Ok(held(threads, Some(Open { session, turn }))),
            // The transaction is not what it should be: its connection is closed.
            Err(error) if self.dialect.is_held(&error) => Ok(none()),
            Err(error) => Err(self.error(WHAT, &error)),
        }
    }

    async fn hold_on(
        &self,
        session: &mut Session,
        kind: IdKind,
        ids: &[&str],
    ) -> Result<HashMap<String, Thread>, sqlx::Error> {
        self.turn_on(session, self.dialect.begin()).await?;
        let mut threads = HashMap::new();
        for some in ids.chunks(IDS_MAX) {
            let text = self.statements.hold(kind, Statements::count(some.len()));
            let rows = self.rows_on(session, text, &self.statements.binds(kind, some)).await?;
            threads.extend(rows.into_iter().filter_map(thread));
        }
        Ok(threads)
    }

    /// Marks those of so many threads that are closed and not marked; answers how many.
    pub(super) async fn mark_some(&self, ids: &[&str]) -> Result<u64, MarksError> {
        const WHAT: &str = "threads not marked";
        let (kind, now) = self.writing().await?;
        let turn = self.turn().await.map_err(|()| self.busy(WHAT))?;
        let mut session = self.session(WHAT).await?;
        let text = self.statements.mark(kind, now, Statements::count(ids.len()));
        match self.change_on(&mut session, text, &self.statements.binds(kind, ids)).await {
            Ok(changed) => {
                session.give_back();
                Ok(changed)
            }
            // One row that somebody else holds must not keep the marks from all others.
            Err(error) if turn.is_none() && self.dialect.is_held(&error) => {
                drop(session);
                let hold = self.hold_rows(ids).await?;
                hold.mark_held(ids).await
            }
            Err(error) => Err(self.error(WHAT, &error)),
        }
    }
}

impl SqlHold {
    async fn mark_held(self, ids: &[&str]) -> Result<u64, MarksError> {
        let Self { marks, threads, open } = self;
        let Some(Open { mut session, turn }) = open else { return Ok(0) };
        let held: Vec<&str> = ids.iter().copied().filter(|id| threads.contains_key(*id)).collect();
        let (kind, now) = marks.writing().await?;
        let marked = async {
            let mut marked = 0;
            for some in held.chunks(IDS_MAX) {
                let text = marks.statements.mark(kind, now, Statements::count(some.len()));
                marked += marks.change_on(&mut session, text, &marks.statements.binds(kind, some)).await?;
            }
            marks.turn_on(&mut session, "COMMIT").await?;
            Ok(marked)
        };
        let marked = marked.await.map_err(|error| marks.error("threads not marked", &error))?;
        session.give_back();
        drop(turn);
        Ok(marked)
    }
}

#[async_trait]
impl Hold for SqlHold {
    fn threads(&self) -> &HashMap<String, Thread> {
        &self.threads
    }

    async fn mark(self: Box<Self>, ids: &[String]) -> Result<u64, MarksError> {
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        self.mark_held(&ids).await
    }
}
