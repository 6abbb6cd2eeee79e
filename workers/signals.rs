//! SIGTERM and Ctrl-C stop after the batch in hand; a second Ctrl-C stops at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::app::Fail;

/// The exit code of a process that was interrupted.
const INTERRUPTED: i32 = 130;

/// A token that the first signal cancels.
pub fn stop() -> Result<CancellationToken, Fail> {
    let listen = |kind| signal(kind).map_err(|error| Fail::failed(format!("signals: {error}")));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let cancel = stop.clone();
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
        tracing::info!("stopping after the batch in hand; Ctrl-C stops at once");
        cancel.cancel();
        interrupt.recv().await;
        // Nothing is lost: a lock lapses, and what was half done is found and finished by the next run.
        std::process::exit(INTERRUPTED);
    });
    Ok(stop)
}
