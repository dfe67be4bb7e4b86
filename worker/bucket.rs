//! A bucket of S3, or of what speaks as S3 does: the one place that makes its client.
//!
//! An object is there whole or not at all. Every request has a time limit, every upload a bound in memory.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::buffered::BufWriter;
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, BackoffConfig, ClientConfigKey, ObjectStore, ObjectStoreExt, RetryConfig,
};
use tokio::io::AsyncWriteExt;

use crate::config::{BucketPlace, S3};

/// An object up to this size is sent by one request, a larger one in parts of it: S3 takes 10 000 of them, 78 GiB.
const PART: usize = 8 << 20;
/// Parts of one object on their way at once, besides the one that is filled.
const AT_ONCE: usize = 2;

/// One request, with all its bytes.
const REQUEST: &str = "120s";
const CONNECT: &str = "10s";
/// A request is tried again as often, and not after so long; the task is tried again later anyway.
const RETRIES: usize = 3;
const PATIENCE: Duration = Duration::from_secs(30);

/// A place in a bucket.
#[derive(Debug, Clone)]
pub struct Bucket {
    client: Arc<AmazonS3>,
    prefix: String,
}

/// An object on its way. One that is not ended leaves nothing that a reader sees; of one in parts, S3 keeps those until it
/// is told to end the upload: by `write` when it fails, or by the bucket's rule for uploads that were left.
#[derive(Debug)]
pub struct Upload(BufWriter);

/// The client of the bucket at `place`. Asks nobody.
pub(crate) fn client(place: &BucketPlace, s3: &S3) -> object_store::Result<AmazonS3> {
    // The program chooses the same; who uses the library may have chosen another.
    drop(rustls::crypto::ring::default_provider().install_default());
    let S3 {
        endpoint,
        region,
        key_id,
        secret_key,
    } = s3;
    let retry = RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: RETRIES,
        retry_timeout: PATIENCE,
    };
    let limit = AmazonS3ConfigKey::Client;
    let mut builder = AmazonS3Builder::from_env()
        .with_config(limit(ClientConfigKey::Timeout), REQUEST)
        .with_config(limit(ClientConfigKey::ConnectTimeout), CONNECT)
        .with_retry(retry)
        .with_bucket_name(&place.bucket);
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint.as_str().trim_end_matches('/'));
        if endpoint.scheme() == "http" {
            builder = builder.with_allow_http(true);
        }
    }
    if let Some(region) = region {
        builder = builder.with_region(region);
    }
    if let (Some(id), Some(secret)) = (key_id, secret_key) {
        builder = builder
            .with_access_key_id(id)
            .with_secret_access_key(secret.expose());
    }
    builder.build()
}

impl Bucket {
    /// The bucket at `place`. Asks nobody.
    ///
    /// # Errors
    ///
    /// What `[s3]` or a variable `AWS_…` says cannot be.
    pub fn new(place: &BucketPlace, s3: &S3) -> io::Result<Self> {
        Ok(Self {
            client: Arc::new(client(place, s3)?),
            prefix: place.prefix.clone(),
        })
    }

    /// Begins the object `key`, which takes the place of an earlier one when it ends. What is no `mimetype` for a header is
    /// left out.
    ///
    /// # Errors
    ///
    /// A key that no object can have.
    pub fn upload(&self, key: &str, mimetype: &str) -> io::Result<Upload> {
        let key = self.key(key)?;
        let client: Arc<dyn ObjectStore> = Arc::clone(&self.client) as _;
        let fits =
            !mimetype.is_empty() && mimetype.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        let mimetype = fits.then(|| (Attribute::ContentType, mimetype.to_owned()));
        let attributes = Attributes::from_iter(mimetype);
        let writer = BufWriter::with_capacity(client, key, PART)
            .with_max_concurrency(AT_ONCE)
            .with_attributes(attributes);
        Ok(Upload(writer))
    }

    /// Removes the object `key`; one that is not there is as good.
    ///
    /// # Errors
    ///
    /// What the server said, or that it said nothing.
    pub async fn remove(&self, key: &str) -> io::Result<()> {
        match self.client.delete(&self.key(key)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn key(&self, key: &str) -> io::Result<Path> {
        let full = if self.prefix.is_empty() {
            key.to_owned()
        } else {
            format!("{}/{key}", self.prefix)
        };
        // Not `Path::from`, which writes some characters in another way: the key is what others look for.
        Path::parse(&full).map_err(io::Error::other)
    }
}

impl Upload {
    /// Adds to the object; waits while as many parts are on their way as may be.
    ///
    /// # Errors
    ///
    /// What the server said, or that it said nothing; the upload is over then.
    pub async fn write(&mut self, data: &[u8]) -> io::Result<()> {
        let written = self.0.write_all(data).await;
        if written.is_err() {
            // The first failure is the one to tell.
            let _aborted = self.0.abort().await;
        }
        written
    }

    /// The object is there, whole.
    ///
    /// # Errors
    ///
    /// What the server said, or that it said nothing: then the object may be there or not.
    pub async fn end(mut self) -> io::Result<()> {
        self.0.shutdown().await
    }
}
