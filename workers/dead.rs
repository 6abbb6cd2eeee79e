//! `janitor dead`: requests that were given up.

use apalis_janitor::queue::Dead;
use serde_json::json;

use crate::app::{App, Fail, Reply};

/// List, retry or drop requests that were given up after `max_deliveries`, or that could not be read
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  janitor dead ls\n  janitor dead retry 1763672400123-0")]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// List them, newest first
    #[command(after_help = "Example:\n  janitor dead ls --limit 10")]
    Ls {
        /// The most that are listed
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..))]
        limit: u16,
    },
    /// Put one back on the queue, with no delivery counted
    #[command(after_help = "Example:\n  janitor dead retry 1763672400123-0")]
    Retry {
        /// Its id, as `dead ls` shows it
        id: String,
    },
    /// Forget one
    #[command(after_help = "Example:\n  janitor dead drop 1763672400123-0")]
    Drop {
        /// Its id, as `dead ls` shows it
        id: String,
    },
}

/// Does one of the three.
pub async fn run(app: &App, args: &Args) -> Reply {
    let janitor = app.janitor().await?;
    match &args.action {
        Action::Ls { limit } => {
            let dead = janitor.dead(usize::from(*limit)).await.map_err(|error| Fail::of(&error))?;
            if app.out.is_json() {
                app.out.json(&dead)?;
            } else {
                let rows: Vec<_> = dead.iter().map(row).collect();
                app.out.rows(["ID", "SINCE", "JOB", "MODE", "DELIVERIES", "REASON"], &rows)?;
            }
            Ok(0)
        }
        Action::Retry { id } => {
            let mut found = false;
            for queue in janitor.queues() {
                found = found || queue.dead_retry(id).await.map_err(|error| Fail::of(&error))?;
            }
            settled(app, id, found, "retried")
        }
        Action::Drop { id } => {
            let mut found = false;
            for queue in janitor.queues() {
                found = found || queue.dead_drop(id).await.map_err(|error| Fail::of(&error))?;
            }
            settled(app, id, found, "dropped")
        }
    }
}

fn settled(app: &App, id: &str, found: bool, what: &str) -> Reply {
    if !found {
        return Err(Fail::failed(format!("no dead request {id:?}; `janitor dead ls` lists them")));
    }
    if app.out.is_json() {
        app.out.json(&json!({"id": id, "state": what}))?;
    } else {
        app.out.say(&format!("{id}: {what}"))?;
    }
    Ok(0)
}

fn row(dead: &Dead) -> [String; 6] {
    let field = |name: &str| dead.fields.iter().find(|(field, _)| field == name).map_or("-", |(_, value)| value);
    let since = crate::out::instant(dead.at);
    [
        dead.id.clone(),
        since,
        field("job").into(),
        field("mode").into(),
        dead.deliveries.to_string(),
        dead.reason.clone(),
    ]
}
