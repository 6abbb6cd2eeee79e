//! An apalis backend over any [`Queue`].
//!
//! # A delivery
//! The fetcher claims one request at a time, when the worker asks for one, and puts it into the slot with a [`Lease`].
//! The layer runs the job for as long as the lease is good and settles the request by what the job ended with. A keeper
//! extends the leases from a thread of its own, which jobs that block every thread of the runtime cannot starve.
//!
//! # What ends a worker
//! Nothing that a queue's store does: apalis ends a worker whose backend fails, so errors are logged and tried again.

mod fetch;
mod lease;
mod settle;
mod slot;

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use apalis_core::{
    backend::{Backend, BackendConfig, finalize::Ephemeral},
    task::Task,
    worker::context::WorkerContext,
};
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use lease::Lease;
pub use settle::{Settle, Settling, Unsettled};

use super::{Queue, Request};
use crate::report::Report;
use fetch::Fetcher;
use lease::Consumer;
use slot::Slot;

/// Makes the report of a request, with its attempt, that has not run.
pub type Blank = Arc<dyn Fn(&Request, u32) -> Report + Send + Sync>;

/// The requests of a [`Queue`], for one apalis worker.
pub struct QueueBackend {
    queue: Arc<dyn Queue>,
    concurrency: usize,
    blank: Blank,
    /// What must end before the process may: the fetcher, and deliveries on their way back.
    open: TaskTracker,
    run: Option<Run>,
}

/// One run of a worker.
struct Run {
    slot: Arc<Slot>,
    stop: CancellationToken,
    /// None once it has ended.
    fetcher: Option<JoinHandle<()>>,
}

impl fmt::Debug for QueueBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueBackend").field("queue", &self.queue).finish_non_exhaustive()
    }
}

/// The fetcher panicked; the worker cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("queue: the fetcher ended")]
pub struct FetcherEnded;

impl QueueBackend {
    /// A backend that runs `concurrency` requests of `queue` at once; `blank` begins the reports of those that cannot run.
    #[must_use]
    pub fn new(queue: Arc<dyn Queue>, concurrency: usize, blank: Blank) -> Self {
        Self { queue, concurrency: concurrency.max(1), blank, open: TaskTracker::new(), run: None }
    }

    /// What a process should wait for before it ends: the deliveries that a dropped worker hands back.
    #[must_use]
    pub fn open(&self) -> TaskTracker {
        self.open.clone()
    }

    fn start(&self, worker: &WorkerContext) -> Run {
        let (slot, stop) = (Arc::new(Slot::default()), CancellationToken::new());
        let consumer =
            Arc::new(Consumer::new(self.queue.clone(), worker.clone(), self.blank.clone(), self.open.clone()));
        lease::keep_on_own_thread(&consumer, stop.clone());
        let fetcher = Fetcher::new(consumer, slot.clone(), stop.clone(), self.concurrency);
        Run { slot, stop, fetcher: Some(self.open.spawn(fetcher.run())) }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Run {
    /// Resolves when the fetcher has ended, however it did.
    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(fetcher) = &mut self.fetcher else { return Poll::Ready(()) };
        // How it ended is of no use: a panic was printed, and nobody aborts it.
        let _: Result<(), _> = std::task::ready!(Pin::new(fetcher).poll(cx));
        self.fetcher = None;
        Poll::Ready(())
    }
}

impl Backend for QueueBackend {
    type Task = Task<Request>;
    type Error = FetcherEnded;

    fn poll_ready(&mut self, _: &mut Context<'_>, worker: &WorkerContext) -> Poll<Result<(), Self::Error>> {
        // Not earlier: a monitor builds workers long before it runs them.
        if self.run.is_none() {
            self.run = Some(self.start(worker));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerContext,
    ) -> Poll<Option<Result<Self::Task, Self::Error>>> {
        let run = self.run.as_mut().expect("apalis asks whether the backend is ready first");
        if let Poll::Ready(task) = run.slot.poll_take(cx) {
            return Poll::Ready(Some(Ok(task)));
        }
        match run.poll_ended(cx) {
            Poll::Ready(()) if worker.is_shutting_down() => Poll::Pending,
            // `None` would end the worker as if all were well.
            Poll::Ready(()) => Poll::Ready(Some(Err(FetcherEnded))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Self::Error>> {
        let Some(run) = &mut self.run else { return Poll::Ready(Ok(())) };
        run.stop.cancel();
        run.poll_ended(cx).map(Ok)
    }
}

impl BackendConfig for QueueBackend {
    type Args = Request;
    type Id = String;
    // The backend reads entries itself: one that cannot be read must not end the worker.
    type Kind = Ephemeral;
    type Config = ();
    type Layer = Settle;

    fn config(&self) -> &Self::Config {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> Self::Layer {
        Settle
    }
}
