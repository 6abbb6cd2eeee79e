//! A password is in no output, on no page and in no report of a cluster over real databases, with everything logged.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use sqlx::{AssertSqlSafe, Executor};

use crate::{
    cassandra::Keyspace,
    cli::Cli,
    e2e_secrets::{BLOBS, LINES, PASSWORD, VOLUMES, output},
    mysql, postgres,
    process::Process,
    redis::{RedisOptions, RedisServer, free_port},
};

/// Escaped in a URL, so that a library may show it in another way.
const ESCAPED: &str = "hunter2%2F%40hunter2";
/// What every way to write one of the two has.
const PART: &str = "hunter2";
/// The lines that ask a database; the others are tried once.
const ASKING: [&str; 6] =
    ["check --json", "run old-runs", "run orphans --json", "blobs ls", "volumes ls", "history --json"];

/// The databases of one configuration.
struct Databases {
    store: String,
    catalog: String,
    marks: String,
}

impl Databases {
    /// The same URL for all three.
    fn all(url: &str) -> Self {
        let [store, catalog, marks] = [url, url, url].map(str::to_owned);
        Self { store, catalog, marks }
    }

    fn cli(&self, redis: &RedisServer, port: u16) -> Cli {
        let Self { store, catalog, marks } = self;
        Cli::with(&format!(
            "[redis]\nurl = \"{}\"\n[metrics]\nlisten = \"127.0.0.1:{port}\"\n[worker]\nmax_deliveries = 1\n\
             [jobs.old-runs]\nkind = \"retention\"\nschedule = \"every 1s\"\nstore = \"{store}\"\nretention_days = 30\n\
             [blobs.a]\nobjects = \"file:blobs\"\ncatalog = \"{catalog}\"\n\
             [jobs.orphans]\nkind = \"orphans\"\nblobs = \"a\"\nschedule = \"every 1s\"\n\
             [jobs.volumes]\nkind = \"volumes\"\nengine = \"unix:///none.sock\"\nmarks = \"{marks}\"\n\
             table = {{ name = \"threads\", closed = \"closed\" }}\nvolume = \"ws_{{id}}\"\nschedule = \"every 1s\"\n",
            redis.url()
        ))
    }
}

async fn redis() -> RedisServer {
    RedisServer::start_with(RedisOptions { password: Some(PASSWORD.to_owned()), ..RedisOptions::default() }).await
}

/// What a server of this process answers.
fn page(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains(" 200 "), "{answer}");
    answer
}

/// Runs `lines`, and everything that runs on, and reads all that can be read of it. `job` is what its reports are of.
async fn tells_nothing(redis: &RedisServer, databases: &Databases, lines: &[&str]) {
    let port = free_port();
    let cli = databases.cli(redis, port);
    for line in lines {
        let told = output(&cli, line, "trace");
        assert!(!told.contains(PART), "{line}:\n{told}");
    }
    for (line, working) in [("beat", "tick enqueued"), ("worker", "job ended"), ("up", "job ended")] {
        let daemon = Process::start_with(&cli, line, &[("RUST_LOG", "trace")]);
        cli.stdout("enqueue old-runs");
        daemon.logs(working).await;
        if line != "beat" {
            for path in ["/metrics", "/healthz"] {
                let told = page(port, path);
                assert!(told.contains("old-runs") && !told.contains(PART), "{line}: {path}: {told}");
            }
        }
        let end = daemon.stop().await;
        assert!(!(end.stdout + &end.stderr).contains(PART), "{line}");
    }
    let kept = redis.cli(&["LRANGE", "{janitor}:reports:old-runs", "0", "-1"]).await;
    assert!(kept.contains("old-runs") && !kept.contains(PART), "{kept}");
    assert_ne!(cli.json("history old-runs --json").as_array().map(Vec::len), Some(0));
    let dead = redis.cli(&["XRANGE", "{janitor}:queue:default:dead", "-", "+"]).await;
    assert!(!dead.contains(PART), "{dead}");
}

/// Every line that there is.
fn every_line() -> Vec<&'static str> {
    LINES.iter().chain(&BLOBS).chain(&VOLUMES).chain(&ASKING).copied().collect()
}

#[tokio::test]
async fn nothing_tells_the_password_of_postgres() {
    let (redis, database) = (redis().await, postgres::Database::new());
    let mut owner = database.connect().await;
    let threads = "CREATE TABLE threads (id text PRIMARY KEY, status text NOT NULL, volume_removed_at timestamptz)";
    for text in [include_str!("../data/pyworkflow_postgres.sql"), threads] {
        owner.execute(sqlx::raw_sql(AssertSqlSafe(text.to_owned()))).await.unwrap();
    }
    let url = database.url();
    let works = Databases::all(&url.replace("unasked", ESCAPED));
    tells_nothing(&redis, &works, &every_line()).await;
    let refused = Databases::all(&url.replace("janitor:unasked", &format!("{}:{PASSWORD}", postgres::ASKED)));
    tells_nothing(&redis, &refused, &ASKING).await;
    tells_nothing(&redis, &Databases::all(&format!("postgresql://app:{ESCAPED}@127.0.0.1:1/app")), &ASKING).await;
}

#[tokio::test]
async fn nothing_tells_the_password_of_mysql() {
    let (redis, database) = (redis().await, mysql::Database::new());
    let mut owner = database.connect().await;
    let threads = "CREATE TABLE threads (id varchar(64) PRIMARY KEY, status varchar(20) NOT NULL, volume_removed_at datetime(6) NULL)";
    for text in [include_str!("../data/pyworkflow_mysql.sql"), threads] {
        owner.execute(sqlx::raw_sql(AssertSqlSafe(text.to_owned()))).await.unwrap();
    }
    let name = &database.name;
    database.admin(&format!(
        "CREATE USER 'of_{name}'@'127.0.0.1' IDENTIFIED BY 'hunter2/@hunter2'; GRANT ALL ON {name}.* TO 'of_{name}'@'127.0.0.1'"
    ));
    let of = |url: String| Databases { store: url.clone(), catalog: "sqlite:blobs.db".to_owned(), marks: url };
    let user = format!("of_{name}");
    tells_nothing(&redis, &of(database.url_as(&user, ESCAPED)), &every_line()).await;
    tells_nothing(&redis, &of(database.url_as(&user, PASSWORD)), &ASKING).await;
    tells_nothing(&redis, &of(format!("mysql://app:{ESCAPED}@127.0.0.1:1/app")), &ASKING).await;
}

#[tokio::test]
async fn nothing_tells_the_password_of_cassandra() {
    let (redis, (keyspace, _session)) = (redis().await, Keyspace::new().await);
    let of =
        |store: String| Databases { store, catalog: "sqlite:blobs.db".to_owned(), marks: "sqlite:marks.db".to_owned() };
    let url = keyspace.url().replace("://", &format!("://app:{ESCAPED}@"));
    tells_nothing(&redis, &of(url), &["check", "check --json", "run old-runs", "jobs", "jobs --json"]).await;
    let silent = format!("cassandra://app:{ESCAPED}@127.0.0.1:1/app");
    tells_nothing(&redis, &of(silent), &["check --json", "run old-runs"]).await;
}

#[test]
fn no_error_of_a_configuration_tells_a_password() {
    let job =
        |store: &str| format!("[jobs.old-runs]\nkind = \"retention\"\nstore = \"{store}\"\nretention_days = 30\n");
    let blobs = |objects: &str| format!("[blobs.a]\nobjects = \"{objects}\"\ncatalog = \"sqlite:blobs.db\"\n");
    for text in [
        job("dynamodb://app:hunter2@eu/table"),
        job("dynamodb://eu-west-1/app:hunter2@table"),
        job("dynamodb://eu-west-1/table?endpoint=http://app:hunter2@127.0.0.1:1"),
        job("dynamodb://eu-west-1/table?password=hunter2"),
        job("cassandra://app:hunter2@h:x/k"),
        job("cassandra://app:%zzhunter2@h/k"),
        job("mysql://app:hunter2@h"),
        job("postgres:/app:hunter2@h/d"),
        job("mongodb://app:hunter2@h/d"),
        job("app:hunter2@h/d"),
        job("${NONE:-app:hunter2@h/d}"),
        job("postgres://app:hunter2@${NONE"),
        blobs("s3://app:hunter2@bucket/prefix"),
        blobs("s3://bucket/prefix?endpoint=http://app:hunter2@127.0.0.1:1"),
        blobs("s3://bucket/prefix?secret=hunter2"),
        "[redis]\nurl = \"redis://:hunter2@h".to_owned(),
        "[redis]\nurl = redis://:hunter2@h\n".to_owned(),
        "[redis]\nurl = [\"redis://:hunter2@h\"]\n".to_owned(),
        "[redis]\nurl = \"redis://h\"\nnamespace = \"redis://:hunter2@h\"\n".to_owned(),
        "[redis]\nurl = \"redis+sentinel://app:hunter2@h?sentinel_password=hunter2\"\n".to_owned(),
        "[redis]\nurl = \"redis+cluster://app:hunter2@h/0?password=hunter2\"\n".to_owned(),
    ] {
        let cli = Cli::with(&text);
        for line in ["check", "check --json", "worker"] {
            let told = output(&cli, line, "trace");
            assert!(!told.contains(PART), "{text}\n{line}: {told}");
        }
        assert_eq!(cli.run("check").0, 3, "{text}");
    }
}

#[test]
fn no_output_tells_a_secret_of_the_environment() {
    let away = "endpoint=http://127.0.0.1:1";
    for (text, line) in [
        (
            format!(
                "[jobs.old-runs]\nkind = \"retention\"\nstore = \"dynamodb://eu-west-1/table?{away}\"\nretention_days = 30\n"
            ),
            "run old-runs --json",
        ),
        (
            format!(
                "[blobs.a]\nobjects = \"s3://bucket/p?{away}&region=eu-west-1\"\ncatalog = \"sqlite:blobs.db\"\n\
                 [jobs.orphans]\nkind = \"orphans\"\nblobs = \"a\"\n"
            ),
            "run orphans --json",
        ),
    ] {
        let cli = Cli::with(&text);
        let mut command = cli.command();
        command.args(line.split(' ')).env("RUST_LOG", "trace").env("AWS_ACCESS_KEY_ID", "app");
        let secrets = [("AWS_SECRET_ACCESS_KEY", PASSWORD), ("AWS_SESSION_TOKEN", "hunter2token")];
        let output = command.envs(secrets).output().unwrap();
        let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(told.contains("TRACE") && told.contains("127.0.0.1:1"), "{line}: it was not tried: {told}");
        assert!(!told.contains(PART), "{line}:\n{told}");
    }
}
