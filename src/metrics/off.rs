//! Nothing is counted and nothing served: the crate was built without the feature `metrics`.

use std::{convert::Infallible, net::SocketAddr};

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use super::MetricsError;
use crate::{Janitor, report::Report};

/// Counts nothing.
#[derive(Clone, Debug, Default)]
pub struct Metrics(());

impl Metrics {
    /// Does nothing.
    pub fn observe(&self, _report: &Report) {}

    /// Does nothing.
    pub fn set_oldest_due(&self, _job: &str, _oldest: Option<DateTime<Utc>>) {}
}

/// Never made.
#[derive(Debug)]
pub struct Server(Infallible);

impl Server {
    /// Says that the feature is off.
    #[expect(clippy::unused_async, reason = "the same signature as with the feature")]
    pub async fn bind(_listen: SocketAddr) -> Result<Self, MetricsError> {
        Err(MetricsError::Absent)
    }

    /// Cannot be called.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        match self.0 {}
    }

    /// Cannot be called.
    #[expect(clippy::unused_async, reason = "the same signature as with the feature")]
    pub async fn run(self, _janitor: Janitor, _metrics: Metrics, _stop: CancellationToken) {
        match self.0 {}
    }
}
