//! A disk that is full below the queue of the embedded mode.

use std::{path::Path, process::Command, time::Duration};

use tokio::time::sleep;

use crate::{
    cluster::{Cluster, Harm, Plan},
    host::Part,
};

/// How long the disk is full.
const FULL: Duration = Duration::from_secs(3);
/// After such a time beats are back: they try again after 1 s, 2 s and so on.
const BACK: Duration = Duration::from_secs(6);
/// More than the disk has.
const ALL: usize = 64 << 20;

/// A small disk of its own, which goes with this.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "none"]).arg(folder.path()).status();
        assert!(mounted.unwrap().success(), "a disk of its own needs root");
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Fills it to the last byte.
    fn fill(&self) {
        let full = std::fs::write(self.path().join("ballast"), vec![1; ALL]).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    }

    fn free(&self) {
        std::fs::remove_file(self.path().join("ballast")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whoever still has a file there keeps it until the end.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_below_the_queue_costs_no_tick() {
    let disk = Disk::new();
    let head = format!("data_dir = \"{}\"\n", disk.path().display());
    let mut cluster = Cluster::idle("a full disk below the queue", Plan { head, ..Plan::default() }).await;
    cluster.hosts[0].start(Part::Up);
    cluster.more(20).await;
    for _ in 0..2 {
        cluster.ask().await;
        cluster
            .harm(Harm::of("the disk is full").blinds(BACK), async |_: &mut Cluster| {
                disk.fill();
                sleep(FULL).await;
                disk.free();
            })
            .await;
        cluster.more(40).await;
    }
    cluster.prove().await;
}
