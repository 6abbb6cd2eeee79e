//! How large the next batch is, and how long the pause before it.

use std::time::Duration;

/// The first batch of an execution, before anything is known of the store's speed, has so many for each [`FIRST_TIME`] that a
/// batch should last: a small sweep is one batch.
const FIRST: usize = 500;
const FIRST_TIME: Duration = Duration::from_millis(250);
/// What a pause is longer than the gap between two askings, for the sake of slow timers.
const SLACK: Duration = Duration::from_millis(10);
/// A batch's statements may last as long as a batch should and this part of it more, then it is rolled back and halved.
/// What a commit and a rollback take comes on top, and a writer that waits must still get in before half a second.
const OVERRUN: u32 = 4;

/// Adapts the size of batches so that one lasts about as long as it should.
///
/// ```
/// use std::time::Duration;
/// use apalis_janitor::jobs::pace::Pace;
/// let mut pace = Pace::new(10_000, Duration::from_millis(250));
/// assert_eq!(pace.size(), 500);
/// pace.lasted(500, Duration::from_millis(50));
/// assert_eq!(pace.size(), 1_000); // at most doubled
/// pace.timed_out();
/// assert_eq!(pace.size(), 500);
/// pace.lasted(500, Duration::from_millis(10));
/// assert_eq!(pace.size(), 2_000); // there is time for 12,500
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    size: usize,
    max: usize,
    time: Duration,
}

impl Pace {
    /// Batches of at most `max`, which should last `time`.
    ///
    /// The first one has 500 for each quarter of a second of that, so a very long time makes one pass.
    #[must_use]
    pub fn new(max: usize, time: Duration) -> Self {
        let spans = usize::try_from(time.as_millis() / FIRST_TIME.as_millis()).unwrap_or(usize::MAX).max(1);
        Self { size: max.min(FIRST.saturating_mul(spans)), max, time }
    }

    /// How many the next batch may have; never 0.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.size
    }

    /// A batch of `count` lasted `took`. Short batches tell little of larger ones, so growth is a doubling at most, and two
    /// where there is time for three.
    pub fn lasted(&mut self, count: usize, took: Duration) {
        #[expect(clippy::cast_precision_loss, reason = "a batch has a million at most")]
        let fit = count as f64 * self.time.as_secs_f64() / took.as_secs_f64().max(1e-6);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a float saturates")]
        let fit = fit as usize;
        if count >= self.size || fit < self.size {
            let growth = if fit / 8 >= self.size { 4 } else { 2 };
            self.size = fit.clamp((self.size / 2).max(1), self.size.saturating_mul(growth)).min(self.max).max(1);
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
        if self.size == 1 { trust } else { trust.min(self.time.saturating_add(self.time / OVERRUN)) }
    }

    /// Whether others have been kept out for so long, by `held` in all, that it is time for a pause.
    #[must_use]
    pub fn is_long(&self, held: Duration) -> bool {
        held >= self.time / 2
    }

    /// How long to pause after a batch that lasted `took`: no longer than it, nor than `longest`.
    ///
    /// Those who wait for a lock ask for it again ever more rarely: SQLite's own waiting asks every 25 ms at first, every
    /// 50 ms after 128 ms, and every 100 ms after 228 ms. The pause is long enough for one of these to fall into it.
    #[must_use]
    pub fn pause(took: Duration, longest: Duration) -> Duration {
        let gap = match took.as_millis() {
            0..128 => Duration::from_millis(25),
            128..228 => Duration::from_millis(50),
            _ => Duration::from_millis(100),
        };
        (gap + SLACK).min(took).min(longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_millis(250);
    const PAUSE: Duration = Duration::from_millis(100);

    #[test]
    fn starts_small_and_never_exceeds_its_most() {
        let mut pace = Pace::new(750, TIME);
        let mut sizes = vec![pace.size()];
        for _ in 0..3 {
            pace.lasted(pace.size(), Duration::ZERO);
            sizes.push(pace.size());
        }
        assert_eq!(sizes, [500, 750, 750, 750]);
        assert_eq!(Pace::new(7, TIME).size(), 7);
    }

    #[test]
    fn starts_with_more_where_there_is_more_time_and_makes_one_pass_where_there_is_very_much() {
        for (millis, size) in [(10, 500), (330, 500), (500, 1_000), (1_000, 2_000), (10_000, 20_000)] {
            assert_eq!(Pace::new(100_000, Duration::from_millis(millis)).size(), size, "{millis} ms");
        }
        assert_eq!(Pace::new(1_000_000, Duration::from_mins(10)).size(), 1_000_000);
        assert_eq!(Pace::new(usize::MAX, Duration::MAX).size(), usize::MAX);
    }

    #[test]
    fn settles_where_a_batch_lasts_as_long_as_it_should() {
        let mut pace = Pace::new(1_000_000, TIME);
        for _ in 0..20 {
            let took = Duration::from_micros(100) * u32::try_from(pace.size()).unwrap();
            pace.lasted(pace.size(), took);
        }
        assert!((2_400..=2_600).contains(&pace.size()), "{}", pace.size());
    }

    #[test]
    fn shrinks_by_half_at_most_and_never_to_nothing() {
        let mut pace = Pace::new(1_000, TIME);
        pace.lasted(500, Duration::from_hours(1));
        assert_eq!(pace.size(), 250);
        for _ in 0..100 {
            pace.lasted(pace.size(), Duration::from_hours(1));
            pace.timed_out();
        }
        assert_eq!(pace.size(), 1);
        pace.lasted(1, TIME / 3);
        assert_eq!(pace.size(), 2);
    }

    #[test]
    fn grows_fourfold_only_where_there_is_time_for_eight() {
        for (took, size) in [(TIME / 9, 2_000), (TIME / 7, 1_000), (TIME / 3, 1_000)] {
            let mut pace = Pace::new(5_000, TIME);
            pace.lasted(500, took);
            assert_eq!(pace.size(), size, "{took:?}");
        }
    }

    #[test]
    fn a_small_last_batch_makes_none_larger() {
        let mut pace = Pace::new(1_000, TIME);
        pace.lasted(3, Duration::from_millis(1));
        assert_eq!(pace.size(), 500);
    }

    #[test]
    fn a_batch_lasts_no_longer_than_the_lock_is_trusted() {
        let mut pace = Pace::new(1_000, TIME);
        let trust = Duration::from_secs(20);
        assert_eq!(pace.limit(trust), TIME + TIME / 4);
        assert_eq!(pace.limit(Duration::from_millis(1)), Duration::from_millis(1));
        while pace.size() > 1 {
            pace.timed_out();
        }
        assert_eq!(pace.limit(trust), trust);
        assert_eq!(Pace::new(1_000, Duration::MAX).limit(trust), trust);
    }

    #[test]
    fn pauses_as_long_as_a_batch_lasted_and_no_longer_than_it_may() {
        assert_eq!(Pace::pause(Duration::from_millis(30), PAUSE), Duration::from_millis(30));
        assert_eq!(Pace::pause(Duration::from_secs(30), PAUSE), PAUSE);
        assert_eq!(Pace::pause(Duration::from_secs(30), Duration::ZERO), Duration::ZERO);
    }
}
