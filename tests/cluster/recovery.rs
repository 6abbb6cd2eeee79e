//! How soon a history goes on after a fault.

use crate::{
    check::unreported,
    history::{History, Millis},
};

/// For each execution that a fault at this time cut short, how long it took until its job was executed again.
pub fn of_cut_short(history: &History, at: Millis) -> Vec<Millis> {
    let open = unreported(history).into_iter().filter(|(_, began)| *began <= at);
    // What another fault had cut short is another's.
    let open = open.filter(|(_, began)| at - began < 1_500);
    let next = |job: &str| {
        let of_job = history.seen.iter().filter(|seen| seen.job == job && seen.run.is_none());
        of_job.map(|seen| seen.at).find(|again| *again > at)
    };
    open.filter_map(|((job, _), _)| next(job)).map(|again| again - at).collect()
}

/// How long after this time the first execution of any job began.
pub fn first_work(history: &History, at: Millis) -> Option<Millis> {
    let began = history.seen.iter().filter(|seen| seen.run.is_none()).map(|seen| seen.at);
    began.filter(|began| *began > at).min().map(|began| began - at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Seen, Told};

    fn raised(job: &str, at: Millis, fence: u64) -> Seen {
        Seen { job: job.to_owned(), at, fence, run: None }
    }

    #[test]
    fn work_that_was_cut_short_counts_until_it_is_done_again() {
        let told = |job: &str, fence| Told {
            job: job.to_owned(),
            request: None,
            tick: None,
            outcome: apalis_janitor::report::Outcome::Limited,
            fence: Some(fence),
            deleted: 0,
            took: 0,
        };
        let history = History {
            seen: vec![
                raised("a", 100, 1),
                raised("b", 900, 1),
                raised("c", 950, 1),
                raised("c", 1_200, 2),
                raised("b", 3_500, 2),
            ],
            // One of b's was cut short at 1,000; a's and c's were not.
            told: vec![told("a", 1), told("c", 1), told("c", 2), told("b", 2)],
            ..History::default()
        };
        assert_eq!(of_cut_short(&history, 1_000), [2_500]);
        assert_eq!(first_work(&history, 1_000), Some(200));
        assert_eq!(first_work(&history, 4_000), None);
    }
}
