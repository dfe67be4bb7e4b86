//! Archives as they stream by: `.tar.xz`, `.tar.gz`, `.tar.zst`, `.tar`, and single files packed with
//! those or not at all. What a file is, its first bytes say; a name that promises a tar archive is
//! held to it, so that one cut in its first block is not taken for a single file.
//!
//! Nothing is written to disk and no member is held in memory. The whole file is always read and its
//! checksums checked, so that one that was cut anywhere is [`FormatError::Truncated`], even where a
//! member just ended. Names that leave the archive, bombs and sparse files are refused.

use std::io::{self, Cursor, Read};
use std::rc::Rc;

use tar::{Entry, Header, PaxExtensions};

use self::packing::{Meter, read_head, unpack};
use super::{FormatError, Limits, MAX_VALUE, shortened};

mod packing;

/// The longest record that holds a member's long name, in bytes: many times what a file system takes.
const MAX_RECORD: u64 = 64 * 1024;

const TAR_BLOCK: usize = 512;

/// A regular file of an archive.
pub struct Member<'a> {
    /// Its path in the archive, with `/` and without a leading `./`; it never has a `..` and never
    /// begins at a root. For a single file, the archive's name without `.xz`, `.gz` or `.zst`.
    pub name: String,
    /// Its size in bytes; unknown for a single file.
    pub size: Option<u64>,
    /// Its bytes. They need not be read; a short read is an error here already, never an end.
    pub data: &'a mut dyn Read,
}

/// What is done with each member.
pub type Each<'a> = dyn FnMut(Member<'_>) -> Result<(), FormatError> + 'a;

/// Unpacks `input`, calling `each` for every regular file in it, in order. `name` is the file's own
/// name, which a single file is called by. Folders, links and devices are skipped.
///
/// # Errors
///
/// What `each` returned, or [`FormatError`]. An error that shows only at the end (a wrong checksum)
/// comes after every member was handed over: publish nothing before this returns.
pub fn read(
    input: &mut dyn Read,
    name: &str,
    limits: &Limits,
    each: &mut Each<'_>,
) -> Result<(), FormatError> {
    let meter = Rc::new(Meter::default());
    let mut unpacked = unpack(input, limits, &meter)?;
    let head = read_head(&mut unpacked, TAR_BLOCK)?;
    if head.is_empty() {
        return Err(FormatError::truncated("an empty file", 0));
    }
    let is_tar = is_tar_header(&head);
    let mut stream = Cursor::new(head).chain(unpacked);
    if is_tar {
        read_members(&mut stream, limits, &meter, each)?;
    } else {
        let name = [".xz", ".gz", ".zst"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix))
            .unwrap_or(name);
        if [".tar", ".tgz", ".txz", ".tzst"]
            .iter()
            .any(|suffix| name.ends_with(suffix))
        {
            return Err(if meter.ended.get() {
                FormatError::truncated("the tar archive", meter.unpacked.get())
            } else {
                FormatError::malformed(
                    "no tar archive, though its name says so",
                    meter.unpacked.get(),
                )
            });
        }
        each(Member {
            name: name.to_owned(),
            size: None,
            data: &mut stream,
        })?;
    }
    // Only the end of a packed stream holds its checksum.
    io::copy(&mut stream, &mut io::sink()).map_err(FormatError::from_io)?;
    Ok(())
}

fn read_members(
    stream: &mut dyn Read,
    limits: &Limits,
    meter: &Meter,
    each: &mut Each<'_>,
) -> Result<(), FormatError> {
    let mut archive = tar::Archive::new(stream);
    let mut long_name = None;
    let mut count = 0;
    let mut end = 0;
    // Raw: the library would hold records of any size in memory to find long names.
    for entry in archive
        .entries()
        .map_err(|error| broken(error, meter))?
        .raw(true)
    {
        let mut entry = entry.map_err(|error| broken(error, meter))?;
        count += 1;
        if count > limits.members {
            return Err(FormatError::Limit {
                what: "the number of members of the archive",
                limit: limits.members,
            });
        }
        end = entry.raw_file_position() + entry.size().next_multiple_of(TAR_BLOCK as u64);
        let kind = entry.header().entry_type();
        if kind.is_gnu_longname() {
            let mut name = record(&mut entry, meter)?;
            name.truncate(
                name.iter()
                    .position(|byte| *byte == 0)
                    .unwrap_or(name.len()),
            );
            long_name = Some(name);
        } else if kind.is_pax_local_extensions() {
            let record = record(&mut entry, meter)?;
            long_name = pax_name(&record, meter)?.or(long_name);
        } else if !kind.is_gnu_longlink() && !kind.is_pax_global_extensions() {
            let name = long_name
                .take()
                .unwrap_or_else(|| entry.header().path_bytes().into_owned());
            let name = safe_name(&name, meter)?;
            if kind.is_gnu_sparse() {
                let what = format!("member `{name}` is a sparse file: pack it without `--sparse`");
                return Err(FormatError::malformed(what, meter.unpacked.get()));
            }
            if (kind.is_file() || kind.is_contiguous()) && !name.ends_with('/') {
                let size = entry.size();
                let mut data = Whole {
                    entry,
                    left: size,
                    name: &name,
                    meter,
                };
                each(Member {
                    name: name.clone(),
                    size: Some(size),
                    data: &mut data,
                })?;
            }
        }
    }
    // The library takes an end without the two blocks of zeros for one with them.
    if meter.unpacked.get() < end + TAR_BLOCK as u64 {
        return Err(FormatError::truncated(
            "the tar archive, without an end mark,",
            meter.unpacked.get(),
        ));
    }
    Ok(())
}

/// Reads a small member that describes the next one.
fn record(entry: &mut Entry<'_, impl Read>, meter: &Meter) -> Result<Vec<u8>, FormatError> {
    let size = entry.size();
    if size > MAX_RECORD {
        return Err(FormatError::Limit {
            what: "a name or attribute record of the archive, in bytes,",
            limit: MAX_RECORD,
        });
    }
    let mut bytes = Vec::new();
    entry
        .read_to_end(&mut bytes)
        .map_err(|error| broken(error, meter))?;
    if bytes.len() as u64 != size {
        return Err(FormatError::truncated(
            "the tar archive",
            meter.unpacked.get(),
        ));
    }
    Ok(bytes)
}

/// The `path` of a PAX record.
fn pax_name(record: &[u8], meter: &Meter) -> Result<Option<Vec<u8>>, FormatError> {
    let mut name = None;
    for extension in PaxExtensions::new(record) {
        let extension = extension.map_err(|error| broken(error, meter))?;
        match extension.key_bytes() {
            b"path" => name = Some(extension.value_bytes().to_vec()),
            // Written for members over 8 GiB only; ignoring it would misread what follows.
            b"size" => {
                return Err(FormatError::Limit {
                    what: "a member of the archive, in bytes,",
                    limit: 8 << 30,
                });
            }
            key if key.starts_with(b"GNU.sparse.") => {
                let what = "the archive has a sparse file: pack it without `--sparse`";
                return Err(FormatError::malformed(what, meter.unpacked.get()));
            }
            _ => {}
        }
    }
    Ok(name)
}

fn safe_name(bytes: &[u8], meter: &Meter) -> Result<String, FormatError> {
    let text = String::from_utf8_lossy(bytes);
    let mut name = text.as_ref();
    while let Some(rest) = name.strip_prefix("./") {
        name = rest;
    }
    let is_root = name.starts_with(['/', '\\']) || name.get(1..2) == Some(":");
    if is_root || name.split(['/', '\\']).any(|part| part == "..") {
        let what = format!(
            "member `{}` would leave the archive",
            shortened(name, MAX_VALUE)
        );
        return Err(FormatError::malformed(what, meter.unpacked.get()));
    }
    Ok(name.to_owned())
}

/// An error of the tar library: what our own streams said, or its own.
fn broken(error: io::Error, meter: &Meter) -> FormatError {
    error.downcast::<FormatError>().unwrap_or_else(|error| {
        let at = meter.unpacked.get();
        if meter.ended.get() {
            FormatError::truncated("the tar archive", at)
        } else {
            FormatError::malformed(format!("the tar archive is damaged: {error}"), at)
        }
    })
}

/// Whether these bytes begin a tar archive: a header with the right checksum, or the zeros that end it.
fn is_tar_header(head: &[u8]) -> bool {
    if head.len() < TAR_BLOCK {
        return false;
    }
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    // The checksum's own eight bytes count as spaces.
    let own = head.get(148..156).unwrap_or_default();
    let expected = sum(head) - sum(own) + 8 * u32::from(b' ');
    sum(head) == 0
        || Header::from_byte_slice(head)
            .cksum()
            .is_ok_and(|sum| sum == expected)
}

/// A member's data, which do not end before their size.
struct Whole<'a, R: Read> {
    entry: R,
    left: u64,
    name: &'a str,
    meter: &'a Meter,
}

impl<R: Read> Read for Whole<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.entry.read(out)?;
        if read == 0 && self.left > 0 && !out.is_empty() {
            let what = format!(
                "the archive, inside member `{}`,",
                shortened(self.name, MAX_VALUE)
            );
            return Err(io::Error::other(FormatError::truncated(
                what,
                self.meter.unpacked.get(),
            )));
        }
        self.left = self.left.saturating_sub(read as u64);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::super::generate::{Plan, tarball};
    use super::*;

    type Members = Vec<(String, Vec<u8>)>;

    fn run(bytes: &[u8], name: &str, limits: &Limits) -> (Members, Result<(), FormatError>) {
        let mut members = Vec::new();
        let outcome = read(&mut &*bytes, name, limits, &mut |member| {
            let mut data = Vec::new();
            member
                .data
                .read_to_end(&mut data)
                .map_err(FormatError::from_io)?;
            assert!(member.size.is_none_or(|size| size == data.len() as u64));
            members.push((member.name, data));
            Ok(())
        });
        (members, outcome)
    }

    fn all(bytes: &[u8]) -> (Members, Result<(), FormatError>) {
        run(bytes, "f.tar", &Limits::default())
    }

    /// A tar archive; a name's kind is a file unless given.
    fn tar_of(members: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, kind, data) in members {
            let mut header = Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_size(data.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(data);
            bytes.resize(bytes.len().next_multiple_of(TAR_BLOCK), 0);
        }
        bytes.resize(bytes.len() + 2 * TAR_BLOCK, 0);
        bytes
    }

    const FILE: tar::EntryType = tar::EntryType::Regular;

    fn packed(bytes: &[u8]) -> [(&'static str, Vec<u8>); 3] {
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut zstd = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        zstd.include_checksum(true).unwrap();
        xz.write_all(bytes).unwrap();
        gzip.write_all(bytes).unwrap();
        zstd.write_all(bytes).unwrap();
        [
            ("xz", xz.finish().unwrap()),
            ("gz", gzip.finish().unwrap()),
            ("zst", zstd.finish().unwrap()),
        ]
    }

    #[test]
    fn members_come_whole_from_every_packing() {
        let tar = tar_of(&[
            ("./d/", tar::EntryType::Directory, b""),
            ("./d/a", FILE, b"one"),
            ("b", FILE, &[7; 3000]),
        ]);
        let expected = vec![
            ("d/a".to_owned(), b"one".to_vec()),
            ("b".to_owned(), vec![7; 3000]),
        ];
        for (packing, bytes) in packed(&tar).into_iter().chain([("tar", tar)]) {
            let (members, outcome) = all(&bytes);
            outcome.unwrap();
            assert_eq!(members, expected, "{packing}");
        }
    }

    #[test]
    fn a_single_file_comes_by_its_own_name() {
        for (packing, bytes) in packed(b"hello")
            .into_iter()
            .chain([("txt", b"hello".to_vec())])
        {
            let name = if packing == "txt" {
                "log.txt".to_owned()
            } else {
                format!("log.txt.{packing}")
            };
            let (members, outcome) = run(&bytes, &name, &Limits::default());
            outcome.unwrap();
            assert_eq!(members, [("log.txt".to_owned(), b"hello".to_vec())]);
        }
    }

    #[test]
    fn an_archive_cut_anywhere_is_truncated_never_a_result() {
        let tar = tar_of(&[
            ("a", FILE, &[1; 600]),
            ("b", FILE, &[0; 512]),
            ("c", FILE, b""),
        ]);
        let cuts = |bytes: &[u8], end: usize, packing: &str| {
            for length in 0..end {
                let error = all(&bytes[..length]).1.expect_err("cut");
                assert!(
                    matches!(error, FormatError::Truncated { .. }),
                    "{packing} {length}: {error}"
                );
            }
        };
        for (packing, bytes) in packed(&tar) {
            cuts(&bytes, bytes.len(), packing);
        }
        cuts(&tar, tar.len() - TAR_BLOCK, "tar");
    }

    #[test]
    fn a_packed_file_cut_in_its_first_bytes_is_no_plain_one() {
        for (packing, bytes) in packed(b"hello") {
            for length in 2..bytes.len() {
                let outcome = run(&bytes[..length], "log.txt", &Limits::default()).1;
                let cut = matches!(outcome, Err(FormatError::Truncated { .. }));
                assert!(cut, "{packing} {length}: {outcome:?}");
            }
        }
        assert!(run(b"(", "log.txt", &Limits::default()).1.is_ok());
    }

    #[test]
    fn a_damaged_checksum_at_the_very_end_is_found() {
        for (packing, mut bytes) in packed(&tar_of(&[("a", FILE, &[1; 600])])) {
            let at = if packing == "xz" {
                bytes.len() - 40
            } else {
                bytes.len() - if packing == "gz" { 8 } else { 1 }
            };
            bytes[at] ^= 1;
            let (members, outcome) = all(&bytes);
            assert!(
                matches!(outcome, Err(FormatError::Malformed { .. })),
                "{packing}: {outcome:?} {}",
                members.len()
            );
        }
    }

    #[test]
    fn names_that_leave_the_archive_are_refused() {
        for name in ["../x", "a/../../x", "/etc/x", "..\\x", "C:\\x", "a/.."] {
            let error = all(&tar_of(&[(name, FILE, b"x")])).1.unwrap_err();
            assert!(
                error.to_string().contains("would leave the archive"),
                "{name}: {error}"
            );
        }
        assert!(all(&tar_of(&[("a..b/..c", FILE, b"x")])).1.is_ok());
    }

    #[test]
    fn links_and_devices_are_skipped_and_sparse_files_refused() {
        let tar = tar_of(&[
            ("l", tar::EntryType::Symlink, b""),
            ("n", tar::EntryType::Char, b""),
            ("a", FILE, b"x"),
        ]);
        assert_eq!(all(&tar).0.len(), 1);
        let error = all(&tar_of(&[("s", tar::EntryType::GNUSparse, b"")]))
            .1
            .unwrap_err();
        assert!(error.to_string().contains("sparse"), "{error}");
    }

    #[test]
    fn long_names_are_whole_and_bounded() {
        let long = "n/".repeat(150) + "x";
        let gnu = tar_of(&[
            (
                "././@LongLink",
                tar::EntryType::GNULongName,
                (long.clone() + "\0").as_bytes(),
            ),
            ("n", FILE, b"1"),
        ]);
        assert_eq!(all(&gnu).0[0].0, long);
        let record = format!("{} path={long}\n", long.len() + " path=\n".len() + 3);
        let pax = tar_of(&[
            ("p", tar::EntryType::XHeader, record.as_bytes()),
            ("n", FILE, b"1"),
        ]);
        assert_eq!(all(&pax).0[0].0, long);
        let bomb = tar_of(&[
            ("p", tar::EntryType::GNULongName, &[b'a'; 100_000]),
            ("n", FILE, b"1"),
        ]);
        assert!(matches!(all(&bomb).1, Err(FormatError::Limit { .. })));
    }

    #[test]
    fn bombs_are_refused() {
        let zeros = vec![b'0'; 40 << 20];
        for (packing, bytes) in packed(&zeros) {
            let limits = Limits {
                ratio: 100,
                ..Limits::default()
            };
            let (_, outcome) = run(&bytes, "f", &limits);
            assert!(
                matches!(outcome, Err(FormatError::Limit { limit: 100, .. })),
                "{packing}: {outcome:?}"
            );
            let limits = Limits {
                unpacked: 1 << 20,
                ..Limits::default()
            };
            let (_, outcome) = run(&bytes, "f", &limits);
            assert!(
                matches!(outcome, Err(FormatError::Limit { .. })),
                "{packing}: {outcome:?}"
            );
        }
        let tar = tar_of(&[("a", FILE, b""), ("b", FILE, b""), ("c", FILE, b"")]);
        assert!(
            run(
                &tar,
                "f",
                &Limits {
                    members: 3,
                    ..Limits::default()
                }
            )
            .1
            .is_ok()
        );
        assert!(
            run(
                &tar,
                "f",
                &Limits {
                    members: 2,
                    ..Limits::default()
                }
            )
            .1
            .is_err()
        );
    }

    #[test]
    fn a_window_over_the_limit_is_refused() {
        let limits = Limits {
            window: 64 << 10,
            ..Limits::default()
        };
        let [(_, xz), _, _] = packed(b"x");
        assert!(matches!(
            run(&xz, "f", &limits).1,
            Err(FormatError::Limit { .. })
        ));
    }

    #[test]
    fn a_member_need_not_be_read() {
        let (counts, bytes) = tarball(Vec::new(), &Plan::new(500, 1)).unwrap();
        let mut names = Vec::new();
        read(
            &mut bytes.as_slice(),
            "r.tar.xz",
            &Limits::default(),
            &mut |member| {
                names.push(member.name);
                Ok(())
            },
        )
        .unwrap();
        assert_eq!(
            (names.len(), names[0].as_str()),
            (6, "tradefed-output/test_result.xml")
        );
        assert_eq!(counts.total(), 500);
    }

    #[test]
    fn a_reader_of_a_member_sees_the_limit_that_was_passed() {
        let (_, bytes) = tarball(Vec::new(), &Plan::new(50_000, 1)).unwrap();
        let limits = Limits {
            unpacked: 1 << 20,
            ..Limits::default()
        };
        let outcome = read(&mut bytes.as_slice(), "r", &limits, &mut |member| {
            super::super::tradefed::read(member.data, "", &limits, &mut |_| Ok(())).map(|_| ())
        });
        assert!(
            matches!(
                outcome,
                Err(FormatError::Limit {
                    limit: 0x10_0000,
                    ..
                })
            ),
            "{outcome:?}"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn mutated_archives_never_panic_nor_look_like_a_failed_download(
            which in 0usize..4, edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        ) {
            let tar = tar_of(&[("a", FILE, &[1; 600]), ("b", tar::EntryType::XHeader, b"9 path=b\n"), ("c", FILE, b"x")]);
            let mut bytes = packed(&tar).into_iter().nth(which).map_or(tar, |(_, bytes)| bytes);
            for (index, byte) in edits {
                let index = index.index(bytes.len());
                bytes[index] = byte;
            }
            let (_, outcome) = run(&bytes, "f", &Limits { unpacked: 1 << 20, ..Limits::default() });
            prop_assert!(!matches!(outcome, Err(FormatError::Io(_))), "{outcome:?}");
        }
    }
}
