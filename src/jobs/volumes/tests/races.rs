//! Several at once do what one does.

use std::collections::HashSet;

use super::*;

const THREADS: usize = 1_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_sweeps_and_a_coordinator_remove_each_volume_and_write_each_mark_once() {
    let mut world = World::new();
    world.config.limit = count(THREADS);
    for thread in 0..THREADS {
        world.closed(&thread.to_string()).await;
    }
    // Whoever holds a row lets the others run into it.
    world.engine.before_removal(|_| Box::pin(tokio::task::yield_now()));
    let sweeps = [world.clone(), world.clone()].map(|world| tokio::spawn(async move { world.sweep().await }));
    let volumes = world.volumes();
    let coordinator = tokio::spawn(async move {
        let mut fates = Vec::new();
        for thread in (0..THREADS).rev() {
            fates.push(volumes.remove(&thread.to_string()).await.unwrap());
        }
        fates
    });
    let fates = coordinator.await.unwrap();
    assert!(fates.iter().all(|fate| matches!(fate, Fate::Removed | Fate::Absent | Fate::Settled)), "{fates:?}");
    let mut removed = fates.iter().filter(|fate| **fate == Fate::Removed).count() as u64;
    for sweep in sweeps {
        let swept = sweep.await.unwrap();
        assert_eq!(swept.tally.failed, 0, "{:?}", swept.tally.failures);
        removed += swept.tally.deleted.get("volumes");
    }
    let names: HashSet<_> = world.engine.removed().into_iter().collect();
    assert_eq!((names.len(), world.engine.removed().len(), removed), (THREADS, THREADS, THREADS as u64));
    assert_eq!(world.marks.marks(), THREADS as u64);
    assert!(world.sweep().await.is_done());
}
