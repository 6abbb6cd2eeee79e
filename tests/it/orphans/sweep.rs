//! What goes, what stays, and what is said of it.

use apalis_janitor::{
    blobs::State,
    report::{Counts, Mode, Outcome},
};

use super::*;

#[tokio::test]
async fn what_a_failed_task_left_goes_after_the_grace_and_what_was_finalized_stays() {
    let world = World::new("").await;
    let kept = world.put("done", 1, "result").await;
    world.store.finalize("done", 1).await.unwrap();
    let (first, second) = (world.put("failed", 1, "half").await, world.put("failed", 1, "a result").await);
    let shared = world.put("failed", 1, "result").await;
    world.store.release("failed", 1).await.unwrap();
    assert_eq!(shared, kept);

    let early = world.sweep().await;
    assert_eq!((early.report.outcome, early.report.deleted.get("blobs")), (Outcome::Done, 0));
    assert_eq!((early.report.kept.get("referenced"), early.report.kept.get("grace")), (1, 2));

    world.catalog.advance(GRACE + HOUR);
    let paths = [world.path(first).await, world.path(second).await];
    let names =
        [world.blob(first).await.unwrap().key().to_string(), world.blob(second).await.unwrap().key().to_string()];
    let swept = world.sweep().await;
    assert_eq!((swept.report.outcome, swept.report.deleted.get("blobs")), (Outcome::Done, 2));
    assert_eq!(swept.report.bytes_freed, 12);
    assert!(names.iter().all(|name| swept.named.contains(name)), "{:?}", swept.named);
    assert!(paths.iter().all(|path| !path.exists()));
    assert_eq!((world.blob(first).await, world.blob(second).await), (None, None));
    assert!(world.path(kept).await.exists());
    let again = world.sweep().await;
    assert_eq!((again.report.planned.get("blobs"), again.report.kept.get("referenced")), (0, 1));
}

#[tokio::test]
async fn a_dry_run_names_what_a_real_run_deletes_and_changes_nothing() {
    let world = World::new("").await;
    world.orphans(30).await;
    world.put("silent", 1, "abandoned").await;
    world.catalog.advance(ABANDONED + HOUR);
    let planned = world.execute(Mode::DryRun, Narrow::default()).await;
    assert_eq!((planned.report.planned.get("blobs"), planned.report.planned.get("refs")), (30, 1));
    assert_eq!(planned.report.deleted, Counts::default());
    let mut swept = world.sweep().await;
    let mut named = planned.named;
    named.sort();
    swept.named.sort();
    assert_eq!((named.len(), named), (30, swept.named));
    assert_eq!(swept.report.deleted.get("refs"), 1);
}

#[tokio::test]
async fn a_task_that_was_killed_says_nothing_and_is_found_by_its_silence() {
    let world = World::new("").await;
    let digest = world.put("killed", 1, "half").await;
    world.catalog.advance(ABANDONED.saturating_sub(HOUR));
    assert_eq!(world.sweep().await.report.deleted.get("refs"), 0);
    assert!(world.store.touch("killed").await.unwrap());
    world.catalog.advance(ABANDONED.saturating_sub(HOUR));
    assert_eq!(world.sweep().await.report.deleted.get("refs"), 0, "it was heard of");
    world.catalog.advance(2 * HOUR);
    let swept = world.sweep().await.report;
    assert_eq!((swept.deleted.get("refs"), swept.deleted.get("blobs")), (1, 0), "its grace begins");
    world.catalog.advance(GRACE + HOUR);
    assert_eq!(world.sweep().await.report.deleted.get("blobs"), 1);
    assert_eq!(world.blob(digest).await, None);
    let late = world.store.put(&b"half"[..], &Tag::of("killed")).await.unwrap_err().to_string();
    assert!(late.contains("attempt 1 of task \"killed\" is over"), "{late}");
}

#[tokio::test]
async fn the_store_of_runs_says_who_lives() {
    let world = World::new("runs = \"runs\"").await;
    for (task, run, status) in [("t1", "alive", "running"), ("t2", "dead", "failed"), ("t3", "ended", "completed")] {
        world.run(run, status);
        world.put_as(&Tag { run: Some(run.to_owned()), ..Tag::of(task) }, task).await;
    }
    world.put_as(&Tag { run: Some("gone".to_owned()), ..Tag::of("t4") }, "t4").await;
    let tasks = async || {
        let open = world.store.catalog().open_tasks(None, 10).await.unwrap();
        open.into_iter().map(|task| task.id).collect::<Vec<_>>()
    };
    world.sweep().await;
    assert_eq!(tasks().await, ["t1", "t3", "t4"], "a run that is not there may come yet");
    world.catalog.advance(HOUR);
    world.sweep().await;
    assert_eq!(tasks().await, ["t1", "t3"]);
    world.catalog.advance(100 * ABANDONED);
    world.sweep().await;
    assert_eq!(tasks().await, ["t1"]);
}

#[tokio::test]
async fn what_cannot_be_deleted_is_put_off_ever_longer_and_holds_up_nobody() {
    let world = World::new("").await;
    let digests = world.orphans(20).await;
    // A folder that is not empty, in the place of the object: even root cannot unlink it.
    let stuck = world.path(digests[7]).await;
    std::fs::remove_file(&stuck).unwrap();
    std::fs::create_dir_all(stuck.join("full")).unwrap();
    let swept = world.sweep().await;
    assert_eq!((swept.report.outcome, swept.report.deleted.get("blobs")), (Outcome::Failed, 19));
    assert_eq!(swept.report.failures.len(), 1);
    assert!(swept.report.failures[0].item.starts_with(&digests[7].to_string()), "{:?}", swept.report.failures);
    assert_eq!(swept.next, Next::Settle);

    let blob = async || world.blob(digests[7]).await.unwrap();
    let mut gaps = Vec::new();
    for tries in 1..=4 {
        let seen = blob().await;
        assert_eq!((seen.state, seen.attempts), (State::Deleting, tries));
        assert!(seen.error.is_some());
        let waiting = world.sweep().await.report;
        assert_eq!((waiting.planned.get("blobs"), waiting.kept.get("put_off")), (0, 1));
        let gap = (seen.next_at.unwrap() - world.store.catalog().now().await.unwrap()).to_std().unwrap();
        gaps.push(gap.as_secs().div_ceil(60));
        world.catalog.advance(gap + Duration::from_secs(1));
        world.sweep().await;
    }
    assert_eq!(gaps, [1, 2, 4, 8]);
    std::fs::remove_dir_all(&stuck).unwrap();
    world.catalog.advance(HOUR);
    let mended = world.sweep().await.report;
    assert_eq!((mended.outcome, mended.deleted.get("blobs")), (Outcome::Done, 1));
}

#[tokio::test]
async fn a_writer_that_died_in_an_upload_leaves_nothing() {
    let world = World::new("").await;
    let digest = Digest::new([7; 32]);
    world.store.catalog().begin(digest, 3, &Tag::of("killed")).await.unwrap();
    assert_eq!(world.sweep().await.report.kept.get("pending"), 1);
    world.catalog.advance(HOUR);
    assert_eq!(world.sweep().await.report.deleted.get("blobs"), 1);
    assert_eq!(world.blob(digest).await, None);
}

#[tokio::test]
async fn a_cutoff_can_become_earlier() {
    let world = World::new("grace = \"0s\"").await;
    world.orphans(3).await;
    world.put("silent", 1, "abandoned").await;
    world.catalog.advance(ABANDONED + HOUR);
    let before = Utc::now() - chrono::TimeDelta::days(1);
    let narrow = Narrow { before: Some(before), ..Narrow::default() };
    let narrowed = world.execute(Mode::Apply, narrow).await.report;
    assert_eq!((narrowed.deleted.get("blobs"), narrowed.deleted.get("refs")), (0, 0));
    let report = world.sweep().await.report;
    assert_eq!((report.deleted.get("blobs"), report.deleted.get("refs")), (3, 1));
    assert!(report.cutoff.is_some());
}

#[tokio::test]
async fn a_rate_makes_batches_of_a_second() {
    let world = World::new("rate_limit = 40").await;
    world.orphans(60).await;
    let report = world.sweep().await.report;
    assert_eq!((report.deleted.get("blobs"), report.batches), (60, 2));
    assert!(report.seconds >= 1.5, "{}", report.seconds);
}
