//! Threads that are opened and closed at any moment: what is open keeps its volume.

use std::{collections::VecDeque, sync::Mutex};

use proptest::{collection::vec, prelude::*, test_runner::TestRunner};
use tokio::task::yield_now;

use super::*;

const THREADS: [&str; 3] = ["1", "12", "2"];
const CASES: u32 = 256;
const STEPS_MAX: usize = 24;
const SWEEPS: usize = 3;

/// What the platform does, after it has let the others go on so many times.
#[derive(Clone, Copy, Debug)]
struct Step {
    pause: usize,
    thread: usize,
    is_closed: bool,
}

/// A schedule.
#[derive(Clone, Debug)]
struct Schedule {
    steps: Vec<Step>,
    /// How long each removal lasts before it takes effect.
    removals: Vec<usize>,
    /// When each sweep begins.
    sweeps: [usize; SWEEPS],
    /// Which volumes are asked for by hand, and when.
    by_hand: Vec<(usize, usize)>,
}

fn schedule() -> impl Strategy<Value = Schedule> {
    let step = (0..12_usize, 0..THREADS.len(), any::<bool>());
    let step = step.prop_map(|(pause, thread, is_closed)| Step { pause, thread, is_closed });
    let parts = (
        vec(step, 1..STEPS_MAX),
        vec(0..20_usize, 1..12),
        [0..40_usize, 0..40, 0..40],
        vec((0..20_usize, 0..THREADS.len()), 0..6),
    );
    parts.prop_map(|(steps, removals, sweeps, by_hand)| Schedule { steps, removals, sweeps, by_hand })
}

async fn pause(times: usize) {
    for _ in 0..times {
        yield_now().await;
    }
}

/// Opens and closes threads; whoever opens one makes its volume, if it is not there.
async fn act(world: World, steps: Vec<Step>) {
    for Step { pause: times, thread, is_closed } in steps {
        pause(times).await;
        let thread = THREADS[thread];
        world.marks.set(thread, is_closed).await;
        if !is_closed && !world.engine.has(&volume(thread)) {
            world.engine.add(&volume(thread));
        }
    }
}

/// Runs it all at once, and answers the volumes that went while their thread was open.
async fn run(schedule: Schedule) -> (World, Vec<String>) {
    let world = World::new();
    for thread in THREADS {
        world.closed(thread).await;
    }
    let wrong: Arc<Mutex<Vec<String>>> = Arc::default();
    let (marks, told) = (world.marks.clone(), Arc::clone(&wrong));
    let pauses = Arc::new(Mutex::new(VecDeque::from(schedule.removals)));
    world.engine.before_removal(move |volume| {
        let (marks, told, pauses) = (marks.clone(), Arc::clone(&told), Arc::clone(&pauses));
        Box::pin(async move {
            let times = {
                let mut pauses = pauses.lock().unwrap();
                pauses.rotate_left(1);
                pauses[0]
            };
            pause(times).await;
            // The removal takes effect before anybody else gets a turn.
            let thread = volume.as_str().trim_start_matches("ha_ws_").to_owned();
            if marks.threads(std::slice::from_ref(&thread)).await.unwrap().values().any(|row| !row.is_closed) {
                told.lock().unwrap().push(thread);
            }
        })
    });
    let mut at_once = vec![tokio::spawn(act(world.clone(), schedule.steps))];
    for begins in schedule.sweeps {
        let world = world.clone();
        at_once.push(tokio::spawn(async move {
            pause(begins).await;
            assert_eq!(world.sweep().await.tally.failed, 0);
        }));
    }
    let volumes = world.volumes();
    at_once.push(tokio::spawn(async move {
        for (times, thread) in schedule.by_hand {
            pause(times).await;
            volumes.remove(THREADS[thread]).await.unwrap();
        }
    }));
    for one in at_once {
        one.await.unwrap();
    }
    let wrong = wrong.lock().unwrap().clone();
    (world, wrong)
}

#[test]
fn a_thread_that_is_open_keeps_its_volume_and_a_closed_one_loses_it_at_last() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let mut runner = TestRunner::new(ProptestConfig { cases: CASES, ..ProptestConfig::default() });
    let ran = runner.run(&schedule(), |schedule| {
        runtime.block_on(async {
            let (world, wrong) = run(schedule).await;
            prop_assert!(wrong.is_empty(), "removed while open: {wrong:?}");
            world.clock.set(at(10_000));
            assert!(world.sweep().await.is_done());
            let rows = world.marks.threads(&THREADS.map(str::to_owned)).await.unwrap();
            for thread in THREADS {
                let is_closed = rows[thread].is_closed;
                prop_assert_eq!(world.engine.has(&volume(thread)), !is_closed, "thread {}", thread);
                prop_assert!(rows[thread].is_marked || !is_closed, "thread {} is not marked", thread);
            }
            Ok(())
        })
    });
    ran.unwrap();
}
