//! The demo of jobs of kind `orphans`: three tasks, of which one succeeds, one fails and one is killed.

use std::time::Duration;

use apalis_janitor::{
    Janitor,
    blobs::{BlobError, BlobStore, Digest, Tag},
    report::{Mode, Report},
};
use tokio::time::sleep;

use super::{execute, tell};
use crate::app::{App, Fail};

/// A bit more than the grace and the silence of `demo.toml`.
const GRACE: Duration = Duration::from_millis(2_100);

/// What a task made.
struct Made {
    name: &'static str,
    digest: Digest,
}

/// Has tasks put what they made, plans, sweeps, and plans again.
pub(super) async fn show(app: &App, janitor: &Janitor) -> Result<Vec<Report>, Fail> {
    let config = janitor.config().blobs.values().next().ok_or_else(|| Fail::failed("the demo has no blob store"))?;
    let store = BlobStore::open(config).await.map_err(|error| Fail::of(&error))?;
    tell(app, "$ janitor blobs put …                 # three tasks, and what they made")?;
    let made = tasks(app, &store).await?;
    sleep(GRACE).await;
    tell(app, "$ janitor run orphans --dry-run       # two seconds later: what would go")?;
    let planned = execute(app, janitor, "orphans", Mode::DryRun).await?;
    tell(app, "$ janitor run orphans")?;
    let swept = execute(app, janitor, "orphans", Mode::Apply).await?;
    for made in made {
        tell(app, &format!("{} {}", made.name, fate(&store, made.digest).await.map_err(|error| Fail::of(&error))?))?;
    }
    tell(app, "\n$ janitor run orphans --dry-run       # nothing is left to do until the next grace is over")?;
    Ok(vec![planned, swept, execute(app, janitor, "orphans", Mode::DryRun).await?])
}

async fn tasks(app: &App, store: &BlobStore) -> Result<[Made; 3], Fail> {
    let of = |error: BlobError| Fail::of(&error);
    let put = async |task: &str, name: &'static str| {
        let tag = Tag { name: name.to_owned(), ..Tag::of(task) };
        let put = store.put(name.as_bytes(), &tag).await.map_err(of)?;
        Ok::<_, Fail>(Made { name, digest: put.digest })
    };
    let film = put("render-1", "film.mp4").await?;
    store.finalize("render-1", 1).await.map_err(of)?;
    tell(app, "render-1 puts film.mp4 and finalizes it")?;
    let draft = put("render-2", "draft.mp4").await?;
    store.release("render-2", 1).await.map_err(of)?;
    tell(app, "render-2 puts draft.mp4 and says that it failed")?;
    let cut = put("render-3", "cut.mp4").await?;
    tell(app, "render-3 puts cut.mp4 and is killed\n")?;
    Ok([film, draft, cut])
}

/// What became of a blob, and why.
async fn fate(store: &BlobStore, digest: Digest) -> Result<&'static str, BlobError> {
    let stat = store.stat(digest).await?;
    let Some(blob) = stat.blobs.first() else { return Ok("went: its task failed longer ago than the grace") };
    Ok(if stat.refs.iter().any(|held| held.is_final) {
        "stays: its task finalized it"
    } else if blob.zero_since.is_some() {
        "stays in its grace, which has begun: its task was silent for too long and now counts as failed"
    } else {
        "stays: its task may be alive"
    })
}
