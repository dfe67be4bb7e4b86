//! The control file of a package: an archive of `ar`, with an archive of `tar` in it (deb(5)); pure.
//!
//! Only the beginning of the file is looked at, and of what is packed only so much is unpacked.

use std::io::Read;

/// So many bytes of a file are enough: its control archive comes before its data.
pub(super) const HEAD: usize = 16 * 1024 * 1024;

/// The largest control archive, unpacked: hooks and checksums of each file of the package are in it.
const UNPACKED: u64 = 64 * 1024 * 1024;

/// The largest control file.
const CONTROL: u64 = 1024 * 1024;

/// The file is no package.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadDeb {
    /// Its parts are not those of a package.
    #[error("it is no Debian package: {0}")]
    Shape(&'static str),
    /// Its control archive cannot be unpacked.
    #[error("its control archive cannot be read: {0}")]
    Archive(#[from] std::io::Error),
}

/// The text of the control file of the package that begins with `head`, which has [`HEAD`] bytes or is all of it.
///
/// # Errors
///
/// [`BadDeb`].
pub(super) fn control(head: &[u8]) -> Result<String, BadDeb> {
    let mut rest = head
        .strip_prefix(b"!<arch>\n")
        .ok_or(BadDeb::Shape("it does not begin as one"))?;
    let (first, content, after) = member(rest)?;
    if first != "debian-binary" || !content.starts_with(b"2.") {
        return Err(BadDeb::Shape("its first part is not debian-binary 2"));
    }
    rest = after;
    let (name, content, _) = member(rest)?;
    let limited: Box<dyn Read + '_> = match name {
        "control.tar" => Box::new(content),
        "control.tar.gz" => Box::new(flate2::read::GzDecoder::new(content)),
        "control.tar.xz" => Box::new(liblzma::read::XzDecoder::new(content)),
        "control.tar.zst" => Box::new(zstd::Decoder::new(content)?),
        _ => return Err(BadDeb::Shape("its second part is no control archive")),
    };
    let mut archive = tar::Archive::new(limited.take(UNPACKED));
    for entry in archive.entries()? {
        let entry = entry?;
        let is_control = matches!(entry.path_bytes().as_ref(), b"./control" | b"control");
        if is_control && entry.header().entry_type().is_file() {
            let mut text = String::new();
            if entry.take(CONTROL + 1).read_to_string(&mut text)? as u64 > CONTROL {
                return Err(BadDeb::Shape("its control file is too large"));
            }
            return Ok(text);
        }
    }
    Err(BadDeb::Shape("it has no control file"))
}

/// The next part of an `ar` archive: its name, its content, what follows.
fn member(from: &[u8]) -> Result<(&str, &[u8], &[u8]), BadDeb> {
    const HEADER: usize = 60;
    let cut = || BadDeb::Shape("a part is cut off, or its control archive too large");
    let (header, rest) = from.split_at_checked(HEADER).ok_or_else(cut)?;
    let text = |range| {
        header
            .get(range)
            .and_then(|field| std::str::from_utf8(field).ok())
    };
    let (Some(name), Some(size), Some("`\n")) = (text(0..16), text(48..58), text(58..60)) else {
        return Err(BadDeb::Shape("a part has no header"));
    };
    let size: usize = size
        .trim_end()
        .parse()
        .map_err(|_| BadDeb::Shape("a part's size is no number"))?;
    let (content, rest) = rest.split_at_checked(size).ok_or_else(cut)?;
    // Parts begin at even places.
    let rest = rest.get(size % 2..).unwrap_or_default();
    Ok((name.trim_end().trim_end_matches('/'), content, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(name: &str, content: &[u8]) -> Vec<u8> {
        let mut bytes = format!(
            "{name:<16}0           0     0     100644  {:<10}`\n",
            content.len()
        )
        .into_bytes();
        bytes.extend(content);
        if content.len() % 2 == 1 {
            bytes.push(b'\n');
        }
        bytes
    }

    fn archive(name: &str, text: &[u8]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        builder.append_data(&mut header, name, text).unwrap();
        builder.into_inner().unwrap()
    }

    fn deb(control: &[u8]) -> Vec<u8> {
        let mut bytes = b"!<arch>\n".to_vec();
        bytes.extend(part("debian-binary", b"2.0\n"));
        bytes.extend(part("control.tar", control));
        bytes.extend(part("data.tar", b"x"));
        bytes
    }

    #[test]
    fn the_control_file_is_found() {
        let bytes = deb(&archive("control", b"Package: a\n"));
        assert_eq!(control(&bytes).unwrap(), "Package: a\n");
    }

    #[test]
    fn what_is_no_package_says_so() {
        let none = deb(&archive("md5sums", b"x"));
        let good = deb(&archive("control", b"Package: a\n"));
        for bytes in [
            &b"!<arch>\n"[..],
            b"",
            b"PK",
            &none,
            &good[..200],
            &good[..70],
        ] {
            assert!(control(bytes).is_err());
        }
        let huge = deb(&archive("control", &vec![b'a'; 2 << 20]));
        assert!(control(&huge).is_err());
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(at in 0_usize..2000, byte: u8, end in 0_usize..4000) {
            let mut bytes = deb(&archive("control", b"Package: a\n"));
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            bytes.truncate(end);
            drop(control(&bytes));
        }
    }
}
