//! From `janitor.toml` and the environment to a [`Config`]. Nothing else reads the environment.

use std::{
    fs::File,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use toml::{
    Spanned,
    de::{DeTable, Error as TomlError},
};

use super::{
    Config, ConfigErrors, MetricsConfig, RedisConfig, WorkerConfig,
    errors::ConfigWarning,
    expand::Env,
    job, orphans,
    reader::{Reader, Section},
    scalar::{duration, text, whole},
    urls::redis_url,
    values::name,
};

/// The most bytes of a configuration.
const FILE_MAX: u64 = 1024 * 1024;
/// The variable that names the file.
const VARIABLE: &str = "JANITOR_CONFIG";
/// Where the file is looked for where nothing names it.
const PLACES: [&str; 2] = ["./janitor.toml", "/etc/janitor/janitor.toml"];

impl Config {
    /// Reads and validates a file: UTF-8, of 1 MiB at most.
    ///
    /// ```
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("janitor.toml");
    /// std::fs::write(&path, "[worker]\nlock_ttl = 30\n").unwrap();
    /// let errors = apalis_janitor::config::Config::load(&path).unwrap_err();
    /// assert!(errors.to_string().contains("janitor.toml:2:12: worker.lock_ttl = 30: must be "));
    /// ```
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ConfigErrors> {
        let path = path.as_ref();
        let refuse = |rule: String| ConfigErrors::of_file(path.display(), rule);
        let unreadable = |error: std::io::Error| refuse(format!("cannot be read: {error}"));
        let file = File::open(path).map_err(unreadable)?;
        let meta = file.metadata().map_err(unreadable)?;
        if meta.is_dir() {
            return Err(refuse("is a directory; it must be a file".to_owned()));
        }
        let mut bytes = Vec::new();
        file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > FILE_MAX {
            return Err(refuse("must be 1 MiB at most".to_owned()));
        }
        let text = std::str::from_utf8(&bytes).map_err(|error| not_utf8(&bytes[..error.valid_up_to()], path))?;
        let (mut config, inline_password) = read(text, path, &process_env)?;
        let mode = meta.permissions().mode() & 0o777;
        if inline_password && mode & 0o044 != 0 {
            config.warnings.push(ConfigWarning {
                file: path.display().to_string(),
                line: None,
                column: None,
                key: None,
                text: format!(
                    "holds a password and can be read by others (mode {mode:03o}): chmod 600, or use ${{VAR}}"
                ),
            });
        }
        Ok(config)
    }

    /// Validates the text of a file; relative paths in it start at the folder of `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigErrors> {
        Self::parse_with(text, path, &process_env)
    }

    /// The same, with `env` in place of the process's environment.
    pub fn parse_with(text: &str, path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigErrors> {
        read(text, path, env).map(|(config, _)| config)
    }

    /// The file to load: `explicit` (`--config`), else `$JANITOR_CONFIG`, `./janitor.toml` or
    /// `/etc/janitor/janitor.toml`. What is named need not exist: loading it says why it cannot be read.
    pub fn find(explicit: Option<&Path>) -> Result<PathBuf, ConfigErrors> {
        find_in(explicit, &process_env, &PLACES.map(Path::new))
    }
}

fn not_utf8(valid: &[u8], path: &Path) -> ConfigErrors {
    let valid = String::from_utf8_lossy(valid);
    let reader = Reader::new(&valid, path.display().to_string(), PathBuf::new(), &|_| None);
    reader.refuse(valid.len(), None, None, "must be UTF-8");
    ConfigErrors::new(reader.errors.into_inner())
}

fn find_in(explicit: Option<&Path>, env: Env<'_>, places: &[&Path]) -> Result<PathBuf, ConfigErrors> {
    let named =
        explicit.map(Path::to_owned).or_else(|| env(VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from));
    // A place that cannot be looked at may hold the file: loading it gives the reason.
    let stands = |place: &&&Path| place.try_exists().unwrap_or(true);
    named.or_else(|| places.iter().find(stands).map(|place| place.to_path_buf())).ok_or_else(|| {
        let places = places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(" or ");
        let rule = format!("no configuration: --config is not given, ${VARIABLE} is unset, and there is no {places}");
        ConfigErrors::of_file("janitor.toml", rule)
    })
}

/// A variable that is not Unicode is not absent.
fn process_env(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

/// The configuration, and whether the text holds a password.
fn read(text: &str, path: &Path, env: Env<'_>) -> Result<(Config, bool), ConfigErrors> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // The file's own folder, even where the process changes its own later.
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let folder = absolute.parent().map(Path::to_owned).unwrap_or_default();
    let reader = Reader::new(text, path.display().to_string(), folder, env);
    let (tree, errors) = DeTable::parse_recoverable(text);
    let config = if errors.is_empty() { Some(top(&reader, &tree, path)) } else { syntax(&reader, &errors) };
    let errors = reader.errors.into_inner();
    match config {
        Some(config) if errors.is_empty() => {
            let mut warnings = reader.warnings.into_inner();
            warnings.sort_by_key(|warning| (warning.line, warning.column));
            Ok((Config { warnings, ..config }, reader.inline_password.get()))
        }
        Some(_) | None => Err(ConfigErrors::new(errors)),
    }
}

/// Records what is no TOML, one error a line: the parser stumbles over the rest of a broken one.
fn syntax(reader: &Reader<'_>, errors: &[TomlError]) -> Option<Config> {
    for error in errors {
        let at = error.span().map_or(0, |span| span.start);
        reader.refuse(at, None, None, format!("is no valid TOML: {}", error.message()));
    }
    reader.errors.borrow_mut().dedup_by_key(|error| error.line);
    None
}

fn top<'r>(reader: &'r Reader<'r>, tree: &'r Spanned<DeTable<'r>>, path: &Path) -> Config {
    let top = Section::new(reader, String::new(), 0, tree.get_ref());
    let data_dir = top.read("data_dir", text(folder_name)).unwrap_or_else(|| "janitor-data".to_owned());
    let redis = top.section("redis").and_then(redis);
    let worker = worker(top.section("worker"));
    let metrics = top.section("metrics").and_then(metrics);
    let blobs = top.section("blobs").as_ref().map(orphans::stores).unwrap_or_default();
    let jobs = top.section("jobs").map(|jobs| job::read_all(&jobs, &blobs)).unwrap_or_default();
    if let Err(rule) = name(&worker.host) {
        // What the file says was checked already; this is the machine's own name.
        top.refuse("worker.host", format!("this machine's name {:?} cannot be used, give one: {rule}", worker.host));
    }
    top.finish();
    if jobs.is_empty() {
        reader.warn(None, None, "has no [jobs.NAME]: there is nothing to do");
    }
    Config {
        path: Some(path.to_owned()),
        data_dir: reader.folder.join(data_dir),
        redis,
        worker,
        metrics,
        blobs: blobs.into_iter().filter_map(|(name, store)| store.map(|store| (name, store))).collect(),
        jobs,
        warnings: Vec::new(),
    }
}

fn folder_name(text: &str) -> Result<String, String> {
    if text.trim().is_empty() || text.contains('\0') {
        return Err("must name a folder".to_owned());
    }
    Ok(text.to_owned())
}

fn redis(section: Section<'_>) -> Option<RedisConfig> {
    let url = section.require_url("url", "url_file", "url = \"redis://127.0.0.1:6379\"", redis_url);
    let namespace = section.read("namespace", text(name)).unwrap_or_else(|| "janitor".to_owned());
    section.finish();
    Some(RedisConfig { url: url?, namespace })
}

fn worker(section: Option<Section<'_>>) -> WorkerConfig {
    let mut worker = WorkerConfig::default();
    let Some(section) = section else { return worker };
    let second = Duration::from_secs(1);
    let hour = Duration::from_hours(1);
    if let Some(concurrency) = section.read("concurrency", whole(1..=64)) {
        worker.concurrency = usize::try_from(concurrency).expect("64 at most");
    }
    if let Some(deliveries) = section.read("max_deliveries", whole(1..=100)) {
        worker.max_deliveries = u32::try_from(deliveries).expect("100 at most");
    }
    worker.lock_ttl = section.read("lock_ttl", duration(second..=hour)).unwrap_or(worker.lock_ttl);
    worker.visibility = section.read("visibility", duration(second..=24 * hour)).unwrap_or(worker.visibility);
    worker.drain = section.read("drain", duration(Duration::ZERO..=hour)).unwrap_or(worker.drain);
    worker.host = section.read("host", text(name)).unwrap_or(worker.host);
    section.finish();
    worker
}

fn metrics(section: Section<'_>) -> Option<MetricsConfig> {
    let listen = section.read(
        "listen",
        text(|text| {
            if !cfg!(feature = "metrics") {
                return Err("built without `metrics`: rebuild with --features metrics".to_owned());
            }
            text.parse().map_err(|_| "must be an IP address and a port, such as \"127.0.0.1:9464\"".to_owned())
        }),
    );
    section.finish();
    Some(MetricsConfig { listen: listen? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_looked_for_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let (here, there) = (folder.path().join("here.toml"), folder.path().join("there.toml"));
        let find = |explicit: Option<&str>, variable: Option<&str>| {
            let env = |name: &str| variable.filter(|_| name == "JANITOR_CONFIG").map(str::to_owned);
            find_in(explicit.map(Path::new), &env, &[&here, &there])
        };
        let error = find(None, Some("")).unwrap_err().to_string();
        let places = format!("and there is no {} or {}", here.display(), there.display());
        assert!(
            error.contains("--config is not given, $JANITOR_CONFIG is unset") && error.ends_with(&places),
            "{error}"
        );
        std::fs::write(&there, "").unwrap();
        assert_eq!(find(None, None).unwrap(), there);
        std::fs::write(&here, "").unwrap();
        assert_eq!(find(None, None).unwrap(), here);
        assert_eq!(find(None, Some("/else.toml")).unwrap(), Path::new("/else.toml"));
        assert_eq!(find(Some("/named.toml"), Some("/else.toml")).unwrap(), Path::new("/named.toml"));
    }
}
