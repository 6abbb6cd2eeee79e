//! `janitor blobs get`: reads a blob and verifies it to its end.

use std::{
    fs::Permissions,
    io::ErrorKind,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use apalis_janitor::blobs::{BlobStore, Digest, objects::Bytes};
use futures::StreamExt;
use serde_json::json;
use tokio::{
    fs::{self, File},
    io::{self, AsyncWrite, AsyncWriteExt},
};

use super::fail;
use crate::app::{App, Fail, Reply};

/// What a file that is written anew may be for others, before the umask.
const MODE: u32 = 0o666;

/// Read a blob and verify its hash to the end
///
/// A file is there only once the hash was right. What goes to stdout has gone when a mismatch is found: heed the exit code.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  janitor blobs get \"$DIGEST\" -o report.pdf")]
pub struct Args {
    /// The SHA-256 of its bytes
    digest: Digest,
    /// Where it is written [default: stdout]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Why the bytes did not arrive.
enum Cut {
    Read(Fail),
    Write(io::Error),
}

/// Reads it.
pub async fn run(app: &App, store: &BlobStore, args: &Args) -> Reply {
    match &args.output {
        Some(path) => to_file(app, store, args.digest, path).await,
        None if app.out.is_json() => Err(Fail::usage("--json needs -o FILE: stdout has the bytes")),
        None => to_stdout(store, args.digest).await,
    }
}

async fn to_stdout(store: &BlobStore, digest: Digest) -> Reply {
    let bytes = store.get(digest).await.map_err(fail)?;
    match copy(bytes, &mut io::stdout()).await {
        // A reader that has seen enough is no error.
        Err(Cut::Write(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(0),
        Err(Cut::Write(error)) => Err(Fail::failed(format!("stdout: {error}"))),
        Err(Cut::Read(why)) => Err(Fail::failed(format!("{why}; what was written to stdout is not this blob"))),
        Ok(_) => Ok(0),
    }
}

async fn to_file(app: &App, store: &BlobStore, digest: Digest, path: &Path) -> Reply {
    let wrong = |error: &dyn std::fmt::Display| Fail::failed(format!("{}: {error}", path.display()));
    // A link stays, and what it leads to is written anew.
    let target = fs::canonicalize(path).await.unwrap_or_else(|_| path.to_owned());
    if fs::metadata(&target).await.is_ok_and(|meta| !meta.is_file()) {
        return Err(wrong(&"is there and no file: it is left alone"));
    }
    let bytes = store.get(digest).await.map_err(fail)?;
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let beside =
        tempfile::Builder::new().prefix(".janitor-").permissions(Permissions::from_mode(MODE)).tempfile_in(folder);
    let beside = beside.map_err(|error| wrong(&error))?;
    let mut file = File::from_std(beside.reopen().map_err(|error| wrong(&error))?);
    let size = match copy(bytes, &mut file).await {
        Err(Cut::Write(error)) => return Err(wrong(&error)),
        Err(Cut::Read(why)) => return Err(why),
        Ok(size) => size,
    };
    file.sync_all().await.map_err(|error| wrong(&error))?;
    beside.persist(&target).map_err(|error| wrong(&error.error))?;
    if app.out.is_json() {
        app.out.json(&json!({"digest": digest, "size": size, "file": path.to_string_lossy()}))?;
    } else {
        app.out.note(&format!("{}: {size} bytes", path.display()));
    }
    Ok(0)
}

/// Copies a blob to its end and answers how many bytes it has.
async fn copy(mut bytes: Bytes, to: &mut (impl AsyncWrite + Unpin)) -> Result<u64, Cut> {
    let mut size = 0;
    while let Some(piece) = bytes.next().await {
        let piece = piece.map_err(|error| Cut::Read(fail(error)))?;
        to.write_all(&piece).await.map_err(Cut::Write)?;
        size += piece.len() as u64;
    }
    to.flush().await.map_err(Cut::Write)?;
    Ok(size)
}
