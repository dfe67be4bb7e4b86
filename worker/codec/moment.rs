//! Points in time as producers write them: ISO 8601 ↔ milliseconds since 1970, UTC.
//!
//! Dates are of the proleptic Gregorian calendar, years 1 to 9999, as Python's.

/// 0001-01-01T00:00:00Z.
const FIRST: i64 = -62_135_596_800_000;
/// 9999-12-31T23:59:59.999Z.
const LAST: i64 = 253_402_300_799_999;

const DAY: i64 = 86_400_000;

/// A point in time as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    /// Milliseconds since 1970, UTC; finer digits are cut.
    pub(super) millis: i64,
    /// Whether a zone was given. Without one, UTC is assumed.
    pub(super) zoned: bool,
}

/// Reads `YYYY-MM-DD[(T| )HH:MM[:SS[.f…]][Z|±HH[[:]MM]]]`; `None` if `text` is anything else.
pub(super) fn parse(text: &str) -> Option<Moment> {
    let mut cursor = Cursor(text.trim().as_bytes());
    let year = cursor.number(4)?;
    cursor.skip(b"-")?;
    let month = cursor.number(2)?;
    cursor.skip(b"-")?;
    let day = cursor.number(2)?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return None,
    };
    if year == 0 || !(1..=days).contains(&day) {
        return None;
    }
    let midnight = days_since_1970(year, month, day) * DAY;
    if cursor.0.is_empty() {
        let zoned = false;
        return Some(Moment {
            millis: midnight,
            zoned,
        });
    }
    cursor.skip(b"Tt ")?;
    let time = cursor.time()?;
    let offset = cursor.offset()?;
    cursor.0.is_empty().then_some(Moment {
        millis: midnight + time - offset.unwrap_or(0),
        zoned: offset.is_some(),
    })
}

/// Writes `YYYY-MM-DDTHH:MM:SS[.mmm]+00:00`, which every Python reads; `None` outside the years 1
/// to 9999.
pub(super) fn format(millis: i64) -> Option<String> {
    if !(FIRST..=LAST).contains(&millis) {
        return None;
    }
    let (year, month, day) = date(millis.div_euclid(DAY));
    let time = millis.rem_euclid(DAY);
    let (hour, minute) = (time / 3_600_000, time / 60_000 % 60);
    let (second, milli) = (time / 1000 % 60, time % 1000);
    let fraction = match milli {
        0 => String::new(),
        _ => format!(".{milli:03}"),
    };
    Some(format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}+00:00"
    ))
}

/// The nearest time that [`format`] can write.
pub(super) fn clamp(millis: i64) -> i64 {
    millis.clamp(FIRST, LAST)
}

/// The unread part of a text.
struct Cursor<'t>(&'t [u8]);

impl Cursor<'_> {
    /// Reads exactly `digits` digits.
    fn number(&mut self, digits: usize) -> Option<i64> {
        let (text, rest) = self.0.split_at_checked(digits)?;
        self.0 = rest;
        text.iter().try_fold(0, |number, byte| {
            byte.is_ascii_digit()
                .then(|| number * 10 + i64::from(byte - b'0'))
        })
    }

    /// Reads one of `bytes`.
    fn skip(&mut self, bytes: &[u8]) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        bytes.contains(first).then(|| {
            self.0 = rest;
            *first
        })
    }

    /// Reads two digits below `limit`.
    fn below(&mut self, limit: i64) -> Option<i64> {
        self.number(2).filter(|number| *number < limit)
    }

    /// Milliseconds since midnight.
    fn time(&mut self) -> Option<i64> {
        let hour = self.below(24)?;
        self.skip(b":")?;
        let minute = self.below(60)?;
        let mut millis = (hour * 60 + minute) * 60_000;
        if self.skip(b":").is_some() {
            millis += self.below(60)? * 1000;
            if self.skip(b".,").is_some() {
                millis += self.fraction()?;
            }
        }
        Some(millis)
    }

    /// Milliseconds of one or more digits after the point.
    fn fraction(&mut self) -> Option<i64> {
        let digits = self.0.iter().take_while(|byte| byte.is_ascii_digit());
        let count = digits.count();
        let (text, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        let padded = text.iter().chain(b"000").take(3);
        (count > 0).then(|| padded.fold(0, |sum, byte| sum * 10 + i64::from(byte - b'0')))
    }

    /// The zone's milliseconds east of UTC; `Some(None)` if none is given.
    fn offset(&mut self) -> Option<Option<i64>> {
        if self.0.is_empty() {
            return Some(None);
        }
        let sign = match self.skip(b"Zz+-")? {
            b'+' => 1,
            b'-' => -1,
            _ => return Some(Some(0)),
        };
        let hours = self.below(24)?;
        let colon = self.skip(b":").is_some();
        let minutes = if colon || !self.0.is_empty() {
            self.below(60)?
        } else {
            0
        };
        Some(Some(sign * (hours * 60 + minutes) * 60_000))
    }
}

/// Days from 1970-01-01 to a date, counted in years that begin in March, so that a leap day is a
/// year's last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let before_year = 365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // March to July and August to December are 31 30 31 30 31, so 153 days for five months.
    let before_month = (153 * month + 2) / 5;
    // 719 468 days lie between 0000-03-01 and 1970-01-01.
    before_year + before_month + day - 1 - 719_468
}

/// The date that is `days` after 1970-01-01: the inverse of [`days_since_1970`].
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    // 400 years have 146 097 days, 100 of them 36 524, 4 of those 1 461.
    let (era, days) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (days - days / 1_460 + days / 36_524 - days / 146_096) / 365;
    let days = days - (365 * year + year / 4 - year / 100);
    let month = (5 * days + 2) / 153;
    let day = days - (153 * month + 2) / 5 + 1;
    let year = year + era * 400;
    if month < 10 {
        (year, month + 3, day)
    } else {
        (year + 1, month - 9, day)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_celery_writes_is_read() {
        let cases = [
            ("2026-01-02T03:04:05.678901+00:00", 1_767_323_045_678, true),
            ("2026-01-02T03:04:05.678901", 1_767_323_045_678, false),
            ("2026-01-02 03:04:05Z", 1_767_323_045_000, true),
            ("2026-01-02T05:34:05+02:30", 1_767_323_045_000, true),
            ("2026-01-01T23:04:05-0400", 1_767_323_045_000, true),
            ("2026-01-02T04:04+01", 1_767_323_040_000, true),
            ("2026-01-02", 1_767_312_000_000, false),
            ("1970-01-01T00:00:00.5", 500, false),
            ("2024-02-29T00:00:00Z", 1_709_164_800_000, true),
            ("0001-01-01T00:00:00", FIRST, false),
            ("9999-12-31T23:59:59.999999", LAST, false),
        ];
        for (text, millis, zoned) in cases {
            assert_eq!(parse(text), Some(Moment { millis, zoned }), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "now",
            "2026",
            "2026-13-01",
            "2026-02-29",
            "2100-02-29",
            "2026-01-00",
            "0000-01-01",
            "2026-01-02T24:00",
            "2026-01-02T03:60",
            "2026-01-02T03:04:60",
            "2026-01-02T03:04:05.",
            "2026-01-02T03:04:05+",
            "2026-01-02T03:04:05+1",
            "2026-01-02T03:04:05+24:00",
            "2026-01-02T03:04:05+01:0",
            "2026-01-02T03:04:05 tomorrow",
            "+026-01-02",
            "２０２６-01-02",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_year_that_python_has_not_is_not_written() {
        assert_eq!(format(FIRST).unwrap(), "0001-01-01T00:00:00+00:00");
        assert_eq!(format(LAST).unwrap(), "9999-12-31T23:59:59.999+00:00");
        assert_eq!(format(FIRST - 1), None);
        assert_eq!(format(LAST + 1), None);
        assert_eq!(format(clamp(i64::MAX)), format(LAST));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(millis in FIRST..=LAST) {
            let text = format(millis).unwrap();
            prop_assert_eq!(parse(&text), Some(Moment { millis, zoned: true }));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[0-9T:.,Zz+ -]{0,40}|.{0,20}") {
            let millis = parse(&text).map_or(0, |moment| moment.millis);
            prop_assert!((FIRST - DAY..=LAST + DAY).contains(&millis));
        }
    }
}
