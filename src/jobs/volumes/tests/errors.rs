//! What fails is not marked, is tried again with growing gaps, and stops nobody else.

use super::*;
use crate::volumes::memory::Fault;

fn stuck() -> Fault {
    Fault::Fails { status: 500, message: "operation not permitted".to_owned() }
}

/// Does something to the world at the removal of one volume, before it takes effect.
fn at_removal_of(world: &World, thread: &str, act: impl Fn(&World) + Send + Sync + 'static) {
    let (world, name) = (world.clone(), volume(thread));
    let engine = world.engine.clone();
    engine.before_removal(move |volume| {
        if volume == name {
            act(&world);
        }
        Box::pin(std::future::ready(()))
    });
}

#[tokio::test]
async fn what_fails_is_named_and_tried_again_with_growing_gaps_until_it_is_gone() {
    let world = World::new();
    world.closed("1").await;
    world.closed("2").await;
    world.engine.set_fault_of(&volume("1"), Some(stuck()));
    let swept = world.sweep().await;
    assert_eq!(swept.deleted(), [("volumes", 1)]);
    let [failure] = &swept.tally.failures[..] else { panic!("{:?}", swept.tally.failures) };
    let told = "memory: remove a volume: operation not permitted (status 500)";
    assert_eq!((failure.item.as_str(), failure.error.as_str()), ("ha_ws_1", told));
    let mut now = 0;
    for (attempts, gap) in [(1, 1), (2, 2), (3, 4), (4, 8)] {
        let asked = world.engine.asked().len();
        assert_eq!(world.backoffs().await["1"], Backoff { attempts, next_at: at(now + gap) });
        world.clock.set(at(now + gap) - TimeDelta::milliseconds(1));
        assert_eq!(world.sweep().await.kept(), [("waiting", 1)]);
        assert_eq!(world.engine.asked().len(), asked, "not before it is due");
        now += gap;
        world.clock.set(at(now));
        assert_eq!(world.sweep().await.tally.failed, 1);
    }
    assert!(!world.is_marked("1").await);
    assert!(world.engine.lose(&volume("1")));
    assert_eq!(world.sweep().await.deleted(), [("absent", 1)]);
    assert!(world.is_marked("1").await && world.backoffs().await.is_empty());
}

#[tokio::test]
async fn a_hundred_stuck_ones_starve_nobody() {
    let world = World::new();
    for thread in 0..100 {
        let stuck_one = volume(&format!("stuck-{thread}"));
        world.engine.add_aged(&stuck_one, at(-1_000));
        world.engine.set_fault_of(&stuck_one, Some(stuck()));
        world.marks.set(&format!("stuck-{thread}"), true).await;
        world.engine.add_aged(&volume(&format!("fine-{thread}")), at(-10));
        world.marks.set(&format!("fine-{thread}"), true).await;
    }
    assert_eq!(world.sweep().await.tally.failed, 100);
    // The next tick comes before any of them is due again.
    let swept = world.sweep().await;
    assert_eq!((swept.deleted(), swept.kept()), (vec![("volumes", 100)], vec![("waiting", 100)]));
}

#[tokio::test]
async fn what_waits_for_its_first_try_comes_before_what_has_failed() {
    let mut world = World::new();
    world.config.concurrency = count(1);
    for (thread, minutes) in [("failed", -100), ("new", -10)] {
        world.engine.add_aged(&volume(thread), at(minutes));
        world.marks.set(thread, true).await;
    }
    world.ledger.put_backoff("volumes@host", "failed", &Backoff { attempts: 1, next_at: at(-5) }).await.unwrap();
    assert_eq!(world.sweep().await.names, ["ha_ws_new", "ha_ws_failed"]);
    assert!(world.backoffs().await.is_empty(), "what is gone has no back-off");
}

#[tokio::test]
async fn a_container_that_comes_between_list_and_removal_keeps_its_volume() {
    let world = World::new();
    world.closed("1").await;
    at_removal_of(&world, "1", |world| world.engine.add_user(&volume("1"), user("created"), Bond::Mount));
    let swept = world.sweep().await;
    assert!(swept.is_done());
    assert_eq!((swept.kept(), swept.deleted()), (vec![("referenced", 1)], vec![]));
    assert!(world.engine.has(&volume("1")) && !world.is_marked("1").await);
    assert_eq!(world.backoffs().await["1"].next_at, at(1));
    // The list has the container by now: nothing is left to wait for.
    assert_eq!(world.sweep().await.kept(), [("referenced", 1)]);
    assert!(world.backoffs().await.is_empty());
}

#[tokio::test]
async fn a_thread_that_is_opened_before_its_turn_keeps_its_volume() {
    let world = World::new();
    let first = u64::try_from(Volumes::batch_max(&world.config)).unwrap();
    for thread in 0..=first {
        world.engine.add_aged(&volume(&thread.to_string()), at(thread.cast_signed() - 1_000));
        world.marks.set(&thread.to_string(), true).await;
    }
    let last = first.to_string();
    at_removal_of(&world, "0", move |world| {
        assert!(world.marks.try_set(&first.to_string(), false), "its turn has come");
        for held in 0..first {
            assert!(!world.marks.try_set(&held.to_string(), false), "the row of {held} is not held");
        }
    });
    let swept = world.sweep().await;
    assert_eq!((swept.kept(), swept.deleted()), (vec![("changed", 1)], vec![("volumes", first)]));
    assert!(world.engine.has(&volume(&last)) && !world.is_marked(&last).await);
}

/// Who wants one of the rows does not wait for the whole batch.
#[tokio::test]
async fn rows_are_let_go_where_removals_last_long() {
    let mut world = World::new();
    world.config.concurrency = count(1);
    for (thread, minutes) in [("1", -2), ("2", -1)] {
        world.engine.add_aged(&volume(thread), at(minutes));
        world.marks.set(thread, true).await;
    }
    let (threads, engine) = (world.marks.clone(), world.engine.clone());
    engine.before_removal(move |_| {
        let opener = threads.clone();
        // Opens the other thread as soon as that is possible, which is while this one is settled.
        tokio::spawn(async move { opener.set("2", false).await });
        Box::pin(tokio::time::sleep(HOLD))
    });
    let swept = world.sweep().await;
    assert_eq!((swept.kept(), swept.deleted()), (vec![("changed", 1)], vec![("volumes", 1)]));
    assert!(world.engine.has(&volume("2")) && world.is_marked("1").await);
}

/// One row whose mark the database refuses does not keep the marks from the others of its batch.
#[tokio::test]
async fn a_mark_that_is_refused_is_that_of_one_thread() {
    let world = World::new();
    for thread in ["1", "2", "3"] {
        world.closed(thread).await;
    }
    world.marks.refuse("2");
    let swept = world.sweep().await;
    assert_eq!((swept.deleted(), swept.tally.failed), (vec![("volumes", 3)], 1));
    assert_eq!(swept.tally.failures[0].item, "ha_ws_2");
    assert!(world.is_marked("1").await && !world.is_marked("2").await && world.is_marked("3").await);
}

#[tokio::test]
async fn an_engine_that_is_down_ends_the_sweep_before_anything_is_marked() {
    let world = World::new();
    world.closed("1").await;
    world.marks.set("gone", true).await;
    world.engine.set_fault(Some(Fault::Down));
    let swept = world.sweep().await;
    let told = crate::report::chain(&swept.stopped.unwrap_err());
    assert_eq!(told, "memory: list volumes: unavailable: it is down");
    assert_eq!((world.marks.marks(), world.backoffs().await.len()), (0, 0));
    world.engine.set_fault(None);
    assert_eq!(world.sweep().await.deleted(), [("absent", 1), ("volumes", 1)]);
}

#[tokio::test]
async fn an_engine_that_goes_down_on_the_way_ends_the_sweep() {
    let mut world = World::new();
    world.config.concurrency = count(1);
    for thread in ["1", "2", "3", "4"] {
        world.closed(thread).await;
    }
    at_removal_of(&world, "2", |world| world.engine.set_fault(Some(Fault::Down)));
    let swept = world.sweep().await;
    assert!(matches!(&swept.stopped, Err(JobError::Engine(error)) if error.ends_the_sweep()));
    assert_eq!((swept.names, swept.tally.failed), (vec!["ha_ws_1".to_owned()], 1));
    assert_eq!((world.engine.asked().len(), world.marks.marks()), (2, 1));
    at_removal_of(&world, "2", |_| {});
    world.engine.set_fault(None);
    world.clock.set(at(1));
    assert_eq!(world.sweep().await.deleted(), [("volumes", 3)]);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_hangs_is_waited_for_no_longer_than_the_lock_is_trusted() {
    for (ttl, limit) in [(Duration::from_mins(10), 10.0), (Duration::from_secs(5), 4.5)] {
        let world = World { ttl, ..World::new() };
        world.closed("1").await;
        world.engine.set_fault_of(&volume("1"), Some(Fault::HangsLate));
        let swept = world.sweep().await;
        let Err(JobError::Engine(error)) = &swept.stopped else { panic!("{:?}", swept.stopped) };
        let crate::volumes::EngineError::TimedOut { limit: waited, .. } = &**error else { panic!("{error}") };
        assert!((limit - 0.5..=limit).contains(&waited.as_secs_f64()), "{waited:?}");
        assert!(!world.is_marked("1").await && !world.engine.has(&volume("1")));
        world.engine.set_fault_of(&volume("1"), None);
        assert_eq!(world.sweep().await.deleted(), [("absent", 1)], "it was late, and is gone");
    }
}

#[tokio::test]
async fn a_database_that_goes_away_after_the_removal_is_told_of_it_by_the_next_sweep() {
    let world = World::new();
    world.closed("1").await;
    at_removal_of(&world, "1", |world| world.marks.fail(Some("shut down")));
    let swept = world.sweep().await;
    assert!(matches!(swept.stopped, Err(JobError::Marks(_))));
    assert_eq!((swept.deleted(), swept.tally.failed), (vec![("volumes", 1)], 1));
    assert_eq!(swept.tally.failures[0].item, "ha_ws_1");
    world.marks.fail(None);
    assert!(!world.is_marked("1").await);
    assert_eq!(world.backoffs().await["1"].attempts, 1);
    let swept = world.sweep().await;
    assert_eq!((swept.deleted(), world.engine.asked().len()), (vec![("absent", 1)], 1));
    assert!(world.is_marked("1").await && world.backoffs().await.is_empty());
}

#[tokio::test]
async fn back_offs_of_what_is_no_candidate_any_more_are_forgotten() {
    let world = World::new();
    for thread in ["opened", "gone", "referenced", "stuck"] {
        world.closed(thread).await;
        world.engine.set_fault_of(&volume(thread), Some(stuck()));
    }
    assert_eq!(world.sweep().await.tally.failed, 4);
    assert_eq!(world.backoffs().await.len(), 4);
    world.marks.set("opened", false).await;
    assert!(world.engine.lose(&volume("gone")));
    world.engine.add_user(&volume("referenced"), user("running"), Bond::Mount);
    world.sweep().await;
    assert_eq!(world.backoffs().await.into_keys().collect::<Vec<_>>(), ["stuck"]);
}
