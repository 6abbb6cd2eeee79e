//! What is bound to the catalog's statements, and what is read from their rows.

use chrono::{DateTime, Utc};
use sqlx::{Error, Row, any::AnyRow};

use crate::blobs::{Blob, BlobError, BlobId, OpenTask, Ref, State, Tag, Totals};

/// The columns of [`blob`], of `janitor_blob AS b`.
pub(super) const BLOB: &str =
    "b.id, b.digest, b.size, b.state, b.created_at, b.touched_at, b.zero_since, b.attempts, b.next_at, b.error";
/// The columns of [`reference`], of `janitor_blob_ref AS r` with its blob `b` and its task `t`.
pub(super) const REF: &str =
    "r.blob_id, b.digest, b.size, r.task, t.run, r.attempt, r.name, r.content_type, r.created_at, r.final";
/// The columns of [`open_task`], of `janitor_blob_task AS t`.
pub(super) const TASK: &str = "t.id, t.run, t.attempt, t.seen_at";
/// The most characters of an error that are kept.
const ERROR_MAX: usize = 500;

/// Ids as a JSON list.
pub(super) fn list(ids: impl Iterator<Item = BlobId>) -> String {
    serde_json::Value::from_iter(ids.map(|id| id.to_string())).to_string()
}

/// Ids with errors as a JSON list of lists.
pub(super) fn failures(failed: &[(BlobId, String)]) -> String {
    // Postgres takes no NUL in a text.
    let short = |error: &str| error.chars().filter(|c| *c != '\0').take(ERROR_MAX).collect::<String>();
    let row = |(id, error): &(BlobId, String)| serde_json::json!([id.to_string(), short(error)]);
    serde_json::Value::from_iter(failed.iter().map(row)).to_string()
}

/// A blob's size as the database counts.
pub(super) fn size(size: u64) -> Result<i64, BlobError> {
    i64::try_from(size).map_err(|_| BlobError::Invalid(format!("size {size}: must be less than 2^63 bytes")))
}

/// How many rows to read at most.
pub(super) fn limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// A row of [`BLOB`] in a JSON list.
type Packed = (String, String, i64, String, i64, i64, Option<i64>, i64, Option<i64>, Option<String>);

/// The blobs in a JSON list of rows.
pub(super) fn unpacked(text: &str) -> Result<Vec<Blob>, Error> {
    let rows: Vec<Packed> = serde_json::from_str(text).map_err(|error| Error::Decode(error.into()))?;
    let blob = |(id, digest, size, state, created_at, touched_at, zero_since, attempts, next_at, error): Packed| {
        Ok(Blob {
            id: read(&id)?,
            digest: read(&digest)?,
            size: whole("size", size)?,
            state: self::state(&state)?,
            created_at: time(created_at)?,
            touched_at: time(touched_at)?,
            zero_since: zero_since.map(time).transpose()?,
            attempts: whole("attempts", attempts)?,
            next_at: next_at.map(time).transpose()?,
            error,
        })
    };
    rows.into_iter().map(blob).collect()
}

/// The ids in a JSON list.
pub(super) fn ids(text: &str) -> Result<Vec<BlobId>, Error> {
    let ids: Vec<String> = serde_json::from_str(text).map_err(|error| Error::Decode(error.into()))?;
    ids.iter().map(|id| read(id)).collect()
}

fn read<T: std::str::FromStr<Err = BlobError>>(text: &str) -> Result<T, Error> {
    text.parse().map_err(|error: BlobError| Error::Decode(error.into()))
}

fn whole<T: TryFrom<i64>>(name: &str, number: i64) -> Result<T, Error> {
    T::try_from(number).map_err(|_| unreadable(name, &number.to_string()))
}

fn state(text: &str) -> Result<State, Error> {
    let known = [State::Pending, State::Live, State::Deleting].into_iter().find(|known| known.as_str() == text);
    known.ok_or_else(|| unreadable("state", text))
}

pub(super) fn blob(row: &AnyRow) -> Result<Blob, Error> {
    Ok(Blob {
        id: parsed(row, "id")?,
        digest: parsed(row, "digest")?,
        size: number(row, "size")?,
        state: state(row.try_get::<&str, _>("state")?)?,
        created_at: time(row.try_get("created_at")?)?,
        touched_at: time(row.try_get("touched_at")?)?,
        zero_since: row.try_get::<Option<i64>, _>("zero_since")?.map(time).transpose()?,
        attempts: number(row, "attempts")?,
        next_at: row.try_get::<Option<i64>, _>("next_at")?.map(time).transpose()?,
        error: row.try_get("error")?,
    })
}

pub(super) fn reference(row: &AnyRow) -> Result<Ref, Error> {
    Ok(Ref {
        blob: parsed(row, "blob_id")?,
        digest: parsed(row, "digest")?,
        size: number(row, "size")?,
        tag: Tag {
            task: row.try_get("task")?,
            run: row.try_get("run")?,
            attempt: number(row, "attempt")?,
            name: row.try_get("name")?,
            content_type: row.try_get("content_type")?,
        },
        created_at: time(row.try_get("created_at")?)?,
        is_final: row.try_get::<i64, _>("final")? != 0,
    })
}

pub(super) fn open_task(row: &AnyRow) -> Result<OpenTask, Error> {
    Ok(OpenTask {
        id: row.try_get("id")?,
        run: row.try_get("run")?,
        attempt: number(row, "attempt")?,
        seen_at: time(row.try_get("seen_at")?)?,
    })
}

/// The instant `millis` after 1970.
pub(super) fn time(millis: i64) -> Result<DateTime<Utc>, Error> {
    DateTime::from_timestamp_millis(millis).ok_or_else(|| unreadable("time", &millis.to_string()))
}

/// The id or digest in the column `name`.
pub(super) fn parsed<T: std::str::FromStr<Err = BlobError>>(row: &AnyRow, name: &str) -> Result<T, Error> {
    read(row.try_get::<&str, _>(name)?)
}

/// The number in the column `name`, which is none below zero.
pub(super) fn number<T: TryFrom<i64>>(row: &AnyRow, name: &str) -> Result<T, Error> {
    whole(name, row.try_get(name)?)
}

pub(super) fn unreadable(what: &str, value: &str) -> Error {
    Error::Decode(format!("unreadable {what}: {value:?}").into())
}

pub(super) fn number_of(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// What a statement has counted under these names.
pub(super) fn totals(row: &AnyRow) -> Result<Totals, Error> {
    Ok(Totals {
        pending: number(row, "pending")?,
        live: number(row, "live")?,
        referenced: number(row, "referenced")?,
        deleting: number(row, "deleting")?,
        bytes: number(row, "bytes")?,
    })
}
