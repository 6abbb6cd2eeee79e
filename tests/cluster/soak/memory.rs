//! How much memory the workers and Redis have, from look to look.

use std::{collections::BTreeMap, fmt, fs};

use crate::{cluster::Cluster, host::Part, redis::RedisServer};

/// A page of memory.
const PAGE_BYTES: u64 = 4_096;
/// What must be flat: the worker that lives as long as the soak, and Redis. Each with what is noise between the first third
/// and the last, beside a tenth.
const FLAT: [(&str, u64); 2] = [("h0 Worker", 2 << 20), ("Redis without reports", 256 << 10)];

/// What was seen at each look, by what it is of.
#[derive(Debug, Default)]
pub struct Memory(BTreeMap<String, Vec<u64>>);

impl Memory {
    /// Looks once more.
    pub async fn look(&mut self, cluster: &Cluster, server: &RedisServer) {
        for host in &cluster.hosts {
            for part in [Part::Worker, Part::Beat] {
                let id = host.id(part).as_raw_nonzero();
                let statm = fs::read_to_string(format!("/proc/{id}/statm")).unwrap();
                let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
                let name = format!("{} {part:?}", host.name);
                self.0.entry(name).or_default().push(pages * PAGE_BYTES);
            }
        }
        let info = server.cli(&["INFO", "memory"]).await;
        let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
        let reports = server.cli(&["--scan", "--pattern", "{janitor}:reports:*"]).await;
        let mut of_reports = 0;
        for key in reports.lines() {
            let told = server.cli(&["MEMORY", "USAGE", key, "SAMPLES", "0"]).await;
            of_reports += told.parse::<u64>().unwrap_or(0);
        }
        let used: u64 = used.trim().parse().unwrap();
        self.0.entry("Redis".to_owned()).or_default().push(used);
        // The ledger grows until it has 1,000 reports of each job.
        self.0.entry("Redis without reports".to_owned()).or_default().push(used.saturating_sub(of_reports));
    }

    /// What must be flat, and has grown.
    pub fn grown(&self) -> Vec<&'static str> {
        let has_grown = |(name, noise): &(&str, u64)| {
            let (first, last) = thirds(&self.0[*name]);
            last > first + first / 10 + noise
        };
        FLAT.iter().filter(|flat| has_grown(flat)).map(|(name, _)| *name).collect()
    }
}

fn median(seen: &[u64]) -> u64 {
    let mut seen = seen.to_vec();
    seen.sort_unstable();
    seen.get(seen.len() / 2).copied().unwrap_or(0)
}

/// The median of the first third, after the first look, and that of the last third.
fn thirds(seen: &[u64]) -> (u64, u64) {
    let third = seen.len().div_ceil(3);
    (median(&seen[1.min(seen.len())..third.max(2).min(seen.len())]), median(&seen[seen.len() - third..]))
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, seen) in &self.0 {
            let sixths: Vec<_> = seen.chunks(seen.len().div_ceil(6)).map(|part| median(part) >> 10).collect();
            let most = seen.iter().max().copied().unwrap_or(0) >> 10;
            writeln!(f, "{name}: {sixths:?} KiB in each sixth of the time, {most} at most")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_is_told_from_what_is_flat() {
        assert_eq!(thirds(&[9, 2, 2, 2, 3, 2, 2, 3, 2]), (2, 2));
        assert_eq!(thirds(&[1, 2, 3, 4, 5, 6, 7, 8, 9]), (3, 8));
        let of = |seen: Vec<u64>| Memory(BTreeMap::from(FLAT.map(|(name, _)| (name.to_owned(), seen.clone()))));
        assert!(of(vec![20 << 20; 9]).grown().is_empty());
        assert_eq!(of((0..9_u64).map(|at| (20 + 2 * at) << 20).collect()).grown(), FLAT.map(|(name, _)| name));
    }
}
