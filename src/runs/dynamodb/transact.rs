//! Deletes items that are as they were read, under a fence, all of them or none.

use aws_sdk_dynamodb::{
    error::SdkError,
    operation::{transact_write_items::TransactWriteItemsError, update_item::UpdateItemError},
    types::{
        AttributeValue, ConditionCheck, Delete, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem,
        builders::DeleteBuilder,
    },
};

use super::{
    DynamoStore, NAME,
    keys::{FENCES, Item, key},
};
use crate::{lock::Fence, runs::StoreError};

/// The most items that a transaction deletes: beside them it has the fence and a marker.
pub(super) const RUNS_MAX: usize = 98;

/// An item that is to go where these attributes are as they were read; none stands for one that was absent.
#[derive(Clone, Debug)]
pub(super) struct Deletion {
    pub(super) key: Item,
    pub(super) seen: Vec<(&'static str, Option<AttributeValue>)>,
}

impl Deletion {
    fn build(&self, table: &str) -> Delete {
        let is_as_seen = |delete: DeleteBuilder, (at, (name, value)): (usize, &(&str, Option<AttributeValue>))| {
            let delete = delete.expression_attribute_names(format!("#n{at}"), *name);
            match value {
                Some(value) => delete.expression_attribute_values(format!(":v{at}"), value.clone()),
                None => delete,
            }
        };
        let condition = |(at, (_, value)): (usize, &(&str, Option<AttributeValue>))| match value {
            Some(_) => format!("#n{at} = :v{at}"),
            None => format!("attribute_not_exists(#n{at})"),
        };
        let conditions: Vec<String> = self.seen.iter().enumerate().map(condition).collect();
        let delete = Delete::builder().table_name(table).set_key(Some(self.key.clone()));
        let delete = self.seen.iter().enumerate().fold(delete, is_as_seen);
        let condition = (!conditions.is_empty()).then(|| conditions.join(" AND "));
        delete.set_condition_expression(condition).build().expect("table and key are set")
    }
}

/// What became of a transaction.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All went.
    Gone,
    /// Nothing changed, because these were not as they had been read.
    Refused(Vec<usize>),
}

/// Why an item stopped a transaction.
enum Stop {
    Condition,
    Conflict,
    Throttled,
}

fn stop(code: &str) -> Option<Stop> {
    match code {
        "ConditionalCheckFailed" => Some(Stop::Condition),
        "TransactionConflict" => Some(Stop::Conflict),
        "ThrottlingError" | "ProvisionedThroughputExceeded" => Some(Stop::Throttled),
        _ => None,
    }
}

impl DynamoStore {
    /// Sets the job's fence, which must grow, and finishes what a sweep that was stopped has left.
    pub(super) async fn raise_fence(&self, job: &str, fence: Fence) -> Result<(), StoreError> {
        let request = self.client.update_item().table_name(&self.table).set_key(Some(key(FENCES, job)));
        let request = request
            .update_expression("SET fence = :fence")
            .condition_expression("attribute_not_exists(fence) OR fence < :fence")
            .expression_attribute_values(":fence", number(fence))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        if let Err(error) = request.send().await {
            return Err(match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(seen)) => {
                    let highest = seen.item.as_ref().map_or(0, fence_of);
                    StoreError::Fenced { store: NAME, fence, highest }
                }
                _ => self.error(&error),
            });
        }
        *self.points.lock().await = None;
        self.finish_markers().await
    }

    /// Refuses a fence that is not the one that the store has seen last.
    pub(super) async fn guard_fence(&self, (job, fence): (&str, Fence)) -> Result<(), StoreError> {
        let found = self.read_items(vec![key(FENCES, job)], &["fence"]).await?;
        let highest = found.first().map_or(0, fence_of);
        if highest == fence.get() { Ok(()) } else { Err(StoreError::Fenced { store: NAME, fence, highest }) }
    }

    /// Deletes [`RUNS_MAX`] items at most, and puts `marker`, in one transaction that the fence holds for.
    pub(super) async fn transact(
        &self,
        holder: (&str, Fence),
        marker: Option<&Item>,
        deletions: &[&Deletion],
    ) -> Result<Outcome, StoreError> {
        let (job, fence) = holder;
        let check = ConditionCheck::builder()
            .table_name(&self.table)
            .set_key(Some(key(FENCES, job)))
            .condition_expression("fence = :fence")
            .expression_attribute_values(":fence", number(fence))
            .build()
            .expect("table, key and condition are set");
        let mut items = vec![TransactWriteItem::builder().condition_check(check).build()];
        items.extend(marker.map(|marker| {
            let put = Put::builder().table_name(&self.table).set_item(Some(marker.clone())).build();
            TransactWriteItem::builder().put(put.expect("table and item are set")).build()
        }));
        let first = items.len();
        items.extend(deletions.iter().map(|one| TransactWriteItem::builder().delete(one.build(&self.table)).build()));
        for round in 0.. {
            let permit = self.permit().await;
            let answer = self.client.transact_write_items().set_transact_items(Some(items.clone())).send().await;
            drop(permit);
            let Err(error) = answer else { break };
            let reasons = self.reasons(&error)?;
            if let Some(Stop::Condition) = reasons.first().and_then(Option::as_ref) {
                self.guard_fence(holder).await?;
            }
            let refused = |stop: &Option<Stop>| matches!(stop, Some(Stop::Condition));
            let refused: Vec<usize> =
                (0..deletions.len()).filter(|at| reasons.get(first + at).is_some_and(refused)).collect();
            if !refused.is_empty() {
                return Ok(Outcome::Refused(refused));
            }
            // Throttled, or in the way of another writer, which will be through soon.
            self.back_off(round).await?;
        }
        Ok(Outcome::Gone)
    }

    /// Why each item stopped the transaction, in their order; an error where it is no such matter.
    fn reasons(&self, error: &SdkError<TransactWriteItemsError>) -> Result<Vec<Option<Stop>>, StoreError> {
        match error.as_service_error() {
            Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => {
                let reasons: Vec<Option<Stop>> =
                    cancelled.cancellation_reasons().iter().map(|reason| stop(reason.code()?)).collect();
                if reasons.iter().all(Option::is_none) {
                    return Err(self.error(error));
                }
                Ok(reasons)
            }
            Some(TransactWriteItemsError::TransactionInProgressException(_)) => Ok(Vec::new()),
            _ => Err(self.error(error)),
        }
    }
}

fn number(fence: Fence) -> AttributeValue {
    AttributeValue::N(fence.get().to_string())
}

fn fence_of(item: &Item) -> u64 {
    item.get("fence").and_then(|value| value.as_n().ok()).and_then(|text| text.parse().ok()).unwrap_or(0)
}
