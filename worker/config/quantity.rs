//! Durations (`10s`, `5m`) and sizes (`5GiB`) as people write them.

use std::time::Duration;

use serde::Serializer;

use super::problem::Wrong;

/// Units of size, the larger of each kind first, so that formatting takes the largest that fits.
const BINARY: [(&str, u64); 4] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
];
const DECIMAL: [(&str, u64); 4] = [
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
];

/// Reads a duration with its unit.
pub(super) fn duration(text: &str) -> Result<Duration, Wrong> {
    const MEND: &str = "write a number and a unit, such as 500ms, 10s, 5m, 1h or 30d";
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Wrong::new(
            "a duration needs a unit",
            format!("write {text}s or {text}m"),
        ));
    }
    humantime::parse_duration(text).map_err(|_| Wrong::new("not a duration", MEND))
}

/// Writes a duration so that [`duration`] reads the same.
pub(super) fn show_duration(duration: Duration) -> String {
    const DAY: u64 = 86_400;
    let seconds = duration.as_secs();
    // humantime counts in months and years from 30.44 days on, which nobody expects of "60d".
    if duration.subsec_nanos() == 0 && seconds >= DAY && seconds.is_multiple_of(DAY) {
        format!("{}d", seconds / DAY)
    } else {
        humantime::format_duration(duration).to_string()
    }
}

/// Reads a size: bytes, or a number with a binary unit (`KiB`, `MiB`, `GiB`, `TiB`, also without
/// the `B` as Kubernetes writes them) or a decimal one (`kB`, `MB`, `GB`, `TB`).
pub(super) fn size(text: &str) -> Result<u64, Wrong> {
    const MEND: &str = "write a whole number and a unit, such as 16MiB or 5GiB";
    let wrong = || Wrong::new("not a size", MEND);
    let text = text.trim();
    let digits = text
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit = unit.trim();
    let factor = if unit.is_empty() || unit.eq_ignore_ascii_case("b") {
        1
    } else {
        let named = |name: &str| {
            unit.eq_ignore_ascii_case(name)
                || name
                    .strip_suffix("iB")
                    .is_some_and(|short| unit.eq_ignore_ascii_case(&format!("{short}i")))
        };
        BINARY
            .iter()
            .chain(&DECIMAL)
            .find(|(name, _)| named(name))
            .map(|(_, factor)| *factor)
            .ok_or_else(wrong)?
    };
    number
        .checked_mul(factor)
        .ok_or_else(|| Wrong::new("too large a size", MEND))
}

/// Writes a size so that [`size`] reads the same.
pub(super) fn show_size(bytes: u64) -> String {
    BINARY
        .iter()
        .find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor))
        .map_or_else(
            || format!("{bytes}B"),
            |(unit, factor)| format!("{}{unit}", bytes / factor),
        )
}

/// For `#[serde(serialize_with = …)]` on a duration.
pub(super) fn serialize_duration<S: Serializer>(
    duration: &Duration,
    out: S,
) -> Result<S::Ok, S::Error> {
    out.serialize_str(&show_duration(*duration))
}

/// The same where there may be none.
pub(super) fn serialize_optional_duration<S: Serializer>(
    duration: &Option<Duration>,
    out: S,
) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => serialize_duration(duration, out),
        None => out.serialize_none(),
    }
}

/// For `#[serde(serialize_with = …)]` on a size in bytes.
pub(super) fn serialize_size<S: Serializer>(bytes: &u64, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(&show_size(*bytes))
}

/// The same where there may be none.
pub(super) fn serialize_optional_size<S: Serializer>(
    bytes: &Option<u64>,
    out: S,
) -> Result<S::Ok, S::Error> {
    match bytes {
        Some(bytes) => serialize_size(bytes, out),
        None => out.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_take_binary_decimal_and_kubernetes_units() {
        assert_eq!(size("5GiB"), Ok(5 << 30));
        assert_eq!(size("16 mib"), Ok(16 << 20));
        assert_eq!(size("16Mi"), Ok(16 << 20));
        assert_eq!(size("2GB"), Ok(2_000_000_000));
        assert_eq!(size("12"), Ok(12));
        assert_eq!(size("12B"), Ok(12));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "GiB",
            "-1GiB",
            "1.5GiB",
            "1M",
            "1 parsec",
            "99999999TiB",
            "99999999999999999999",
        ] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_duration_without_a_unit_is_told_which_units_there_are() {
        let wrong = duration("15").expect_err("no unit");
        assert_eq!(wrong.mend, "write 15s or 15m");
        assert!(duration("soon").is_err());
        assert!(duration("").is_err());
        assert!(duration("99999999999999999999y").is_err());
        assert_eq!(duration("1m 5s"), Ok(Duration::from_secs(65)));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(bytes: u64, seconds in 0_u64..1 << 40, nanos in 0_u32..1_000_000_000) {
            prop_assert_eq!(size(&show_size(bytes)), Ok(bytes));
            let time = Duration::new(seconds, nanos);
            prop_assert_eq!(duration(&show_duration(time)), Ok(time));
            let days = Duration::from_secs(seconds / 86_400 * 86_400);
            prop_assert_eq!(duration(&show_duration(days)), Ok(days));
        }

        #[test]
        fn no_text_panics(text: String) {
            drop(size(&text));
            drop(duration(&text));
        }
    }
}
