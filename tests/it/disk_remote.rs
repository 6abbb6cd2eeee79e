//! What a job of kind `disk` does where its remote fails, hangs, or is its own folder: nothing local goes.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    sync::{Arc, Mutex},
};

use axum::{Router, extract::Request, http::StatusCode};
use serde_json::Value;
use tokio::{net::TcpListener, task::block_in_place};

use crate::{
    cli::Cli,
    disk_job::{MEDIA, REFERENCES, disk_of, names, posts, put, world},
};

const FILES: usize = 60;
/// So many questions in a row without an answer are enough; as many more may be on their way.
const ASKED_MAX: usize = 2 * 16;

/// How a server answers.
#[derive(Clone, Copy, Debug)]
enum Answer {
    Error,
    Nothing,
}

/// Starts a server; answers its URL, and what it is asked for.
async fn serve(answer: Answer) -> (String, Arc<Mutex<BTreeSet<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = Arc::clone(&asked);
    let app = Router::new().fallback(async move |request: Request| {
        seen.lock().unwrap().insert(request.uri().path().to_owned());
        match answer {
            Answer::Error => StatusCode::INTERNAL_SERVER_ERROR,
            Answer::Nothing => std::future::pending().await,
        }
    });
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (url, asked)
}

/// Runs the job; answers its exit code and its report.
fn run(cli: &Cli) -> (i32, Value) {
    let mut command = cli.command();
    command.args(["run", "disk", "--json"]).env("AWS_ACCESS_KEY_ID", "x").env("AWS_SECRET_ACCESS_KEY", "y");
    let output = command.output().unwrap();
    (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap())
}

async fn lets_nothing_go(answer: Answer) {
    let (url, asked) = serve(answer).await;
    let remote = format!("remote = {{ objects = \"s3://bucket?endpoint={url}&region=r\" }}\n");
    let cli = world("", &format!("{MEDIA}{REFERENCES}{remote}pressure = {{ high = \"1%\", low = \"0%\" }}\n"));
    for number in 0..FILES {
        put(&cli, &format!("images/{number:02}.png"), 10, 30.0);
        put(&cli, &format!("images/young-{number:02}.png"), 10, 3.0);
    }
    posts(&cli, &[]);
    let (code, report) = block_in_place(|| run(&cli));
    assert_eq!((code, &report["outcome"], &report["deleted"]["files"]), (1, &"failed".into(), &0.into()), "{report}");
    assert_eq!(names(&disk_of(&cli).join("images")).len(), 2 * FILES);
    let failures = report["failures"].as_array().unwrap();
    let told =
        |item: &str| failures.iter().filter(|failure| failure["item"].as_str().unwrap().starts_with(item)).count();
    assert_eq!((told("images/"), told("remote")), (16, 1), "{report}");
    let asked = asked.lock().unwrap().len();
    assert!((16..=ASKED_MAX).contains(&asked), "{asked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remote_that_fails_is_soon_asked_no_more_and_nothing_goes() {
    lets_nothing_go(Answer::Error).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remote_that_hangs_is_soon_asked_no_more_and_nothing_goes() {
    lets_nothing_go(Answer::Nothing).await;
}

#[test]
fn a_remote_that_is_the_folder_itself_proves_nothing() {
    let cli = world("", &format!("{MEDIA}{REFERENCES}remote = {{ objects = \"file:other\" }}\n"));
    put(&cli, "images/a.png", 10, 30.0);
    posts(&cli, &["images/a.png".to_owned()]);
    symlink(disk_of(&cli), cli.path().join("other")).unwrap();
    let (code, report) = run(&cli);
    assert_eq!((code, &report["deleted"]["files"], &report["kept"]["unproven"]), (0, &0.into(), &1.into()), "{report}");
    let (code, _, stderr) = cli.run("cache put images/a.png images/a.png");
    assert!(code == 1 && stderr.contains("is not what was sent"), "{stderr}");
    assert_eq!(fs::read(disk_of(&cli).join("images/a.png")).unwrap(), [b'x'; 10]);
}
