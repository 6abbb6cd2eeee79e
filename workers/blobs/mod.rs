//! `janitor blobs`: puts, reads and explains what is in a blob store.

mod explain;
mod get;
mod ls;
mod put;
mod reasons;
mod show;
mod task;
mod verify;

use apalis_janitor::{
    blobs::{BlobError, BlobStore},
    config::{BlobsConfig, Config},
};

use crate::app::{App, Fail, Reply, chain, unknown};

/// What a configuration without a store lacks.
const EXAMPLE: &str = "[blobs.artifacts]\nobjects = \"file:blobs\"\ncatalog = \"sqlite:blobs.db\"";

/// Put and read blobs, finalize and release tasks, explain and verify
///
/// It exits 0, 1 where it failed, nothing was found or what was found is damaged, and 6 where a guard refused.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Example:\n  janitor blobs put report.pdf --task render-7\n  janitor blobs finalize --task render-7"
)]
pub struct Args {
    /// Which store, where the configuration has several
    #[arg(long, global = true, value_name = "NAME")]
    blobs: Option<String>,
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    Put(put::Args),
    Get(get::Args),
    Ls(ls::Args),
    Stat(show::Args),
    Explain(explain::Args),
    Delete(task::DeleteArgs),
    Finalize(task::AttemptArgs),
    #[command(about = task::RELEASE, long_about = task::RELEASE, after_help = task::RELEASE_EXAMPLE)]
    Release(task::AttemptArgs),
    Touch(task::TouchArgs),
    Verify(verify::Args),
}

/// Does one of them.
pub async fn run(app: &App, args: Args) -> Reply {
    if let Action::Put(args) = &args.action {
        // What is wrong with it is said before anything is opened.
        args.tag()?;
    }
    let config = app.config()?;
    let named = named(&config, args.blobs.as_deref())?;
    let store = BlobStore::open(named).await.map_err(|error| match error {
        // What is wrong is in the file or in a variable, not on the command line.
        BlobError::Invalid(why) => Fail::config(why),
        error => fail(error),
    })?;
    match args.action {
        Action::Put(args) => put::run(app, &store, &args).await,
        Action::Get(args) => get::run(app, &store, &args).await,
        Action::Ls(args) => ls::run(app, &store, args).await,
        Action::Stat(args) => show::run(app, &store, &args).await,
        Action::Explain(args) => explain::run(app, &config, named, &store, &args).await,
        Action::Delete(args) => task::delete(app, &store, &args).await,
        Action::Finalize(args) => task::finalize(app, &store, &args).await,
        Action::Release(args) => task::release(app, &store, &args).await,
        Action::Touch(args) => task::touch(app, &store, &args).await,
        Action::Verify(_) => verify::run(app, &store).await,
    }
}

/// The store that is meant: the named one, or the only one.
fn named<'a>(config: &'a Config, name: Option<&str>) -> Result<&'a BlobsConfig, Fail> {
    let stores = &config.blobs;
    let all = || stores.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    match name {
        _ if stores.is_empty() => {
            Err(Fail::config(format!("the configuration has no blob store; for example:\n{EXAMPLE}")))
        }
        Some(name) => stores.get(name).ok_or_else(|| unknown("blob store", name, stores.keys())),
        None if stores.len() > 1 => Err(Fail::usage(format!("which blob store? --blobs with one of: {}", all()))),
        None => stores.values().next().ok_or_else(|| Fail::config("the configuration has no blob store")),
    }
}

/// An error with its exit code.
#[expect(clippy::needless_pass_by_value, reason = "what `map_err` takes")]
fn fail(error: BlobError) -> Fail {
    let text = chain(&error);
    match error {
        BlobError::Invalid(_) => Fail::usage(text),
        BlobError::Refused(_) => Fail::refused(text),
        _ => Fail::failed(text),
    }
}
