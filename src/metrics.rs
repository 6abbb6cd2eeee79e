//! What a monitor sees: `/metrics` for Prometheus and `/healthz` for a person or a probe.
//!
//! Counters grow with each report of this process. What belongs to the cluster (the queue, the last successes) is read
//! when it is asked for, so every process shows the same. Without the feature `metrics` nothing is counted, and
//! [`Server::bind`] says how to get it.

#[cfg(feature = "metrics")]
mod counts;
#[cfg(not(feature = "metrics"))]
mod off;
#[cfg(feature = "metrics")]
mod server;

use std::net::SocketAddr;

#[cfg(feature = "metrics")]
pub use counts::Metrics;
#[cfg(not(feature = "metrics"))]
pub use off::{Metrics, Server};
#[cfg(feature = "metrics")]
pub use server::Server;

/// Why metrics are not served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetricsError {
    /// Another program listens there.
    #[error("metrics: {0} is taken by another program: choose another `listen` in [metrics]")]
    Taken(SocketAddr),
    /// The address cannot be listened on.
    #[error("metrics: cannot listen on {0}")]
    Listen(SocketAddr, #[source] std::io::Error),
    /// The feature is off.
    #[error("built without `metrics`: rebuild with --features metrics")]
    Absent,
}
