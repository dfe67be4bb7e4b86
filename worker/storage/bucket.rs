//! Files in a bucket of S3, or of what speaks as it does and knows `If-Match` and `If-None-Match` on writes.

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::aws::AmazonS3;
use object_store::path::Path;
use object_store::{
    Error, GetOptions, MultipartUpload as _, ObjectMeta, ObjectStore as _, ObjectStoreExt as _,
    PutMode, PutOptions, UpdateVersion,
};

use super::{Bytestream, Created, Name, Replaced, Version};
use crate::bucket;
use crate::config::{BucketPlace, S3};

/// What one request carries: S3 wants 5 MiB at least of a part, and at most 10 000 of them.
const PIECE: u64 = 8 * 1024 * 1024;

/// The parts that S3 takes of one object.
const MOST_PIECES: u64 = 10_000;

/// A bucket, and what stands before every name.
#[derive(Debug)]
pub(super) struct Bucket {
    store: AmazonS3,
    prefix: String,
}

type Answer<T> = anyhow::Result<T>;

impl Bucket {
    pub(super) fn open(place: &BucketPlace, s3: &S3) -> Answer<Self> {
        let store = bucket::client(place, s3).context("the settings of [s3]")?;
        Ok(Self {
            store,
            prefix: place.prefix.clone(),
        })
    }

    fn path(&self, name: &Name) -> Answer<Path> {
        // `parse` keeps what `from` would write with percent signs: `~` stands in versions of packages.
        Ok(match self.prefix.as_str() {
            "" => Path::parse(name.as_str())?,
            prefix => Path::parse(format!("{prefix}/{name}"))?,
        })
    }

    pub(super) async fn read(&self, name: &Name, most: u64) -> Answer<Option<(Bytes, Version)>> {
        let Some(found) = there(self.store.get(&self.path(name)?).await)? else {
            return Ok(None);
        };
        anyhow::ensure!(found.meta.size <= most, "it has more than {most} bytes");
        let version = version(&found.meta)?;
        Ok(Some((found.bytes().await?, version)))
    }

    pub(super) async fn stream(&self, name: &Name) -> Answer<Option<(u64, Bytestream)>> {
        let path = self.path(name)?;
        let Some(meta) = there(self.store.head(&path).await)? else {
            return Ok(None);
        };
        let (size, tag) = (meta.size, version(&meta)?.0);
        let store = self.store.clone();
        // A request for each piece has a time limit that does not depend on the size of all.
        let pieces =
            futures::stream::iter((0..size).step_by(usize::try_from(PIECE)?)).then(move |from| {
                let (store, path) = (store.clone(), path.clone());
                let options = GetOptions::new()
                    .with_if_match(Some(tag.clone()))
                    .with_range(Some(from..size.min(from + PIECE)));
                async move { Ok(store.get_opts(&path, options).await?.bytes().await?) }
            });
        Ok(Some((size, pieces.boxed())))
    }

    pub(super) async fn size(&self, name: &Name) -> Answer<Option<u64>> {
        let found = there(self.store.head(&self.path(name)?).await)?;
        Ok(found.map(|meta| meta.size))
    }

    pub(super) async fn create(&self, name: &Name, bytes: Bytes) -> Answer<Created> {
        let options = PutOptions::from(PutMode::Create);
        let path = self.path(name)?;
        match self.store.put_opts(&path, bytes.into(), options).await {
            Ok(_) => Ok(Created::New),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(Created::There),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn replace(
        &self,
        name: &Name,
        bytes: Bytes,
        seen: Option<&Version>,
    ) -> Answer<Replaced> {
        let mode = match seen {
            None => PutMode::Create,
            Some(Version(tag)) => PutMode::Update(UpdateVersion {
                e_tag: Some(tag.clone()),
                version: None,
            }),
        };
        let path = self.path(name)?;
        let options = PutOptions::from(mode);
        match self.store.put_opts(&path, bytes.into(), options).await {
            Ok(_) => Ok(Replaced::Done),
            // 404: what was seen is gone.
            Err(
                Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotFound { .. },
            ) => Ok(Replaced::Changed),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn upload(&self, name: &Name, size: u64, mut from: Bytestream) -> Answer<()> {
        let path = self.path(name)?;
        if size <= PIECE {
            let bytes: BytesMut = from.try_collect().await?;
            crate::crash::point("storage:piece");
            self.store.put(&path, bytes.freeze().into()).await?;
            return Ok(());
        }
        let piece = usize::try_from(PIECE.max(size.div_ceil(MOST_PIECES)))?;
        let mut upload = self.store.put_multipart(&path).await?;
        let mut send = async || {
            let mut held = BytesMut::new();
            while let Some(more) = from.next().await {
                held.extend_from_slice(&more?);
                while held.len() >= piece {
                    upload
                        .put_part(held.split_to(piece).freeze().into())
                        .await?;
                    crate::crash::point("storage:piece");
                }
            }
            if !held.is_empty() {
                upload.put_part(held.freeze().into()).await?;
            }
            anyhow::Ok(())
        };
        let sent = send().await;
        match sent {
            Ok(()) => drop(upload.complete().await?),
            Err(error) => {
                // What cannot be given up now, the bucket's rule for unfinished uploads does.
                drop(upload.abort().await);
                return Err(error);
            }
        }
        Ok(())
    }

    pub(super) async fn remove(&self, name: &Name) -> Answer<()> {
        there(self.store.delete(&self.path(name)?).await)?;
        Ok(())
    }
}

fn version(meta: &ObjectMeta) -> Answer<Version> {
    let tag = meta.e_tag.clone().context("the server gives no ETag")?;
    Ok(Version(tag))
}

/// `None` for what is not there.
fn there<T>(found: object_store::Result<T>) -> object_store::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
