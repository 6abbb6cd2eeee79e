//! What `janitor check` says of a Postgres store.

use super::PostgresStore;
use crate::runs::{Findings, StoreError};

impl PostgresStore {
    pub(super) async fn findings(&self) -> Result<Findings, StoreError> {
        let mut found = Findings::default();
        found
            .facts
            .push(format!("{}: {}: the tables of layout {:?} are there", self.name, self.place, self.layout.name));
        Ok(found)
    }
}
