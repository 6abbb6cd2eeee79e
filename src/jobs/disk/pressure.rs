//! The step that goes by pressure: while the disk is too full, the oldest media goes.
//!
//! What is planned is counted as free already, so a dry run names what a real one deletes. When all of it has gone a real
//! one looks at the disk again: files that a process holds open free nothing until it closes them.

use std::{collections::VecDeque, path::PathBuf, sync::Arc};

use super::{
    Bond, Disk, Doomed, Leave, Tally, blocking, is_leaked,
    media::Standing,
    oldest::{OLDEST_MAX, Place, oldest},
};
use crate::{
    config::PressureConfig,
    host::{Entry, Held, Space, audit_of, shown},
};

/// What the step is called in a report's failures.
const PRESSURE: &str = "pressure";
/// What others write meanwhile is no failure of the sweep.
const SLACK_BYTES: u64 = 1 << 20;
/// How many of what is left an alarm names.
const NAMED_MAX: usize = 3;

/// Why files go, in the order in which they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Those that the remote is proven to have.
    Proven,
    /// What is neither proven nor referenced; without a remote all of it, and its references become null.
    Rest,
}

/// How far the step is.
#[derive(Debug)]
pub(super) struct Pressure {
    /// How many bytes must still be planned.
    wanted_bytes: u64,
    turn: Turn,
    found: VecDeque<Entry<'static>>,
    after: Option<Place>,
    /// Whether nothing is behind what was found.
    is_last: bool,
}

/// An alarm.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Alarm(String);

impl Pressure {
    fn new(wanted_bytes: u64, turn: Turn) -> Self {
        Self { wanted_bytes, turn, found: VecDeque::new(), after: None, is_last: false }
    }
}

impl Disk {
    /// The next files that pressure lets go; none where there is room enough.
    pub(super) async fn next_pressed(&mut self, limit: usize, tally: &mut Tally) -> Option<Vec<Doomed>> {
        let (Some(marks), Some(_)) = (self.config.pressure, &self.config.media) else { return None };
        if self.pressure.is_none() && !self.begin_pressure(marks, tally).await {
            return None;
        }
        loop {
            let mut pressure = self.pressure.take()?;
            if self.is_remote_silent() {
                pressure = Pressure { is_last: true, ..Pressure::new(pressure.wanted_bytes, Turn::Rest) };
            }
            if pressure.found.is_empty() && !pressure.is_last && pressure.wanted_bytes > 0 {
                self.find(&mut pressure, tally).await;
            }
            let is_over = pressure.wanted_bytes == 0 || pressure.found.is_empty();
            if is_over && (pressure.wanted_bytes == 0 || pressure.turn == Turn::Rest) {
                self.pressure = Some(pressure);
                return None;
            }
            if is_over {
                self.pressure = Some(Pressure::new(pressure.wanted_bytes, Turn::Rest));
                continue;
            }
            let page = self.take(&mut pressure, limit, tally).await;
            self.pressure = Some(pressure);
            if !page.is_empty() {
                return Some(page);
            }
        }
    }

    /// Whether there is too little room; then it is known how much has to go.
    async fn begin_pressure(&mut self, marks: PressureConfig, tally: &mut Tally) -> bool {
        let Some(mut space) = self.space(tally).await else { return false };
        // What is planned has not gone yet, and in a dry run never does.
        space.available_bytes = space.total_bytes.min(space.available_bytes + self.pending_bytes);
        if space.used_share() <= marks.high.as_part() {
            return false;
        }
        self.references = Some(self.read_references(tally).await);
        let turn = if self.remote.is_some() { Turn::Proven } else { Turn::Rest };
        self.pressure = Some(Pressure::new(space.excess_bytes(marks.low.as_part()), turn));
        true
    }

    async fn space(&self, tally: &mut Tally) -> Option<Space> {
        let root = self.root();
        match blocking(move || Space::of(&root)).await {
            Ok(space) => Some(space),
            Err(error) => {
                tally.fail(PRESSURE, &error);
                None
            }
        }
    }

    /// Finds the oldest files behind those that were found before.
    async fn find(&self, pressure: &mut Pressure, tally: &mut Tally) {
        let Some(media) = &self.config.media else { return };
        let (root, config, before) = (self.root(), Arc::clone(&self.config), self.before(media.pressure_age));
        let (now, earlier) = (self.now, self.remote.as_ref().map(|_| self.before(media.max_age)));
        let (paths, after): (Vec<PathBuf>, _) = (media.paths.clone(), pressure.after.clone());
        let found = blocking(move || {
            oldest(&root, &paths, after.as_ref(), OLDEST_MAX, &|entry| {
                // The other steps have planned what goes by age.
                entry.seen.modified < before
                    && earlier.is_none_or(|earlier| entry.seen.modified >= earlier)
                    && !is_leaked(entry, now)
                    && Self::is_free(&config, &entry.path)
            })
        });
        let found = found.await.told(tally);
        pressure.is_last = found.len() < OLDEST_MAX;
        pressure.after = found.last().map(Place::of).or(pressure.after.take());
        pressure.found = found.into();
    }

    /// Takes of what was found as much as has to go.
    async fn take(&mut self, pressure: &mut Pressure, limit: usize, tally: &mut Tally) -> Vec<Doomed> {
        let count = limit.min(pressure.found.len());
        let page: Vec<Entry<'static>> = pressure.found.drain(..count).collect();
        let standings = match self.remote {
            Some(_) if pressure.turn == Turn::Proven => self.standings(&page, &mut Tally::default()).await,
            Some(_) => self.standings(&page, tally).await,
            None => vec![Standing::Unreferenced; page.len()],
        };
        let wanted = match pressure.turn {
            Turn::Proven => Standing::Proven,
            Turn::Rest => Standing::Unreferenced,
        };
        let bond = match (&self.remote, pressure.turn) {
            (Some(_), Turn::Proven) => Bond::None,
            (Some(_), Turn::Rest) => Bond::Unreferenced,
            (None, _) if self.sources.is_empty() => Bond::None,
            (None, _) => Bond::Nulled,
        };
        let mut doomed = Vec::new();
        for (entry, standing) in page.into_iter().zip(standings) {
            if pressure.wanted_bytes == 0 {
                break;
            }
            if standing == wanted {
                pressure.wanted_bytes = pressure.wanted_bytes.saturating_sub(entry.seen.frees_bytes());
                doomed.push(Doomed { entry, bond });
            }
        }
        doomed
    }

    /// Says so where the disk is too full still, when all that could go has gone.
    pub(super) async fn look_again(&self, leave: Leave<'_>, tally: &mut Tally) {
        let (Some(pressure), Some(marks)) = (&self.pressure, self.config.pressure) else { return };
        let Some(space) = self.space(tally).await else { return };
        let used = space.used_share();
        let is_short = match leave {
            Leave::DryRun => pressure.wanted_bytes > 0,
            Leave::Apply(_) => used > marks.low.as_part() && space.excess_bytes(marks.low.as_part()) > SLACK_BYTES,
        };
        if !is_short {
            return;
        }
        let root = self.root();
        let (held, audit) = blocking(move || (Held::of(&root), audit_of(&root))).await;
        let largest = audit.largest.iter().take(NAMED_MAX);
        let largest: Vec<String> =
            largest.map(|file| format!("{} ({} bytes)", file.path, file.allocated_bytes)).collect();
        let mut alarm = vec![format!("{:.1} % is used, and {} is wanted", used * 100.0, marks.low)];
        if pressure.wanted_bytes > 0 {
            alarm.push("nothing more may go".to_owned());
        }
        if let Ok(Held { count, allocated_bytes, files, .. }) = held
            && let Some(first) = files.first()
        {
            alarm.push(format!(
                "{count} deleted files take {allocated_bytes} bytes until they are closed, such as {} by process {}",
                shown(&first.path),
                first.pid
            ));
        }
        alarm.push(format!("the largest files: {}", largest.join(", ")));
        let alarm = alarm.join("; ");
        match leave {
            Leave::DryRun => tracing::warn!("pressure: {alarm}"),
            Leave::Apply(_) => tally.fail(PRESSURE, &Alarm(alarm)),
        }
    }
}
