//! Points in time as rows and receipts write them.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use time::{Date, Month, OffsetDateTime, Time};

/// A point in time, UTC, in milliseconds since 1970. Printed as RFC 3339 in exactly one way:
/// `2026-11-22T02:10:00.123Z`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Timestamp {
    unix_ms: u64,
}

impl Timestamp {
    /// Bytes in the printed form.
    pub const TEXT_BYTES: usize = 24;

    /// The end of the year 9999, the last that the printed form has room for.
    pub const MAX: Self = Self { unix_ms: 253_402_300_799_999 };

    /// Takes milliseconds since 1970; later than the year 9999 counts as its end.
    pub const fn from_unix_ms(unix_ms: u64) -> Self {
        match unix_ms <= Self::MAX.unix_ms {
            true => Self { unix_ms },
            false => Self::MAX,
        }
    }

    /// Milliseconds since 1970.
    pub const fn unix_ms(self) -> u64 {
        self.unix_ms
    }

    /// Reads the printed form.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let text: &[u8; Self::TEXT_BYTES] = text.try_into().ok()?;
        let marks =
            [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (19, b'.'), (23, b'Z')];
        if marks.iter().any(|(at, mark)| text[*at] != *mark) {
            return None;
        }
        let number = |range: std::ops::Range<usize>| {
            text[range].iter().try_fold(0_u16, |number, digit| {
                digit.is_ascii_digit().then(|| number * 10 + u16::from(digit - b'0'))
            })
        };
        let small = |range| u8::try_from(number(range)?).ok();
        let month = Month::try_from(small(5..7)?).ok()?;
        let date = Date::from_calendar_date(i32::from(number(0..4)?), month, small(8..10)?).ok()?;
        let (hour, minute, second) = (small(11..13)?, small(14..16)?, small(17..19)?);
        let time = Time::from_hms_milli(hour, minute, second, number(20..23)?).ok()?;
        let unix_ms = date.with_time(time).assume_utc().unix_timestamp_nanos() / NANOS_PER_MS;
        Some(Self { unix_ms: u64::try_from(unix_ms).ok()? })
    }
}

impl From<SystemTime> for Timestamp {
    /// Cuts off what is below a millisecond; before 1970 counts as 1970.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self::from_unix_ms(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time =
            OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.unix_ms) * NANOS_PER_MS)
                .expect("a timestamp is between the years 1970 and 9999");
        let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
        let (hour, minute, second, ms) = time.time().as_hms_milli();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Timestamp {
    type Err = ParseTimestampError;

    /// Reads exactly what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text.as_bytes()).ok_or(ParseTimestampError)
    }
}

impl TryFrom<String> for Timestamp {
    type Error = ParseTimestampError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Timestamp> for String {
    fn from(time: Timestamp) -> Self {
        time.to_string()
    }
}

/// A text that is not a time in the one form that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a time like 2026-11-22T02:10:00.123Z, from 1970 on, in UTC")]
pub struct ParseTimestampError;

const NANOS_PER_MS: i128 = 1_000_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_printed_time_parses_to_itself(unix_ms in 0..=Timestamp::MAX.unix_ms) {
            let time = Timestamp::from_unix_ms(unix_ms);
            prop_assert_eq!(time.to_string().parse(), Ok(time));
        }

        #[test]
        fn no_text_but_the_printed_one_is_read(text in "[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9].[0-9]{3}Z") {
            if let Ok(time) = text.parse::<Timestamp>() {
                prop_assert_eq!(time.to_string(), text);
            }
        }
    }

    #[test]
    fn a_known_time_is_printed_as_rfc_3339() {
        assert_eq!(
            Timestamp::from_unix_ms(1_795_313_400_123).to_string(),
            "2026-11-22T02:10:00.123Z"
        );
        assert_eq!(Timestamp::MAX.to_string(), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn other_spellings_and_impossible_dates_are_refused() {
        for text in [
            "2026-11-22T02:10:00Z",
            "2026-11-22t02:10:00.123z",
            "2026-11-22T02:10:00.123+00:00",
            "2026-02-30T02:10:00.123Z",
            "1969-12-31T23:59:59.999Z",
            "",
        ] {
            assert_eq!(text.parse::<Timestamp>(), Err(ParseTimestampError), "{text:?}");
        }
    }
}
