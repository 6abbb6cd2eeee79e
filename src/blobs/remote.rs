//! Files kept elsewhere under names of their owner's own: what a cache puts there, and what proves that a file is there.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
};

use futures::TryStreamExt;
use sha2::{Digest as _, Sha256};

use super::{
    BlobError, Digest,
    objects::{Bytes, folder::pieces},
    spool::{blocking, unless_absent},
};
#[cfg(feature = "s3")]
use crate::blobs::objects::s3::S3;
use crate::config::{ObjectsUrl, Verify};

/// A folder or a bucket with files in it, each under a key such as `images/a.png`.
#[derive(Clone, Debug)]
pub struct Remote {
    name: String,
    place: Place,
    verify: Verify,
}

#[derive(Clone, Debug)]
enum Place {
    Folder(PathBuf),
    #[cfg(feature = "s3")]
    S3(S3),
}

/// What is known of a file at the remote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// It is there, as `verify` asks for.
    Proven,
    /// It is not there, or something else is.
    Unproven,
}

impl Remote {
    /// The remote at a URL. Nothing is asked of a server yet.
    ///
    /// # Errors
    /// [`BlobError::Invalid`] where the URL is no good, or this build has no such remote.
    pub fn open(url: &ObjectsUrl, verify: Verify) -> Result<Self, BlobError> {
        let place = match url {
            ObjectsUrl::Folder(folder) => Place::Folder(folder.clone()),
            #[cfg(feature = "s3")]
            ObjectsUrl::S3 { .. } => Place::S3(S3::open(url)?),
            #[cfg(not(feature = "s3"))]
            ObjectsUrl::S3 { .. } => return Err(BlobError::Invalid(format!("{url}: built without `s3`"))),
        };
        Ok(Self { name: url.to_string(), place, verify })
    }

    /// The URL, without a password.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the local `file`, which is open at its start and has `size` bytes, is there under `key`. A file proves nothing
    /// of itself: what is there under another name or by another mount must be a copy.
    ///
    /// # Errors
    /// Where the remote does not answer: then nothing is known.
    pub async fn prove(
        &self,
        key: &str,
        size: u64,
        file: impl FnOnce() -> io::Result<File>,
    ) -> Result<Proof, BlobError> {
        if self.size(key).await? != Some(size) {
            return Ok(Proof::Unproven);
        }
        if self.verify == Verify::Size && !matches!(self.place, Place::Folder(_)) {
            return Ok(Proof::Proven);
        }
        let file = file().map_err(|error| self.failed("compare with a file", error))?;
        if self.is_itself(key, &file).map_err(|error| self.failed("compare with a file", error))? {
            return Ok(Proof::Unproven);
        }
        match self.verify {
            Verify::Size => Ok(Proof::Proven),
            Verify::Hash => {
                let ours = hash(pieces(file, self.name.clone())).await?;
                let Some(bytes) = self.read(key).await? else { return Ok(Proof::Unproven) };
                Ok(if hash(bytes).await? == ours { Proof::Proven } else { Proof::Unproven })
            }
        }
    }

    /// Whether what is under `key` is the file itself.
    fn is_itself(&self, key: &str, file: &File) -> io::Result<bool> {
        match &self.place {
            Place::Folder(folder) => {
                let (ours, theirs) = (file.metadata()?, unless_absent(fs::metadata(folder.join(key)))?);
                Ok(theirs.is_some_and(|theirs| (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino())))
            }
            #[cfg(feature = "s3")]
            Place::S3(_) => Ok(false),
        }
    }

    /// How long the object is; `None` where there is none.
    pub async fn size(&self, key: &str) -> Result<Option<u64>, BlobError> {
        match &self.place {
            Place::Folder(folder) => {
                let path = below(folder, key)?;
                let found = blocking(move || unless_absent(fs::metadata(path))).await;
                let found = found.map_err(|error| self.failed("look for", error))?;
                Ok(found.filter(fs::Metadata::is_file).map(|found| found.len()))
            }
            #[cfg(feature = "s3")]
            Place::S3(s3) => s3.size_of(key).await,
        }
    }

    /// The bytes of an object; `None` where there is none.
    pub async fn read(&self, key: &str) -> Result<Option<Bytes>, BlobError> {
        match &self.place {
            Place::Folder(folder) => {
                let path = below(folder, key)?;
                let file = blocking(move || unless_absent(File::open(path))).await;
                let file = file.map_err(|error| self.failed("read", error))?;
                Ok(file.map(|file| pieces(file, self.name.clone())))
            }
            #[cfg(feature = "s3")]
            Place::S3(s3) => s3.read_of(key).await,
        }
    }

    /// Puts a file under `key`, over what is there; it is there whole or not at all.
    pub async fn put(&self, key: &str, file: File, size: u64) -> Result<(), BlobError> {
        match &self.place {
            Place::Folder(folder) => {
                let path = below(folder, key)?;
                blocking(move || copy(file, &path)).await.map_err(|error| self.failed("store", error))?;
            }
            #[cfg(feature = "s3")]
            Place::S3(s3) => s3.put_file(key, file, size).await?,
        }
        tracing::debug!(remote = self.name, key, size, "stored");
        Ok(())
    }

    fn failed(&self, what: &'static str, error: io::Error) -> BlobError {
        BlobError::unavailable(&self.name, what, error)
    }
}

/// The path of a key in a folder. A key leads out of none.
fn below(folder: &Path, key: &str) -> Result<PathBuf, BlobError> {
    let is_plain = !key.contains('\0') && Path::new(key).components().all(|part| matches!(part, Component::Normal(_)));
    if key.is_empty() || !is_plain {
        return Err(BlobError::Invalid(format!("key {key:?}: must be a path without `..`, such as images/a.png")));
    }
    Ok(folder.join(key))
}

async fn hash(mut bytes: Bytes) -> Result<Digest, BlobError> {
    let mut hash = Sha256::new();
    while let Some(piece) = bytes.try_next().await? {
        hash.update(&piece);
    }
    Ok(Digest::new(hash.finalize().into()))
}

fn copy(mut from: File, to: &Path) -> io::Result<()> {
    let folder = to.parent().expect("a key is below a folder");
    fs::create_dir_all(folder)?;
    let mut file = tempfile::Builder::new().prefix(".janitor-").tempfile_in(folder)?;
    io::copy(&mut from, &mut file)?;
    file.as_file().sync_all()?;
    file.persist(to).map_err(|error| error.error)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn file(text: &str) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        io::Seek::rewind(&mut file).unwrap();
        file
    }

    async fn prove(remote: &Remote, key: &str, text: &str) -> Proof {
        remote.prove(key, text.len() as u64, || Ok(file(text))).await.unwrap()
    }

    #[tokio::test]
    async fn what_was_put_is_proven_and_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let url = ObjectsUrl::Folder(folder.path().join("cdn"));
        let (sizes, hashes) = (Remote::open(&url, Verify::Size).unwrap(), Remote::open(&url, Verify::Hash).unwrap());
        assert_eq!(prove(&sizes, "images/a.png", "four").await, Proof::Unproven);
        sizes.put("images/a.png", file("four"), 4).await.unwrap();
        assert_eq!(prove(&sizes, "images/a.png", "four").await, Proof::Proven);
        assert_eq!(prove(&sizes, "images/a.png", "five!").await, Proof::Unproven);
        assert_eq!(prove(&sizes, "images/a.png", "FOUR").await, Proof::Proven);
        assert_eq!(prove(&hashes, "images/a.png", "FOUR").await, Proof::Unproven);
        assert_eq!(prove(&hashes, "images/a.png", "four").await, Proof::Proven);
        let bytes: Vec<bytes::Bytes> = sizes.read("images/a.png").await.unwrap().unwrap().try_collect().await.unwrap();
        assert_eq!(bytes.concat(), b"four");
        assert_eq!(fs::read_dir(folder.path().join("cdn/images")).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_file_proves_nothing_of_itself() {
        let folder = tempfile::tempdir().unwrap();
        let (data, other) = (folder.path().join("data"), folder.path().join("other"));
        fs::create_dir(&data).unwrap();
        fs::write(data.join("a.png"), "four").unwrap();
        std::os::unix::fs::symlink(&data, &other).unwrap();
        for place in [data.clone(), other] {
            for verify in [Verify::Size, Verify::Hash] {
                let remote = Remote::open(&ObjectsUrl::Folder(place.clone()), verify).unwrap();
                let proof = remote.prove("a.png", 4, || File::open(data.join("a.png"))).await.unwrap();
                assert_eq!(proof, Proof::Unproven);
            }
        }
    }

    #[tokio::test]
    async fn a_key_leads_out_of_no_folder() {
        let folder = tempfile::tempdir().unwrap();
        let remote = Remote::open(&ObjectsUrl::Folder(folder.path().to_owned()), Verify::Size).unwrap();
        for key in ["", "../a", "/etc/passwd", "a/../../b", "a\0b"] {
            assert!(matches!(remote.size(key).await, Err(BlobError::Invalid(_))), "{key:?}");
        }
    }
}
