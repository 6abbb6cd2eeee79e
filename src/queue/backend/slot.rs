//! Where the fetcher puts the one request that the worker asked for.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use apalis_core::task::Task;
use tokio::sync::Notify;

use crate::queue::Request;

/// One place for one task, and whether the worker wants one.
#[derive(Default)]
pub(super) struct Slot {
    state: Mutex<State>,
    wanted: Notify,
}

#[derive(Default)]
struct State {
    task: Option<Task<Request>>,
    waker: Option<Waker>,
    is_wanted: bool,
}

impl Slot {
    /// Takes the task; where there is none, says that one is wanted.
    pub(super) fn poll_take(&self, cx: &Context<'_>) -> Poll<Task<Request>> {
        let mut state = self.state();
        if let Some(task) = state.task.take() {
            state.is_wanted = false;
            return Poll::Ready(task);
        }
        state.waker = Some(cx.waker().clone());
        if !state.is_wanted {
            state.is_wanted = true;
            self.wanted.notify_one();
        }
        Poll::Pending
    }

    /// Whether the worker waits for a task, and none is here yet.
    pub(super) fn is_wanted(&self) -> bool {
        let state = self.state();
        state.is_wanted && state.task.is_none()
    }

    /// Resolves soon after a task was wanted.
    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Puts a task here and wakes the worker.
    pub(super) fn put(&self, task: Task<Request>) {
        let mut state = self.state();
        state.task = Some(task);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    /// Takes back what the worker has not taken: it may have stopped since it asked.
    pub(super) fn take_back(&self) -> Option<Task<Request>> {
        self.state().task.take()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds this.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
