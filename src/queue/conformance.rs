//! What every queue promises, as a suite: `queue_conformance!` writes one test per case for one answer.
//!
//! ```ignore
//! apalis_janitor::queue_conformance!(redis, RedisWorld::start().await);
//! ```

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use tokio::time::{Instant, sleep};

use super::{Claim, Delivery, Enqueued, Queue, QueueError, QueueOptions, Request, Stats, Ticked};
use crate::report::{Counts, Mode, Outcome, Report};

/// How long a case waits for what must come.
const COMES_MAX: Duration = Duration::from_secs(10);
/// A visibility that does not end during a case.
const LONG: Duration = Duration::from_secs(60);
/// A visibility that a case outlasts.
const SHORT: Duration = Duration::from_millis(400);

/// One answer's own empty store.
#[async_trait]
pub trait World: Send + Sync {
    /// Its queue. Each call is another process of the same cluster.
    fn queue(&self, options: QueueOptions) -> Arc<dyn Queue>;

    /// Appends an entry as a program without this library would.
    async fn append(&self, fields: &[(&str, &str)]);

    /// The reports of `job` as they are stored, newest first.
    async fn reports(&self, job: &str) -> Vec<Report>;

    /// When `job` last succeeded, as it is stored.
    async fn success(&self, job: &str) -> Option<DateTime<Utc>>;
}

/// Writes one test per case for the queue of a [`World`], which the expression makes.
#[macro_export]
macro_rules! queue_conformance {
    ($answer:ident, $world:expr) => {
        $crate::queue_conformance!($answer, $world;
            merges_a_request_that_waits
            merges_by_key
            does_not_merge_after_delivery
            does_not_merge_ticks_with_requests
            reads_what_any_program_appends
            delivers_in_order_and_each_once
            wakes_a_claim_that_waits
            gives_a_lost_delivery_to_another
            keeps_a_delivery_that_is_touched
            refuses_a_consumer_that_lost_its_delivery
            reports_an_exhausted_delivery
            gives_a_last_delivery_only_to_an_idle_worker
            delivers_again_after_the_pause
            does_not_count_what_is_handed_back
            buries_what_cannot_be_read_and_goes_on
            refuses_above_the_backlog_limit
            takes_a_tick_once_among_many
            refuses_ticks_that_are_old_or_ahead
            starts_a_new_job_from_now
            records_one_report_with_the_settling
            remembers_the_last_success
            lists_retries_and_drops_the_dead
            counts_what_waits_runs_and_is_dead
            keeps_deliveries_when_a_consumer_leaves
        );
    };
    ($answer:ident, $world:expr; $($case:ident)*) => {
        mod $answer {
            #[allow(unused_imports, reason = "the expression decides what it needs")]
            use super::*;
            $(
                #[tokio::test]
                async fn $case() {
                    $crate::queue::conformance::$case(&$world).await;
                }
            )*
        }
    };
}

fn options(visibility: Duration) -> QueueOptions {
    QueueOptions { visibility, max_deliveries: 3, backlog_max: 100 }
}

/// A request by hand.
fn request(job: &str, mode: Mode) -> Request {
    Request { job: job.to_owned(), mode, tick: None }
}

fn tick_at(job: &str, at: DateTime<Utc>) -> Request {
    Request { job: job.to_owned(), mode: Mode::Apply, tick: Some(at) }
}

/// The store's clock, to the second; the stores of a test share this machine's.
fn now() -> DateTime<Utc> {
    Utc::now().duration_trunc(TimeDelta::seconds(1)).expect("a second divides the epoch")
}

/// A report with `id`, of a job that was `done`.
#[must_use]
pub fn report(id: &str, job: &str, outcome: Outcome) -> Report {
    Report {
        id: id.to_owned(),
        version: "0.0.0".to_owned(),
        attempt: 1,
        job: job.to_owned(),
        kind: "retention".to_owned(),
        mode: Mode::Apply,
        outcome,
        reason: None,
        tick: None,
        host: "test".to_owned(),
        fence: Some(7),
        started_at: now(),
        seconds: 0.5,
        cutoff: None,
        planned: Counts::default(),
        deleted: Counts::default(),
        kept: Counts::default(),
        bytes_freed: 0,
        batches: 0,
        failures: Vec::new(),
    }
}

async fn enqueue(queue: &dyn Queue, job: &str) -> String {
    match queue.enqueue(&request(job, Mode::Apply), None).await.unwrap() {
        Enqueued::New(id) => id,
        Enqueued::Merged(id) => panic!("merged with {id}"),
    }
}

/// What comes next, however long that takes.
async fn next(queue: &dyn Queue, me: &str) -> Claim {
    next_while(queue, me, false).await
}

async fn next_while(queue: &dyn Queue, me: &str, busy: bool) -> Claim {
    let deadline = Instant::now() + COMES_MAX;
    loop {
        match queue.claim(me, busy).await.unwrap() {
            Claim::Empty => assert!(Instant::now() < deadline, "nothing came"),
            claim => return claim,
        }
    }
}

async fn run(queue: &dyn Queue, me: &str) -> Delivery {
    match next(queue, me).await {
        Claim::Run(delivery) => delivery,
        claim => panic!("{claim:?}"),
    }
}

/// A request for a job and mode that still waits is merged; another mode or job is not.
pub async fn merges_a_request_that_waits(world: &dyn World) {
    let queue = world.queue(options(LONG));
    let id = enqueue(&*queue, "a").await;
    assert_eq!(queue.enqueue(&request("a", Mode::Apply), None).await.unwrap(), Enqueued::Merged(id));
    assert!(matches!(queue.enqueue(&request("a", Mode::DryRun), None).await.unwrap(), Enqueued::New(_)));
    enqueue(&*queue, "b").await;
    assert_eq!(queue.stats().await.unwrap().waiting, 3);
}

/// Requests of one key are merged, those of another are not.
pub async fn merges_by_key(world: &dyn World) {
    let queue = world.queue(options(LONG));
    let apply = request("a", Mode::Apply);
    let Enqueued::New(first) = queue.enqueue(&apply, Some("x")).await.unwrap() else { panic!("nothing waited") };
    assert_eq!(queue.enqueue(&apply, Some("x")).await.unwrap(), Enqueued::Merged(first.clone()));
    assert!(matches!(queue.enqueue(&apply, Some("y")).await.unwrap(), Enqueued::New(_)));
    assert_eq!(run(&*queue, "w").await.id, first);
    assert!(matches!(queue.enqueue(&apply, Some("x")).await.unwrap(), Enqueued::New(_)), "the first was delivered");
}

/// What was delivered may be past the point where a new request matters, so nothing merges with it.
pub async fn does_not_merge_after_delivery(world: &dyn World) {
    let queue = world.queue(options(LONG));
    let first = enqueue(&*queue, "a").await;
    assert_eq!(run(&*queue, "w").await.id, first);
    let second = enqueue(&*queue, "a").await;
    assert_ne!(first, second);
    assert!(queue.hand_back("w", &first).await.unwrap());
    assert_eq!(queue.enqueue(&request("a", Mode::Apply), None).await.unwrap(), Enqueued::Merged(second));
}

/// A tick that waits does not stand for a request by hand, nor the other way round.
pub async fn does_not_merge_ticks_with_requests(world: &dyn World) {
    let queue = world.queue(options(LONG));
    assert!(matches!(queue.tick(&tick_at("a", now())).await.unwrap(), Ticked::New(_)));
    enqueue(&*queue, "a").await;
    assert!(matches!(queue.tick(&tick_at("a", now() + TimeDelta::seconds(5))).await.unwrap(), Ticked::New(_)));
    assert_eq!(queue.stats().await.unwrap().waiting, 3);
}

/// An entry that another program wrote is a request.
pub async fn reads_what_any_program_appends(world: &dyn World) {
    let queue = world.queue(options(LONG));
    world.append(&[("job", "old-runs"), ("mode", "dry_run")]).await;
    let delivery = run(&*queue, "w").await;
    assert_eq!((delivery.request, delivery.number), (request("old-runs", Mode::DryRun), 1));
    let at = now();
    queue.tick(&tick_at("old-runs", at)).await.unwrap();
    assert_eq!(run(&*queue, "w").await.request, tick_at("old-runs", at));
}

/// Requests come first in, first out, to one worker each.
pub async fn delivers_in_order_and_each_once(world: &dyn World) {
    let queue = world.queue(options(LONG));
    let mut sent = Vec::new();
    for n in 0..6 {
        sent.push(enqueue(&*queue, &format!("job-{n}")).await);
    }
    let other = world.queue(options(LONG));
    let mut got = Vec::new();
    for n in 0..6 {
        let (queue, me) = if n % 2 == 0 { (&queue, "w1") } else { (&other, "w2") };
        got.push(run(&**queue, me).await.id);
    }
    assert_eq!(got, sent);
    assert_eq!(queue.claim("w1", false).await.unwrap(), Claim::Empty);
}

/// A claim that waits gets what is enqueued meanwhile.
pub async fn wakes_a_claim_that_waits(world: &dyn World) {
    let queue = world.queue(options(LONG));
    assert_eq!(queue.claim("w", false).await.unwrap(), Claim::Empty);
    let (claim, id) = tokio::join!(next(&*queue, "w"), enqueue(&*queue, "a"));
    assert_eq!(claim, Claim::Run(Delivery { id, request: request("a", Mode::Apply), number: 1 }));
}

/// A worker that vanishes loses its delivery to another, with the next number.
pub async fn gives_a_lost_delivery_to_another(world: &dyn World) {
    let queue = world.queue(options(SHORT));
    let id = enqueue(&*queue, "a").await;
    assert_eq!(run(&*queue, "gone").await.number, 1);
    let asked = Instant::now();
    assert_eq!(run(&*queue, "w").await, Delivery { id, request: request("a", Mode::Apply), number: 2 });
    assert!(asked.elapsed() >= SHORT - SHORT / 4, "taken after {:?}", asked.elapsed());
}

/// A delivery that is extended stays where it is.
pub async fn keeps_a_delivery_that_is_touched(world: &dyn World) {
    let queue = world.queue(options(SHORT));
    let id = enqueue(&*queue, "a").await;
    run(&*queue, "w1").await;
    let until = Instant::now() + SHORT * 3;
    let touching = async {
        while Instant::now() < until {
            assert_eq!(queue.touch("w1", std::slice::from_ref(&id)).await.unwrap(), Vec::<String>::new());
            sleep(SHORT / 8).await;
        }
    };
    let other = world.queue(options(SHORT));
    let taking = async {
        while Instant::now() + SHORT / 2 < until {
            assert_eq!(other.claim("w2", false).await.unwrap(), Claim::Empty);
        }
    };
    tokio::join!(touching, taking);
    assert_eq!(queue.touch("w1", &[id.clone(), "0-1".to_owned()]).await.unwrap(), vec!["0-1".to_owned()]);
}

/// Who lost a delivery settles nothing, and cannot take it back by touching it.
pub async fn refuses_a_consumer_that_lost_its_delivery(world: &dyn World) {
    let queue = world.queue(options(SHORT));
    let id = enqueue(&*queue, "a").await;
    run(&*queue, "slow").await;
    assert_eq!(run(&*queue, "w").await.number, 2);
    assert_eq!(queue.touch("slow", std::slice::from_ref(&id)).await.unwrap(), vec![id.clone()]);
    assert!(!queue.finish("slow", &id, &report("r1", "a", Outcome::Done)).await.unwrap());
    assert!(!queue.retry("slow", &id, Duration::ZERO).await.unwrap());
    assert!(!queue.hand_back("slow", &id).await.unwrap());
    assert!(!queue.bury("slow", &id, "late", Some(&report("r1", "a", Outcome::Failed))).await.unwrap());
    assert_eq!(world.reports("a").await, Vec::new());
    let good = report("r2", "a", Outcome::Done);
    assert!(queue.finish("w", &id, &good).await.unwrap());
    assert_eq!(world.reports("a").await, vec![good]);
    assert_eq!(queue.stats().await.unwrap(), Stats::default());
}

/// After `max_deliveries` lost ones a request is not run again: it is handed out to be buried, with who had it last.
pub async fn reports_an_exhausted_delivery(world: &dyn World) {
    let queue = world.queue(options(SHORT));
    let id = enqueue(&*queue, "a").await;
    for number in 1..=3 {
        assert_eq!(run(&*queue, &format!("w{number}")).await.number, number);
    }
    let delivery = Delivery { id: id.clone(), request: request("a", Mode::Apply), number: 3 };
    assert_eq!(next(&*queue, "w4").await, Claim::Exhausted { delivery, last: "w3".to_owned() });
    let failed = report("r1", "a", Outcome::Failed);
    assert!(queue.bury("w4", &id, "lost 3 times", Some(&failed)).await.unwrap());
    assert_eq!(world.reports("a").await, vec![failed]);
    let dead = queue.dead(10).await.unwrap();
    assert_eq!((dead.len(), dead[0].id.as_str(), dead[0].reason.as_str(), dead[0].deliveries), (1, &*id, "lost 3 times", 3));
    assert_eq!(queue.stats().await.unwrap(), Stats { waiting: 0, running: 0, dead: 1 });
}

/// A busy worker is told to come back: a job that kills its process must not take others along.
pub async fn gives_a_last_delivery_only_to_an_idle_worker(world: &dyn World) {
    let queue = world.queue(options(SHORT));
    enqueue(&*queue, "a").await;
    run(&*queue, "w1").await;
    run(&*queue, "w2").await;
    assert_eq!(next_while(&*queue, "w3", true).await, Claim::Later);
    assert_eq!(run(&*queue, "w3").await.number, 3);
}

/// What failed comes again after the pause, counted.
pub async fn delivers_again_after_the_pause(world: &dyn World) {
    let queue = world.queue(options(Duration::from_secs(2)));
    let id = enqueue(&*queue, "a").await;
    run(&*queue, "w1").await;
    let given = Instant::now();
    assert!(queue.retry("w1", &id, Duration::from_secs(1)).await.unwrap());
    assert!(!queue.finish("w1", &id, &report("r1", "a", Outcome::Done)).await.unwrap(), "it is nobody's now");
    assert_eq!(run(&*queue, "w2").await.number, 2);
    assert!(given.elapsed() >= Duration::from_millis(900), "came after {:?}", given.elapsed());
}

/// What did not run comes again at once, as if it had not been delivered.
pub async fn does_not_count_what_is_handed_back(world: &dyn World) {
    let queue = world.queue(options(LONG));
    let id = enqueue(&*queue, "a").await;
    for _ in 0..5 {
        let delivery = run(&*queue, "w").await;
        assert_eq!((&delivery.id, delivery.number), (&id, 1));
        assert!(queue.hand_back("w", &id).await.unwrap());
    }
}

/// An entry that is no request is handed out to be buried, and the next one comes.
pub async fn buries_what_cannot_be_read_and_goes_on(world: &dyn World) {
    let queue = world.queue(options(LONG));
    world.append(&[("job", "a"), ("mode", "delete everything")]).await;
    let good = enqueue(&*queue, "a").await;
    let Claim::Unreadable { id, reason } = next(&*queue, "w").await else { panic!("it is no request") };
    assert!(reason.contains("delete everything"), "{reason}");
    assert!(queue.bury("w", &id, &reason, None).await.unwrap());
    assert_eq!(run(&*queue, "w").await.id, good);
    let dead = queue.dead(10).await.unwrap();
    let fields = [("job", "a"), ("mode", "delete everything")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!((dead.len(), &dead[0].reason, &dead[0].fields), (1, &reason, &fields.to_vec()));
}

/// One too many is refused, ticks too, and nothing that waits goes.
pub async fn refuses_above_the_backlog_limit(world: &dyn World) {
    let queue = world.queue(QueueOptions { backlog_max: 3, ..options(LONG) });
    for n in 0..3 {
        enqueue(&*queue, &format!("job-{n}")).await;
    }
    let refused = queue.enqueue(&request("job-3", Mode::Apply), None).await;
    assert!(matches!(refused, Err(QueueError::Full(3))), "{refused:?}");
    assert!(matches!(queue.enqueue(&request("job-0", Mode::Apply), None).await.unwrap(), Enqueued::Merged(_)));
    let at = now();
    assert!(matches!(queue.tick(&tick_at("t", at)).await, Err(QueueError::Full(3))));
    assert_eq!(queue.stats().await.unwrap().waiting, 3);
    run(&*queue, "w").await;
    assert!(matches!(queue.tick(&tick_at("t", at)).await.unwrap(), Ticked::New(_)), "the refused tick is not spent");
}

/// However many beats bring a tick, it is enqueued once.
pub async fn takes_a_tick_once_among_many(world: &dyn World) {
    let (at, mut beats) = (now(), tokio::task::JoinSet::new());
    for _ in 0..16 {
        let queue = world.queue(options(LONG));
        beats.spawn(async move { queue.tick(&tick_at("a", at)).await.unwrap() });
    }
    let ticked = beats.join_all().await;
    assert_eq!(ticked.iter().filter(|ticked| matches!(ticked, Ticked::New(_))).count(), 1, "{ticked:?}");
    assert_eq!(world.queue(options(LONG)).stats().await.unwrap().waiting, 1);
}

/// A tick must be after the last one, and at most a minute ahead; another job's ticks are its own.
pub async fn refuses_ticks_that_are_old_or_ahead(world: &dyn World) {
    let (queue, at) = (world.queue(options(LONG)), now());
    let second = TimeDelta::seconds(1);
    assert!(matches!(queue.tick(&tick_at("a", at)).await.unwrap(), Ticked::New(_)));
    assert_eq!(queue.tick(&tick_at("a", at)).await.unwrap(), Ticked::Old);
    assert_eq!(queue.tick(&tick_at("a", at - second)).await.unwrap(), Ticked::Old);
    assert_eq!(queue.tick(&tick_at("a", at + second * 120)).await.unwrap(), Ticked::Ahead);
    assert!(matches!(queue.tick(&tick_at("a", at + second * 55)).await.unwrap(), Ticked::New(_)));
    assert!(matches!(queue.tick(&tick_at("b", at - second)).await.unwrap(), Ticked::New(_)));
    assert_eq!(queue.last_tick("a", at).await.unwrap(), at + second * 55);
}

/// A job that was never seen has `now` as its last tick, and keeps that.
pub async fn starts_a_new_job_from_now(world: &dyn World) {
    let (queue, at) = (world.queue(options(LONG)), now());
    assert_eq!(queue.last_tick("new", at).await.unwrap(), at);
    assert_eq!(queue.last_tick("new", at + TimeDelta::seconds(9)).await.unwrap(), at);
    assert_eq!(queue.tick(&tick_at("new", at)).await.unwrap(), Ticked::Old);
}

/// Settling and recording are one step; the same settling sent twice is one report.
pub async fn records_one_report_with_the_settling(world: &dyn World) {
    let queue = world.queue(options(LONG));
    let id = enqueue(&*queue, "a").await;
    run(&*queue, "w").await;
    let done = report("r1", "a", Outcome::Done);
    assert!(queue.finish("w", &id, &done).await.unwrap());
    assert!(queue.finish("w", &id, &done).await.unwrap(), "the first answer may have been lost");
    assert!(!queue.finish("w", &id, &report("r2", "a", Outcome::Done)).await.unwrap());
    assert_eq!(world.reports("a").await, vec![done]);
    assert_eq!(queue.stats().await.unwrap(), Stats::default());
}

/// Only what was done, and not a dry run, is a success.
pub async fn remembers_the_last_success(world: &dyn World) {
    let queue = world.queue(options(LONG));
    let dry = Report { mode: Mode::DryRun, ..report("r1", "a", Outcome::Done) };
    for report in [dry, report("r2", "a", Outcome::Failed), report("r3", "a", Outcome::Limited)] {
        let id = enqueue(&*queue, "a").await;
        run(&*queue, "w").await;
        assert!(queue.finish("w", &id, &report).await.unwrap());
        assert_eq!(world.success("a").await, None);
    }
    let id = enqueue(&*queue, "a").await;
    run(&*queue, "w").await;
    let done = report("r4", "a", Outcome::Done);
    assert!(queue.finish("w", &id, &done).await.unwrap());
    assert_eq!(world.success("a").await, Some(done.started_at));
}

/// A dead request can be put back, without its tick and its count, or forgotten.
pub async fn lists_retries_and_drops_the_dead(world: &dyn World) {
    let queue = world.queue(options(LONG));
    let Ticked::New(first) = queue.tick(&tick_at("a", now())).await.unwrap() else { panic!("nothing ticked") };
    let second = enqueue(&*queue, "b").await;
    for id in [&first, &second] {
        assert_eq!(&run(&*queue, "w").await.id, id);
        assert!(queue.bury("w", id, "no luck", None).await.unwrap());
    }
    let ids: Vec<_> = queue.dead(10).await.unwrap().into_iter().map(|dead| dead.id).collect();
    assert_eq!(ids, [second.clone(), first.clone()]);
    assert_eq!(queue.dead(1).await.unwrap().len(), 1);
    assert!(queue.dead_retry(&first).await.unwrap());
    assert!(!queue.dead_retry(&first).await.unwrap());
    let again = run(&*queue, "w").await;
    assert_eq!((again.request, again.number), (request("a", Mode::Apply), 1));
    assert!(queue.dead_drop(&second).await.unwrap());
    assert!(!queue.dead_drop(&second).await.unwrap());
    assert_eq!(queue.stats().await.unwrap(), Stats { waiting: 0, running: 1, dead: 0 });
}

/// The three numbers of a queue.
pub async fn counts_what_waits_runs_and_is_dead(world: &dyn World) {
    let queue = world.queue(options(LONG));
    assert_eq!(queue.stats().await.unwrap(), Stats::default());
    for job in ["a", "b", "c", "d"] {
        enqueue(&*queue, job).await;
    }
    let first = run(&*queue, "w").await;
    run(&*queue, "w").await;
    assert!(queue.bury("w", &first.id, "no luck", None).await.unwrap());
    assert_eq!(queue.stats().await.unwrap(), Stats { waiting: 2, running: 1, dead: 1 });
}

/// A consumer that leaves with something in hand loses nothing.
pub async fn keeps_deliveries_when_a_consumer_leaves(world: &dyn World) {
    let queue = world.queue(options(SHORT));
    let ids = BTreeSet::from([enqueue(&*queue, "a").await, enqueue(&*queue, "b").await]);
    run(&*queue, "w1").await;
    run(&*queue, "w1").await;
    queue.leave("w1").await.unwrap();
    queue.leave("never-there").await.unwrap();
    let got = BTreeSet::from([run(&*queue, "w2").await.id, run(&*queue, "w2").await.id]);
    assert_eq!(got, ids);
}
