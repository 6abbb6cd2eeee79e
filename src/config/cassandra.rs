//! The URL of a store of runs in Cassandra or Scylla.

use std::fmt::{self, Display};

use super::{urls::SecretUrl, values::did_you_mean};

const RULE: &str = "must be cassandra://[user:password@]host[:port][,host…]/keyspace[?consistency=…&serial=…]";
const PORT: u16 = 9_042;
/// The longest name of a keyspace that the server takes.
const KEYSPACE_MAX: usize = 48;

/// How many replicas answer a read or confirm a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// One of any datacenter.
    One,
    /// One of the datacenter that we speak to.
    LocalOne,
    /// Two of any datacenter.
    Two,
    /// More than half of all.
    Quorum,
    /// More than half of those in the datacenter that we speak to.
    #[default]
    LocalQuorum,
    /// All.
    All,
}

impl Consistency {
    const ALL: [Self; 6] = [Self::LocalQuorum, Self::Quorum, Self::All, Self::LocalOne, Self::One, Self::Two];

    /// Its name in CQL.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::One => "ONE",
            Self::LocalOne => "LOCAL_ONE",
            Self::Two => "TWO",
            Self::Quorum => "QUORUM",
            Self::LocalQuorum => "LOCAL_QUORUM",
            Self::All => "ALL",
        }
    }
}

/// Among which replicas a conditional write is agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Serial {
    /// Those in the datacenter that we speak to.
    #[default]
    LocalSerial,
    /// All.
    Serial,
}

impl Serial {
    const ALL: [Self; 2] = [Self::LocalSerial, Self::Serial];

    /// Its name in CQL.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LocalSerial => "LOCAL_SERIAL",
            Self::Serial => "SERIAL",
        }
    }
}

/// `cassandra://[user:password@]host[:port][,host…]/keyspace?consistency=LOCAL_QUORUM&serial=LOCAL_SERIAL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CassandraUrl {
    /// The nodes to begin with, each with its port.
    pub hosts: Vec<String>,
    /// The keyspace, in small letters, as the server keeps a name that is not quoted.
    pub keyspace: String,
    /// Who asks, and the password.
    user: Option<(String, String)>,
    /// Of reads and of writes without a condition.
    pub consistency: Consistency,
    /// Of writes with a condition.
    pub serial: Serial,
    shown: SecretUrl,
}

impl CassandraUrl {
    /// Reads what follows `cassandra:`. The error is the rule that it breaks.
    ///
    /// ```
    /// use apalis_janitor::config::CassandraUrl;
    /// let url = CassandraUrl::parse("//app:s%40cret@h1,h2:9043/pyworkflow?consistency=QUORUM").unwrap();
    /// assert_eq!((url.hosts, url.keyspace.as_str()), (vec!["h1:9042".to_owned(), "h2:9043".to_owned()], "pyworkflow"));
    /// ```
    pub fn parse(rest: &str) -> Result<Self, String> {
        let place = rest.strip_prefix("//").ok_or(RULE)?;
        // A password may hold an unescaped `/` or `?`: only the last `@` surely ends it.
        let (user, place) = place.rsplit_once('@').map_or((None, place), |(user, place)| (Some(user), place));
        let user = user.map(user_and_password).transpose()?;
        let (place, query) = place.split_once('?').unwrap_or((place, ""));
        let (hosts, keyspace) = place.split_once('/').ok_or(RULE)?;
        let hosts = hosts.split(',').map(host).collect::<Option<Vec<_>>>().ok_or(RULE)?;
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !(1..=KEYSPACE_MAX).contains(&keyspace.len()) || !keyspace.chars().all(is_name) {
            return Err(format!("{RULE}; a keyspace has 1 to {KEYSPACE_MAX} letters, digits and `_`"));
        }
        let (mut consistency, mut serial) = (Consistency::default(), Serial::default());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("consistency", name)) => {
                    consistency = named("consistency", &Consistency::ALL, Consistency::name, name)?;
                }
                Some(("serial", name)) => serial = named("serial", &Serial::ALL, Serial::name, name)?,
                _ => return Err("takes the options consistency and serial only".to_owned()),
            }
        }
        let shown = SecretUrl::new(format!("cassandra:{rest}"));
        Ok(Self { hosts, keyspace: keyspace.to_lowercase(), user, consistency, serial, shown })
    }

    /// Who asks and the password, for the client that connects; `None` where the server asks nobody.
    #[must_use]
    pub fn expose_user(&self) -> Option<(&str, &str)> {
        self.user.as_ref().map(|(user, password)| (user.as_str(), password.as_str()))
    }
}

impl Display for CassandraUrl {
    /// The URL with its password as `***`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(&self.shown, f)
    }
}

fn named<T: Copy>(option: &str, all: &[T], name: impl Fn(T) -> &'static str, text: &str) -> Result<T, String> {
    all.iter().copied().find(|one| name(*one).eq_ignore_ascii_case(text)).ok_or_else(|| {
        let names: Vec<&str> = all.iter().map(|one| name(*one)).collect();
        let hint = did_you_mean(&text.to_uppercase(), names.iter().copied());
        format!("has a {option} that must be one of {}{hint}", names.join(", "))
    })
}

/// A host with its port; an address of version 6 stands in brackets.
fn host(text: &str) -> Option<String> {
    let has_port = text.rfind(':').is_some_and(|colon| text.rfind(']').is_none_or(|bracket| bracket < colon));
    if !has_port {
        return (!text.is_empty()).then(|| format!("{text}:{PORT}"));
    }
    let (name, port) = text.rsplit_once(':')?;
    (!name.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)).then(|| text.to_owned())
}

fn user_and_password(text: &str) -> Result<(String, String), String> {
    let rule = "names a user, which needs a password: user:password@, with a special character as %XX";
    let (user, password) = text.split_once(':').ok_or(rule)?;
    match (unescaped(user), unescaped(password)) {
        (Some(user), Some(password)) if !user.is_empty() && !password.is_empty() => Ok((user, password)),
        _ => Err(rule.to_owned()),
    }
}

/// The text that `%XX` stand in for characters of; `None` where one of them is none, or it is no text.
fn unescaped(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(rest: &str) -> CassandraUrl {
        CassandraUrl::parse(rest).unwrap()
    }

    #[test]
    fn reads_hosts_keyspace_and_levels() {
        let plain = parse("//h/PyWorkflow");
        assert_eq!((plain.hosts, plain.keyspace.as_str()), (vec!["h:9042".to_owned()], "pyworkflow"));
        assert_eq!((plain.consistency, plain.serial), (Consistency::LocalQuorum, Serial::LocalSerial));
        let full = parse("//u:p%2F%c3%BC@h1,[::1],[::2]:9043,h2:1/k_1?serial=serial&consistency=ONE");
        assert_eq!(full.hosts, ["h1:9042", "[::1]:9042", "[::2]:9043", "h2:1"]);
        assert_eq!((full.consistency, full.serial), (Consistency::One, Serial::Serial));
        assert_eq!(full.expose_user(), Some(("u", "p/ü")));
        assert!(!format!("{full}").contains("p%2F"), "{full}");
    }

    #[test]
    fn says_which_rule_is_broken() {
        for (rest, part) in [
            ("h/k", "must be cassandra://"),
            ("//h", "must be cassandra://"),
            ("//h/", "a keyspace has"),
            ("//h/k/l", "a keyspace has"),
            ("//h/k-l", "a keyspace has"),
            ("//h,/k", "must be cassandra://"),
            ("//h:x/k", "must be cassandra://"),
            ("//h:0/k", "must be cassandra://"),
            ("//u@h/k", "needs a password"),
            ("//u:@h/k", "needs a password"),
            ("//u:%zz@h/k", "needs a password"),
            ("//h/k?consistency=LOCAL_QOURUM", "did you mean \"LOCAL_QUORUM\""),
            ("//h/k?consistency=ANY", "must be one of LOCAL_QUORUM, QUORUM"),
            ("//h/k?serial=QUORUM", "must be one of LOCAL_SERIAL, SERIAL"),
            ("//h/k?tls=1", "consistency and serial only"),
        ] {
            let error = CassandraUrl::parse(rest).unwrap_err();
            assert!(error.contains(part), "{rest}: {error}");
        }
    }
}
