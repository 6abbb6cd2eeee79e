//! The time, as a value that tests can set.

use std::fmt::Debug;

use chrono::{DateTime, Utc};

/// Where the current time comes from. Nothing else in the crate reads the wall clock.
pub trait Clock: Send + Sync + Debug {
    /// The current wall-clock time.
    fn now(&self) -> DateTime<Utc>;
}

/// The machine's clock.
///
/// ```
/// use apalis_janitor::clock::{Clock, SystemClock};
/// assert!(SystemClock.now().timestamp() > 0);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}

/// A clock that stands still until it is set.
#[cfg(feature = "test-util")]
#[derive(Debug)]
pub struct TestClock(std::sync::Mutex<DateTime<Utc>>);

#[cfg(feature = "test-util")]
impl TestClock {
    /// A clock that shows `now`.
    #[must_use]
    pub const fn at(now: DateTime<Utc>) -> Self {
        Self(std::sync::Mutex::new(now))
    }

    /// Makes it show `now`, which may lie before what it showed.
    ///
    /// # Panics
    /// Where another thread panicked while it set this clock.
    pub fn set(&self, now: DateTime<Utc>) {
        *self.0.lock().expect("nothing panics while it holds the clock") = now;
    }
}

#[cfg(feature = "test-util")]
impl Clock for TestClock {
    fn now(&self) -> DateTime<Utc> {
        *self.0.lock().expect("nothing panics while it holds the clock")
    }
}
