//! Sweeps of a folder that end anywhere, that are stopped, or that meet a writer.

use super::*;

/// A sweep in small batches that ends at its first error.
async fn drive(store: &FileStore) -> Result<(), StoreError> {
    let fence = Fence::for_test(1);
    store.raise(JOB, fence).await?;
    let all = page(store).await;
    let goes = ["alone", "below", "above", "job"].map(|id| all.iter().find(|run| run.id == id).unwrap().clone());
    for batch in goes.chunks(3) {
        store.delete(JOB, fence, batch, LONG).await?;
    }
    let mut after = None;
    loop {
        let step = store.loose(now() - TimeDelta::days(30), after.as_ref(), Some((JOB, fence)), LONG).await?;
        after = step.next;
        if after.is_none() {
            break;
        }
    }
    store.rest().await;
    Ok(())
}

#[tokio::test]
async fn leaves_nothing_behind_wherever_the_process_ends() {
    let whole = filled().await;
    drive(&whole.store).await.unwrap();
    let (expected, before) = (left(&whole).await, filled().await.things().await);
    assert_eq!(expected.3, [""; 0], "marks");
    assert!(
        expected
            .1
            .iter()
            .all(|token| token.starts_with("held") || token.starts_with("stays") || token.starts_with("job__2"))
    );
    let mut ends = 0;
    for changes in 0.. {
        let mut world = filled().await;
        world.store.allow(Some(changes));
        let done = drive(&world.store).await;
        let is_whole = done.is_ok() && world.marks().is_empty();
        world.reopen().await;
        let things = world.things().await;
        assert!(
            expected.0.is_subset(&things) && things.is_subset(&before),
            "after {changes} changes something is gone"
        );
        let (planned, deleted) = (sweep(&world, false).await, sweep(&world, true).await);
        assert_eq!(ids(&planned), ids(&deleted), "after {changes} changes");
        assert_eq!(left(&world).await, expected, "after {changes} changes");
        ends += 1;
        if is_whole && ends > 50 {
            return;
        }
    }
}

#[tokio::test]
async fn a_run_in_the_hands_of_a_dead_sweep_is_there_for_all_others() {
    for job in [JOB, "another"] {
        let world = filled().await;
        let all = page(&world.store).await;
        let batch = seen(&world.store, &["alone", "job", "above", "below"]).await;
        world.store.raise(JOB, Fence::for_test(5)).await.unwrap();
        // The batch's folder, and three runs in it, each with its lock.
        world.store.allow(Some(8));
        world.store.delete(JOB, Fence::for_test(5), &batch, LONG).await.unwrap_err();
        assert_eq!(world.stems("runs", ".json").len(), 5, "three are planned");
        let other = open(&world.path).await.unwrap();
        assert_eq!(page(&other).await, all);
        let names = ["alone", "job", "above", "below"].map(str::to_owned);
        assert_eq!(other.find(&names).await.unwrap().len(), 4);
        other.raise(job, Fence::for_test(6)).await.unwrap();
        assert_eq!((world.stems("runs", ".json").len(), world.marks()), (8, Vec::new()));
        // Thawed, it is refused where it is stale.
        world.store.allow(None);
        let deleted = world.store.delete(JOB, Fence::for_test(5), &batch, LONG).await;
        if job == JOB {
            assert!(matches!(deleted.unwrap_err(), StoreError::Fenced { highest: 6, .. }));
            assert_eq!(page(&other).await, all);
        } else {
            assert_eq!(deleted.unwrap().runs.len(), 4);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_holder_deletes_what_it_says_or_nothing() {
    let mut fenced = 0;
    for round in 0..40_u64 {
        let world = filled().await;
        let batch = seen(&world.store, &["alone", "job", "above", "below"]).await;
        world.store.raise(JOB, Fence::for_test(1)).await.unwrap();
        let (other, stale) = (open(&world.path).await.unwrap(), world.store.clone());
        let newer = tokio::spawn(async move {
            for _ in 0..round * 50 {
                std::hint::spin_loop();
            }
            other.raise(JOB, Fence::for_test(2)).await.unwrap();
            other
        });
        let deleted = stale.delete(JOB, Fence::for_test(1), &batch, LONG).await;
        let other = newer.await.unwrap();
        let there = page(&other).await.len();
        match deleted {
            Ok(deleted) => assert_eq!((deleted.runs.len(), there), (4, 4)),
            Err(StoreError::Fenced { highest: 2, .. }) => {
                fenced += 1;
                assert_eq!(there, 8);
            }
            Err(error) => panic!("{error}"),
        }
        stale.rest().await;
        assert!(stale.delete(JOB, Fence::for_test(1), &batch, LONG).await.is_err());
    }
    println!("{fenced} of 40 were fenced");
}

/// PyWorkflow's way of changing a file: in place, under a lock.
fn rewrite(world: &Path, lock: &str, file: &str, change: impl FnOnce(String) -> String) -> bool {
    loop {
        let name = world.join(".locks").join(format!("{lock}.lock"));
        let held = File::options().read(true).write(true).create(true).truncate(false).open(&name).unwrap();
        held.lock().unwrap();
        // Its own look at whether the file that it has locked still has the name.
        if std::os::unix::fs::MetadataExt::nlink(&held.metadata().unwrap()) == 0 {
            continue;
        }
        let Ok(text) = fs::read_to_string(world.join(file)) else { return false };
        fs::write(world.join(file), change(text)).unwrap();
        return true;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_revived_amid_a_sweep_keeps_everything() {
    let world = FileWorld::new().await;
    let names: Vec<String> = (0..300).map(|at| format!("run_{at:03}")).collect();
    for name in &names {
        put(&world, expired(name)).await;
    }
    let (path, is_over) = (world.path.clone(), Arc::new(AtomicBool::new(false)));
    let writer = thread::spawn({
        let (names, is_over) = (names.clone(), Arc::clone(&is_over));
        move || {
            let (mut revived, mut tokens) = (BTreeSet::new(), Vec::new());
            for (at, name) in names.iter().enumerate().step_by(3) {
                let is_alive =
                    rewrite(&path, name, &format!("runs/{name}.json"), |text| text.replace("completed", "running"));
                if is_alive {
                    revived.insert(name.clone());
                }
                let token = format!("new:{at}");
                rewrite(&path, "token_index", "_token_index.json", |text| {
                    text.replacen('{', &format!("{{\"{token}\": \"new:x\","), 1)
                });
                tokens.push(token);
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
            }
            (revived, tokens)
        }
    });
    let swept = sweep_at(world.store(), &Order { batch: 20, ..Order::default() }, now(), true).await;
    world.store.rest().await;
    is_over.store(true, Ordering::Relaxed);
    let (revived, tokens) = writer.join().unwrap();
    sweep(&world, true).await;
    let things = world.things().await;
    let left: BTreeSet<String> = world.stems("runs", ".json").into_iter().collect();
    assert_eq!(left, revived);
    let expected = revived.iter().map(|run| belongings(run).len() + 1).sum::<usize>();
    assert_eq!(things.len(), expected, "{} went", swept.ids.len());
    let index = world.tokens();
    assert!(tokens.iter().all(|token| index.contains_key(token)), "a token was lost");
    assert_eq!(index.len(), tokens.len() + 2 * revived.len());
}
