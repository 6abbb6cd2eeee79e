//! The row of a closed thread, held by a transaction of its own.

use async_trait::async_trait;
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use super::{SqlMarks, session::Session, statements::Statements};
use crate::volumes::{Hold, MarksError};

/// A transaction that holds a thread's row. Dropped, its connection is closed, which rolls it back; where this process
/// stops, the database does so after a time, if it can.
struct SqlHold {
    marks: SqlMarks,
    id: String,
    session: Session,
    /// SQLite's only turn to write.
    turn: Option<OwnedSemaphorePermit>,
}

impl SqlMarks {
    /// This process's turn to write, where it has one at a time; none is free within the limit: the error.
    pub(super) async fn turn(&self) -> Result<Option<OwnedSemaphorePermit>, ()> {
        let Some(writer) = &self.writer else { return Ok(None) };
        let turn = timeout(self.limits.hold, std::sync::Arc::clone(writer).acquire_owned()).await.map_err(drop)?;
        Ok(Some(turn.expect("the semaphore is never closed")))
    }

    pub(super) async fn hold_row(&self, id: &str) -> Result<Option<Box<dyn Hold>>, MarksError> {
        const WHAT: &str = "thread not held";
        let kind = self.fit().await?.id;
        if !kind.is_own(id) {
            return Ok(None);
        }
        let Ok(turn) = self.turn().await else { return Ok(None) };
        let mut session = self.session(WHAT).await?;
        let found = async {
            self.turn_on(&mut session, self.dialect.begin()).await?;
            self.rows_on(&mut session, self.statements.hold(kind), &self.statements.binds(kind, &[id])).await
        };
        match found.await {
            Ok(rows) if rows.is_empty() => {
                if self.turn_on(&mut session, "ROLLBACK").await.is_ok() {
                    session.give_back();
                }
                Ok(None)
            }
            Ok(_) => Ok(Some(Box::new(SqlHold { marks: self.clone(), id: id.to_owned(), session, turn }))),
            // The transaction is not what it should be: its connection is closed.
            Err(error) if self.dialect.is_held(&error) => Ok(None),
            Err(error) => Err(self.error(WHAT, &error)),
        }
    }
}

impl SqlMarks {
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
                self.mark_each(ids).await
            }
            Err(error) => Err(self.error(WHAT, &error)),
        }
    }

    /// Marks those that nobody holds.
    async fn mark_each(&self, ids: &[&str]) -> Result<u64, MarksError> {
        let mut marked = 0;
        for id in ids {
            if let Some(hold) = self.hold_row(id).await? {
                marked += u64::from(hold.mark().await?);
            }
        }
        Ok(marked)
    }
}

#[async_trait]
impl Hold for SqlHold {
    async fn mark(self: Box<Self>) -> Result<bool, MarksError> {
        let Self { marks, id, mut session, turn } = *self;
        let (kind, now) = marks.writing().await?;
        let mark = marks.statements.mark(kind, now, Statements::count(1));
        let marked = async {
            let changed = marks.change_on(&mut session, mark, &marks.statements.binds(kind, &[&id])).await?;
            marks.turn_on(&mut session, "COMMIT").await?;
            Ok(changed > 0)
        };
        let marked = marked.await.map_err(|error| marks.error("thread not marked", &error))?;
        session.give_back();
        drop(turn);
        Ok(marked)
    }
}
