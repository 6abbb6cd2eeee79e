//! Starts a real DynamoDB Local, one for all tests of the process, and ends it with the process however that ends.
//!
//! It listens on every interface, which cannot be changed; it keeps all in memory and knows no secrets.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use apalis_janitor::runs::{
    StoreError,
    dynamodb::{DynamoStore, TableUrl},
    layout::PYWORKFLOW,
};
use aws_sdk_dynamodb::{
    Client, Config,
    config::{BehaviorVersion, Credentials, Region},
    types::{
        AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection, ProjectionType,
        ScalarAttributeType,
    },
};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use tokio::{
    net::TcpStream,
    sync::OnceCell,
    time::{Instant, sleep},
};

use crate::redis::free_port;

/// How long the server may take to answer.
const READY_MAX: Duration = Duration::from_secs(30);
/// How often another port is tried, where somebody else took the free one first.
const PORTS_MAX: usize = 5;

pub const REGION: &str = "us-east-1";
/// The server takes any key of letters and digits.
pub const KEY_ID: &str = "tests";
pub const SECRET: &str = "unasked";

const INSTALL: &str =
    "these tests need DynamoDB Local in ~/.cache/janitor-tests/dynamodb and Java 17: tests/run puts it there";

/// Runs `$2...` until this process closes the other end of its standard input, by ending if not before, and removes the log.
const KEEPER: &str = r#"
log=$1; shift
"$@" < /dev/null > "$log" 2>&1 & server=$!
read -r _
kill -9 "$server"; wait "$server" 2> /dev/null; rm -f "$log"
"#;

static SERVER: OnceCell<Server> = OnceCell::const_new();

#[derive(Debug)]
struct Server {
    port: u16,
    /// It has the pipe whose end is the server's.
    _keeper: Child,
}

/// A table of one test.
#[derive(Clone, Debug)]
pub struct Table {
    pub name: String,
    pub port: u16,
    /// A client of the program that owns the table.
    pub client: Client,
}

impl Table {
    /// A new, empty one, as PyWorkflow makes it.
    pub async fn make() -> Self {
        let server = SERVER.get_or_init(Server::start).await;
        let table = Self { name: format!("test-{}", ulid()), port: server.port, client: client(server.port) };
        table.create().await;
        table
    }

    /// One with these keys, and no index, on the server of this port.
    pub async fn without_indexes(port: u16, names: &[&str]) -> Self {
        let table = Self { name: format!("test-{}", ulid()), port, client: client(port) };
        let mut request = table.client.create_table().table_name(&table.name).billing_mode(BillingMode::PayPerRequest);
        for name in names {
            let text = AttributeDefinition::builder().attribute_name(*name).attribute_type(ScalarAttributeType::S);
            request = request.attribute_definitions(text.build().unwrap());
        }
        request.set_key_schema(Some(keys(names))).send().await.expect("a new table");
        table
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The store over it.
    pub async fn open(&self) -> Result<DynamoStore, StoreError> {
        self.open_by(&self.endpoint()).await
    }

    /// The store over it by another way than the server's own port.
    pub async fn open_by(&self, endpoint: &str) -> Result<DynamoStore, StoreError> {
        let url = TableUrl { region: REGION, table: &self.name, endpoint: Some(endpoint) };
        DynamoStore::with_credentials(url, &PYWORKFLOW, KEY_ID, SECRET).await
    }

    async fn create(&self) {
        let names =
            ["PK", "SK", "GSI1PK", "GSI1SK", "GSI2PK", "GSI2SK", "GSI3PK", "GSI4PK", "GSI4SK", "GSI5PK", "GSI5SK"];
        let mut request = self.client.create_table().table_name(&self.name).billing_mode(BillingMode::PayPerRequest);
        for name in names {
            let text = AttributeDefinition::builder().attribute_name(name).attribute_type(ScalarAttributeType::S);
            request = request.attribute_definitions(text.build().unwrap());
        }
        request = request.set_key_schema(Some(keys(&["PK", "SK"])));
        for index in 1..=5 {
            let (hash, range) = (format!("GSI{index}PK"), format!("GSI{index}SK"));
            let schema = if index == 3 { keys(&[&hash]) } else { keys(&[&hash, &range]) };
            let all = Projection::builder().projection_type(ProjectionType::All).build();
            let index = GlobalSecondaryIndex::builder().index_name(format!("GSI{index}")).projection(all);
            request = request.global_secondary_indexes(index.set_key_schema(Some(schema)).build().unwrap());
        }
        request.send().await.expect("a new table");
    }
}

fn keys(names: &[&str]) -> Vec<KeySchemaElement> {
    let types = [KeyType::Hash, KeyType::Range];
    let element =
        |(name, of): (&&str, KeyType)| KeySchemaElement::builder().attribute_name(*name).key_type(of).build().unwrap();
    names.iter().zip(types).map(element).collect()
}

fn ulid() -> String {
    apalis_janitor::blobs::BlobId::new().to_string()
}

/// A client of the server on this port.
pub fn client(port: u16) -> Client {
    let http = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    let config = Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .credentials_provider(Credentials::new(KEY_ID, SECRET, None, None, "tests"))
        .region(Region::new(REGION))
        .endpoint_url(format!("http://127.0.0.1:{port}"))
        .http_client(http)
        .build();
    Client::from_conf(config)
}

impl Server {
    async fn start() -> Self {
        // `tests/run --without dynamodb` counts this line, once for each test.
        let without = std::env::var("JANITOR_TESTS_WITHOUT").unwrap_or_default();
        assert!(!without.split(',').any(|word| word == "dynamodb"), "left out: dynamodb");
        let mut log = String::new();
        for _ in 0..PORTS_MAX {
            let path =
                tempfile::Builder::new().prefix("janitor-dynamodb-").tempfile().expect("a file").into_temp_path();
            let path = path.keep().expect("a file of ours");
            let server = Self::launch(free_port(), &path);
            if server.answers(&path).await {
                return server;
            }
            log = std::fs::read_to_string(path).unwrap_or_else(|error| error.to_string());
        }
        panic!("DynamoDB Local did not start on {PORTS_MAX} ports; {INSTALL}; its log:\n{log}");
    }

    fn launch(port: u16, log: &Path) -> Self {
        let lib = lib();
        let mut command = Command::new("sh");
        command.args(["-c", KEEPER, "sh"]).arg(log).args(["java", "-Xmx512m", "-XX:+UseSerialGC"]);
        command.arg(format!("-Djava.library.path={}", lib.display())).arg("-cp").arg(lib.join("*"));
        command.arg("com.amazonaws.services.dynamodbv2.local.main.ServerRunner");
        command.args(["-inMemory", "-sharedDb", "-disableTelemetry", "-port", &port.to_string()]);
        let keeper = command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().expect("a shell");
        Self { port, _keeper: keeper }
    }

    /// Whether it is there; `false` where somebody else has its port, or it cannot be started.
    async fn answers(&self, log: &Path) -> bool {
        let deadline = Instant::now() + READY_MAX;
        while Instant::now() < deadline {
            let told = std::fs::read_to_string(log).unwrap_or_default();
            if ["Exception", "in use", "not found"].iter().any(|word| told.contains(word)) {
                return false;
            }
            let is_listening = TcpStream::connect(("127.0.0.1", self.port)).await.is_ok();
            if is_listening && client(self.port).list_tables().send().await.is_ok() {
                return true;
            }
            sleep(Duration::from_millis(20)).await;
        }
        false
    }
}

/// Where `tests/run` puts the server's jars.
fn lib() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let lib = cache.map(|cache| cache.join("janitor-tests/dynamodb/lib")).filter(|lib| lib.is_dir());
    lib.unwrap_or_else(|| panic!("there is no DynamoDB Local; {INSTALL}"))
}
