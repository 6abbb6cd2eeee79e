//! The right to run one delivery, and the consumer that has such rights.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    thread,
    time::{Duration, Instant},
};

use apalis_core::worker::context::WorkerContext;
use tokio::{sync::Notify, time};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::Blank;
use crate::{
    queue::{Claim, Delivery, Queue, QueueError, QueueOptions},
    report::chain,
};

/// How often leases are extended within the visibility.
const TOUCHES: u32 = 3;
/// How soon a failed extension is tried again, as a share of the visibility.
const TOUCH_AGAIN: u32 = 10;

/// What a consumer has.
#[derive(Default)]
struct Held {
    leases: HashMap<String, Weak<Lease>>,
    /// What settlings brought along, and when it was asked for, until the fetcher takes it.
    next: VecDeque<(Claim, Instant)>,
    /// There is no fetcher any more.
    is_closed: bool,
}

/// One start of a worker, as its queue knows it.
pub(super) struct Consumer {
    pub(super) queue: Arc<dyn Queue>,
    /// Its name, unique for each start: a name used twice could settle what it has lost.
    pub(super) me: String,
    pub(super) options: QueueOptions,
    pub(super) worker: WorkerContext,
    pub(super) blank: Blank,
    /// Resolves soon after a lease has gone.
    pub(super) released: Notify,
    held: Mutex<Held>,
    open: TaskTracker,
    runtime: tokio::runtime::Handle,
}

impl Consumer {
    /// A consumer for one run of `worker`.
    pub(super) fn new(queue: Arc<dyn Queue>, worker: WorkerContext, blank: Blank, open: TaskTracker) -> Self {
        let me = format!("{}-{}", worker.name(), ulid::Ulid::generate());
        let (options, runtime) = (queue.options(), tokio::runtime::Handle::current());
        let (released, held) = (Notify::new(), Mutex::default());
        Self { queue, me, options, worker, blank, released, held, open, runtime }
    }

    /// How many deliveries it has.
    pub(super) fn count(&self) -> usize {
        let held = self.held();
        held.leases.len() + held.next.len()
    }

    /// Whether a settling that is sent now may bring the next delivery.
    pub(super) fn wants_next(&self) -> bool {
        !self.worker.is_shutting_down() && !self.worker.is_paused()
    }

    /// Leaves what a settling brought to the fetcher, or gives it back where that has ended.
    pub(super) async fn offer(&self, claim: Claim, asked: Instant) -> Result<(), QueueError> {
        if claim == Claim::Empty {
            return Ok(());
        }
        {
            let mut held = self.held();
            if !held.is_closed {
                held.next.push_back((claim, asked));
                return Ok(());
            }
        }
        self.give_back(claim).await
    }

    pub(super) fn has_next(&self) -> bool {
        !self.held().next.is_empty()
    }

    /// What a settling brought, and when it was asked for.
    pub(super) fn next(&self) -> Option<(Claim, Instant)> {
        self.held().next.pop_front()
    }

    /// The fetcher ends: what it has not taken is given back, and what comes later will be.
    pub(super) async fn close(&self) -> Result<(), QueueError> {
        let left = {
            let mut held = self.held();
            held.is_closed = true;
            std::mem::take(&mut held.next)
        };
        for (claim, _) in left {
            self.give_back(claim).await?;
        }
        Ok(())
    }

    /// An entry that is no request stays, and is buried by whoever gets it when it is stale.
    async fn give_back(&self, claim: Claim) -> Result<(), QueueError> {
        match claim {
            Claim::Run(delivery) => self.queue.hand_back(&self.me, &delivery.id).await.map(drop),
            _ => Ok(()),
        }
    }

    /// Whether it has a delivery of this request.
    pub(super) fn holds(&self, id: &str) -> bool {
        self.held().leases.contains_key(id)
    }

    /// Ends an older run of the same request, which this consumer has lost and got again.
    pub(super) fn cancel(&self, id: &str) {
        let lease = self.held().leases.get(id).and_then(Weak::upgrade);
        if let Some(lease) = lease {
            lease.lost.cancel();
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Nothing panics while it holds this, and no lease is dropped under it.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, id: &str) {
        self.held().leases.remove(id);
        self.released.notify_one();
    }

    /// Extends the leases until `stop`, and cancels those that are lost.
    async fn keep(&self, queue: &dyn Queue, stop: &CancellationToken) {
        let visibility = self.options.visibility;
        let mut pause = visibility / TOUCHES;
        loop {
            tokio::select! {
                () = time::sleep(pause) => {}
                () = stop.cancelled(), if self.count() == 0 => return,
            }
            // Weak: a lease that is dropped meanwhile is handed back at once, not after the answer.
            let (ids, held): (Vec<String>, Vec<Weak<Lease>>) = self.held().leases.clone().into_iter().unzip();
            if ids.is_empty() {
                continue;
            }
            let asked = Instant::now();
            match time::timeout(visibility / TOUCHES, queue.touch(&self.me, &ids)).await {
                Ok(Ok(lost)) => {
                    pause = visibility / TOUCHES;
                    held.iter().filter_map(Weak::upgrade).for_each(|lease| lease.touched(asked + visibility, &lost));
                }
                Ok(Err(error)) => {
                    tracing::warn!(error = %chain(&error), "requests not extended, trying again");
                    pause = visibility / TOUCH_AGAIN;
                }
                Err(_) => pause = visibility / TOUCH_AGAIN,
            }
        }
    }
}

/// Extends the leases of `consumer` on a thread of its own, over connections of its own.
pub(super) fn keep_on_own_thread(consumer: &Arc<Consumer>, stop: CancellationToken) {
    let consumer = consumer.clone();
    let keep = move || match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(async { consumer.keep(&*consumer.queue.again(), &stop).await }),
        Err(error) => tracing::error!(%error, "no runtime to extend requests on, they will be delivered again"),
    };
    if let Err(error) = thread::Builder::new().name("janitor-keep".to_owned()).spawn(keep) {
        tracing::error!(%error, "no thread to extend requests on, they will be delivered again");
    }
}

/// The right to run one delivery: it ends at (the last good extension's request + visibility) on a monotonic clock, so a
/// worker that was frozen or cut off stops before another one begins. Dropped unsettled, it is handed back.
pub struct Lease {
    consumer: Arc<Consumer>,
    delivery: Delivery,
    state: Mutex<State>,
    lost: CancellationToken,
}

struct State {
    good_until: Instant,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    Settling,
    Over,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("delivery", &self.delivery).finish_non_exhaustive()
    }
}

impl Lease {
    /// The lease of a delivery that was asked for at `asked`; the consumer must not hold one of the same request.
    pub(super) fn new(consumer: Arc<Consumer>, delivery: Delivery, asked: Instant) -> Arc<Self> {
        let state = Mutex::new(State { good_until: asked + consumer.options.visibility, phase: Phase::Running });
        let lease = Arc::new(Self { consumer, delivery, state, lost: CancellationToken::new() });
        lease.consumer.held().leases.insert(lease.delivery.id.clone(), Arc::downgrade(&lease));
        lease
    }

    /// What may be run.
    #[must_use]
    pub const fn delivery(&self) -> &Delivery {
        &self.delivery
    }

    pub(super) fn consumer(&self) -> &Consumer {
        &self.consumer
    }

    /// Whether nobody else can have the request yet.
    #[must_use]
    pub fn is_good(&self) -> bool {
        !self.lost.is_cancelled() && Instant::now() < self.state().good_until
    }

    /// Resolves when the lease is lost or was not extended in time, also while an extension hangs.
    pub async fn ended(&self) {
        while self.is_good() {
            let good_until = self.state().good_until;
            tokio::select! {
                () = time::sleep_until(good_until.into()) => {}
                () = self.lost.cancelled() => {}
            }
        }
    }

    /// From now on only the settling decides whose the request is.
    pub(super) fn settling(&self) {
        self.state().phase = Phase::Settling;
    }

    /// The request is settled, or another worker's: there is nothing to hand back.
    pub(super) fn over(&self) {
        self.state().phase = Phase::Over;
        self.consumer.forget(&self.delivery.id);
    }

    fn touched(&self, good_until: Instant, lost: &[String]) {
        let mut state = self.state();
        if !lost.contains(&self.delivery.id) {
            state.good_until = good_until;
        } else if state.phase == Phase::Running {
            self.lost.cancel();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.state().phase == Phase::Over {
            return;
        }
        self.consumer.forget(&self.delivery.id);
        if !self.is_good() {
            return;
        }
        let (consumer, id) = (self.consumer.clone(), self.delivery.id.clone());
        let hand_back = async move {
            match time::timeout(consumer.options.visibility, consumer.queue.hand_back(&consumer.me, &id)).await {
                Ok(Ok(_)) => tracing::info!(id, "request handed back"),
                Ok(Err(error)) => tracing::warn!(id, error = %chain(&error), "request not handed back, it will lapse"),
                Err(_) => tracing::warn!(id, "request not handed back in time, it will lapse"),
            }
        };
        self.consumer.open.spawn_on(hand_back, &self.consumer.runtime);
    }
}

/// How long a claim that met a last delivery waits before it asks again.
pub(super) fn later_pause(visibility: Duration) -> Duration {
    (visibility / 20).clamp(Duration::from_millis(20), Duration::from_millis(500))
}
