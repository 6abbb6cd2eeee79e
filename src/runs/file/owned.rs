//! Which files belong to which run, as one scan found them.
//!
//! Events and flags are found by the run's id. A step names its run inside; the name of a hook's file begins with the
//! run's id, or does not, in older stores; and a checkpoint's key is `<run>:<step>` or a step's id.

use std::collections::HashMap;

use super::{
    Folders,
    folder::{Folder, SHARE, by_several},
    json,
};
use crate::runs::StoreError;

/// The files of some runs that are found by looking.
#[derive(Debug, Default)]
pub(super) struct Owned {
    steps: HashMap<Box<str>, Vec<Box<str>>>,
    hooks: HashMap<Box<str>, Vec<Box<str>>>,
    checkpoints: HashMap<Box<str>, Vec<Box<str>>>,
    /// The run of each step whose id is a checkpoint's key.
    step_of: HashMap<Box<str>, Box<str>>,
}

/// The files that may be a run's, by the names of the files.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) checkpoints: Vec<Box<str>>,
    pub(super) steps: Vec<Box<str>>,
    /// What is in them has the last word.
    pub(super) hooks: Vec<Box<str>>,
}

/// What the names of these files end in.
pub(super) const JSON: &str = ".json";

/// The run that a step's or a hook's file names; `None` where it cannot be read, or is gone.
pub(super) fn run_of(folder: &Folder, stem: &str) -> Option<String> {
    let text = folder.read(&[stem, JSON].concat()).ok()??;
    let [run] = json::fields(&text, ["run_id"])?;
    json::text(run).ok()?
}

/// Each beginning of `name` that stands before `mark`.
pub(super) fn beginnings<'a>(name: &'a str, mark: &str) -> impl Iterator<Item = &'a str> {
    let places = (0..name.len()).filter(move |at| name.as_bytes()[*at..].starts_with(mark.as_bytes()));
    places.map(|at| &name[..at])
}

impl Owned {
    /// Finds the files of the runs that are `known`.
    pub(super) fn scan(folders: &Folders, known: impl Fn(&str) -> bool) -> Result<Self, StoreError> {
        let mut this = Self::default();
        let put = |files: &mut HashMap<Box<str>, Vec<Box<str>>>, run: &str, stem: &str| match files.get_mut(run) {
            Some(stems) => stems.push(stem.into()),
            None => drop(files.insert(run.into(), vec![stem.into()])),
        };
        let keys = folders.checkpoints.stems(JSON)?;
        for key in &keys {
            for run in beginnings(key, ":").filter(|run| known(run)) {
                put(&mut this.checkpoints, run, key);
            }
        }
        let steps = folders.steps.stems(JSON)?;
        let runs = by_several(&steps, SHARE, |step| run_of(&folders.steps, step));
        for (step, run) in steps.iter().zip(runs) {
            let Some(run) = run else { continue };
            if keys.binary_search(step).is_ok() {
                put(&mut this.checkpoints, &run, step);
                this.step_of.insert(step.as_str().into(), run.as_str().into());
            }
            if known(&run) {
                put(&mut this.steps, &run, step);
            }
        }
        folders.hooks.each_name(|name, _| {
            let Some(stem) = name.strip_suffix(JSON) else { return };
            let mut is_named = false;
            for run in beginnings(stem, "__").filter(|run| known(run)) {
                is_named = true;
                put(&mut this.hooks, run, stem);
            }
            if !is_named && let Some(run) = run_of(&folders.hooks, stem).filter(|run| known(run)) {
                put(&mut this.hooks, &run, stem);
            }
        })?;
        Ok(this)
    }

    /// The files of a run, which are forgotten.
    pub(super) fn of_run(&mut self, run: &str) -> Files {
        let [checkpoints, steps, hooks] = [&mut self.checkpoints, &mut self.steps, &mut self.hooks]
            .map(|files| files.remove(run).unwrap_or_default());
        Files { checkpoints, steps, hooks }
    }

    /// Whether none of the runs that the checkpoint could be of stands: with a colon in an id, `a:b:c` may be step `b:c` of run `a`
    /// or step `c` of run `a:b`.
    pub(super) fn is_free(&self, key: &str, stands: impl Fn(&str) -> bool) -> bool {
        !beginnings(key, ":").any(&stands) && !self.step_of.get(key).is_some_and(|run| stands(run))
    }
}
