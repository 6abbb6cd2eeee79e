//! When a sweep refuses, or fails and is tried again, and that it has released and deleted nothing then.

use apalis_janitor::report::Outcome;

use super::*;

#[tokio::test]
async fn a_sweep_of_too_much_refuses_and_says_how_to_allow_it() {
    let world = World::new("").await;
    world.orphans(1_001).await;
    let refused = world.sweep().await.report;
    assert_eq!(refused.outcome, Outcome::Refused);
    assert_eq!(
        refused.reason.unwrap(),
        "1001 of 1001 blobs would go, more than max_share (50%); `janitor run JOB --allow-mass-delete` allows it once"
    );
    assert_eq!(world.execute(Mode::DryRun, Narrow::default()).await.report.outcome, Outcome::Refused);
    let narrow = Narrow { allow_mass_delete: true, ..Narrow::default() };
    assert_eq!(world.execute(Mode::Apply, narrow).await.report.deleted.get("blobs"), 1_001);
}

#[tokio::test]
async fn a_small_store_may_lose_all_it_has() {
    let world = World::new("max_share = \"0%\"").await;
    world.orphans(1_000).await;
    assert_eq!(world.sweep().await.report.deleted.get("blobs"), 1_000);
}

#[tokio::test]
async fn a_store_of_runs_without_any_is_not_believed() {
    let world = World::new("runs = \"runs\"").await;
    world.put_as(&Tag { run: Some("r".to_owned()), ..Tag::of("t") }, "t").await;
    world.orphans(1).await;
    world.catalog.advance(100 * ABANDONED);
    let refused = world.sweep().await;
    assert_eq!(refused.report.outcome, Outcome::Refused);
    assert!(refused.report.reason.unwrap().contains("the store of runs has none"));
    assert_eq!(world.store.catalog().open_tasks(None, 10).await.unwrap().len(), 1);
    assert_eq!(world.store.catalog().totals().await.unwrap().live, 2);
}

#[tokio::test]
async fn a_store_of_runs_that_does_not_answer_is_tried_again() {
    let mut world = World::new("runs = \"runs\"").await;
    world.put_as(&Tag { run: Some("r".to_owned()), ..Tag::of("t") }, "t").await;
    world.catalog.advance(100 * ABANDONED);
    let text = "[blobs.a]\nobjects = \"file:blobs\"\ncatalog = \"sqlite:blobs.db\"\n[jobs.runs]\nkind = \"retention\"\nstore = \"sqlite:absent.db\"\n\
         [jobs.sweep]\nkind = \"orphans\"\nblobs = \"a\"\nruns = \"runs\"\n";
    let config = Config::parse(text, &world.folder.path().join("janitor.toml")).unwrap();
    world.janitor = Janitor::connect(config).await.unwrap().with_blobs("a", world.store.clone());
    let failed = world.sweep().await;
    assert_eq!((failed.report.outcome, failed.next), (Outcome::Failed, Next::Retry));
    assert_eq!(world.store.catalog().open_tasks(None, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn objects_that_are_not_there_are_not_taken_for_deleted() {
    let world = World::new("").await;
    world.orphans(3).await;
    let blobs = world.folder.path().join("blobs");
    // As when the volume is not mounted.
    std::fs::rename(&blobs, world.folder.path().join("elsewhere")).unwrap();
    std::fs::create_dir(&blobs).unwrap();
    let refused = world.sweep().await.report;
    assert_eq!(refused.outcome, Outcome::Refused);
    assert!(refused.reason.as_ref().unwrap().contains("is the volume mounted"), "{:?}", refused.reason);
    assert_eq!(world.store.catalog().totals().await.unwrap().live, 3);
    // A writer that has not seen the mark either.
    let objects = Arc::new(Folder::open(&blobs).await.unwrap());
    let store = BlobStore::over(world.catalog.clone(), objects).await.unwrap();
    let refused = store.put(&b"lost"[..], &Tag::of("t")).await.unwrap_err().to_string();
    assert!(refused.contains("is the volume mounted"), "{refused}");
    assert!(!blobs.join("janitor-store").exists());
}

#[tokio::test]
async fn objects_of_another_catalog_are_refused() {
    let (one, other) = (World::new("").await, World::new("").await);
    one.put("t", 1, "one").await;
    other.put("t", 1, "other").await;
    let objects = Arc::new(Folder::open(other.folder.path().join("blobs")).await.unwrap());
    let error = BlobStore::over(one.catalog.clone(), objects).await.unwrap_err().to_string();
    assert!(error.contains("belongs to another catalog"), "{error}");
}

#[tokio::test]
async fn a_folder_of_other_things_is_no_store() {
    let world = World::new("").await;
    let folder = world.folder.path().join("photos");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("cat.jpg"), "meow").unwrap();
    let error = Folder::open(&folder).await.unwrap_err().to_string();
    assert!(error.contains("is no blob store") && error.contains("cat.jpg"), "{error}");
}
