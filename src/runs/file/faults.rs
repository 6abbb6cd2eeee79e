//! Where a test can end the process, as far as the disk is concerned.

use rustix::io::Errno;

/// How many changes of the disk are still allowed; each one after that fails. Without the feature `test-util`: all.
#[derive(Debug, Default)]
pub(super) struct Faults {
    #[cfg(feature = "test-util")]
    left: std::sync::Mutex<Option<u64>>,
}

impl Faults {
    /// Allows `changes` more.
    #[cfg(feature = "test-util")]
    pub(super) fn allow(&self, changes: Option<u64>) {
        *self.left.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = changes;
    }

    /// Asked before each change.
    #[cfg(feature = "test-util")]
    pub(super) fn pass(&self) -> Result<(), Errno> {
        match &mut *self.left.lock().unwrap_or_else(std::sync::PoisonError::into_inner) {
            None => Ok(()),
            Some(0) => Err(Errno::IO),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    /// Asked before each change.
    #[cfg(not(feature = "test-util"))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "tests can refuse")]
    pub(super) const fn pass(&self) -> Result<(), Errno> {
        Ok(())
    }
}
