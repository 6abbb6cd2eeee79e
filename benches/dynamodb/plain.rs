//! A table with runs, and what PyWorkflow's own cleaner asks of it: for each run a query, then its items in parts of 25.

use std::collections::HashMap;

use aws_sdk_dynamodb::{
    Client,
    types::{
        AttributeDefinition, AttributeValue, BillingMode, DeleteRequest, GlobalSecondaryIndex, KeySchemaElement,
        KeyType, Projection, ProjectionType, PutRequest, ScalarAttributeType, WriteRequest,
    },
};
use futures::{StreamExt, stream};

use crate::server::client;

type Item = HashMap<String, AttributeValue>;

const OLD: &str = "2020-01-01T00:00:00+00:00";
const NEW: &str = "2999-01-01T00:00:00+00:00";
const EVENTS: usize = 10;
const STEPS: usize = 4;
/// The most items of one request.
const WRITE_MAX: usize = 25;

/// A table, of whose runs some are due.
pub struct Table {
    name: String,
    pub due: u64,
}

fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

fn item(texts: &[(&str, &str)]) -> Item {
    texts.iter().map(|(name, value)| ((*name).to_owned(), text(*value))).collect()
}

fn keys(names: [&str; 2]) -> Vec<KeySchemaElement> {
    let element = |(name, of)| KeySchemaElement::builder().attribute_name(name).key_type(of).build().unwrap();
    names.into_iter().zip([KeyType::Hash, KeyType::Range]).map(element).collect()
}

impl Table {
    /// A new one with `runs` runs, of which 55 of 100 are due.
    pub async fn fill(name: &str, port: u16, runs: usize) -> Self {
        let client = client(port);
        create(&client, name).await;
        let is_due = |run: usize| run % 100 < 55;
        let items: Vec<Item> = (0..runs).flat_map(|run| items(run, if is_due(run) { OLD } else { NEW })).collect();
        let put = |item: &Item| {
            let put = PutRequest::builder().set_item(Some(item.clone())).build().unwrap();
            WriteRequest::builder().put_request(put).build()
        };
        let parts: Vec<Vec<WriteRequest>> =
            items.chunks(WRITE_MAX).map(|part| part.iter().map(put).collect()).collect();
        stream::iter(parts).for_each_concurrent(8, |part| write(&client, name, part)).await;
        Self { name: name.to_owned(), due: (0..runs).filter(|run| is_due(*run)).count() as u64 }
    }

    /// Deletes the runs that are due one by one. What it leaves behind costs it no time.
    pub async fn delete_one_by_one(&self, port: u16) {
        let client = client(port);
        let due = client.query().table_name(&self.name).index_name("GSI1").projection_expression("PK");
        let due = due
            .key_condition_expression("GSI1PK = :runs AND begins_with(GSI1SK, :status)")
            .filter_expression("updated_at < :cutoff")
            .expression_attribute_values(":runs", text("RUNS"))
            .expression_attribute_values(":status", text("completed#"))
            .expression_attribute_values(":cutoff", text("2021-01-01T00:00:00+00:00"));
        let due: Vec<Item> = due.into_paginator().items().send().collect::<Result<_, _>>().await.unwrap();
        assert_eq!(due.len() as u64, self.due);
        for run in due {
            let own = client.query().table_name(&self.name).projection_expression("PK, SK");
            let own = own.key_condition_expression("PK = :run").expression_attribute_values(":run", run["PK"].clone());
            let own = own.send().await.unwrap().items.unwrap();
            let delete = |key: &Item| {
                let delete = DeleteRequest::builder().set_key(Some(key.clone())).build().unwrap();
                WriteRequest::builder().delete_request(delete).build()
            };
            for part in own.chunks(WRITE_MAX) {
                write(&client, &self.name, part.iter().map(delete).collect()).await;
            }
        }
    }
}

async fn write(client: &Client, table: &str, mut requests: Vec<WriteRequest>) {
    while !requests.is_empty() {
        let answer = client.batch_write_item().request_items(table, requests).send().await.unwrap();
        requests = answer.unprocessed_items.and_then(|mut left| left.remove(table)).unwrap_or_default();
    }
}

async fn create(client: &Client, name: &str) {
    let indexes = ["GSI1", "GSI2", "GSI4", "GSI5"];
    let mut request = client.create_table().table_name(name).billing_mode(BillingMode::PayPerRequest);
    let pairs = indexes.map(|index| (index, [format!("{index}PK"), format!("{index}SK")]));
    for attribute in pairs.iter().flat_map(|(_, names)| names).map(String::as_str).chain(["PK", "SK"]) {
        let of = AttributeDefinition::builder().attribute_name(attribute).attribute_type(ScalarAttributeType::S);
        request = request.attribute_definitions(of.build().unwrap());
    }
    for (index, [hash, range]) in &pairs {
        let all = Projection::builder().projection_type(ProjectionType::All).build();
        let schema = keys([hash.as_str(), range.as_str()]);
        let index = GlobalSecondaryIndex::builder().index_name(*index).projection(all).set_key_schema(Some(schema));
        request = request.global_secondary_indexes(index.build().unwrap());
    }
    request.set_key_schema(Some(keys(["PK", "SK"]))).send().await.unwrap();
}

/// A run with its events, steps, a hook and its token.
fn items(run: usize, at: &str) -> Vec<Item> {
    let (id, filler) = (format!("run_{run:016x}"), "x".repeat(100));
    let (partition, hook, entry) = (format!("RUN#{id}"), format!("HOOK#{id}#hook_1"), format!("completed#{at}"));
    let (hooks, token) = (format!("RUN_HOOKS#{id}"), format!("{id}:hook_1"));
    let mut items = vec![
        item(&[
            ("PK", &partition),
            ("SK", "#METADATA"),
            ("run_id", &id),
            ("workflow_name", "order"),
            ("status", "completed"),
            ("created_at", at),
            ("updated_at", at),
            ("result", &filler),
            ("GSI1PK", "RUNS"),
            ("GSI1SK", &entry),
            ("GSI2PK", "WORKFLOW#order"),
            ("GSI2SK", at),
        ]),
        item(&[
            ("PK", &hook),
            ("SK", "#METADATA"),
            ("run_id", &id),
            ("token", &token),
            ("GSI1PK", &hooks),
            ("GSI1SK", "received#"),
        ]),
        item(&[("PK", &format!("TOKEN#{token}")), ("SK", &hook), ("run_id", &id)]),
    ];
    let beside = |sort: String| item(&[("PK", &partition), ("SK", &sort), ("run_id", &id), ("data", &filler)]);
    items.extend((0..EVENTS).map(|at| beside(format!("EVENT#{at:05}"))));
    items.extend((0..STEPS).map(|at| beside(format!("STEP#step_{at}_{run:016x}"))));
    items.push(item(&[("PK", &partition), ("SK", "#EVENT_COUNTER")]));
    items
}
