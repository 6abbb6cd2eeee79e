//! The blob store against what it is made of: hashing, writing, a bare statement, and `find -delete`.
//!
//! `cargo bench --bench blobs` takes some minutes, `-- quick` a tenth of the blobs. Each figure is a ratio of two times
//! measured one after the other, and the median of all pairs.

#![allow(clippy::unwrap_used, reason = "a benchmark that panics fails, which is what is wanted")]

mod books;

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use apalis_janitor::{
    blobs::{BlobStore, Tag, catalog::Cutoffs},
    config::{BlobsConfig, CatalogUrl, ObjectsUrl},
};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

const PAIRS: usize = 3;
const MIB: u64 = 1 << 20;
/// How many pairs of claims, which are short.
const CLAIMS: usize = 15;
/// How many blobs are claimed at once.
const CLAIMED: usize = 1_000;

#[tokio::main]
async fn main() {
    let is_quick = std::env::args().any(|argument| argument == "quick");
    let scale = if is_quick { 10 } else { 1 };
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), 2_048 * MIB / scale).await;
    for blobs in [100_000 / scale, 1_000_000 / scale] {
        claim(folder.path(), blobs).await;
    }
    for is_synced in [false, true] {
        sweep(folder.path(), 100_000 / scale, is_synced).await;
    }
}

fn config(folder: &Path) -> BlobsConfig {
    BlobsConfig {
        name: "a".to_owned(),
        objects: ObjectsUrl::Folder(folder.join("blobs")),
        catalog: CatalogUrl::Sqlite(folder.join("blobs.db")),
    }
}

/// The median of pairs of times, as first by second.
fn median(name: &str, mut pairs: Vec<(Duration, Duration)>) {
    pairs.sort_by(|one, other| ratio(*one).total_cmp(&ratio(*other)));
    let (ours, theirs) = pairs[pairs.len() / 2];
    println!(
        "{name}: {:.3} s against {:.3} s, {:.2} x",
        ours.as_secs_f64(),
        theirs.as_secs_f64(),
        ratio((ours, theirs))
    );
}

fn ratio((ours, theirs): (Duration, Duration)) -> f64 {
    ours.as_secs_f64() / theirs.as_secs_f64()
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    (work(), began.elapsed())
}

/// Puts one large blob; the other is the slower of hashing it and of writing it with one fsync.
async fn put(folder: &Path, size: u64) {
    let block = vec![7; usize::try_from(MIB).unwrap()];
    let mut pairs = Vec::new();
    for pair in 0..PAIRS {
        let (_, hashing) = timed(|| {
            let mut hash = Sha256::new();
            (0..size / MIB).for_each(|_| hash.update(&block));
            std::hint::black_box(hash.finalize())
        });
        let path = folder.join("plain");
        let ((), writing) = timed(|| {
            let mut file = File::create(&path).unwrap();
            (0..size / MIB).for_each(|_| file.write_all(&block).unwrap());
            file.sync_all().unwrap();
        });
        fs::remove_file(&path).unwrap();
        let place = folder.join(format!("put{pair}"));
        let store = BlobStore::open(&config(&place)).await.unwrap();
        // The first put marks the folder.
        store.put(&b"mark"[..], &Tag::of("t")).await.unwrap();
        let began = Instant::now();
        store.put(tokio::io::repeat(7).take(size), &Tag::of("t")).await.unwrap();
        pairs.push((began.elapsed(), hashing.max(writing)));
        fs::remove_dir_all(&place).unwrap();
    }
    median(&format!("put of {} MiB against the slower of hashing and writing", size / MIB), pairs);
}

/// Claims a thousand due blobs among `blobs`; the other is one bare statement that finds as many in the same file and
/// claims them. Both take turns on connections that stay open, and the first turn of each is not measured: its pages are
/// cold. Ours also reads what it claims, of which the other only reads the ids.
async fn claim(folder: &Path, blobs: u64) {
    let place = folder.join(format!("claim{blobs}"));
    let store = BlobStore::open(&config(&place)).await.unwrap();
    books::fill(&place.join("blobs.db"), blobs, (CLAIMED * 2 * (CLAIMS + 1)) as u64).await;
    let mut bare = books::open(&place.join("blobs.db")).await;
    let now = store.catalog().now().await.unwrap();
    let cutoffs = Cutoffs { unreferenced: now, pending: now, retry: chrono::DateTime::UNIX_EPOCH };
    let mut pairs = Vec::new();
    for _ in 0..=CLAIMS {
        let bare = books::claim_bare(&mut bare, CLAIMED).await;
        let began = Instant::now();
        let due = store.catalog().due(cutoffs, None, CLAIMED).await.unwrap();
        let claimed = store.catalog().claim(&due, cutoffs).await.unwrap();
        pairs.push((began.elapsed(), bare));
        assert_eq!(claimed.len(), CLAIMED);
    }
    pairs.remove(0);
    median(&format!("claim of {CLAIMED} among {blobs} blobs against the bare statement"), pairs);
}

/// Sweeps orphans from a folder; the other is `find -delete` of the same files. Files that have just been written have no
/// place on the disk yet and go faster; a grace is longer than that.
async fn sweep(folder: &Path, orphans: u64, is_synced: bool) {
    let mut pairs = Vec::new();
    for pair in 0..PAIRS {
        let place = folder.join(format!("sweep{pair}"));
        let store = BlobStore::open(&config(&place)).await.unwrap();
        store.put(&b"mark"[..], &Tag::of("t")).await.unwrap();
        books::fill(&place.join("blobs.db"), orphans, orphans).await;
        let plain = place.join("plain");
        books::write(&place.join("blobs.db"), &[&place.join("blobs"), &plain]).await;
        if is_synced {
            rustix::fs::sync();
        }
        let began = Instant::now();
        assert!(Command::new("find").arg(&plain).args(["-type", "f", "-delete"]).status().unwrap().success());
        let found = began.elapsed();
        let file = place.join("janitor.toml");
        fs::write(
            &file,
            "[blobs.a]\nobjects = \"file:blobs\"\ncatalog = \"sqlite:blobs.db\"\n[jobs.sweep]\nkind = \"orphans\"\nblobs = \"a\"\n",
        )
        .unwrap();
        let began = Instant::now();
        let output = Command::new(env!("CARGO_BIN_EXE_janitor"))
            .args(["run", "sweep", "--allow-mass-delete", "--json", "--config"])
            .arg(&file)
            .output()
            .unwrap();
        pairs.push((began.elapsed(), found));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["deleted"]["blobs"], orphans, "{report}");
        fs::remove_dir_all(&place).unwrap();
    }
    let age = if is_synced { "on the disk" } else { "just written" };
    median(&format!("sweep of {orphans} orphans, {age}, against find -delete"), pairs);
}
