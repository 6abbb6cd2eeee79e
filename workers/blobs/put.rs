//! `janitor blobs put`: stores a file, or what is piped in.

use std::path::{Path, PathBuf};

use apalis_janitor::blobs::{BlobStore, Tag};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::{
    fs::File,
    io::{self, AsyncRead},
};

use super::fail;
use crate::{
    app::{App, Fail, Reply},
    out::print,
};

const SIZED: &str = "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
const UNSIZED: &str = "{spinner} {bytes}, {bytes_per_sec}";

/// Store a file, or what is piped in, and print its digest
///
/// Bytes that are there already are not stored again. It stays for good once its task is finalized, and goes once the
/// task has failed.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  janitor blobs put report.pdf --task render-7 --content-type application/pdf\n  \
    tar c out | janitor blobs put - --task render-7 --name out.tar")]
pub struct Args {
    /// The file; `-` reads stdin
    file: PathBuf,
    /// The task that puts it
    #[arg(long)]
    task: String,
    /// The run that the task belongs to
    #[arg(long)]
    run: Option<String>,
    /// Which try of the task it is
    #[arg(long, default_value_t = 1)]
    attempt: u32,
    /// What the task calls it [default: the file's name]
    #[arg(long)]
    name: Option<String>,
    /// Its media type
    #[arg(long)]
    content_type: Option<String>,
}

impl Args {
    fn is_stdin(&self) -> bool {
        self.file == Path::new("-")
    }

    /// What the task says of it.
    pub fn tag(&self) -> Result<Tag, Fail> {
        let name = match (&self.name, self.file.file_name()) {
            (Some(name), _) => name.clone(),
            (None, Some(name)) if !self.is_stdin() => match name.to_str() {
                Some(name) => name.to_owned(),
                None => return Err(Fail::usage(format!("{}: its name is no UTF-8: give --name", self.file.display()))),
            },
            (None, _) => String::new(),
        };
        let (task, run, content_type) = (self.task.clone(), self.run.clone(), self.content_type.clone());
        let tag = Tag { task, run, attempt: self.attempt, name, content_type };
        tag.check().map_err(fail)?;
        Ok(tag)
    }
}

/// Puts it.
pub async fn run(app: &App, store: &BlobStore, args: &Args) -> Reply {
    let tag = args.tag()?;
    let (size, reader) = open(args).await?;
    let bar = bar(app, size);
    let put = store.put(bar.wrap_async_read(reader), &tag).await;
    bar.finish_and_clear();
    let put = put.map_err(fail)?;
    if app.out.is_json() {
        let id = put.id.to_string();
        app.out.json(&json!({"digest": put.digest, "id": id, "size": put.size, "shared": put.is_shared}))?;
    } else {
        print(format!("{}\n", put.digest).as_bytes())?;
        if put.is_shared {
            app.out.note("its bytes were there already");
        }
    }
    Ok(0)
}

/// What is to be read, and how many bytes it has where that is known.
async fn open(args: &Args) -> Result<(Option<u64>, Box<dyn AsyncRead + Send + Unpin>), Fail> {
    if args.is_stdin() {
        return Ok((None, Box::new(io::stdin())));
    }
    let wrong = |error: &dyn std::fmt::Display| Fail::failed(format!("{}: {error}", args.file.display()));
    let file = File::open(&args.file).await.map_err(|error| wrong(&error))?;
    let meta = file.metadata().await.map_err(|error| wrong(&error))?;
    if meta.is_dir() {
        return Err(wrong(&"is a folder; put a file, or pipe an archive of it"));
    }
    Ok((meta.is_file().then_some(meta.len()), Box::new(file)))
}

fn bar(app: &App, size: Option<u64>) -> ProgressBar {
    if app.out.is_quiet() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match size {
        Some(size) => (ProgressBar::new(size), SIZED),
        None => (ProgressBar::new_spinner(), UNSIZED),
    };
    bar.with_style(ProgressStyle::with_template(template).expect("the template is a constant"))
}
