//! A folder of this host: what lies in it, what it may lose, and how full its disk is.
//!
//! All of it is blocking. Whatever deletes goes by a [`Root`], which no path can lead out of.

mod audit;
mod failures;
mod lease;
mod look;
pub mod references;
mod root;
pub mod rotate;
mod seen;
mod space;
mod sweep;
pub mod temporaries;
mod unlink;
mod walk;

pub use audit::{Amount, Audit, FolderAmount, LargeFile, audit, audit_of};
pub use failures::Failures;
pub use look::look;
pub use root::{Root, RootError};
pub use seen::{Kind, Modified, Seen};
pub use space::{Held, HeldFile, Space};
pub use sweep::{Act, Swept, sweep};
pub use unlink::{Fate, unlink};
pub use walk::{Entry, Walked, walk};

use std::{fmt::Write as _, os::unix::ffi::OsStrExt, path::Path};

/// A path as text: bytes that are no UTF-8 as `\xHH`.
///
/// ```
/// use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};
/// let path = Path::new(OsStr::from_bytes(b"images/\xff.png"));
/// assert_eq!(apalis_janitor::host::shown(path), "images/\\xFF.png");
/// ```
#[must_use]
pub fn shown(path: &Path) -> String {
    let mut text = String::with_capacity(path.as_os_str().len());
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02X}");
        }
    }
    text
}
