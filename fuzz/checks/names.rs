//! What is read from a name, a URL or a path is written as the same again, and no URL shows its password.

use apalis_janitor::{
    blobs::{BlobId, Digest, Key},
    config::{CassandraUrl, RetentionDays, Schedule, SecretUrl, Share, VolumeName, VolumePattern},
    link::{Link, is_url},
};
use chrono::DateTime;

const PASSWORD: &str = "hunter2";

pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    volumes(text);
    blobs(text);
    urls(text);
    if let Ok(schedule) = Schedule::parse(text) {
        assert_eq!(Schedule::parse(&schedule.to_string()).map(|again| again.to_string()), Ok(schedule.to_string()));
        for zone in [chrono_tz::UTC, chrono_tz::Europe::Berlin, chrono_tz::Pacific::Apia] {
            let next = schedule.next_after(DateTime::UNIX_EPOCH, zone);
            assert!(next.is_some_and(|next| next > DateTime::UNIX_EPOCH), "{schedule}");
        }
    }
    if let Ok(share) = Share::parse(text) {
        assert_eq!(Share::parse(&share.to_string()), Ok(share));
    }
    if let Ok(days) = text.parse() {
        assert_eq!(RetentionDays::new(days).is_ok(), (1..=36_500).contains(&days));
    }
}

/// A pattern and an id make a name, which leads back to the id and into no other place of a URL.
fn volumes(text: &str) {
    let (pattern, id) = text.split_once('\n').unwrap_or((text, "1"));
    if let Ok(name) = text.parse::<VolumeName>() {
        assert!(name.as_str() == text && !text.contains(['/', '?', '#', '%', ' ']) && text != "..");
    }
    let Ok(pattern) = pattern.parse::<VolumePattern>() else { return };
    assert_eq!(pattern.to_string().parse(), Ok(pattern.clone()));
    if let Ok(volume) = pattern.volume(id) {
        assert_eq!(pattern.thread(&volume), Some(id));
        assert_eq!(volume.as_str().parse::<VolumeName>(), Ok(volume.clone()));
    }
}

fn blobs(text: &str) {
    if let Some(key) = Key::of_path(text) {
        assert_eq!(key.path(), text);
    }
    if let Ok(id) = text.parse::<BlobId>() {
        assert_eq!(id.to_string(), text);
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert!(text.to_lowercase().ends_with(&digest.to_string()));
    }
}

fn urls(text: &str) {
    if let Ok(url) = CassandraUrl::parse(text) {
        assert!(!url.hosts.is_empty() && !url.keyspace.is_empty());
    }
    if is_url(text) {
        let place = Link::new(text, "janitor").expect("it is a URL").place();
        assert!(!place.contains('@'), "{place}");
    }
    // A password between any two texts.
    let Some((before, after)) = text.split_once('\n').filter(|_| !text.contains(PASSWORD)) else { return };
    for url in [format!("{before}://u:{PASSWORD}@{after}"), format!("redis://{before}:{PASSWORD}@{after}")] {
        let shown = SecretUrl::new(&url).to_string();
        assert!(!shown.contains(PASSWORD), "{url} is shown as {shown}");
    }
}
