//! Instants as Postgres holds them: whole microseconds, so that what is read compares exactly.

use chrono::{DateTime, Datelike, SecondsFormat, Utc};
use sqlx::{
    Decode, Encode, Postgres, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgTypeInfo, PgValueRef, types::Oid},
};

use crate::runs::Stamp;

/// The type `timestamptz`, by the number that it has everywhere.
const TIMESTAMPTZ: Oid = Oid(1184);
/// From 1970 to 2000, where Postgres begins to count.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// The earliest instant that is none of the infinities: noon of Julian day 0.
const FIRST: i64 = -211_813_488_000_000_000;

/// A `timestamptz`: microseconds since 2000. Its ends are the infinities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Micros(pub(super) i64);

impl Micros {
    /// The last microsecond that is not after `at`; before the server's calendar begins, its earliest value.
    pub(super) fn of(at: DateTime<Utc>) -> Self {
        let micros = at.timestamp_micros().saturating_sub(EPOCH_MICROS);
        Self(if micros < FIRST { i64::MIN } else { micros })
    }

    /// The instant; `None` for an infinity, or where it is out of the range of all calendars.
    pub(super) fn instant(self) -> Option<DateTime<Utc>> {
        let is_finite = self.0 != i64::MAX && self.0 != i64::MIN;
        let micros = self.0.checked_add(EPOCH_MICROS).filter(|_| is_finite)?;
        DateTime::from_timestamp_micros(micros)
    }

    /// The stored value as text: as `PyWorkflow` writes it where that can be said, else the number.
    pub(super) fn text(self) -> String {
        match self.instant() {
            Some(at) if (0..=9999).contains(&at.year()) => {
                let form = if at.timestamp_subsec_micros() == 0 { SecondsFormat::Secs } else { SecondsFormat::Micros };
                at.to_rfc3339_opts(form, false)
            }
            _ => self.0.to_string(),
        }
    }

    /// What [`text`](Self::text) was made of.
    pub(super) fn parse(text: &str) -> Option<Self> {
        text.parse().map(Self).ok().or_else(|| Some(Self::of(DateTime::parse_from_rfc3339(text).ok()?.to_utc())))
    }

    /// A stamp of a column's value.
    pub(super) fn stamp(value: Option<Self>) -> Stamp {
        Stamp { raw: value.map(Self::text), instant: value.and_then(Self::instant) }
    }
}

impl Type<Postgres> for Micros {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(TIMESTAMPTZ)
    }
}

impl Encode<'_, Postgres> for Micros {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&self.0.to_be_bytes());
        Ok(IsNull::No)
    }
}

impl Decode<'_, Postgres> for Micros {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        Ok(Self(i64::from_be_bytes(value.as_bytes()?.try_into()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_has_its_own_text_and_comes_back_from_it() {
        let texts = [
            (0, "2000-01-01T00:00:00+00:00"),
            (1, "2000-01-01T00:00:00.000001+00:00"),
            (-1, "1999-12-31T23:59:59.999999+00:00"),
            (500_000, "2000-01-01T00:00:00.500000+00:00"),
            (i64::MAX, "9223372036854775807"),
            (i64::MIN, "-9223372036854775808"),
            (9_000_000_000_000_000_000, "9000000000000000000"),
            (-200_000_000_000_000_000, "-200000000000000000"),
        ];
        for (micros, text) in texts {
            assert_eq!(Micros(micros).text(), text);
            assert_eq!(Micros::parse(text), Some(Micros(micros)));
        }
        assert_eq!(Micros::parse("yesterday"), None);
    }

    #[test]
    fn an_infinity_is_no_instant() {
        assert_eq!(Micros::stamp(Some(Micros(i64::MAX))).instant, None);
        assert_eq!(Micros::stamp(Some(Micros(i64::MIN))).instant, None);
        assert_eq!(Micros::stamp(None), Stamp::default());
    }
}
