//! A blob store in S3 from the command line: what is said of wrong and absent credentials, and that nothing is lost by it.

use std::sync::Arc;

use apalis_janitor::config::ObjectsUrl;
use axum::{Router, extract::Request};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{cli::Cli, redis::free_port, s3::Bucket};

/// The SHA-256 of `hello\n`, by sha256sum.
const HELLO: &str = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
/// A line of each kind, with what it exits where the store cannot be had.
const LINES: [(&str, i32); 4] =
    [("blobs put hello.txt --task t", 1), ("blobs verify", 1), ("run orphans", 1), ("check", 1)];

/// The command line over a bucket.
struct World {
    cli: Cli,
    bucket: Bucket,
}

impl World {
    async fn new() -> Self {
        let bucket = Bucket::make().await;
        let ObjectsUrl::S3 { endpoint: Some(endpoint), .. } = &bucket.url else { panic!("a bucket of our own server") };
        let cli = Cli::with(&format!(
            "[blobs.artifacts]\nobjects = \"{}?endpoint={endpoint}\"\ncatalog = \"sqlite:blobs.db\"\n\
             [jobs.orphans]\nkind = \"orphans\"\nblobs = \"artifacts\"\ngrace = \"0s\"\n",
            bucket.url
        ));
        std::fs::write(cli.path().join("hello.txt"), "hello\n").unwrap();
        Self { cli, bucket }
    }

    /// The exit code and all that is printed and logged, with these variables and no others.
    fn run(&self, line: &str, env: &[(&str, &str)]) -> (i32, String) {
        let mut command = self.cli.command();
        command.args(line.split(' ')).env_clear().envs(env.iter().copied());
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout) + &text(output.stderr))
    }

    /// Those of who may.
    fn key(&self) -> [(&'static str, &str); 2] {
        [("AWS_ACCESS_KEY_ID", self.bucket.key_id.as_str()), ("AWS_SECRET_ACCESS_KEY", self.bucket.secret.as_str())]
    }

    /// What must exit 0 for who may.
    fn done(&self, line: &str) -> String {
        let (code, told) = self.run(line, &self.key());
        assert_eq!(code, 0, "{line}: {told}");
        told
    }

    /// How many objects are in the bucket, beside the marker.
    fn objects(&self) -> usize {
        let shard = self.bucket.folder.join(&HELLO[..2]);
        std::fs::read_dir(shard).map_or(0, Iterator::count)
    }
}

#[tokio::test]
async fn what_was_put_is_swept_and_no_output_has_the_secret() {
    let world = World::new().await;
    let mut talkative = world.key().to_vec();
    talkative.push(("RUST_LOG", "trace"));
    let release = ("blobs release --task t", 0);
    let lines = [LINES[0], LINES[1], LINES[3], release, ("run orphans --dry-run", 0), ("run orphans --list", 0)];
    for (line, _) in lines {
        let (code, told) = world.run(&format!("-vv {line}"), &talkative);
        assert_eq!(code, 0, "{line}: {told}");
        assert!(told.contains("TRACE"), "{line}: it is not talkative: {told}");
        assert!(!told.contains(&world.bucket.secret), "{line}: {told}");
    }
    assert_eq!(world.objects(), 0);
    assert_eq!(world.run(&format!("blobs get {HELLO}"), &world.key()).0, 1);
}

#[tokio::test]
async fn credentials_that_are_refused_and_a_bucket_that_is_missing_are_named_and_nothing_is_lost() {
    let world = World::new().await;
    world.done("blobs put hello.txt --task t");
    world.done("blobs release --task t");
    let wrong = [("AWS_ACCESS_KEY_ID", world.bucket.key_id.as_str()), ("AWS_SECRET_ACCESS_KEY", "not-the-s3cret")];
    let nobody = [("AWS_ACCESS_KEY_ID", "nobody"), ("AWS_SECRET_ACCESS_KEY", "not-the-s3cret")];
    let file = world.cli.path().join("janitor.toml");
    let right = std::fs::read_to_string(&file).unwrap();
    let missing = right.replace("s3://", "s3://not");
    for (config, env, says) in [
        (&right, &wrong, "SignatureDoesNotMatch"),
        (&right, &nobody, "No user exists with the provided access key ID"),
        (&missing, &world.key(), "NoSuchBucket"),
    ] {
        std::fs::write(&file, config).unwrap();
        for (line, exits) in LINES {
            let (code, told) = world.run(&format!("-vv {line}"), env);
            assert_eq!(code, exits, "{line}: {told}");
            assert!(told.contains(says) && told.contains("s3://"), "{line}: {told}");
            assert!(!told.contains("<Error>") && !told.contains(env[1].1), "{line}: {told}");
        }
        assert_eq!(world.objects(), 1);
    }
    std::fs::write(&file, right).unwrap();
    assert!(world.done("run orphans").contains("deleted 1 blobs"));
    assert_eq!(world.objects(), 0);
}

#[tokio::test]
async fn without_credentials_it_says_which_variables_are_not_set() {
    let world = World::new().await;
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    for (line, exits) in LINES {
        let (code, told) = world.run(line, &[("AWS_METADATA_ENDPOINT", &nowhere)]);
        assert_eq!(code, exits, "{line}: {told}");
        let says = "no credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set, and this host has no role";
        assert!(told.contains(says), "{line}: {told}");
    }
    for (env, says) in [
        (("AWS_ACCESS_KEY_ID", "x"), "AWS_ACCESS_KEY_ID is set, and AWS_SECRET_ACCESS_KEY is not"),
        (("AWS_SECRET_ACCESS_KEY", "x"), "AWS_SECRET_ACCESS_KEY is set, and AWS_ACCESS_KEY_ID is not"),
        (("AWS_ACCESS_KEY_ID", ""), "AWS_ACCESS_KEY_ID is set to nothing"),
    ] {
        for (line, exits) in [("blobs verify", 3), ("run orphans", 1), ("check", 1)] {
            let (code, told) = world.run(line, &[env]);
            assert_eq!(code, exits, "{line}: {told}");
            assert!(told.contains(says), "{line}: {told}");
        }
    }
    assert!(!world.bucket.folder.exists(), "something was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_with_a_role_needs_no_variables() {
    let world = World::new().await;
    let role = json!({
        // The server of the tests knows no sessions, and takes an empty token for none.
        "AccessKeyId": world.bucket.key_id, "SecretAccessKey": world.bucket.secret, "Token": "",
        "Expiration": chrono::Utc::now() + chrono::TimeDelta::hours(1),
    });
    let metadata = listen(role).await;
    let (code, told) = world.run("blobs put hello.txt --task t", &[("AWS_METADATA_ENDPOINT", &metadata)]);
    assert_eq!((code, told), (0, format!("{HELLO}\n")));
    assert_eq!(world.objects(), 1);
}

/// Answers as the metadata service of a host does that has this role; answers its URL.
async fn listen(role: Value) -> String {
    let role = Arc::new(role.to_string());
    let answer = move |request: Request| {
        let role = Arc::clone(&role);
        async move {
            match request.uri().path() {
                "/latest/api/token" => "session".to_owned(),
                "/latest/meta-data/iam/security-credentials/" => "role".to_owned(),
                _ => role.to_string(),
            }
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await.unwrap() });
    url
}

/// What a job of kind `disk` does of a file that is at the remote, not there, and not to be asked for.
#[tokio::test(flavor = "multi_thread")]
async fn media_goes_only_where_the_bucket_is_proven_to_have_it() {
    let bucket = Bucket::make().await;
    let ObjectsUrl::S3 { endpoint: Some(endpoint), .. } = &bucket.url else { panic!("a bucket of our own server") };
    let job = |endpoint: &str| {
        format!(
            "[jobs.disk]\nkind = \"disk\"\nroot = \"data\"\nmedia = {{ paths = [\"images\"], max_age = \"1s\", pressure_age = \"1s\" }}\n\
             remote = {{ objects = \"{}?endpoint={endpoint}\", verify = \"hash\" }}\n\
             references = [{{ path = \"posts.json\", fields = [\"imageUrl\"] }}]\n",
            bucket.url
        )
    };
    let world = World { cli: Cli::with(&job(endpoint)), bucket: bucket.clone() };
    let images = world.cli.path().join("data/images");
    std::fs::create_dir_all(&images).unwrap();
    let names = ["absent", "large", "other", "proven", "shorter"];
    let posts: Vec<Value> = names.iter().map(|name| json!({"imageUrl": format!("/images/{name}.png")})).collect();
    std::fs::write(world.cli.path().join("data/posts.json"), json!(posts).to_string()).unwrap();
    let write = |name: &str, text: &[u8]| {
        let path = images.join(format!("{name}.png"));
        std::fs::write(&path, text).unwrap();
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_mins(1)).unwrap();
    };
    // More than one request takes.
    let large = vec![7; 20 << 20];
    for (name, text) in [("large", large.as_slice()), ("other", b"OTHER"), ("proven", b"proven"), ("shorter", b"short")]
    {
        write(name, text);
        world.done(&format!("cache put images/{name}.png images/{name}.png"));
        assert!(!images.join(format!("{name}.png")).exists());
    }
    assert_eq!(std::fs::metadata(bucket.folder.join("images/large.png")).unwrap().len(), 20 << 20);
    for (name, text) in [
        ("absent", b"absent".as_slice()),
        ("large", &large),
        ("other", b"other"),
        ("proven", b"proven"),
        ("shorter", b"shorter"),
    ] {
        write(name, text);
    }
    let left = || {
        let mut left: Vec<_> = std::fs::read_dir(&images)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort_unstable();
        left
    };
    // Nobody answers, and a server that fails: nothing is known, and nothing goes.
    let refused = format!("http://127.0.0.1:{}", free_port());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let failing = format!("http://{}", listener.local_addr().unwrap());
    let app = Router::new().fallback(async |_: Request| axum::http::StatusCode::FORBIDDEN);
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    for endpoint in [&refused, &failing] {
        std::fs::write(world.cli.path().join("janitor.toml"), job(endpoint)).unwrap();
        let (code, told) = tokio::task::block_in_place(|| world.run("run disk --json", &world.key()));
        assert!(code == 1 && told.contains("5 could not be deleted"), "{endpoint}: {told}");
        assert_eq!(left().len(), 5);
    }
    server.abort();
    std::fs::write(world.cli.path().join("janitor.toml"), job(endpoint)).unwrap();
    let told = world.done("run disk --json");
    assert_eq!(left(), ["absent.png", "other.png", "shorter.png"], "{told}");
    assert!(told.contains("\"unproven\":3"), "{told}");
    world.done("cache get images/large.png images/back.png");
    assert_eq!(std::fs::read(images.join("back.png")).unwrap(), large);
}
