//! What `janitor check` says of a folder.

use super::{NAME, Shared, index::RUN, marker};
use crate::runs::{Findings, StoreError};

/// Filesystems of other machines, by the number that statfs(2) shows: whether a lock there is seen by everybody depends on
/// how it is mounted.
const NETWORK: [(u32, &str); 7] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xfe53_4d42, "SMB"),
    (0xff53_4d42, "SMB"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "Ceph"),
    (0x6573_5546, "FUSE"),
];

impl Shared {
    pub(super) fn findings(&self) -> Result<Findings, StoreError> {
        let (mut found, folders) = (Findings::default(), &self.folders);
        let path = folders.root.path().display();
        let index = self.scan()?;
        found.facts.push(format!("{NAME}: {path}: {} runs", index.count()));
        let missing: Vec<String> = folders
            .all()
            .into_iter()
            .filter(|folder| !folder.is_there())
            .map(|folder| folder.path().file_name().unwrap_or_default().display().to_string())
            .collect();
        if !missing.is_empty() {
            found.facts.push(format!("{NAME}: an older store, without {}", missing.join(", ")));
        }
        let unread = index.unpaged();
        if unread > 0 {
            found.warnings.push(format!(
                "{NAME}: {path}/runs: {unread} runs cannot be read or have no time of creation: they stay"
            ));
        }
        let mut strangers = 0_u64;
        folders.runs.each_name(|name, _| strangers += u64::from(!name.ends_with(RUN) && !name.ends_with(".cancel")))?;
        if strangers > 0 {
            found
                .warnings
                .push(format!("{NAME}: {path}/runs: {strangers} files are of no kind that is known: they stay"));
        }
        if let Err(error) = folders.assert_writable() {
            let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            found.warnings.push(format!("{NAME}: {source}: a real run will fail"));
        }
        let unfinished = marker::unfinished(&self.home()?)?;
        if unfinished > 0 {
            found.warnings.push(format!(
                "{NAME}: {path}/{}: {unfinished} batches of a sweep that ended early: the next real run finishes them",
                marker::HOME
            ));
        }
        if let Some(kind) = folders.root.filesystem().and_then(|number| NETWORK.iter().find(|(of, _)| *of == number)) {
            found.warnings.push(format!(
                "{NAME}: {path}: is on {}: make sure that flock(2) of one machine is seen by the others",
                kind.1
            ));
        }
        Ok(found)
    }
}
