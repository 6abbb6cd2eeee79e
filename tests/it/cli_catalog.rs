//! What the command line shows of a catalog that the library has filled.

use std::{fs::OpenOptions, os::unix::fs::OpenOptionsExt, path::Path, sync::Arc};

use apalis_janitor::{
    blobs::{
        BlobStore, Digest, Tag,
        catalog::{Begun, Cutoffs, SqlCatalog},
        objects::folder::Folder,
    },
    config::CatalogUrl,
};
use chrono::TimeDelta;
use serde_json::Value;

use crate::{
    cli::Cli,
    process::{Process, Signal, comes},
};

const CONFIG: &str = "[blobs.artifacts]\nobjects = \"file:blobs\"\ncatalog = \"sqlite:blobs.db\"\n\
                      [jobs.sweep]\nkind = \"orphans\"\nblobs = \"artifacts\"\ngrace = \"2h\"\n";

/// The store of the configuration.
async fn store(folder: &Path) -> BlobStore {
    let catalog = SqlCatalog::open(&CatalogUrl::Sqlite(folder.join("blobs.db"))).await.unwrap();
    let objects = Folder::open(folder.join("blobs")).await.unwrap();
    BlobStore::over(Arc::new(catalog), Arc::new(objects)).await.unwrap()
}

/// What `explain` says of a digest, as sentences.
fn because(cli: &Cli, digest: Digest) -> Vec<String> {
    let told = cli.json(&format!("blobs explain {digest} --json"));
    assert_eq!(told["stays"], false);
    told["because"].as_array().unwrap().iter().map(|sentence| sentence.as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn explain_says_that_a_writer_is_at_it() {
    let cli = Cli::with(CONFIG);
    let digest = Digest::new([7; 32]);
    let begun = store(cli.path()).await.catalog().begin(digest, 3, &Tag::of("t")).await.unwrap();
    let Begun::Upload(id) = begun else { panic!("{begun:?}") };
    let told = because(&cli, digest);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with(&format!("a writer is putting blob {id}, and was last heard of 20")), "{told:?}");
    assert!(told[1].starts_with("job \"sweep\" takes that one for abandoned from 20"), "{told:?}");
    assert!(told[1].ends_with("it has no schedule: janitor run sweep"), "{told:?}");
}

#[tokio::test]
async fn explain_says_that_a_sweep_is_at_it_and_why_it_failed() {
    let cli = Cli::with(CONFIG);
    let store = store(cli.path()).await;
    let put = store.put(&b"bytes"[..], &Tag::of("t")).await.unwrap();
    store.release("t", 1).await.unwrap();
    let (catalog, blobs) = (store.catalog(), store.catalog().blobs(put.digest).await.unwrap());
    let later = catalog.now().await.unwrap() + TimeDelta::hours(3);
    let cutoffs = Cutoffs { unreferenced: later, pending: later, retry: later };
    assert_eq!(catalog.claim(&blobs, cutoffs).await.unwrap(), [put.id]);
    let claimed = format!("blob {} is being deleted", put.id);
    assert_eq!(because(&cli, put.digest), [format!("{claimed}: the next sweep goes on with it")]);
    catalog.put_off(&[(put.id, "the disk is on fire".to_owned())]).await.unwrap();
    let told = because(&cli, put.digest);
    let says = format!("{claimed}: tried 1 times, last: the disk is on fire; the next try is from 20");
    assert!(told.len() == 1 && told[0].starts_with(&says), "{told:?}");
}

#[tokio::test]
async fn ls_goes_on_behind_the_first_page_and_ends_where_a_page_does() {
    let cli = Cli::with(CONFIG);
    let store = store(cli.path()).await;
    for number in 0..1_001 {
        let tag = Tag { name: format!("{number:04}"), ..Tag::of("many") };
        store.put(&b"the same"[..], &tag).await.unwrap();
    }
    let names = || -> Vec<String> {
        let told = cli.json("blobs ls --json");
        told.as_array().unwrap().iter().map(|held| held["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(), (0..1_001).map(|number| format!("{number:04}")).collect::<Vec<_>>());
    assert_eq!(cli.stdout("blobs ls").lines().count(), 1_001);
    let digest = store.put(&b"the same"[..], &Tag::of("one more")).await.unwrap().digest;
    store.delete("many", digest).await.unwrap();
    for number in 0..999 {
        let tag = Tag { name: format!("{number:04}"), attempt: 2, ..Tag::of("many") };
        store.put(&b"the same"[..], &tag).await.unwrap();
    }
    assert_eq!((names().len(), cli.stdout("blobs ls").lines().count()), (1_000, 1_000));
}

#[tokio::test]
async fn a_signal_ends_verify_with_what_it_has_found() {
    let cli = Cli::with(CONFIG);
    let store = store(cli.path()).await;
    let put = store.put(&b"bytes"[..], &Tag::of("t")).await.unwrap();
    let blob = store.catalog().blobs(put.digest).await.unwrap().remove(0);
    // A pipe that nobody writes to is an object whose bytes never come.
    let path = cli.path().join("blobs").join(blob.key().path());
    std::fs::remove_file(&path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let verify = Process::start(&cli, "blobs verify --json");
    let mut writer = None;
    comes("a reader of the pipe", async || {
        writer = open(&path);
        writer.is_some()
    })
    .await;
    verify.signal(Signal::INT);
    let end = verify.end().await;
    let told: Value = serde_json::from_str(&end.stdout).unwrap();
    assert_eq!((end.code, &told["complete"], &told["checked"]), (Some(5), &false.into(), &0.into()), "{told}");
}

/// The pipe's other end, once somebody reads.
fn open(path: &Path) -> Option<std::fs::File> {
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap();
    match OpenOptions::new().write(true).custom_flags(flags).open(path) {
        Ok(file) => Some(file),
        // ENXIO: nobody reads yet.
        Err(error) if error.raw_os_error() == Some(6) => None,
        Err(error) => panic!("{error}"),
    }
}
