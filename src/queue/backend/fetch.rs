//! Claims requests as the worker asks for them, one at a time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use apalis_core::task::{builder::TaskBuilder, task_id::TaskId};
use tokio::time;
use tokio_util::sync::CancellationToken;

use super::{
    lease::{Consumer, Lease},
    slot::Slot,
};
use crate::{
    queue::{Claim, Delivery, QueueError},
    report::{Outcome, Report, chain},
};

/// How often the fetcher looks whether the worker stops or pauses, which apalis does not announce.
const LOOK: Duration = Duration::from_millis(250);
/// The first pause after an error; it doubles up to [`ERROR_PAUSE_DOUBLINGS`] times.
const ERROR_PAUSE: Duration = Duration::from_millis(50);
const ERROR_PAUSE_DOUBLINGS: u32 = 5;

/// The fetcher of one run of a worker.
pub(super) struct Fetcher {
    consumer: Arc<Consumer>,
    slot: Arc<Slot>,
    stop: CancellationToken,
    concurrency: usize,
    /// A last delivery, beside which nothing else is claimed.
    alone: Option<String>,
}

impl Fetcher {
    pub(super) fn new(consumer: Arc<Consumer>, slot: Arc<Slot>, stop: CancellationToken, concurrency: usize) -> Self {
        Self { consumer, slot, stop, concurrency, alone: None }
    }

    /// Fetches until the worker stops, and then leaves the queue.
    pub(super) async fn run(mut self) {
        let mut errors = 0;
        while self.until_room().await {
            match self.step().await {
                Ok(()) => errors = 0,
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "no requests, trying again");
                    self.rest(ERROR_PAUSE * 2_u32.pow(errors)).await;
                    errors = (errors + 1).min(ERROR_PAUSE_DOUBLINGS);
                }
            }
        }
        // Dropped, it is handed back.
        drop(self.slot.take_back());
        if let Err(error) = self.consumer.close().await {
            tracing::warn!(error = %chain(&error), "request not handed back, it will lapse");
        }
        // Jobs in hand are still being settled: only what has nothing is forgotten.
        if let Err(error) = self.consumer.queue.leave(&self.consumer.me).await {
            tracing::debug!(error = %chain(&error), "consumer not forgotten, it will be after a while");
        }
    }

    /// Waits until there is room for a request; `false`: the worker stops.
    async fn until_room(&self) -> bool {
        loop {
            if self.is_stopping() {
                return false;
            }
            let is_alone = self.alone.as_ref().is_some_and(|id| self.consumer.holds(id));
            let (has_next, is_paused) = (self.consumer.has_next(), self.consumer.worker.is_paused());
            let is_full = !has_next && (is_alone || self.consumer.count() >= self.concurrency);
            // A delivery that is here already goes back where the worker pauses.
            if self.slot.is_wanted() && !is_full && !is_paused || has_next && is_paused {
                return true;
            }
            tokio::select! {
                // The worker wants the next one as soon as it has one: to wake for that while it is full costs as much as a job.
                () = self.slot.wanted(), if !is_full => {}
                () = self.consumer.released.notified() => {}
                () = self.stop.cancelled() => {}
                () = time::sleep(LOOK) => {}
            }
        }
    }

    /// One claim, and what it asks for.
    async fn step(&mut self) -> Result<(), QueueError> {
        let consumer = self.consumer.clone();
        let (claim, asked) = if let Some(next) = consumer.next() {
            next
        } else {
            let asked = Instant::now();
            (consumer.queue.claim(&consumer.me, consumer.count() > 0).await?, asked)
        };
        match claim {
            Claim::Run(delivery) => self.admit(delivery, asked).await,
            Claim::Exhausted { delivery, last } => bury_exhausted(&consumer, &delivery, &last).await,
            Claim::Unreadable { id, reason } => {
                tracing::warn!(id, reason, "entry buried, it is no request");
                consumer.queue.bury(&consumer.me, &id, &reason, None).await.map(drop)
            }
            Claim::Later => {
                self.rest(super::lease::later_pause(consumer.options.visibility)).await;
                Ok(())
            }
            Claim::Empty => Ok(()),
        }
    }

    /// Offers a delivery to the worker, or gives it back where that has stopped meanwhile.
    async fn admit(&mut self, delivery: Delivery, asked: Instant) -> Result<(), QueueError> {
        let consumer = &self.consumer;
        if !self.until_gone(&delivery.id).await || self.is_stopping() || consumer.worker.is_paused() {
            return consumer.queue.hand_back(&consumer.me, &delivery.id).await.map(drop);
        }
        if delivery.number > 1 && delivery.number >= consumer.options.max_deliveries {
            self.alone = Some(delivery.id.clone());
        }
        let task = TaskBuilder::new(delivery.request.clone())
            .task_id(TaskId::from_string(delivery.id.clone()))
            // apalis counts the attempt when it begins.
            .attempt(delivery.number.saturating_sub(1) as usize)
            .max_attempts(consumer.options.max_deliveries as usize)
            .data(Lease::new(consumer.clone(), delivery, asked))
            .build();
        self.slot.put(task);
        Ok(())
    }

    /// Ends this worker's older run of the same request; `false` where it does not go.
    async fn until_gone(&self, id: &str) -> bool {
        self.consumer.cancel(id);
        let until = Instant::now() + self.consumer.options.visibility / 2;
        while self.consumer.holds(id) {
            if Instant::now() >= until {
                return false;
            }
            // Waiting for the notice alone could miss one that came before.
            let _ = time::timeout(LOOK / 10, self.consumer.released.notified()).await;
        }
        true
    }

    async fn rest(&self, pause: Duration) {
        tokio::select! { () = time::sleep(pause) => {} () = self.stop.cancelled() => {} }
    }

    fn is_stopping(&self) -> bool {
        self.stop.is_cancelled() || self.consumer.worker.is_shutting_down()
    }
}

/// A request that was delivered too often goes to the dead list, with a failed report.
async fn bury_exhausted(consumer: &Consumer, delivery: &Delivery, last: &str) -> Result<(), QueueError> {
    let reason = format!("lost {} times, last by {last}", delivery.number);
    let blank = (consumer.blank)(&delivery.request, delivery.number);
    let request = Some(delivery.id.clone());
    let report = Report { request, outcome: Outcome::Failed, reason: Some(reason.clone()), ..blank };
    if consumer.queue.bury(&consumer.me, &delivery.id, &reason, Some(&report)).await? {
        report.log();
    }
    Ok(())
}
