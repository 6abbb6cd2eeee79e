//! Entries of the stream and of the dead list, as Redis answers them.

use chrono::DateTime;

use crate::queue::{Claim, Dead, Delivery, QueueError, Request};

/// An entry's names and values, which any program may have written.
pub(super) type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// What a consumer that was given this entry is to do with it.
pub(super) fn delivered(id: String, fields: &Fields, number: u32) -> Claim {
    match Request::read(&text(fields)) {
        Ok(request) => Claim::Run(Delivery { id, request, number }),
        Err(reason) => Claim::Unreadable { id, reason },
    }
}

/// The fields as text; bytes that are none cannot make a name that we know.
fn text(fields: &Fields) -> Vec<(String, String)> {
    let one = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    fields.iter().map(|(name, value)| (one(name), one(value))).collect()
}

/// Reads an entry of the dead list, which begins with `id`, `reason` and `deliveries`.
pub(super) fn dead_entry(at: &str, fields: &Fields) -> Result<Dead, QueueError> {
    let unreadable = || QueueError::unavailable(format!("the dead list's entry {at} is not ours"));
    let mut fields = text(fields);
    let original = if fields.len() < 3 { return Err(unreadable()) } else { fields.split_off(3) };
    let [id, reason, deliveries] = <[(String, String); 3]>::try_from(fields).map_err(|_| unreadable())?;
    let millis = at.split_once('-').and_then(|(millis, _)| millis.parse().ok());
    Ok(Dead {
        id: id.1,
        reason: reason.1,
        deliveries: deliveries.1.parse().map_err(|_| unreadable())?,
        at: millis.and_then(DateTime::from_timestamp_millis).ok_or_else(unreadable)?,
        fields: original,
    })
}
