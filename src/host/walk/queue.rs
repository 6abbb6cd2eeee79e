//! The folders that wait for a thread.

use std::{
    path::{Path, PathBuf},
    sync::{
        Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// How many folders may wait before whoever finds one reads it at once.
const WAITING_MAX: usize = 64;

#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    is_stopped: AtomicBool,
}

#[derive(Default)]
struct State {
    waiting: Vec<PathBuf>,
    /// How many threads have a folder in hand: each may bring more.
    busy: usize,
}

impl Queue {
    /// Leaves a folder to whichever thread comes next; `false` where enough wait already. One that `must` wait does.
    pub(super) fn push(&self, path: &Path, must: bool) -> bool {
        let mut state = self.state();
        if !must && state.waiting.len() >= WAITING_MAX {
            return false;
        }
        state.waiting.push(path.to_owned());
        self.changed.notify_one();
        true
    }

    /// The next folder, once there is one; `None` when all is read, or stopped.
    pub(super) fn next(&self) -> Option<Turn<'_>> {
        let mut state = self.state();
        loop {
            if self.is_stopped() {
                return None;
            }
            if let Some(path) = state.waiting.pop() {
                state.busy += 1;
                return Some(Turn { queue: self, path });
            }
            if state.busy == 0 {
                return None;
            }
            state = self.changed.wait(state).expect("nothing panics while it holds the queue");
        }
    }

    /// Lets every thread end after what it has in hand.
    pub(super) fn stop(&self) {
        let _state = self.state();
        self.is_stopped.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the queue")
    }
}

/// A folder in a thread's hand.
pub(super) struct Turn<'a> {
    queue: &'a Queue,
    pub(super) path: PathBuf,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // What panicked will not come back: the others must not wait for it.
        if thread::panicking() {
            self.queue.stop();
        }
        let mut state = self.queue.state();
        state.busy -= 1;
        if state.busy == 0 {
            self.queue.changed.notify_all();
        }
    }
}
