//! Bodies that kombu compressed, inflated within [`MAX_BODY`].
//!
//! The names are those of kombu 5. Its `gzip` is zlib's format; that of gzip itself is read too,
//! as other producers take the name at its word.

use std::{borrow::Cow, io::Read};

use flate2::read::{MultiGzDecoder, ZlibDecoder};
use serde_json::Value;

use crate::codec::{MAX_BODY, Message, Unreadable};

/// The first bytes of gzip's format (RFC 1952).
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// The largest window of zstd, as a power of two: that of [`MAX_BODY`]. A frame may otherwise ask
/// for a window of 128 MiB in a few bytes.
const ZSTD_WINDOW: u32 = MAX_BODY.ilog2();

/// The message's body, inflated if the header `compression` says so.
pub(super) fn inflate(message: &Message) -> Result<Cow<'_, [u8]>, Unreadable> {
    let method = match message.headers.get("compression") {
        None | Some(Value::Null) => "",
        Some(Value::String(method)) => method.as_str(),
        Some(other) => return Err(Unreadable::Compression(other.to_string())),
    };
    let body: &[u8] = &message.body;
    let inflated = match method {
        "" => return Ok(body.into()),
        "application/x-gzip" | "application/gzip" | "gzip" | "application/zlib" | "zlib" => {
            if body.starts_with(&GZIP) {
                read("gzip", MultiGzDecoder::new(body))
            } else {
                read("zlib", ZlibDecoder::new(body))
            }
        }
        "application/zstd" | "zstd" | "zstandard" => zstd(body),
        other => return Err(Unreadable::Compression(other.to_owned())),
    };
    inflated.map(Cow::Owned)
}

fn zstd(body: &[u8]) -> Result<Vec<u8>, Unreadable> {
    let damaged = |error| damaged("zstd", &error);
    let mut decoder = zstd::Decoder::with_buffer(body).map_err(damaged)?;
    decoder.window_log_max(ZSTD_WINDOW).map_err(damaged)?;
    read("zstd", decoder)
}

/// Reads to the end, or to one byte more than may be.
fn read(method: &'static str, decoder: impl Read) -> Result<Vec<u8>, Unreadable> {
    let mut inflated = Vec::new();
    let limit = MAX_BODY as u64 + 1;
    let result = decoder.take(limit).read_to_end(&mut inflated);
    result.map_err(|error| damaged(method, &error))?;
    if inflated.len() > MAX_BODY {
        return Err(Unreadable::TooLarge {
            what: "the decompressed body",
            limit: MAX_BODY,
        });
    }
    Ok(inflated)
}

fn damaged(method: &'static str, error: &std::io::Error) -> Unreadable {
    Unreadable::Damaged {
        method,
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{
        Compression,
        write::{GzEncoder, ZlibEncoder},
    };
    use proptest::prelude::*;
    use std::io::Write;

    fn compressed(method: &str, body: Vec<u8>) -> Message {
        let mut message = Message {
            body: body.into(),
            ..Message::default()
        };
        message.headers.insert("compression".into(), method.into());
        message
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(data: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn every_method_is_inflated() {
        for (method, body) in [
            ("application/x-gzip", zlib(b"hello")),
            ("application/gzip", gzip(b"hello")),
            ("gzip", gzip(b"hello")),
            ("zlib", zlib(b"hello")),
            (
                "application/zstd",
                zstd::encode_all(&b"hello"[..], 0).unwrap(),
            ),
            ("zstd", zstd::encode_all(&b"hello"[..], 19).unwrap()),
            ("", b"hello".to_vec()),
        ] {
            assert_eq!(
                &*inflate(&compressed(method, body)).unwrap(),
                b"hello",
                "{method}"
            );
        }
    }

    #[test]
    fn other_methods_are_named() {
        let message = compressed("application/x-bz2", vec![]);
        let error = inflate(&message).unwrap_err();
        assert_eq!(
            error.to_string(),
            "header `compression`: unsupported method \"application/x-bz2\"; send gzip, zlib, zstd or none"
        );
    }

    #[test]
    fn a_bomb_is_refused() {
        let zeros = vec![0; MAX_BODY + 1];
        let bombs = [
            ("gzip", gzip(&zeros)),
            ("zlib", zlib(&zeros)),
            ("zstd", zstd::encode_all(zeros.as_slice(), 3).unwrap()),
        ];
        for (method, bomb) in bombs {
            assert!(bomb.len() < MAX_BODY / 100);
            let error = inflate(&compressed(method, bomb)).unwrap_err();
            let what = "the decompressed body";
            let limit = MAX_BODY;
            assert_eq!(error, Unreadable::TooLarge { what, limit }, "{method}");
        }
    }

    #[test]
    fn the_largest_body_is_inflated() {
        let zeros = vec![0; MAX_BODY];
        let body = zstd::encode_all(zeros.as_slice(), 19).unwrap();
        assert_eq!(inflate(&compressed("zstd", body)).unwrap().len(), MAX_BODY);
        let body = zlib(&zeros);
        assert_eq!(inflate(&compressed("zlib", body)).unwrap().len(), MAX_BODY);
    }

    #[test]
    fn a_huge_zstd_window_is_refused() {
        // Magic, a descriptor without content size, a window of 2^27, one empty last raw block.
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 17 << 3, 0x01, 0x00, 0x00];
        let error = inflate(&compressed("zstd", frame.to_vec())).unwrap_err();
        assert!(matches!(error, Unreadable::Damaged { .. }), "{error}");
        let small = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 14 << 3, 0x01, 0x00, 0x00];
        assert!(inflate(&compressed("zstd", small.to_vec())).is_ok());
    }

    proptest! {
        #[test]
        fn any_bytes_are_inflated_or_refused(
            method in prop::sample::select(vec!["gzip", "zlib", "zstd"]),
            head in prop::sample::select(vec![vec![], vec![0x1f, 0x8b, 8], vec![0x78, 0x9c], vec![0x28, 0xb5, 0x2f, 0xfd]]),
            tail in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let message = compressed(method, [head, tail].concat());
            drop(inflate(&message));
        }
    }
}
