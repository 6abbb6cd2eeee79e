//! How large the next batch is, and how long the pause before it.

use std::time::Duration;

/// The first batch of an execution, before anything is known of the store's speed.
const FIRST: usize = 100;
/// From this on a batch's time is long.
const ONE_PASS_MIN: Duration = Duration::from_secs(10);
/// A batch may last this many times as long as it should, then it is rolled back and halved.
const OVERRUN: u32 = 2;

/// Adapts the size of batches so that one lasts about as long as it should.
///
/// ```
/// use std::time::Duration;
/// use apalis_janitor::jobs::pace::Pace;
/// let mut pace = Pace::new(1_000, Duration::from_millis(250), Duration::from_millis(100));
/// assert_eq!(pace.size(), 100);
/// pace.lasted(100, Duration::from_millis(10));
/// assert_eq!(pace.size(), 200); // at most doubled
/// pace.timed_out();
/// assert_eq!(pace.size(), 100);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    size: usize,
    max: usize,
    time: Duration,
}

impl Pace {
    /// Batches of at most `max`, which should last `time`, with pauses of at most `pause` between them.
    ///
    /// With a long time and no pause nobody waits for the store: the first batch is as large as it may be, for one pass.
    #[must_use]
    pub fn new(max: usize, time: Duration, pause: Duration) -> Self {
        let is_one_pass = pause.is_zero() && time >= ONE_PASS_MIN;
        Self { size: if is_one_pass { max } else { max.min(FIRST) }, max, time }
    }

    /// How many the next batch may have; never 0.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.size
    }

    /// A batch of `count` lasted `took`. Short batches tell nothing of larger ones, so growth is a doubling at most.
    pub fn lasted(&mut self, count: usize, took: Duration) {
        #[expect(clippy::cast_precision_loss, reason = "a batch has a million at most")]
        let fit = count as f64 * self.time.as_secs_f64() / took.as_secs_f64().max(1e-6);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a float saturates")]
        let fit = fit as usize;
        if count >= self.size || fit < self.size {
            self.size = fit.clamp((self.size / 2).max(1), self.size.saturating_mul(2)).min(self.max).max(1);
        }
    }

    /// A batch was rolled back because it took too long.
    pub const fn timed_out(&mut self) {
        self.size = if self.size > 1 { self.size / 2 } else { 1 };
    }

    /// How long the next batch may last: no longer than `trust`, which is how long the lock is sure. A single run that
    /// is larger than any batch gets all of it, or it would never go.
    #[must_use]
    pub fn limit(&self, trust: Duration) -> Duration {
        if self.size == 1 { trust } else { trust.min(self.time.saturating_mul(OVERRUN)) }
    }

    /// How long to pause after a batch that lasted `took`: as long again, so that others have half of the time, and at
    /// most `longest`.
    #[must_use]
    pub fn pause(took: Duration, longest: Duration) -> Duration {
        took.min(longest)
    }
}
