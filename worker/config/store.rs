//! `[store]` and `[broker]`: where tasks are kept and where messages come from.

use std::path::PathBuf;

use serde::{Serialize, Serializer};
use url::Url;

use super::address::{self, Address};
use super::problem::Wrong;
use super::secret::Secret;
use super::section::{SecretKeys, Section};

/// PostgreSQL's own limit on the length of an identifier, in bytes.
const LONGEST_IDENTIFIER: usize = 63;

const POSTGRES: [&str; 2] = ["postgres", "postgresql"];
const POSTGRES_EXAMPLE: &str = "sqlite:longshore.db or postgres://user@host/database";
const AMQP: [&str; 2] = ["amqp", "amqps"];
const AMQP_EXAMPLE: &str = "amqp://user@host:5672/vhost";

/// The database that holds every task.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Store {
    /// Where it is. Default `sqlite:longshore.db`.
    #[serde(rename = "url")]
    pub address: StoreAddress,
    /// The password for `address`: by `password_file`, `LONGSHORE__STORE__PASSWORD`, in the URL, or
    /// else `PGPASSWORD`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// A PostgreSQL role that can only read, for reports. Default: `address` in read-only transactions.
    #[serde(
        rename = "reader_url",
        serialize_with = "serialize_reader",
        skip_serializing_if = "Option::is_none"
    )]
    pub reader: Option<Url>,
    /// The password for `reader`: by `reader_password_file`, `LONGSHORE__STORE__READER_PASSWORD`, in
    /// the URL, or else `PGPASSWORD`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reader_password: Option<Secret>,
    /// The PostgreSQL schema that holds our tables. Default `longshore`.
    pub schema: String,
    /// At most so many connections of one process, 1 to 1000. Default 8.
    pub connections: u32,
    /// How the death of a worker shows. Default [`Liveness::Lock`].
    pub liveness: Liveness,
}

/// Where the store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreAddress {
    /// An SQLite file, for processes of one machine.
    Sqlite(PathBuf),
    /// A PostgreSQL database; the URL has no password.
    Postgres(Url),
}

/// How the death of a worker shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Liveness {
    /// By a lock that its death releases at once, and by its lease.
    Lock,
    /// By its lease alone: for a transaction pooler, where session locks mean nothing.
    Lease,
}

/// Where messages come from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Broker {
    /// Where it is. Default `embedded`.
    #[serde(rename = "url")]
    pub address: BrokerAddress,
    /// The password for `address`: by `password_file`, `LONGSHORE__BROKER__PASSWORD` or in the URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// How queues come to be. Default [`QueueType::Quorum`].
    pub queue_type: QueueType,
}

/// Where the broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokerAddress {
    /// In the store's SQLite file.
    Embedded,
    /// RabbitMQ; the URL has no password.
    Amqp(Url),
}

/// How queues come to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum QueueType {
    /// Declared as quorum queues.
    Quorum,
    /// Declared as durable classic queues.
    Classic,
    /// Used as somebody else declared them.
    Passive,
}

impl Store {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let (address, in_url) = StoreAddress::read(section);
        let is_postgres = matches!(address, StoreAddress::Postgres(_));
        let keys = SecretKeys {
            plain: "password",
            file: "password_file",
            variable: None,
            url: "url",
        };
        let password = section.secret(&keys, in_url);
        let reader = section.parsed("reader_url", address::masked, |text| {
            address::parse(text, &POSTGRES, "postgres://reader@host/database")
        });
        let (reader, in_url) =
            reader.map_or((None, None), |reader| (Some(reader.url), reader.secret));
        let keys = SecretKeys {
            plain: "reader_password",
            file: "reader_password_file",
            variable: None,
            url: "reader_url",
        };
        let reader_password = section.secret(&keys, in_url);
        if !is_postgres && section.is_sound("url") {
            let keys = [
                "password",
                "password_file",
                "reader_url",
                "reader_password",
                "reader_password_file",
            ];
            refuse(
                section,
                &keys,
                "an SQLite file has no roles",
                "a postgres: url",
            );
        }
        let from_environment = || section.reading().variable("PGPASSWORD").map(Secret::new);
        let password = password.or_else(|| is_postgres.then(from_environment).flatten());
        let reader_password =
            reader_password.or_else(|| reader.is_some().then(from_environment).flatten());
        Self {
            address,
            password,
            reader,
            reader_password,
            schema: section
                .parsed("schema", str::to_owned, identifier)
                .unwrap_or_else(|| "longshore".to_owned()),
            connections: section.count("connections", 1..=1000, 8),
            liveness: section
                .choice(
                    "liveness",
                    &[("lock", Liveness::Lock), ("lease", Liveness::Lease)],
                )
                .unwrap_or(Liveness::Lock),
        }
    }
}

impl StoreAddress {
    fn read(section: &mut Section<'_>) -> (Self, Option<Secret>) {
        enum Written {
            File(String),
            Server(Address),
        }
        let written = section.parsed("url", address::masked, |text| {
            match text.strip_prefix("sqlite:") {
                Some(path) => sqlite_path(path).map(Written::File),
                None => address::parse(text, &POSTGRES, POSTGRES_EXAMPLE).map(Written::Server),
            }
        });
        match written.unwrap_or_else(|| Written::File("longshore.db".to_owned())) {
            Written::File(path) => (Self::Sqlite(section.located("url", &path)), None),
            Written::Server(Address { url, secret }) => (Self::Postgres(url), secret),
        }
    }
}

impl Serialize for StoreAddress {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Sqlite(path) => out.collect_str(&format_args!("sqlite:{}", path.display())),
            Self::Postgres(url) => out.serialize_str(url.as_str()),
        }
    }
}

impl Broker {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let written = section.parsed("url", address::masked, |text| match text {
            "embedded" => Ok(None),
            text => address::parse(text, &AMQP, &format!("embedded or {AMQP_EXAMPLE}"))
                .and_then(with_host)
                .map(Some),
        });
        let (address, in_url) = match written.flatten() {
            Some(Address { url, secret }) => (BrokerAddress::Amqp(url), secret),
            None => (BrokerAddress::Embedded, None),
        };
        let keys = SecretKeys {
            plain: "password",
            file: "password_file",
            variable: None,
            url: "url",
        };
        let password = section.secret(&keys, in_url);
        if address == BrokerAddress::Embedded && section.is_sound("url") {
            refuse(
                section,
                &["password", "password_file"],
                "the embedded broker has no users",
                "an amqp: url",
            );
        }
        Self {
            password,
            address,
            queue_type: section
                .choice(
                    "queue_type",
                    &[
                        ("quorum", QueueType::Quorum),
                        ("classic", QueueType::Classic),
                        ("passive", QueueType::Passive),
                    ],
                )
                .unwrap_or(QueueType::Quorum),
        }
    }
}

impl Serialize for BrokerAddress {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Embedded => out.serialize_str("embedded"),
            Self::Amqp(url) => out.serialize_str(url.as_str()),
        }
    }
}

/// Notes each of `keys` that was written, though the address needs none of them.
fn refuse(section: &Section<'_>, keys: &[&str], what: &str, instead: &str) {
    for key in keys {
        if section.is_written(key) && section.is_sound(key) {
            section.wrong(
                key,
                None,
                Wrong::new(what, format!("remove it, or write {instead}")),
            );
        }
    }
}

fn serialize_reader<S: Serializer>(reader: &Option<Url>, out: S) -> Result<S::Ok, S::Error> {
    match reader {
        Some(url) => address::serialize_url(url, out),
        None => out.serialize_none(),
    }
}

/// The path of `sqlite:path`, `sqlite://path` or `sqlite:///path`.
fn sqlite_path(path: &str) -> Result<String, Wrong> {
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() || path == ":memory:" {
        Err(Wrong::new(
            "not a file",
            "write sqlite:longshore.db: what is kept in memory dies with the worker",
        ))
    } else if path.contains(['?', '#', '@']) || path.contains(char::is_control) {
        Err(Wrong::new(
            "a path with ?, #, @ or a control character",
            "write the path alone: sqlite:longshore.db",
        ))
    } else {
        Ok(path.to_owned())
    }
}

fn with_host(address: Address) -> Result<Address, Wrong> {
    if address.url.host_str().is_none_or(str::is_empty) {
        return Err(Wrong::new(
            "a URL without a host",
            format!("write for instance {AMQP_EXAMPLE}"),
        ));
    }
    Ok(address)
}

/// A name that needs no quotes in SQL.
fn identifier(text: &str) -> Result<String, Wrong> {
    let starts_well = text.starts_with(|letter: char| letter.is_ascii_lowercase() || letter == '_');
    let goes_on_well = text
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if starts_well && goes_on_well && text.len() <= LONGEST_IDENTIFIER {
        Ok(text.to_owned())
    } else {
        Err(Wrong::new(
            "not a schema's name",
            format!(
                "write lower-case letters, digits and _, a letter first, at most {LONGEST_IDENTIFIER}"
            ),
        ))
    }
}
