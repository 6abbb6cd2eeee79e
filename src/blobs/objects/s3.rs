//! Objects in S3, or in a server that speaks like it.

mod credentials;
mod errors;
mod upload;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use object_store::{
    BackoffConfig, ClientOptions, Error, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, Checksum},
    list::{PaginatedListOptions, PaginatedListStore},
    path::Path as Place,
};

use self::errors::{shown, told};
use super::{Bytes, Found, Objects, Spooled};
use crate::{
    blobs::{
        BlobError, Key,
        spool::{self, blocking},
    },
    config::{ObjectsUrl, SecretUrl},
};

/// The object that names the catalog.
const MARKER: &str = "janitor-store";
/// The most objects in a page, and in a request that deletes.
const PAGE: usize = 1_000;
/// How many requests that delete are in flight.
const DELETES_AT_ONCE: usize = 8;
/// How many of them where each deletes one object.
const SINGLES_AT_ONCE: usize = 32;
/// How long a connection may take to come up.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long a request without bytes of a blob may take, tried once.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long a request that brings or takes bytes may show no progress: also what the slowest line has for one part.
const SILENCE_MAX: Duration = Duration::from_mins(2);
/// After this long a failed request is not tried again. With [`ANSWER_MAX`] and a pause it is half a minute at most.
const RETRY_MAX: Duration = Duration::from_secs(15);
/// The longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How often a request is tried again at most.
const RETRIES_MAX: usize = 5;

/// Objects `prefix/aa/<sha256>.<id>` in a bucket, beside `prefix/janitor-store`, which names the catalog.
///
/// Streams are spooled on the local disk. What a killed program leaves of an upload in parts is shown in no list: let a
/// rule of the bucket's life cycle abort incomplete multipart uploads. The server must honour `If-None-Match: *`.
#[derive(Clone, Debug)]
pub struct S3 {
    name: String,
    /// With a slash at its end, or empty.
    prefix: String,
    spool: PathBuf,
    /// For requests that are answered soon.
    quick: Arc<AmazonS3>,
    /// For those that move a blob's bytes.
    bulk: Arc<AmazonS3>,
}

impl S3 {
    /// The objects at an S3 URL; the credentials come from AWS's own variables, or are those of the host's role. Nothing is
    /// asked of the server yet.
    ///
    /// # Errors
    /// [`BlobError::Invalid`] where the URL or a variable is no good.
    pub fn open(url: &ObjectsUrl) -> Result<Self, BlobError> {
        Self::build(url, AmazonS3Builder::from_env())
    }

    /// The same with these credentials.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn with_credentials(url: &ObjectsUrl, key_id: &str, secret: &str) -> Result<Self, BlobError> {
        Self::build(url, AmazonS3Builder::new().with_access_key_id(key_id).with_secret_access_key(secret))
    }

    /// Spools streams in this folder in place of the system's own for temporary files.
    #[must_use]
    pub fn spool_in(self, folder: impl Into<PathBuf>) -> Self {
        Self { spool: folder.into(), ..self }
    }

    fn build(url: &ObjectsUrl, builder: AmazonS3Builder) -> Result<Self, BlobError> {
        let ObjectsUrl::S3 { bucket, prefix, endpoint, region } = url else {
            return Err(BlobError::Invalid(format!("objects {url}: must be s3://bucket/prefix")));
        };
        // The first call decides for the process; a provider that the program chose before is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = builder.with_bucket_name(bucket);
        let mut name = url.to_string();
        if let Some(endpoint) = endpoint {
            name = format!("{name}?endpoint={}", SecretUrl::new(endpoint));
            builder = builder.with_endpoint(endpoint).with_virtual_hosted_style_request(false);
        }
        if let Some(region) = region {
            builder = builder.with_region(region);
        }
        let builder = credentials::with(builder).map_err(|error| BlobError::Invalid(format!("{name}: {error}")))?;
        let is_http = endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
        // The server compares what arrives with a hash that is sent along.
        let client = |options: ClientOptions| {
            let options = options.with_connect_timeout(CONNECT_MAX).with_allow_http(is_http);
            builder
                .clone()
                .with_checksum_algorithm(Checksum::SHA256)
                .with_retry(retries())
                .with_client_options(options)
                .build()
                .map(Arc::new)
        };
        let invalid = |error: Error| BlobError::Invalid(format!("{name}: {}", shown(&error)));
        let quick = client(ClientOptions::new().with_timeout(ANSWER_MAX)).map_err(invalid)?;
        let silent = ClientOptions::new().with_timeout_disabled().with_read_timeout(SILENCE_MAX);
        let bulk = client(silent).map_err(invalid)?;
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Place::parse(&prefix).map_err(|error| BlobError::Invalid(format!("{name}: {error}")))?;
        Ok(Self { name, prefix, spool: std::env::temp_dir(), quick, bulk })
    }

    fn failed(&self, what: &'static str, error: &Error) -> BlobError {
        BlobError::unavailable(&self.name, what, shown(error))
    }

    fn place(&self, path: &str) -> Place {
        Place::from(format!("{}{path}", self.prefix))
    }

    /// The first object that is there, whatever it is.
    async fn first(&self) -> Result<Option<ObjectMeta>, Error> {
        let options = PaginatedListOptions { max_keys: Some(1), ..PaginatedListOptions::default() };
        let page = self.quick.list_paginated(Some(&self.prefix), options).await?;
        Ok(page.result.objects.into_iter().next())
    }

    async fn size_at(&self, place: &Place) -> Result<Option<u64>, Error> {
        Ok(unless_absent(self.quick.head(place).await)?.map(|found| found.size))
    }

    /// How long the object under a key of the user's own is.
    pub(in crate::blobs) async fn size_of(&self, key: &str) -> Result<Option<u64>, BlobError> {
        self.size_at(&self.place(key)).await.map_err(|error| self.failed("look for", &error))
    }

    /// The bytes under a key of the user's own.
    pub(in crate::blobs) async fn read_of(&self, key: &str) -> Result<Option<Bytes>, BlobError> {
        self.bytes_at(&self.place(key)).await
    }

    async fn bytes_at(&self, place: &Place) -> Result<Option<Bytes>, BlobError> {
        let found = unless_absent(self.bulk.get(place).await);
        let Some(found) = found.map_err(|error| self.failed("read", &error))? else { return Ok(None) };
        let name = self.name.clone();
        let pieces = found.into_stream();
        Ok(Some(pieces.map_err(move |error| BlobError::unavailable(&name, "read", shown(&error))).boxed()))
    }

    /// Deletes up to a page of keys, with one request where that goes well.
    async fn delete_page(&self, keys: &[Key]) -> Vec<Result<(), BlobError>> {
        let deleted = self.delete_together(keys).await;
        let [Err(error)] = deleted.as_slice() else { return self.answers(keys, &deleted) };
        // The client takes one key's internal error for that of the request, and says nothing of the others.
        if keys.len() == 1 || !told(error).contains("<DeleteResult") {
            return self.answers(keys, &deleted);
        }
        let one_by_one = keys.chunks(1).map(|key| self.delete_together(key)).collect::<Vec<_>>();
        let deleted = stream::iter(one_by_one).buffered(SINGLES_AT_ONCE).collect::<Vec<_>>().await;
        keys.chunks(1).zip(deleted).flat_map(|(key, deleted)| self.answers(key, &deleted)).collect()
    }

    async fn delete_together(&self, keys: &[Key]) -> Vec<Result<Place, Error>> {
        let places = keys.iter().map(|key| Ok(self.place(&key.path()))).collect::<Vec<_>>();
        self.quick.delete_stream(stream::iter(places).boxed()).collect().await
    }

    /// What came of each key; one error alone is that of all.
    fn answers(&self, keys: &[Key], deleted: &[Result<Place, Error>]) -> Vec<Result<(), BlobError>> {
        let answer = |deleted: &Result<Place, Error>| match deleted {
            Ok(_) => Ok(()),
            Err(error) if is_absent(error) => Ok(()),
            Err(error) => Err(self.failed("delete", error)),
        };
        match deleted {
            [Err(_)] => keys.iter().map(|_| answer(&deleted[0])).collect(),
            _ if deleted.len() == keys.len() => deleted.iter().map(answer).collect(),
            _ => {
                let text = format!("{} answers for {} keys", deleted.len(), keys.len());
                keys.iter().map(|_| Err(BlobError::unavailable(&self.name, "delete", text.clone()))).collect()
            }
        }
    }

    /// What the marker says, where there is one.
    async fn marker(&self) -> Result<Option<String>, Error> {
        let Some(marker) = unless_absent(self.quick.get(&self.place(MARKER)).await)? else { return Ok(None) };
        Ok(Some(String::from_utf8_lossy(&marker.bytes().await?).trim().to_owned()))
    }

    fn found(&self, object: &ObjectMeta) -> Found {
        let path = object.location.as_ref();
        let path = path.strip_prefix(&self.prefix).unwrap_or(path).to_owned();
        Found { key: Key::of_path(&path), path, size: object.size, modified: object.last_modified }
    }
}

#[async_trait]
impl Objects for S3 {
    fn name(&self) -> &str {
        &self.name
    }

    fn spool(&self) -> &Path {
        &self.spool
    }

    async fn identity(&self) -> Result<Option<String>, BlobError> {
        let failed = |error: Error| self.failed("read the marker", &error);
        let refused = |why: String| Err(BlobError::Refused(format!("{}: is no blob store: {why}", self.name)));
        let mut identity = self.marker().await.map_err(failed)?;
        if identity.is_none() {
            let Some(other) = self.first().await.map_err(failed)? else { return Ok(None) };
            // Another process may have marked it between the two looks.
            identity = self.marker().await.map_err(failed)?;
            if identity.is_none() {
                return refused(format!("it has {:?} in it and no {MARKER}", self.found(&other).path));
            }
        }
        match identity {
            Some(identity) if identity.is_empty() => refused(format!("its {MARKER} is empty")),
            identity => Ok(identity),
        }
    }

    async fn mark(&self, identity: &str) -> Result<String, BlobError> {
        if let Some(theirs) = self.identity().await? {
            return Ok(theirs);
        }
        let text = PutPayload::from(format!("{identity}\n"));
        match self.quick.put_opts(&self.place(MARKER), text, PutMode::Create.into()).await {
            Ok(_) => Ok(identity.to_owned()),
            // Another process was first.
            Err(Error::AlreadyExists { .. }) => {
                let theirs = self.identity().await?;
                theirs.ok_or_else(|| BlobError::unavailable(&self.name, "mark", "the marker comes and goes"))
            }
            Err(error) => Err(self.failed("mark", &error)),
        }
    }

    async fn upload(&self, spooled: &Spooled, key: &Key) -> Result<(), BlobError> {
        let place = self.place(&key.path());
        let stored = self.put_new(spooled, &place).await;
        let failed = |error: Error| match error {
            Error::AlreadyExists { .. } => {
                BlobError::unavailable(&self.name, "store", format!("{key}: there is an object already"))
            }
            error => self.failed("store", &error),
        };
        stored.map_err(failed)?;
        match self.size_at(&place).await.map_err(failed)? {
            Some(size) if size == spooled.size => Ok(()),
            found => {
                let found = found.map_or_else(|| "is not there".to_owned(), |size| format!("has {size} bytes"));
                let text = format!("{key} {found} after {} were sent", spooled.size);
                Err(BlobError::unavailable(&self.name, "store", text))
            }
        }
    }

    async fn read(&self, key: &Key) -> Result<Option<Bytes>, BlobError> {
        self.bytes_at(&self.place(&key.path())).await
    }

    async fn size(&self, key: &Key) -> Result<Option<u64>, BlobError> {
        self.size_at(&self.place(&key.path())).await.map_err(|error| self.failed("look for", &error))
    }

    async fn delete(&self, keys: &[Key]) -> Vec<Result<(), BlobError>> {
        let pages = keys.chunks(PAGE).map(|page| self.delete_page(page)).collect::<Vec<_>>();
        let answers = stream::iter(pages).buffered(DELETES_AT_ONCE).collect::<Vec<_>>().await;
        answers.into_iter().flatten().collect()
    }

    fn list(&self, shard: u8) -> BoxStream<'_, Result<Vec<Found>, BlobError>> {
        let prefix = format!("{}{shard:02x}/", self.prefix);
        let pages = stream::try_unfold(Some(None), move |token: Option<Option<String>>| {
            let prefix = prefix.clone();
            async move {
                let Some(page_token) = token else { return Ok(None) };
                let options =
                    PaginatedListOptions { max_keys: Some(PAGE), page_token, ..PaginatedListOptions::default() };
                let page = self.quick.list_paginated(Some(&prefix), options).await;
                let page = page.map_err(|error| self.failed("list", &error))?;
                let found = page.result.objects.iter().map(|object| self.found(object)).collect::<Vec<_>>();
                Ok(Some((found, page.page_token.map(Some))))
            }
        });
        pages.boxed()
    }

    async fn clean(&self, before: DateTime<Utc>, leave: bool) -> Result<u64, BlobError> {
        let folder = self.spool.clone();
        let cleaned = blocking(move || spool::clean(&folder, before, leave)).await;
        cleaned.map_err(|error| BlobError::unavailable(self.spool.display().to_string(), "clean the spool", error))
    }
}

fn retries() -> RetryConfig {
    let backoff = BackoffConfig { max_backoff: PAUSE_MAX, ..BackoffConfig::default() };
    RetryConfig { backoff, max_retries: RETRIES_MAX, retry_timeout: RETRY_MAX }
}

/// `None` where the object is not there.
fn unless_absent<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether it is the object that is not there. A server answers 404 for a bucket or a user, too, and says so unless it was
/// asked for a size alone.
fn is_absent(error: &Error) -> bool {
    let text = told(error);
    matches!(error, Error::NotFound { .. }) && (!text.contains("<Code>") || text.contains("<Code>NoSuchKey</Code>"))
}
