//! What is wrong with an engine is said, with what to do; and nothing wrong is taken for an answer.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

use apalis_janitor::{
    config::EngineUrl,
    volumes::{Engine, EngineError, Removal, docker::DockerEngine},
};
use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UnixListener},
};

use crate::{
    docker::{ANSWER_MAX, Dockerd, Options},
    redis::free_port,
};

const WHAT: &str = "list volumes: unavailable";
/// What somebody who never answers is given.
const SHORT: Duration = Duration::from_millis(200);

/// An error with its sources on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// What is wrong with the engine at this place, which cannot be used.
async fn unavailable(url: &EngineUrl) -> String {
    let error = volumes_of(url).await.unwrap_err();
    assert!(matches!(error, EngineError::Unavailable { .. }), "{error:?}");
    chain(&error)
}

async fn volumes_of(url: &EngineUrl) -> Result<usize, EngineError> {
    let engine = apalis_janitor::volumes::open(url, ANSWER_MAX).await?;
    assert_eq!(engine.name(), url.to_string());
    Ok(engine.look().await?.volumes.len())
}

fn tcp(address: &str, certs: Option<&Path>) -> EngineUrl {
    EngineUrl::Tcp { address: address.to_owned(), certs: certs.map(Path::to_owned) }
}

#[tokio::test]
async fn a_place_where_nothing_is_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (missing, left) = (folder.path().join("none.sock"), folder.path().join("left.sock"));
    drop(UnixListener::bind(&left).unwrap());
    for url in [EngineUrl::Unix(missing), EngineUrl::Unix(left), tcp(&format!("127.0.0.1:{}", free_port()), None)] {
        let told = unavailable(&url).await;
        let expected = "nothing is there: start the engine, or set `engine` to where it listens";
        assert!(told.starts_with(&format!("{url}: {WHAT}: {expected}: ")), "{told}");
    }
}

#[tokio::test]
async fn a_socket_that_this_user_may_not_use_says_so() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let socket = folder.path().join("docker.sock");
    let _listens = UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, Permissions::from_mode(0o660)).unwrap();
    // A thread of its own becomes somebody else.
    let asked = std::thread::spawn(move || {
        let (nobody, nogroup) = (Uid::from_raw(65_534), Gid::from_raw(65_534));
        set_thread_groups(&[nogroup]).unwrap();
        set_thread_res_gid(nogroup, nogroup, nogroup).unwrap();
        set_thread_res_uid(nobody, nobody, nobody).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(unavailable(&EngineUrl::Unix(socket)))
    });
    let told = tokio::task::spawn_blocking(|| asked.join()).await.unwrap().unwrap();
    assert!(told.contains("this user may not use the socket: run as a member of its group"), "{told}");
}

/// Somebody who says something else to each call, by its path, and then hangs up or not.
async fn somebody(answer: impl Fn(&str) -> String + Send + Sync + 'static, hangs_up: bool) -> EngineUrl {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = tcp(&listener.local_addr().unwrap().to_string(), None);
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut asked = Vec::new();
                // Of what does not begin like a call there may come no end.
                while !asked.ends_with(b"\r\n\r\n") && asked.first().is_none_or(u8::is_ascii_alphabetic) {
                    asked.push(stream.read_u8().await?);
                }
                let asked = String::from_utf8_lossy(&asked).into_owned();
                stream.write_all(answer(asked.split(' ').nth(1).unwrap_or_default()).as_bytes()).await?;
                if !hangs_up {
                    std::future::pending::<()>().await;
                }
                stream.shutdown().await
            });
        }
    });
    url
}

fn http(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// An engine with nothing in it, but for what it answers to the calls whose path ends so.
async fn engine_but_for(end: &'static str, answer: String) -> EngineUrl {
    let answers = move |path: &str| match path.split('?').next().unwrap_or_default() {
        path if path.ends_with(end) => answer.clone(),
        path if path.ends_with("/version") => http("200 OK", r#"{"ApiVersion": "1.41"}"#),
        path if path.ends_with("/volumes") => http("200 OK", r#"{"Volumes": null, "Warnings": null}"#),
        _ => http("200 OK", "[]"),
    };
    somebody(answers, true).await
}

#[tokio::test]
async fn an_engine_that_is_empty_is_one_that_answers() {
    let url = engine_but_for("/nothing", String::new()).await;
    assert_eq!(volumes_of(&url).await.unwrap(), 0);
}

#[tokio::test]
async fn what_is_no_engine_is_none() {
    for (end, body) in [("/version", "<html>"), ("/version", "{}"), ("/volumes", "[]"), ("/json", "{}"), ("/json", "")]
    {
        let told = unavailable(&engine_but_for(end, http("200 OK", body)).await).await;
        assert!(told.contains("what answers is no container engine"), "{end} {body}: {told}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_none() {
    for end in ["/version", "/volumes", "/json"] {
        let half = http("200 OK", r#"{"Volumes": null}"#).replace("null}", "");
        unavailable(&engine_but_for(end, half).await).await;
    }
}

#[tokio::test]
async fn a_list_of_which_the_engine_warns_is_none() {
    let body = r#"{"Volumes": [], "Warnings": ["list nfs: no such host", "list x: timeout"]}"#;
    let told = unavailable(&engine_but_for("/volumes", http("200 OK", body)).await).await;
    assert!(told.ends_with("would count as gone: list nfs: no such host; list x: timeout"), "{told}");
}

#[tokio::test]
async fn an_answer_whose_body_never_comes_is_waited_for_as_long_as_was_said() {
    let url = somebody(|_| "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n".to_owned(), false).await;
    let engine = DockerEngine::open(&url, SHORT);
    let looked = tokio::time::timeout(ANSWER_MAX, engine.look()).await.expect("an end");
    assert!(matches!(looked, Err(EngineError::TimedOut { limit: SHORT, .. })), "{looked:?}");
}

#[tokio::test]
async fn an_error_of_the_engine_is_told_as_it_is() {
    let url = engine_but_for("/json", http("503 Service Unavailable", r#"{"message": "shutting down"}"#)).await;
    let error = volumes_of(&url).await.unwrap_err();
    assert_eq!(error.to_string(), format!("{url}: list containers: shutting down (status 503)"));
    assert!(matches!(error, EngineError::Failed { status: 503, .. }) && !error.ends_the_sweep(), "{error:?}");
}

#[tokio::test]
async fn only_what_the_engine_says_of_a_volume_means_that_it_is_gone() {
    let volume = "ha_ws_1".parse().unwrap();
    let removal = async |end, status: &str, message: &str| {
        let url = engine_but_for(end, http(status, &format!(r#"{{"message": "{message}"}}"#))).await;
        DockerEngine::open(&url, ANSWER_MAX).remove(&volume, ANSWER_MAX).await
    };
    let gone = removal("/ha_ws_1", "404 Not Found", "get ha_ws_1: no such volume").await.unwrap();
    assert_eq!(gone, Removal::NotFound);
    for (end, status, message) in [
        ("/ha_ws_1", "404 Not Found", "page not found"),
        ("/version", "404 Not Found", "no such volume"),
        ("/version", "409 Conflict", "volume is in use"),
        ("/ha_ws_1", "400 Bad Request", "client version is too new"),
        ("/ha_ws_1", "500 Internal Server Error", "operation not permitted"),
    ] {
        let failed = removal(end, status, message).await;
        assert!(matches!(failed, Err(EngineError::Failed { .. })), "{end} {status}: {failed:?}");
    }
}

#[tokio::test]
async fn an_engine_answers_over_tls_who_has_a_certificate_and_tells_others_what_is_wrong() {
    let options = Options { tls_port: Some(free_port()), ..Options::default() };
    let server = Dockerd::start_with(options).await;
    server.make("ha_ws_1", &std::collections::BTreeMap::new()).await;
    let address = format!("127.0.0.1:{}", options.tls_port.unwrap());
    let certs = server.certs();
    assert_eq!(volumes_of(&tcp(&address, Some(&certs))).await.unwrap(), 1);

    let told = unavailable(&tcp(&address, None)).await;
    assert!(told.contains("it speaks TLS only: set `engine_certs`"), "{told}");
    let by_name = address.replace("127.0.0.1", "localhost");
    let told = unavailable(&tcp(&by_name, Some(&certs))).await;
    assert!(told.contains("is not one that ca.pem vouches for, or is for another host"), "{told}");
    let plain = engine_but_for("/nothing", String::new()).await;
    let EngineUrl::Tcp { address: no_tls, .. } = plain else { panic!("{plain}") };
    let told = unavailable(&tcp(&no_tls, Some(&certs))).await;
    assert!(told.contains("it does not speak TLS: leave out `engine_certs`"), "{told}");

    let foreign = foreign_client(&certs);
    let told = unavailable(&tcp(&address, Some(foreign.path()))).await;
    assert!(told.contains("it refuses our certificate"), "{told}");
    let key = foreign.path().join("key.pem");
    fs::remove_file(&key).unwrap();
    let told = unavailable(&tcp(&address, Some(foreign.path()))).await;
    let expected = "`engine_certs` must be a folder with ca.pem, cert.pem and key.pem";
    assert!(told.contains(expected) && told.contains(&key.display().to_string()), "{told}");
}

/// The folder of a client that knows the authority of `certs`, and whom another one vouches for.
fn foreign_client(certs: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let script = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=somebody \
                -addext extendedKeyUsage=clientAuth -keyout key.pem -out cert.pem";
    let made = std::process::Command::new("sh").args(["-c", script]).current_dir(&folder).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    fs::copy(certs.join("ca.pem"), folder.path().join("ca.pem")).unwrap();
    folder
}
