//! The cases of what is put on a queue: requests, ticks, entries of other programs, the dead list.

use chrono::TimeDelta;

use super::{LONG, World, enqueue, next, now, options, request, run, tick_at};
use crate::{
    queue::{Claim, Enqueued, QueueError, QueueOptions, Stats, Ticked},
    report::Mode,
};

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

/// A job's name or a key that a worker could not read is refused, and nothing is put on the queue.
pub async fn refuses_a_name_that_could_not_be_read_again(world: &dyn World) {
    let queue = world.queue(options(LONG));
    for (job, key) in [("", None), ("a\nb", None), (&*"a".repeat(201), None), ("a", Some("")), ("a", Some("k\0"))] {
        let refused = queue.enqueue(&request(job, Mode::Apply), key).await;
        assert!(matches!(refused, Err(QueueError::Invalid(_))), "{job:?}, {key:?}: {refused:?}");
    }
    assert_eq!(queue.stats().await.unwrap().waiting, 0);
    let longest = "ä".repeat(100);
    assert!(matches!(queue.enqueue(&request(&longest, Mode::Apply), Some(&longest)).await, Ok(Enqueued::New(_))));
    assert_eq!(run(&*queue, "w").await.request.job, longest);
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
    assert_eq!(queue.last_tick("a").await.unwrap(), Some(at + second * 55));
}

/// A job that was never seen has `now` as its last tick, and keeps that.
pub async fn starts_a_new_job_from_now(world: &dyn World) {
    let (queue, at) = (world.queue(options(LONG)), now());
    assert_eq!(queue.last_tick("new").await.unwrap(), None);
    assert_eq!(queue.start("new", at).await.unwrap(), at);
    assert_eq!(queue.start("new", at + TimeDelta::seconds(9)).await.unwrap(), at);
    assert_eq!(queue.last_tick("new").await.unwrap(), Some(at));
    assert_eq!(queue.tick(&tick_at("new", at)).await.unwrap(), Ticked::Old);
}

/// A host whose clock is ahead does not put a new job off: the store's clock counts.
pub async fn starts_a_new_job_by_the_earlier_clock(world: &dyn World) {
    let (queue, year) = (world.queue(options(LONG)), TimeDelta::days(365));
    let started = queue.start("new", now() + year).await.unwrap();
    assert!(started < now() + TimeDelta::minutes(1), "{started}");
    assert!(matches!(queue.tick(&tick_at("new", started + TimeDelta::seconds(1))).await.unwrap(), Ticked::New(_)));
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
