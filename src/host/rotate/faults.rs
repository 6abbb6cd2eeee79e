//! Where a test can end a rotation, as far as the disk is concerned, and what it can take from the filesystem.

use std::io;

/// How many changes of the disk are still allowed; each one after that fails. Outside this module's tests: all.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    #[cfg(test)]
    pub left: std::sync::Arc<std::sync::Mutex<Option<u64>>>,
    #[cfg(test)]
    pub no_exchange: bool,
    #[cfg(test)]
    pub no_leases: bool,
    #[cfg(test)]
    pub no_links: bool,
}

#[cfg(test)]
impl Faults {
    /// Asked before each change.
    pub(super) fn pass(&self) -> io::Result<()> {
        match &mut *self.left.lock().unwrap() {
            None => Ok(()),
            Some(0) => Err(io::Error::other("no change is allowed any more")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    pub(super) const fn has_no_exchange(&self) -> bool {
        self.no_exchange
    }

    pub(super) const fn has_no_leases(&self) -> bool {
        self.no_leases
    }

    pub(super) const fn has_no_links(&self) -> bool {
        self.no_links
    }
}

#[cfg(not(test))]
#[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "tests can refuse")]
impl Faults {
    /// Asked before each change.
    pub(super) const fn pass(&self) -> io::Result<()> {
        Ok(())
    }

    pub(super) const fn has_no_exchange(&self) -> bool {
        false
    }

    pub(super) const fn has_no_leases(&self) -> bool {
        false
    }

    pub(super) const fn has_no_links(&self) -> bool {
        false
    }
}
