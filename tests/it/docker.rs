//! Starts a real Docker Engine in a folder of its own: one for all tests of the process, or one for a test that stops it.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use apalis_janitor::{
    config::EngineUrl,
    volumes::{Engine, docker::DockerEngine},
};
use bollard::{
    API_DEFAULT_VERSION, Docker, body_full,
    models::{ContainerCreateBody, HostConfig, VolumeCreateRequest},
    query_parameters::{
        CreateContainerOptionsBuilder, CreateImageOptionsBuilder, EventsOptionsBuilder, RemoveContainerOptionsBuilder,
    },
};
use futures::{StreamExt, TryStreamExt, stream};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::{OnceCell, mpsc};

use crate::certificates::{certify, certify_client};

/// How long the engine may take to answer, or to go.
const READY_MAX: Duration = Duration::from_mins(1);
/// How long an engine has for an answer where a test is not about that.
pub const ANSWER_MAX: Duration = Duration::from_mins(1);
/// How many things are made at once.
const AT_ONCE: usize = 8;
const IMAGE: &str = "busybox:test";

/// Runs the engine until the end of its input comes, which is with the end of this process however it ends; a line of input
/// starts it again, once it was killed. The engine is the first process of a space of its own: with it end its containerd
/// and all containers, and what was mounted for them is gone.
const KEEPER: &str = r#"
trap '' INT TERM
folder=$1; shift
run() {
  rm -rf "$folder/exec" "$folder/docker.pid"
  unshare --mount --pid --fork --kill-child --mount-proc sh -c '
    for place in /etc/docker /run/containerd /run/docker; do mkdir -p "$place" && mount -t tmpfs none "$place" || exit; done
    exec "$@"' sh "$@" >>"$folder/log" 2>&1 </dev/null &
  space=$!
  echo "$space" >"$folder/space.new" && mv "$folder/space.new" "$folder/space"
}
run "$@"
while read -r _; do wait "$space"; run "$@"; done
engine=$(cat "/proc/$space/task/$space/children" 2>/dev/null)
kill -KILL ${engine:-"$space"} 2>/dev/null
wait "$space"
chattr -R -i "$folder/data/volumes" 2>/dev/null
find /sys/fs/cgroup -depth -type d -path "*/${folder##*/}*" -exec rmdir {} + 2>/dev/null
rm -rf "$folder"
"#;

/// An engine, which ends with this.
#[derive(Debug)]
pub struct Dockerd {
    folder: PathBuf,
    docker: Docker,
    /// Its input is what it waits for.
    keeper: Child,
}

/// How an engine is started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// It listens at this port too, for whoever has a certificate of [`certs`](Dockerd::certs).
    pub tls_port: Option<u16>,
    /// Its log does not say which calls it gets, which takes time.
    pub is_silent: bool,
}

/// What a container does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Created,
    Running,
    Exited,
}

/// What a container mounts.
#[derive(Clone, Copy, Debug)]
pub enum Mount<'a> {
    /// A volume.
    Volume(&'a str),
    /// A folder of this host.
    Folder(&'a Path),
    /// Whatever this container mounts.
    From(&'a str),
}

/// The volumes that an engine says that it has removed, from here on.
#[derive(Debug)]
pub struct Removals<'a> {
    server: &'a Dockerd,
    names: mpsc::UnboundedReceiver<String>,
}

static SERVER: OnceCell<Dockerd> = OnceCell::const_new();

fn refuse_if_left_out() {
    // `tests/run --without docker` counts this line, once for each test.
    let without = std::env::var("JANITOR_TESTS_WITHOUT").unwrap_or_default();
    assert!(!without.split(',').any(|server| server == "docker"), "left out: docker");
}

impl Dockerd {
    /// The one that all tests share: its volumes and containers have names that no other test uses.
    pub async fn shared() -> &'static Self {
        refuse_if_left_out();
        SERVER.get_or_init(Self::start).await
    }

    /// An engine of one test, with the image of a container that can do a little, and nothing else.
    pub async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    /// The same with these options.
    pub async fn start_with(options: Options) -> Self {
        refuse_if_left_out();
        assert!(rustix::process::geteuid().is_root(), "an engine needs root; {INSTALL}");
        let folder = tempfile::Builder::new().prefix("janitor-docker-").tempdir().expect("a temporary folder").keep();
        let certs = folder.join("certs");
        fs::create_dir(&certs).expect("a new folder");
        let keeper = keep(&folder, &certs, options);
        let docker = answers(&folder).await;
        let server = Self { folder, docker, keeper };
        server.import().await;
        server
    }

    /// Where it is.
    pub fn url(&self) -> EngineUrl {
        EngineUrl::Unix(self.folder.join("docker.sock"))
    }

    /// The engine, as the crate asks it.
    pub fn engine(&self) -> Arc<dyn Engine> {
        Arc::new(DockerEngine::open(&self.url(), ANSWER_MAX))
    }

    /// The folder with `ca.pem`, `cert.pem` and `key.pem`.
    pub fn certs(&self) -> PathBuf {
        self.folder.join("certs")
    }

    /// The folder with the files of a volume.
    pub fn files_of(&self, volume: &str) -> PathBuf {
        self.folder.join("data/volumes").join(volume).join("_data")
    }

    /// Makes a volume.
    pub async fn make(&self, volume: &str, labels: &BTreeMap<String, String>) {
        let labels = labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        let request = VolumeCreateRequest {
            name: Some(volume.to_owned()),
            labels: Some(labels),
            ..VolumeCreateRequest::default()
        };
        self.docker.create_volume(request).await.expect("a new volume");
    }

    /// Makes volumes without a label.
    pub async fn make_all(&self, volumes: impl IntoIterator<Item = String>) {
        let none = BTreeMap::new();
        let made = |volume: String| {
            let none = &none;
            async move { self.make(&volume, none).await }
        };
        stream::iter(volumes).for_each_concurrent(AT_ONCE, made).await;
    }

    /// The names of all volumes that begin with `prefix`, in order.
    pub async fn volumes(&self, prefix: &str) -> Vec<String> {
        let listed = self.docker.list_volumes(None::<bollard::query_parameters::ListVolumesOptions>).await;
        let listed = listed.expect("an answer").volumes.unwrap_or_default();
        let mut names: Vec<_> = listed.into_iter().map(|volume| volume.name).collect();
        names.retain(|name| name.starts_with(prefix));
        names.sort();
        names
    }

    /// Makes a container, and brings it into this state.
    pub async fn contain(&self, name: &str, mount: Mount<'_>, state: State) {
        let (binds, volumes_from) = match mount {
            Mount::Volume(volume) => (Some(vec![format!("{volume}:/w")]), None),
            Mount::Folder(folder) => (Some(vec![format!("{}:/w", folder.display())]), None),
            Mount::From(other) => (None, Some(vec![other.to_owned()])),
        };
        let network_mode = Some("none".to_owned());
        let command: &[&str] = if state == State::Running { &["sleep", "1000000"] } else { &["true"] };
        let body = ContainerCreateBody {
            image: Some(IMAGE.to_owned()),
            entrypoint: Some(vec!["/bin/busybox".to_owned()]),
            cmd: Some(command.iter().map(|word| (*word).to_owned()).collect()),
            host_config: Some(HostConfig { binds, volumes_from, network_mode, ..HostConfig::default() }),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        self.docker.create_container(Some(options), body).await.expect("a new container");
        match state {
            State::Created => {}
            State::Running => self.docker.start_container(name, None).await.expect("a container that starts"),
            State::Exited => {
                self.docker.start_container(name, None).await.expect("a container that starts");
                let ended = self.docker.wait_container(name, None).try_collect::<Vec<_>>().await;
                assert_eq!(ended.expect("a container that ends")[0].status_code, 0);
            }
        }
    }

    /// Removes a container, whatever it does.
    pub async fn discard(&self, container: &str) {
        let options = RemoveContainerOptionsBuilder::new().force(true).build();
        self.docker.remove_container(container, Some(options)).await.expect("a container that is there");
    }

    /// The volumes whose removal anybody has asked for since the engine was made, in turn, as often as it was; those that
    /// begin with `prefix`.
    pub fn asked(&self, prefix: &str) -> Vec<String> {
        let log = fs::read_to_string(self.folder.join("log")).expect("a log");
        let calls = log.lines().filter_map(|line| line.split_once("Calling DELETE ")?.1.split_once("/volumes/"));
        let names = calls.map(|(_, name)| name.split(['"', '?', ' ']).next().unwrap_or_default().to_owned());
        names.filter(|name| name.starts_with(prefix)).collect()
    }

    /// Listens to what is removed from now on.
    pub async fn removals(&self) -> Removals<'_> {
        let (told, names) = mpsc::unbounded_channel();
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_secs();
        let filters = HashMap::from([("type", vec!["volume"]), ("event", vec!["destroy"])]);
        let options = EventsOptionsBuilder::new().since(&since.to_string()).filters(&filters).build();
        let mut events = self.docker.events(Some(options));
        tokio::spawn(async move {
            while let Some(Ok(event)) = events.next().await {
                let name = event.actor.and_then(|actor| actor.id).unwrap_or_default();
                if told.send(name).is_err() {
                    return;
                }
            }
        });
        let mut removals = Removals { server: self, names };
        // It listens when it has heard something.
        removals.until_now("").await;
        removals
    }

    /// Stops it: it takes calls, and answers none.
    pub fn stop(&self) {
        kill_process(self.pid(), Signal::STOP).expect("our own engine");
    }

    /// The end of a [`stop`](Self::stop).
    pub fn go_on(&self) {
        kill_process(self.pid(), Signal::CONT).expect("our own engine");
    }

    /// Ends it at once, and all containers with it.
    pub async fn kill(&self) {
        let pid = self.pid();
        kill_process(pid, Signal::KILL).expect("our own engine");
        let deadline = Instant::now() + READY_MAX;
        while rustix::process::test_kill_process(pid).is_ok() {
            assert!(Instant::now() < deadline, "the engine does not end within {READY_MAX:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Starts it again with what it had, after a [`kill`](Self::kill).
    pub async fn restart(&self) {
        self.keeper.stdin.as_ref().expect("a pipe").write_all(b"\n").expect("a keeper");
        answers(&self.folder).await;
    }

    /// The process of the engine.
    fn pid(&self) -> Pid {
        let space = fs::read_to_string(self.folder.join("space")).expect("the keeper's own file");
        let space = space.trim();
        let children = fs::read_to_string(format!("/proc/{space}/task/{space}/children")).expect("an engine that runs");
        let pid = children.split_whitespace().next().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
        pid.expect("an engine that runs")
    }

    /// Makes the image from Debian's static busybox.
    async fn import(&self) {
        let program = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).is_file());
        let program = program.unwrap_or_else(|| panic!("no busybox; {INSTALL}"));
        let bin = self.folder.join("image/bin");
        fs::create_dir_all(&bin).expect("a new folder");
        fs::copy(program, bin.join("busybox")).expect("a copy");
        let tar =
            Command::new("tar").arg("-C").arg(self.folder.join("image")).args(["-c", "bin"]).output().expect("tar");
        let options = CreateImageOptionsBuilder::new().from_src("-").repo("busybox").tag("test").build();
        let made = self.docker.create_image(Some(options), Some(body_full(tar.stdout.into())), None);
        made.try_collect::<Vec<_>>().await.expect("a new image");
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

impl Removals<'_> {
    /// What was removed since the last call, in turn; what begins with `prefix`.
    pub async fn until_now(&mut self, prefix: &str) -> Vec<String> {
        let last = format!("last-{}", ulid::Ulid::generate());
        self.server.make(&last, &BTreeMap::new()).await;
        self.server.docker.remove_volume(&last, None::<bollard::query_parameters::RemoveVolumeOptions>).await.unwrap();
        let mut names = Vec::new();
        loop {
            match self.names.recv().await.expect("an engine that tells") {
                name if name == last => return names,
                name if name.starts_with(prefix) => names.push(name),
                _ => {}
            }
        }
    }
}

/// Starts an engine in this folder, whose certificates, if it has any, are in that one.
fn keep(folder: &Path, certs: &Path, options: Options) -> Child {
    let place = |name: &str| folder.join(name).into_os_string().into_string().expect("a path in UTF-8");
    let group = folder.file_name().and_then(|name| name.to_str()).expect("a name");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut keeper = Command::new("sh");
    keeper.args(["-c", KEEPER, "sh"]).arg(folder).env("PATH", format!("{path}:/usr/sbin:/sbin")).current_dir(certs);
    keeper.args(["dockerd", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--bridge=none"]);
    keeper.args(["--data-root", &place("data"), "--exec-root", &place("exec"), "--pidfile", &place("docker.pid")]);
    keeper.args(["--cgroup-parent", &format!("/{group}"), "-H", &format!("unix://{}", place("docker.sock"))]);
    if !options.is_silent {
        keeper.arg("--debug");
    }
    if let Some(port) = options.tls_port {
        certify(Command::new("sh"), certs, certs);
        certify_client(certs);
        keeper.args(["-H", &format!("tcp://127.0.0.1:{port}"), "--tlsverify"]);
        keeper.args(["--tlscacert", "ca.pem", "--tlscert", "server.crt", "--tlskey", "server.key"]);
    }
    keeper.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("sh")
}

/// Waits until the engine of this folder answers.
async fn answers(folder: &Path) -> Docker {
    let deadline = Instant::now() + READY_MAX;
    let socket = folder.join("docker.sock");
    let socket = socket.to_str().expect("a path in UTF-8");
    loop {
        if let Ok(docker) = Docker::connect_with_unix(socket, READY_MAX.as_secs(), API_DEFAULT_VERSION)
            && docker.ping().await.is_ok()
        {
            return docker.negotiate_version().await.expect("an engine that answers");
        }
        let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
        let is_over =
            ["failed to start daemon", "dockerd: not found", "unshare failed"].iter().any(|end| log.contains(end))
                || Instant::now() > deadline;
        assert!(!is_over, "dockerd did not start; {INSTALL}; its log:\n{log}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

const INSTALL: &str =
    "these tests run as root and need dockerd and a static busybox (Debian: apt-get install docker.io busybox-static)";
