//! The first step: event logs above their size.

use std::{sync::Arc, time::Instant};

use super::{Disk, JobError, Leave, Tally, blocking, is_protected};
use crate::{
    host::rotate::{EventLog, HELD_MAX, How, rotate},
    report::Mode,
};

impl Disk {
    /// Rotates the logs that are due; one that cannot be is reported, and the next one comes.
    pub(super) async fn rotate(&mut self, leave: Leave<'_>, tally: &mut Tally) -> Result<(), JobError> {
        for at in 0..self.config.event_logs.len() {
            let (mode, patience) = match leave {
                Leave::DryRun => (Mode::DryRun, HELD_MAX),
                Leave::Apply(held) => {
                    held.fence()?;
                    if !(self.switch)() {
                        return Err(JobError::Off);
                    }
                    (Mode::Apply, HELD_MAX.min(held.remaining() / 2))
                }
            };
            let (root, config) = (self.root(), Arc::clone(&self.config));
            let rotated = blocking(move || {
                let log = &config.event_logs[at];
                let log = EventLog {
                    path: &log.path,
                    max_size: log.max_size,
                    keep_lines: log.keep_lines,
                    generations: log.generations,
                    is_protected: &|path| is_protected(&config, path),
                };
                rotate(&root, &log, mode, Instant::now() + patience)
            });
            let item = crate::host::shown(&self.config.event_logs[at].path);
            match rotated.await {
                Ok(rotated) => {
                    for note in &rotated.notes {
                        tracing::warn!(log = item, note, "event log");
                    }
                    let is_done = matches!(rotated.how, How::Lease | How::Fallback);
                    if is_done || rotated.how == How::Planned {
                        tally.planned.add("lines", rotated.lines_dropped);
                    }
                    if is_done {
                        tally.deleted.add("lines", rotated.lines_dropped);
                        tally.batches += 1;
                    }
                    match mode {
                        Mode::DryRun => self.pending_bytes += rotated.bytes_freed,
                        Mode::Apply => tally.bytes_freed += rotated.bytes_freed,
                    }
                }
                Err(error) => tally.fail(&item, &error),
            }
        }
        Ok(())
    }
}
