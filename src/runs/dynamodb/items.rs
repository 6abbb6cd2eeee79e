//! Reads and deletes items by their keys, as many as there are.

use std::collections::{HashMap, HashSet};

use aws_sdk_dynamodb::{
    operation::query::builders::QueryFluentBuilder,
    types::{DeleteRequest, KeysAndAttributes, WriteRequest},
};
use futures::future::try_join_all;

use super::{
    DynamoStore,
    keys::{Item, key_of, projection},
};
use crate::runs::StoreError;

/// The most keys that one request reads, and deletes.
const READ_MAX: usize = 100;
const WRITE_MAX: usize = 25;

impl DynamoStore {
    /// Those of the items with these keys that are there, as they are now.
    pub(super) async fn read_items(&self, keys: Vec<Item>, attributes: &[&str]) -> Result<Vec<Item>, StoreError> {
        let mut known = HashSet::new();
        // A request that names a key twice is refused.
        let keys: Vec<Item> = keys.into_iter().filter(|key| known.insert(key_of(key))).collect();
        let parts = keys.chunks(READ_MAX).map(|part| self.read_some(part.to_vec(), attributes));
        Ok(try_join_all(parts).await?.into_iter().flatten().collect())
    }

    async fn read_some(&self, keys: Vec<Item>, attributes: &[&str]) -> Result<Vec<Item>, StoreError> {
        let (expression, names) = projection(attributes);
        let request = KeysAndAttributes::builder()
            .set_keys(Some(keys))
            .consistent_read(true)
            .projection_expression(expression)
            .set_expression_attribute_names(Some(names))
            .build()
            .expect("the keys are set");
        let mut left = HashMap::from([(self.table.clone(), request)]);
        let mut found = Vec::new();
        for round in 0.. {
            let permit = self.permit().await;
            let answer = self.client.batch_get_item().set_request_items(Some(left)).send().await;
            drop(permit);
            let mut answer = answer.map_err(|error| self.error(&error))?;
            found.extend(answer.responses.take().unwrap_or_default().into_values().flatten());
            left = answer.unprocessed_keys.unwrap_or_default();
            if left.is_empty() {
                break;
            }
            self.back_off(round).await?;
        }
        Ok(found)
    }

    /// Deletes the items with these keys, whatever they hold.
    pub(super) async fn delete_items(&self, keys: Vec<Item>) -> Result<(), StoreError> {
        let mut known = HashSet::new();
        let keys: Vec<Item> = keys.into_iter().filter(|key| known.insert(key_of(key))).collect();
        try_join_all(keys.chunks(WRITE_MAX).map(|part| self.delete_some(part))).await?;
        Ok(())
    }

    async fn delete_some(&self, keys: &[Item]) -> Result<(), StoreError> {
        let request = |key: &Item| {
            let delete = DeleteRequest::builder().set_key(Some(key.clone())).build().expect("the key is set");
            WriteRequest::builder().delete_request(delete).build()
        };
        let mut left = HashMap::from([(self.table.clone(), keys.iter().map(request).collect::<Vec<_>>())]);
        for round in 0.. {
            let permit = self.permit().await;
            let answer = self.client.batch_write_item().set_request_items(Some(left)).send().await;
            drop(permit);
            left = answer.map_err(|error| self.error(&error))?.unprocessed_items.unwrap_or_default();
            if left.is_empty() {
                break;
            }
            self.back_off(round).await?;
        }
        Ok(())
    }

    /// One page of a query, and where the next one starts.
    pub(super) async fn query_page(&self, query: QueryFluentBuilder) -> Result<(Vec<Item>, Option<Item>), StoreError> {
        let _permit = self.permit().await;
        let answer = query.table_name(&self.table).send().await.map_err(|error| self.error(&error))?;
        Ok((answer.items.unwrap_or_default(), answer.last_evaluated_key))
    }

    /// All pages of a query: of one partition's items.
    pub(super) async fn query_all(&self, query: QueryFluentBuilder) -> Result<Vec<Item>, StoreError> {
        let (mut items, mut next) = self.query_page(query.clone()).await?;
        while next.is_some() {
            let (more, after) = self.query_page(query.clone().set_exclusive_start_key(next)).await?;
            items.extend(more);
            next = after;
        }
        Ok(items)
    }

    /// A place among the requests that are under way.
    pub(super) async fn permit(&self) -> tokio::sync::SemaphorePermit<'_> {
        self.requests.acquire().await.expect("it is never closed")
    }
}
