//! Puts, reads and refers.

use std::sync::Arc;

use super::{BlobError, Catalog, Objects};
use crate::config::BlobsConfig;

/// A catalog and the objects that belong to it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct BlobStore {
    catalog: Arc<dyn Catalog>,
    objects: Arc<dyn Objects>,
}

impl BlobStore {
    /// A store over these parts, which must belong together or be new.
    ///
    /// # Errors
    /// [`BlobError::Refused`] where the objects are another catalog's.
    pub async fn over(catalog: Arc<dyn Catalog>, objects: Arc<dyn Objects>) -> Result<Self, BlobError> {
        if let Some(theirs) = objects.identity().await? {
            let ours = catalog.identity();
            if theirs != ours {
                return Err(BlobError::Refused(format!(
                    "{} belongs to another catalog ({theirs}) than {} ({ours})",
                    objects.name(),
                    catalog.name()
                )));
            }
        }
        Ok(Self { catalog, objects })
    }

    /// Opens the store that the configuration describes.
    pub async fn open(config: &BlobsConfig) -> Result<Self, BlobError> {
        Err(BlobError::Refused(format!("{}: not yet", config.name)))
    }

    /// Who refers to what.
    #[must_use]
    pub fn catalog(&self) -> &Arc<dyn Catalog> {
        &self.catalog
    }

    /// The bytes.
    #[must_use]
    pub fn objects(&self) -> &Arc<dyn Objects> {
        &self.objects
    }
}
