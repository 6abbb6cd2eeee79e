//! The comparison of objects with the catalog.

use std::{fs, path::Path, time::SystemTime};

use apalis_janitor::{
    blobs::{BlobId, Key},
    report::{Mode, Outcome},
};

use super::*;

/// An object without a row, last written so long ago.
fn stray(world: &World, byte: u8, age: Duration) -> PathBuf {
    let key = Key { digest: Digest::new([byte; 32]), id: BlobId::new() };
    let path = world.folder.path().join("blobs").join(key.path());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "stray").unwrap();
    age_by(&path, age);
    path
}

fn age_by(path: &Path, age: Duration) {
    fs::File::open(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
}

#[tokio::test]
async fn an_object_without_a_row_goes_once_it_is_older_than_the_grace() {
    let world = World::new("").await;
    let kept = world.put("t", 1, "kept").await;
    world.store.finalize("t", 1).await.unwrap();
    let (old, young) = (stray(&world, 3, GRACE + HOUR), stray(&world, 200, GRACE.saturating_sub(HOUR)));
    let foreign = old.with_file_name("notes.txt");
    fs::write(&foreign, "mine").unwrap();
    age_by(&foreign, 100 * GRACE);

    let narrow = Narrow { inventory: true, ..Narrow::default() };
    let planned = world.execute(Mode::DryRun, narrow).await.report;
    assert_eq!((planned.planned.get("objects"), old.exists()), (1, true));
    let report = world.inventory().await.report;
    assert_eq!((report.outcome, report.deleted.get("objects"), report.bytes_freed), (Outcome::Done, 1, 5));
    assert_eq!(report.kept.get("foreign"), 1);
    assert_eq!((old.exists(), young.exists(), foreign.exists()), (false, true, true));
    assert!(world.path(kept).await.exists());
}

#[tokio::test]
async fn a_live_blob_without_its_object_is_an_alarm_and_never_a_deletion() {
    let world = World::new("").await;
    let digest = world.put("t", 1, "kept").await;
    world.store.finalize("t", 1).await.unwrap();
    fs::remove_file(world.path(digest).await).unwrap();
    let report = world.inventory().await.report;
    assert_eq!(report.outcome, Outcome::Failed);
    assert_eq!(report.failures.len(), 1);
    assert!(report.failures[0].error.contains("its object is missing"), "{:?}", report.failures);
    assert!(world.blob(digest).await.is_some());
    assert_eq!(world.sweep().await.report.outcome, Outcome::Done, "an ordinary sweep does not look");
}

#[tokio::test]
async fn an_empty_catalog_beside_a_full_store_refuses() {
    let world = World::new("").await;
    // Marks the folder, and goes again.
    world.orphans(1).await;
    world.sweep().await;
    let strays: Vec<_> = (0..5).map(|byte| stray(&world, byte, 10 * GRACE)).collect();
    let refused = world.inventory().await.report;
    assert_eq!(refused.outcome, Outcome::Refused);
    assert!(refused.reason.as_ref().unwrap().contains("the catalog is empty, and there are 5 objects"), "{refused:?}");
    assert!(strays.iter().all(|path| path.exists()));
}

#[tokio::test]
async fn what_crashes_left_in_the_spool_goes_after_a_day() {
    let world = World::new("").await;
    world.put("t", 1, "kept").await;
    let spool = world.folder.path().join("blobs/tmp");
    let left = |age| {
        let file = tempfile::Builder::new().prefix(".janitor-spool-").tempfile_in(&spool).unwrap();
        let (_, path) = file.keep().unwrap();
        age_by(&path, age);
        path
    };
    let (old, young) = (left(Duration::from_hours(25)), left(Duration::from_hours(23)));
    let report = world.inventory().await.report;
    assert_eq!((report.outcome, report.deleted.get("objects")), (Outcome::Done, 1));
    assert_eq!((old.exists(), young.exists()), (false, true));
}

#[tokio::test]
async fn it_is_made_as_often_as_it_is_scheduled() {
    let mut world = World::new("").await;
    let text = "[blobs.a]\nobjects = \"file:blobs\"\ncatalog = \"sqlite:blobs.db\"\n[jobs.sweep]\nkind = \"orphans\"\nblobs = \"a\"\n\
                inventory = \"every 7d\"\n";
    let config = Config::parse(text, &world.folder.path().join("janitor.toml")).unwrap();
    world.janitor = Janitor::connect(config).await.unwrap().with_blobs("a", world.store.clone());
    world.put("t", 1, "kept").await;
    world.store.finalize("t", 1).await.unwrap();
    let made = async || {
        world.sweep().await;
        world.store.catalog().inventory_at().await.unwrap()
    };
    let first = made().await;
    assert!(first.is_some());
    assert_eq!(made().await, first);
    world.catalog.advance(Duration::from_hours(24 * 7));
    assert!(made().await > first);
}
