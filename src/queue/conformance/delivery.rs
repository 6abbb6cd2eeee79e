//! The cases of what is taken off a queue: deliveries, how they are lost, and how they end.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::{Instant, sleep};

use super::{LONG, SHORT, World, enqueue, next, next_while, options, report, request, run};
use crate::{
    queue::{Claim, Delivery, Stats},
    report::{Mode, Outcome, Report},
};

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
    assert!(asked.elapsed() >= SHORT * 3 / 4, "taken after {:?}", asked.elapsed());
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

/// What comes with a settling is a first delivery like any other, and nothing comes to who settles what is not its own.
pub async fn may_bring_the_next_with_the_settling(world: &dyn World) {
    let queue = world.queue(options(LONG));
    let (first, second) = (enqueue(&*queue, "a").await, enqueue(&*queue, "b").await);
    run(&*queue, "w").await;
    let refused = queue.finish_then_claim("other", &first, &report("r0", "a", Outcome::Done)).await.unwrap();
    assert_eq!(refused, (false, Claim::Empty));
    let (is_ours, next) = queue.finish_then_claim("w", &first, &report("r1", "a", Outcome::Done)).await.unwrap();
    assert!(is_ours);
    let expected = Delivery { id: second.clone(), request: request("b", Mode::Apply), number: 1 };
    match next {
        Claim::Empty => assert_eq!(run(&*queue, "w").await, expected),
        next => assert_eq!(next, Claim::Run(expected)),
    }
    let last = queue.finish_then_claim("w", &second, &report("r2", "b", Outcome::Done)).await.unwrap();
    assert_eq!(last, (true, Claim::Empty));
    assert_eq!(queue.stats().await.unwrap(), Stats::default());
    assert_eq!((world.reports("a").await.len(), world.reports("b").await.len()), (1, 1));
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
    assert_eq!(
        (dead.len(), dead[0].id.as_str(), dead[0].reason.as_str(), dead[0].deliveries),
        (1, &*id, "lost 3 times", 3)
    );
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

/// A request is there while it waits and while it runs, and gone with its settling.
pub async fn has_a_request_until_it_is_settled(world: &dyn World) {
    let queue = world.queue(options(LONG));
    let (first, second) = (enqueue(&*queue, "a").await, enqueue(&*queue, "b").await);
    assert!(queue.has(&first).await.unwrap());
    assert_eq!(run(&*queue, "w").await.id, first);
    assert!(queue.has(&first).await.unwrap());
    assert!(queue.finish("w", &first, &report("01A", "a", Outcome::Done)).await.unwrap());
    assert!(!queue.has(&first).await.unwrap());
    assert_eq!(run(&*queue, "w").await.id, second);
    assert!(queue.bury("w", &second, "no", None).await.unwrap());
    assert!(!queue.has(&second).await.unwrap());
}
