//! Everything at the same time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{SIZE, Subject, all_due, at_once, digest};
use crate::blobs::{
    BlobError, Catalog, State, Tag,
    catalog::{Begun, Filter},
};

/// How long the workers go on.
const WORK: Duration = Duration::from_secs(2);
const WORKERS: usize = 6;
/// How many digests, and how many tasks, they share: few, so that they meet.
const DIGESTS: u8 = 4;
const TASKS: u32 = 6;

/// Whatever writers, releasers and sweepers do at the same time, a final ref has a live blob, and a live blob that nothing
/// refers to says so.
pub async fn keeps_final_refs_live_in_any_order(subject: Arc<dyn Subject>) {
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let until = Instant::now() + WORK;
    let done = at_once(&subject, WORKERS, |subject, number| {
        let random = StdRng::seed_from_u64(seed.wrapping_add(u64::try_from(number).expect("few")));
        Box::pin(work(subject, random, until))
    })
    .await;
    let (steps, finalized) = done.into_iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    assert!(steps > WORKERS && finalized > 0, "{steps} steps, {finalized} finalized: nothing was tried");
    check(&*subject).await;
    assert_eq!(subject.mend().await.expect("mended"), 0);
}

/// Does one thing after another, and answers how many, and how many refs it finalized.
async fn work(subject: Arc<dyn Subject>, mut random: StdRng, until: Instant) -> (usize, u64) {
    let (mut steps, mut finalized) = (0, 0);
    while Instant::now() < until {
        steps += 1;
        let digest = digest(random.random_range(0..DIGESTS));
        let number = random.random_range(0..TASKS);
        let task = format!("t{number}");
        // Retries go on without an end, so that there is always an attempt that is not over.
        let attempt = subject.open_task(&task).await.expect("read").map_or(1, |open| open.attempt);
        let attempt = attempt + random.random_range(0..2);
        match random.random_range(0..10) {
            0..5 => {
                let fresh = Tag { attempt: attempt + u32::try_from(steps).expect("few"), ..Tag::of(&task) };
                let tag = if random.random_bool(0.5) { fresh } else { Tag { attempt, ..fresh } };
                finalized += put(&*subject, digest, &tag, &mut random).await;
            }
            5 => drop(subject.release(&task, attempt).await.expect("released")),
            6 => tolerate(subject.delete(&task, digest).await),
            7 => {
                if let Some(open) = subject.open_task(&task).await.expect("read") {
                    subject.release_seen(&open).await.expect("an answer");
                }
            }
            _ => sweep(&*subject, &mut random).await,
        }
    }
    (steps, finalized)
}

/// Puts as a writer does, and finalizes some of it; answers how many refs became final.
async fn put(subject: &dyn Subject, digest: crate::blobs::Digest, tag: &Tag, random: &mut StdRng) -> u64 {
    match subject.begin(digest, SIZE, tag).await {
        Ok(Begun::Shared(_)) => {}
        Ok(Begun::Upload(id)) if random.random_bool(0.1) => {
            subject.give_up(id).await.expect("given up");
            return 0;
        }
        Ok(Begun::Upload(id)) => tolerate(subject.commit(id, digest, tag).await),
        late => {
            tolerate(late);
            return 0;
        }
    }
    if random.random_bool(0.5) {
        return 0;
    }
    let finalized = subject.finalize(&tag.task, tag.attempt).await;
    let count = *finalized.as_ref().unwrap_or(&0);
    tolerate(finalized);
    count
}

/// Claims what it may, forgets some of it and puts the rest off.
async fn sweep(subject: &dyn Subject, random: &mut StdRng) {
    let cutoffs = all_due(subject).await;
    let due = subject.due(cutoffs, None, 10).await.expect("read");
    for id in subject.claim(&due, cutoffs).await.expect("claimed") {
        if random.random_bool(0.8) {
            subject.forget(&[id]).await.expect("forgotten");
        } else {
            subject.put_off(&[(id, "not now".to_owned())]).await.expect("put off");
        }
    }
}

/// To be too late is what this is about; all else is a failure.
fn tolerate<T>(result: Result<T, BlobError>) {
    match result {
        Ok(_) | Err(BlobError::Closed { .. } | BlobError::NoRef { .. }) => {}
        Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error).map(ToString::to_string)),
    }
}

async fn check(catalog: &dyn Catalog) {
    let refs = catalog.list(&Filter::default(), None, usize::MAX).await.expect("read");
    let mut live = 0;
    for number in 0..DIGESTS {
        for blob in catalog.blobs(digest(number)).await.expect("read") {
            let refers = refs.iter().any(|one| one.blob == blob.id);
            live += usize::from(blob.state == State::Live);
            assert!(!refers || blob.state == State::Live, "a ref to {blob:?}");
            if blob.state == State::Live {
                assert_eq!(refers, blob.zero_since.is_none(), "{blob:?}");
            }
        }
    }
    assert!(live <= usize::from(DIGESTS), "{live} live blobs of {DIGESTS} digests");
}
