//! What the user must be allowed to do with a table, and is refused.

use std::error::Error;

use aws_sdk_dynamodb::{
    error::{ProvideErrorMetadata, SdkError},
    operation::query::builders::QueryFluentBuilder,
    types::{AttributeValue, ConditionCheck, DeleteRequest, KeysAndAttributes, TransactWriteItem, WriteRequest},
};

use super::{
    DynamoStore, NAME,
    keys::{Item, PARENT_INDEX, STATUS_INDEX, key, text},
};
use crate::runs::StoreError;

/// The partition of an item that is never there.
const NOWHERE: &str = "JANITOR#CHECK";
const IS_THERE: &str = "attribute_exists(PK)";

impl DynamoStore {
    /// The actions that are refused of those that a sweep needs. Each is tried on an item that is never there.
    pub(super) async fn refused(&self) -> Result<Vec<&'static str>, StoreError> {
        let (client, table) = (&self.client, &self.table);
        let nowhere: Item = key(NOWHERE, "-");
        let by = |index: Option<&str>, partition: &str| -> QueryFluentBuilder {
            let query = client.query().table_name(table).set_index_name(index.map(str::to_owned)).limit(1);
            let query = query.key_condition_expression("#k = :k").expression_attribute_names("#k", partition);
            query.expression_attribute_values(":k", text(NOWHERE))
        };
        let tried = [
            ("Query", self.is_refused(by(None, "PK").send().await)?),
            ("Query on GSI1", self.is_refused(by(Some(STATUS_INDEX), "GSI1PK").send().await)?),
            ("Query on GSI4", self.is_refused(by(Some(PARENT_INDEX), "GSI4PK").send().await)?),
            ("Scan", self.is_refused(client.scan().table_name(table).limit(1).send().await)?),
            (
                "GetItem",
                self.is_refused(client.get_item().table_name(table).set_key(Some(nowhere.clone())).send().await)?,
            ),
            ("BatchGetItem", self.is_batch_get_refused(nowhere.clone()).await?),
            ("PutItem", {
                let put = client.put_item().table_name(table).set_item(Some(nowhere.clone()));
                self.is_refused(put.condition_expression(IS_THERE).send().await)?
            }),
            ("UpdateItem", {
                let update = client.update_item().table_name(table).set_key(Some(nowhere.clone()));
                let update = update.update_expression("SET #n = :n").expression_attribute_names("#n", "n");
                let update = update.expression_attribute_values(":n", AttributeValue::Null(true));
                self.is_refused(update.condition_expression(IS_THERE).send().await)?
            }),
            ("DeleteItem", {
                let delete = client.delete_item().table_name(table).set_key(Some(nowhere.clone()));
                self.is_refused(delete.condition_expression(IS_THERE).send().await)?
            }),
            ("ConditionCheckItem", self.is_condition_check_refused(nowhere.clone()).await?),
            ("BatchWriteItem", self.is_batch_write_refused(nowhere).await?),
        ];
        Ok(tried.into_iter().filter_map(|(action, is_refused)| is_refused.then_some(action)).collect())
    }

    async fn is_batch_get_refused(&self, nowhere: Item) -> Result<bool, StoreError> {
        let keys = KeysAndAttributes::builder().keys(nowhere).build().map_err(|error| self.unbuilt(&error))?;
        self.is_refused(self.client.batch_get_item().request_items(&self.table, keys).send().await)
    }

    async fn is_condition_check_refused(&self, nowhere: Item) -> Result<bool, StoreError> {
        let check = ConditionCheck::builder().table_name(&self.table).set_key(Some(nowhere));
        let check = check.condition_expression(IS_THERE).build().map_err(|error| self.unbuilt(&error))?;
        let item = TransactWriteItem::builder().condition_check(check).build();
        self.is_refused(self.client.transact_write_items().transact_items(item).send().await)
    }

    async fn is_batch_write_refused(&self, nowhere: Item) -> Result<bool, StoreError> {
        let delete = DeleteRequest::builder().set_key(Some(nowhere)).build().map_err(|error| self.unbuilt(&error))?;
        let request = WriteRequest::builder().delete_request(delete).build();
        self.is_refused(self.client.batch_write_item().request_items(&self.table, vec![request]).send().await)
    }

    fn unbuilt(&self, error: &dyn Error) -> StoreError {
        StoreError::unavailable(NAME, format!("{}: {error}", self.place))
    }

    /// Whether an answer says that the user may not. That the item is not there is what was expected.
    fn is_refused<T, E>(&self, answer: Result<T, SdkError<E>>) -> Result<bool, StoreError>
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        match answer {
            Ok(_) => Ok(false),
            Err(error) => match error.code() {
                Some("ConditionalCheckFailedException" | "TransactionCanceledException") => Ok(false),
                Some("AccessDeniedException") => Ok(true),
                _ => Err(self.error(&error)),
            },
        }
    }
}
