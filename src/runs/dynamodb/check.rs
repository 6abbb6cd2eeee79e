//! What `janitor check` says of a DynamoDB table, and what a table must have to be opened.

use aws_sdk_dynamodb::types::{
    BillingMode, IndexStatus, KeySchemaElement, ProjectionType, TableDescription, TableStatus,
};

use super::{
    DynamoStore, NAME,
    keys::{PARENT_INDEX, STATUS_INDEX},
};
use crate::runs::{Findings, StoreError};

/// The indexes that find runs and hooks, and children.
const INDEXES: [(&str, [&str; 2]); 2] = [(STATUS_INDEX, ["GSI1PK", "GSI1SK"]), (PARENT_INDEX, ["GSI4PK", "GSI4SK"])];

impl DynamoStore {
    pub(super) async fn describe(&self) -> Result<TableDescription, StoreError> {
        let answer = self.client.describe_table().table_name(&self.table).send().await;
        let answer = answer.map_err(|error| self.error(&error))?;
        answer.table.ok_or_else(|| StoreError::unavailable(NAME, format!("{}: no description", self.place)))
    }

    /// Whether the table is there and has the keys and indexes that runs are found by.
    pub(super) async fn verify(&self) -> Result<(), StoreError> {
        let table = self.describe().await?;
        let schema = |what: String| StoreError::Schema { store: NAME, what: format!("{}: {what}", self.place) };
        if !has_keys(table.key_schema(), ["PK", "SK"]) {
            return Err(schema(format!("its keys are not PK and SK: not a store of layout {:?}", self.layout.name)));
        }
        for (name, keys) in INDEXES {
            let index = table.global_secondary_indexes().iter().find(|index| index.index_name() == Some(name));
            let index = index.ok_or_else(|| schema(format!("no index {name}, which finds runs")))?;
            let is_whole = index.projection().and_then(|of| of.projection_type()) == Some(&ProjectionType::All);
            if !has_keys(index.key_schema(), keys) || !is_whole {
                return Err(schema(format!("index {name} is not of {} and {} with all attributes", keys[0], keys[1])));
            }
            if !matches!(index.index_status(), Some(IndexStatus::Active | IndexStatus::Updating) | None) {
                return Err(schema(format!("index {name} is not ready: it does not have all runs yet")));
            }
        }
        Ok(())
    }

    pub(super) async fn findings(&self) -> Result<Findings, StoreError> {
        self.verify().await?;
        let table = self.describe().await?;
        let mut found = Findings::default();
        found
            .facts
            .push(format!("{NAME}: {}: the keys and indexes of layout {:?} are there", self.place, self.layout.name));
        let mebibytes = table.table_size_bytes().unwrap_or(0) / (1 << 20);
        found.facts.push(format!(
            "{NAME}: {} items, {mebibytes} MiB as counted within the last 6 hours: a sweep reads all of it once for signals, \
             and once more for checkpoints where it deletes runs ({} read units each)",
            table.item_count().unwrap_or(0),
            mebibytes * 128
        ));
        if table.table_status() != Some(&TableStatus::Active) {
            let status = table.table_status().map_or("unknown", TableStatus::as_str);
            found.warnings.push(format!("{NAME}: {}: its status is {status}", self.place));
        }
        let is_on_demand =
            table.billing_mode_summary().and_then(|of| of.billing_mode()) == Some(&BillingMode::PayPerRequest);
        if is_on_demand {
            found.facts.push(format!("{NAME}: pays per request"));
        } else {
            let units = table.provisioned_throughput();
            let (read, write) = units
                .map_or((0, 0), |of| (of.read_capacity_units().unwrap_or(0), of.write_capacity_units().unwrap_or(0)));
            found.warnings.push(format!(
                "{NAME}: {}: {read} read and {write} write units are provisioned, which a sweep competes for with PyWorkflow: \
                 it slows down where they are used up, and PyWorkflow does too",
                self.place
            ));
        }
        let refused = self.refused().await?;
        if !refused.is_empty() {
            let (place, actions) = (&self.place, refused.join(", "));
            found.warnings.push(format!("{NAME}: {place}: the user is refused what a sweep needs: {actions}"));
        }
        Ok(found)
    }
}

fn has_keys(schema: &[KeySchemaElement], names: [&str; 2]) -> bool {
    schema.iter().map(KeySchemaElement::attribute_name).eq(names)
}
