//! The step that goes by age: media that the remote is proven to have, and what a crash left of it.

use std::{fs::File, path::Path, sync::Arc};

use futures::{StreamExt, stream};
use rustix::fs::{Mode, OFlags};

use super::{Bond, Disk, Doomed, JobError, Pages, Tally, blocking, tell_once};
use crate::{
    blobs::remote::Proof,
    host::{
        Entry, Root,
        references::{self, Referenced, References},
        shown,
    },
};

/// How many files the remote is asked about at once. Where so many in a row get no answer it is not asked any more: each may
/// have taken as long as the client waits.
const ASKED_AT_ONCE: usize = 16;

/// The remote gave no answer to so many questions in a row.
#[derive(Debug, thiserror::Error)]
#[error("{ASKED_AT_ONCE} questions in a row got no answer: it is not asked any more, and what it may not have stays")]
pub(super) struct Silent;

/// What is known of a file of media.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The remote has it.
    Proven,
    /// The remote does not have it, and nothing refers to it.
    Unreferenced,
    /// It stays.
    Kept,
}

impl Disk {
    /// What refers to media now.
    pub(super) async fn read_references(&self, tally: &mut Tally) -> References {
        let (root, sources) = (self.root(), Arc::clone(&self.sources));
        let references = blocking(move || references::read(&root, &sources)).await;
        tell_once(references.unread(), tally);
        references
    }

    /// The next files that the age lets go; none where there is no remote.
    pub(super) async fn next_aged(&mut self, limit: usize, tally: &mut Tally) -> Result<Option<Vec<Doomed>>, JobError> {
        let (Some(media), Some(_), false) = (&self.config.media, &self.remote, self.is_remote_silent()) else {
            return Ok(None);
        };
        if self.pages.is_none() {
            let (config, before) = (Arc::clone(&self.config), self.before(media.max_age));
            let is_aged = move |entry: &Entry<'_>| entry.seen.modified < before && Self::is_free(&config, &entry.path);
            self.pages = Some(Pages::of(&self.root(), media.paths.clone(), is_aged));
            self.references = Some(self.read_references(tally).await);
        }
        let Some(pages) = &mut self.pages else { return Ok(None) };
        let page = pages.next(limit).await;
        let Some(page) = self.or_end(page, tally).await else { return Ok(None) };
        let standings = self.standings(&page, tally).await;
        let goes = page.into_iter().zip(standings).filter_map(|(entry, standing)| {
            let bond = match standing {
                Standing::Proven => Bond::None,
                Standing::Unreferenced => Bond::Unreferenced,
                Standing::Kept => return None,
            };
            Some(Doomed { entry, bond })
        });
        Ok(Some(goes.collect()))
    }

    /// What is known of each of these files; what stays is counted.
    pub(super) async fn standings(&mut self, page: &[Entry<'static>], tally: &mut Tally) -> Vec<Standing> {
        let mut standings = Vec::with_capacity(page.len());
        let mut unanswered = self.unanswered;
        let root = self.root();
        let mut proofs =
            stream::iter(page.iter().map(|entry| self.ask(&root, entry)).collect::<Vec<_>>()).buffered(ASKED_AT_ONCE);
        while unanswered < ASKED_AT_ONCE
            && let Some(proof) = proofs.next().await
        {
            let entry = &page[standings.len()];
            unanswered = if proof.is_err() { unanswered + 1 } else { 0 };
            let referenced = self.references.as_ref().map(|references| references.referenced(&entry.path));
            let standing = match (proof, referenced) {
                (Ok(Proof::Proven), _) => Standing::Proven,
                // With no list of references to look into, nothing is known to be free of them.
                (Ok(Proof::Unproven), Some(Referenced::No)) if !self.sources.is_empty() => Standing::Unreferenced,
                (Ok(Proof::Unproven), _) => {
                    tally.kept.add("unproven", 1);
                    Standing::Kept
                }
                (Err(error), _) => {
                    tally.fail(&shown(&entry.path), &error);
                    Standing::Kept
                }
            };
            standings.push(standing);
        }
        drop(proofs);
        self.unanswered = unanswered;
        standings.resize(page.len(), Standing::Kept);
        standings
    }

    /// Whether the remote gave no answer for so long that it is not asked any more.
    pub(super) const fn is_remote_silent(&self) -> bool {
        self.unanswered >= ASKED_AT_ONCE
    }

    async fn ask(&self, root: &Root, entry: &Entry<'static>) -> Result<Proof, crate::blobs::BlobError> {
        let (Some(remote), Some(key)) = (&self.remote, entry.path.to_str()) else { return Ok(Proof::Unproven) };
        let (root, path) = (root.clone(), entry.path.to_path_buf());
        let open = move || open(&root, &path);
        remote.prove(key, entry.seen.size_bytes, open).await
    }
}

fn open(root: &Root, path: &Path) -> std::io::Result<File> {
    Ok(root.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?.into())
}
