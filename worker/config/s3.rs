//! `[s3]`: how buckets are reached, and places in them.

use serde::{Serialize, Serializer};
use url::Url;

use super::address;
use super::problem::Wrong;
use super::secret::Secret;
use super::section::{SecretKeys, Section};

/// How S3, or what speaks as S3 does, is reached. What is not written here is taken from where AWS's own programs take
/// it: variables `AWS_…`, the role of the pod or the machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct S3 {
    /// The server's address. Default: AWS's, of the region.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "serialize_endpoint"
    )]
    pub endpoint: Option<Url>,
    /// The region. Default: `AWS_REGION`, else `us-east-1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The access key's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// The access key's secret: by `secret_key_file`, by the variable that `secret_key_env` names, or as `secret_key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key: Option<Secret>,
}

/// A place in a bucket: `s3://bucket` or `s3://bucket/prefix`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketPlace {
    /// The bucket's name.
    pub bucket: String,
    /// What stands before every key, without slashes at its ends; may be empty.
    pub prefix: String,
}

impl S3 {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let endpoint = section.parsed("endpoint", address::masked, endpoint);
        let region = section.text("region");
        let key_id = section.text("key_id");
        let keys = SecretKeys {
            plain: "secret_key",
            file: "secret_key_file",
            variable: Some("secret_key_env"),
            url: "endpoint",
        };
        let secret_key = section.secret(&keys, None);
        let sound = ["key_id", keys.plain, keys.file, "secret_key_env"]
            .iter()
            .all(|key| section.is_sound(key));
        if sound && key_id.is_some() != secret_key.is_some() {
            section.wrong_itself(Wrong::new(
                "an access key is an id and a secret, and one of them is missing",
                "write key_id and secret_key_file, or neither",
            ));
        }
        Self {
            endpoint,
            region,
            key_id,
            secret_key,
        }
    }
}

impl BucketPlace {
    /// Reads what follows `s3://`.
    pub(super) fn parse(text: &str) -> Result<Self, Wrong> {
        let (bucket, prefix) = text.split_once('/').unwrap_or((text, ""));
        // The characters of a bucket's name; what they may not be together, S3 says.
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || ".-_".contains(letter);
        if bucket.is_empty() || !bucket.chars().all(is_name) {
            return Err(Wrong::new(
                "not the name of a bucket",
                r#"write "s3://bucket/prefix""#,
            ));
        }
        let prefix = prefix.trim_end_matches('/');
        if !prefix.is_empty()
            && prefix
                .split('/')
                .any(|part| matches!(part, "" | "." | ".."))
        {
            return Err(Wrong::new(
                "a prefix with an empty part, with . or ..",
                "write what stands before SQUAD's names in the bucket",
            ));
        }
        Ok(Self {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        })
    }
}

impl std::fmt::Display for BucketPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        if !self.prefix.is_empty() {
            write!(f, "/{}", self.prefix)?;
        }
        Ok(())
    }
}

fn endpoint(text: &str) -> Result<Url, Wrong> {
    let address = address::parse(text, &["http", "https"], "https://s3.example.org")?;
    let url = address.url;
    if address.secret.is_some() || !url.username().is_empty() || url.query().is_some() {
        return Err(Wrong::new(
            "a URL with a user or with parameters",
            "write the server alone, and the key as key_id and secret_key_file",
        ));
    }
    Ok(url)
}

fn serialize_endpoint<S: Serializer>(url: &Option<Url>, out: S) -> Result<S::Ok, S::Error> {
    url.as_ref().map(Url::as_str).serialize(out)
}
