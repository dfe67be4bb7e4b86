//! The layers under an archive: the stream as it arrives, and the stream unpacked, within limits.
//!
//! An error always says which layer failed: [`FormatError::Io`] comes from the stream as it arrives
//! only, everything else from the file's bytes.

use std::cell::Cell;
use std::fmt;
use std::io::{self, BufReader, Cursor, Read};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;
use liblzma::bufread::XzDecoder;

use super::super::{FormatError, Limits};

/// Unpacked bytes before the ratio counts: small files may be as dense as they like.
const RATIO_FROM: u64 = 16 << 20;

/// What has gone by, shared by the layers of a stream.
#[derive(Default)]
pub(super) struct Meter {
    packed: Cell<u64>,
    pub(super) unpacked: Cell<u64>,
    /// The unpacked stream came to its end.
    pub(super) ended: Cell<bool>,
}

/// The stream as it arrives. Its errors are marked as such, to be told from the decompressors' own.
struct Packed<'a> {
    input: &'a mut dyn Read,
    meter: Rc<Meter>,
}

impl Read for Packed<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.input.read(out) {
                Ok(read) => {
                    self.meter.packed.set(self.meter.packed.get() + read as u64);
                    return Ok(read);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(io::Error::other(FormatError::from_io(error))),
            }
        }
    }
}

/// How a stream is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    Xz,
    Gzip,
    Zstd,
    Plain,
}

impl Packing {
    /// The first bytes of each.
    const MAGIC: [(&'static [u8], Self); 3] = [
        (b"\xFD7zXZ\0", Self::Xz),
        (b"\x1F\x8B", Self::Gzip),
        (b"\x28\xB5\x2F\xFD", Self::Zstd),
    ];

    fn of(head: &[u8]) -> Result<Self, FormatError> {
        for (magic, packing) in Self::MAGIC {
            if head.starts_with(magic) {
                return Ok(packing);
            }
            // Not ASCII: a file of just `(` is no beginning of a zstd stream.
            if magic.starts_with(head) && !head.is_ascii() {
                return Err(FormatError::truncated(
                    packing.to_string(),
                    head.len() as u64,
                ));
            }
        }
        Ok(Self::Plain)
    }
}

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Xz => "the xz stream",
            Self::Gzip => "the gzip stream",
            Self::Zstd => "the zstd stream",
            Self::Plain => "the file",
        })
    }
}

/// The stream after decompression, with its limits.
pub(super) struct Unpacked<'a> {
    decoder: Box<dyn Read + 'a>,
    packing: Packing,
    limits: Limits,
    meter: Rc<Meter>,
}

/// Starts to unpack `input`, by whatever packing its first bytes say.
pub(super) fn unpack<'a>(
    input: &'a mut dyn Read,
    limits: &Limits,
    meter: &Rc<Meter>,
) -> Result<Unpacked<'a>, FormatError> {
    let mut packed = Packed {
        input,
        meter: Rc::clone(meter),
    };
    let head = read_head(&mut packed, 6)?;
    let packing = Packing::of(&head)?;
    let stream = BufReader::with_capacity(64 * 1024, Cursor::new(head).chain(packed));
    let unusable = |error| FormatError::malformed(format!("cannot unpack {packing}: {error}"), 0);
    let decoder: Box<dyn Read + 'a> = match packing {
        Packing::Xz => {
            let flags = liblzma::stream::CONCATENATED;
            let state = liblzma::stream::Stream::new_stream_decoder(limits.window, flags);
            Box::new(XzDecoder::new_stream(
                stream,
                state.map_err(|error| unusable(error.into()))?,
            ))
        }
        Packing::Gzip => Box::new(MultiGzDecoder::new(stream)),
        Packing::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(stream).map_err(unusable)?;
            decoder
                .window_log_max(limits.window.max(1).ilog2().clamp(10, 27))
                .map_err(unusable)?;
            Box::new(decoder)
        }
        Packing::Plain => Box::new(stream),
    };
    Ok(Unpacked {
        decoder,
        packing,
        limits: *limits,
        meter: Rc::clone(meter),
    })
}

impl Unpacked<'_> {
    fn failed(&self, error: io::Error) -> FormatError {
        error.downcast::<FormatError>().unwrap_or_else(|error| {
            let (packing, at) = (self.packing, self.meter.unpacked.get());
            let is_memory = error
                .get_ref()
                .and_then(|inner| inner.downcast_ref::<liblzma::stream::Error>())
                == Some(&liblzma::stream::Error::MemLimit);
            if error.kind() == io::ErrorKind::UnexpectedEof {
                FormatError::truncated(packing.to_string(), at)
            } else if is_memory {
                FormatError::Limit {
                    what: "the xz stream's window, in bytes,",
                    limit: self.limits.window,
                }
            } else {
                FormatError::malformed(format!("{packing} is damaged: {error}"), at)
            }
        })
    }

    fn check(&self) -> Result<(), FormatError> {
        let (packed, unpacked) = (self.meter.packed.get(), self.meter.unpacked.get());
        if unpacked > self.limits.unpacked {
            return Err(FormatError::Limit {
                what: "the unpacked size, in bytes,",
                limit: self.limits.unpacked,
            });
        }
        if unpacked > RATIO_FROM && unpacked / self.limits.ratio.max(1) > packed {
            return Err(FormatError::Limit {
                what: "the ratio of unpacked to packed bytes",
                limit: self.limits.ratio,
            });
        }
        Ok(())
    }
}

impl Read for Unpacked<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self
            .decoder
            .read(out)
            .map_err(|error| io::Error::other(self.failed(error)))?;
        self.meter
            .unpacked
            .set(self.meter.unpacked.get() + read as u64);
        self.meter.ended.set(read == 0 && !out.is_empty());
        self.check().map_err(io::Error::other)?;
        Ok(read)
    }
}

/// The first `amount` bytes, or all if there are fewer.
pub(super) fn read_head(stream: &mut dyn Read, amount: usize) -> Result<Vec<u8>, FormatError> {
    let mut head = Vec::with_capacity(amount);
    stream
        .take(amount as u64)
        .read_to_end(&mut head)
        .map_err(FormatError::from_io)?;
    Ok(head)
}
