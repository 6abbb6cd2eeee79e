//! How bytes get into a bucket: with one request, or in parts.

use std::{fs::File, os::unix::fs::FileExt};

use futures::{TryStreamExt, stream::FuturesUnordered};
use object_store::{
    Error, MultipartUpload as _, ObjectStore as _, ObjectStoreExt as _, PutMode, PutPayload, path::Path as Place,
};

use super::S3;
use crate::blobs::{BlobError, objects::Spooled, spool::blocking};

/// The most bytes of an object that is put with one request; a longer one is put in parts.
const WHOLE_MAX: u64 = 16 << 20;
/// How many bytes a part has, unless that would make more than [`PARTS_MAX`].
const PART: u64 = 8 << 20;
/// The most parts that S3 takes.
const PARTS_MAX: u64 = 10_000;
/// How many parts are in flight.
const PARTS_AT_ONCE: usize = 4;

impl S3 {
    /// Puts what has a key of its own, to a place where nothing is.
    pub(super) async fn put_new(&self, spooled: &Spooled, to: &Place) -> Result<(), Error> {
        if spooled.size > WHOLE_MAX {
            self.put_new_parts(spooled, to).await
        } else {
            self.put_whole(spooled.file.as_file(), spooled.size, to, PutMode::Create).await
        }
    }

    /// Puts a file under a key of the user's own, over what is there.
    pub(in crate::blobs) async fn put_file(&self, key: &str, file: File, size: u64) -> Result<(), BlobError> {
        let place = self.place(key);
        let stored = if size > WHOLE_MAX {
            self.put_parts(&file, size, &place).await
        } else {
            self.put_whole(&file, size, &place, PutMode::Overwrite).await
        };
        stored.map_err(|error| self.failed("store", &error))
    }

    async fn put_whole(&self, file: &File, size: u64, to: &Place, mode: PutMode) -> Result<(), Error> {
        let bytes = read_at(file, 0, size).await?;
        self.bulk.put_opts(to, bytes, mode.into()).await.map(drop)
    }

    /// Parts have no create-only: the key is asked for first, and nobody else has it.
    async fn put_new_parts(&self, spooled: &Spooled, to: &Place) -> Result<(), Error> {
        if self.size_at(to).await?.is_some() {
            return Err(Error::AlreadyExists { path: to.to_string(), source: "it has an object".into() });
        }
        self.put_parts(spooled.file.as_file(), spooled.size, to).await
    }

    async fn put_parts(&self, file: &File, size: u64, to: &Place) -> Result<(), Error> {
        let mut upload = self.bulk.put_multipart(to).await?;
        let part = size.div_ceil(PARTS_MAX).max(PART);
        let sent = async {
            let mut running = FuturesUnordered::new();
            let mut start = 0;
            while start < size {
                if running.len() == PARTS_AT_ONCE {
                    running.try_next().await?;
                }
                let bytes = read_at(file, start, part.min(size - start)).await?;
                running.push(upload.put_part(bytes));
                start += part;
            }
            while running.try_next().await?.is_some() {}
            upload.complete().await.map(drop)
        };
        let sent = sent.await;
        if sent.is_err() {
            // What cannot be aborted is left to the bucket's life cycle; the first error says more.
            let _ = upload.abort().await;
        }
        sent
    }
}

/// A part of a file. It does not move the file's cursor: an upload may have to begin again.
async fn read_at(file: &File, start: u64, len: u64) -> Result<PutPayload, Error> {
    let failed = |error: std::io::Error| Error::Generic { store: "spool", source: error.into() };
    let file = file.try_clone().map_err(failed)?;
    let len = usize::try_from(len).expect("a part fits into memory");
    let read = blocking(move || {
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, start)?;
        Ok(PutPayload::from(bytes))
    });
    read.await.map_err(failed)
}
