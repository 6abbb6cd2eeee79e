//! Streams come to their end in a file before they are uploaded: only then is their digest known.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Write},
    path::Path,
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use chrono::{DateTime, Utc};
use rustix::fs::{Timespec, Timestamps, UTIME_NOW};
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    select,
    sync::mpsc::{Receiver, Sender, channel},
    task::{JoinError, spawn_blocking},
    time::{Instant, interval_at},
};

use super::{BlobError, Digest, Objects, objects::Spooled};

/// How often a writer says that it is alive: of its spooled file by the file's time, of its pending blob in the catalog.
pub const TOUCH_EVERY: Duration = Duration::from_mins(1);

/// What the name of each spooled file begins with. Nothing else is ever cleaned: a spool may be the system's own folder.
pub(super) const PREFIX: &str = ".janitor-spool-";
/// How many bytes are hashed and written in one go.
const PIECE: usize = 1 << 20;
/// How many pieces hashing or writing may be behind.
const PIECES_MAX: usize = 4;
/// After so many pieces what was written is synced, where the file is to be durable: the last sync is then a short one.
const PIECES_SYNCED: usize = 64;

/// Reads `content` to its end. Hashing and writing have a thread each.
pub(super) async fn spool(
    mut content: impl AsyncRead + Send + Unpin,
    over: &dyn Objects,
) -> Result<Spooled, BlobError> {
    let failed = |error: io::Error| BlobError::unavailable(over.name(), "spool", error);
    let folder = over.spool().to_owned();
    let file = blocking(move || new_file(&folder)).await.map_err(failed)?;
    let (to_hash, pieces) = channel(PIECES_MAX);
    let hashing = spawn_blocking(move || hash(pieces));
    let (to_file, pieces) = channel(PIECES_MAX);
    let out = file.as_file().try_clone().map_err(failed)?;
    let (to_sync, written) = channel(1);
    let syncing =
        if over.is_spool_durable() { Some((file.as_file().try_clone().map_err(failed)?, written)) } else { None };
    let syncing = spawn_blocking(move || syncing.map_or(Ok(()), |(file, written)| sync(&file, written)));
    let writing = spawn_blocking(move || write(out, pieces, &to_sync));

    let mut alive = interval_at(Instant::now() + TOUCH_EVERY, TOUCH_EVERY);
    let (mut piece, mut used) = (BytesMut::with_capacity(PIECE), VecDeque::new());
    loop {
        let room = PIECE - piece.len();
        let mut room = (&mut piece).limit(room);
        let read = select! {
            biased;
            read = content.read_buf(&mut room) => read.map_err(|error| BlobError::unavailable("the content", "read", error))?,
            _ = alive.tick() => {
                touch(&file).map_err(failed)?;
                continue;
            }
        };
        if read > 0 && piece.len() < PIECE {
            continue;
        }
        let full = std::mem::replace(&mut piece, next(&mut used)).freeze();
        used.push_back(full.clone());
        // A thread that takes no more has failed, and is asked why below.
        let is_taken = to_hash.send(full.clone()).await.is_ok() && to_file.send(full).await.is_ok();
        if read == 0 || !is_taken {
            break;
        }
    }
    drop((to_hash, to_file));
    let (digest, size) = hashing.await.map_err(ended).map_err(failed)?;
    writing.await.map_err(ended).flatten().map_err(failed)?;
    // An error is told to one sync only: a later one may go well without what this one has lost.
    syncing.await.map_err(ended).flatten().map_err(failed)?;
    Ok(Spooled { file, digest, size })
}

/// A new file in a spool, which goes when it is dropped.
pub(super) fn new_file(folder: &Path) -> io::Result<NamedTempFile> {
    tempfile::Builder::new().prefix(PREFIX).tempfile_in(folder)
}

/// The file is still in use: [`clean`] goes by its time.
pub(super) fn touch(file: &NamedTempFile) -> io::Result<()> {
    // Now by the clock of whoever stores the file, as with a write.
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    Ok(rustix::fs::futimens(file.as_file(), &Timestamps { last_access: now, last_modification: now })?)
}

/// Counts the spooled files in `folder` that were last touched before `before`, and deletes them where `leave` is given.
pub(super) fn clean(folder: &Path, before: DateTime<Utc>, leave: bool) -> io::Result<u64> {
    let mut count = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        // Its writer may end at any time and take it along.
        let Some(metadata) = unless_absent(entry.metadata())? else { continue };
        if !metadata.is_file() || DateTime::<Utc>::from(metadata.modified()?) >= before {
            continue;
        }
        if !leave || unless_absent(std::fs::remove_file(entry.path()))?.is_some() {
            count += 1;
        }
    }
    Ok(count)
}

/// `None` where what was asked of is not there.
pub(super) fn unless_absent<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Runs what waits for a disk where it may wait.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await.map_err(ended).flatten()
}

fn ended(error: JoinError) -> io::Error {
    io::Error::other(error)
}

fn hash(mut pieces: Receiver<Bytes>) -> (Digest, u64) {
    let (mut hash, mut size) = (Sha256::new(), 0);
    while let Some(piece) = pieces.blocking_recv() {
        hash.update(&piece);
        size += piece.len() as u64;
    }
    (Digest::new(hash.finalize().into()), size)
}

fn write(mut file: File, mut pieces: Receiver<Bytes>, to_sync: &Sender<()>) -> io::Result<()> {
    let mut count = 0;
    while let Some(piece) = pieces.blocking_recv() {
        file.write_all(&piece)?;
        count += 1;
        if count % PIECES_SYNCED == 0 {
            // Where a sync is waiting or nobody syncs this one is not missed.
            let _ = to_sync.try_send(());
        }
    }
    Ok(())
}

fn sync(file: &File, mut written: Receiver<()>) -> io::Result<()> {
    while written.blocking_recv().is_some() {
        file.sync_data()?;
    }
    Ok(())
}

/// An empty piece: the oldest of the used ones, once it has been hashed and written.
fn next(used: &mut VecDeque<Bytes>) -> BytesMut {
    match used.pop_front().map(Bytes::try_into_mut) {
        Some(Ok(mut piece)) => {
            piece.clear();
            return piece;
        }
        Some(Err(busy)) => used.push_front(busy),
        None => {}
    }
    BytesMut::with_capacity(PIECE)
}
