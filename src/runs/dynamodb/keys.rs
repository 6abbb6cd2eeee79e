//! Keys and attributes of the items that PyWorkflow writes, and of our own.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;

use crate::runs::{Seen, Stamp};

/// An item, or the key of one.
pub(super) type Item = HashMap<String, AttributeValue>;

/// The partition of every run and schedule in the index by status.
pub(super) const STATUS_INDEX: &str = "GSI1";
pub(super) const PARENT_INDEX: &str = "GSI4";
/// The sort key of what there is one of.
pub(super) const METADATA: &str = "#METADATA";
pub(super) const FLAG: &str = "#FLAG";
pub(super) const DATA: &str = "#DATA";
/// Our own items.
pub(super) const FENCES: &str = "JANITOR#FENCE";
pub(super) const MARKERS: &str = "JANITOR#MARKER";
/// The longest key that there can be, in bytes.
const KEY_MAX: usize = 2_048;

/// What is read of a run. All of them are written as names, because some are reserved words.
pub(super) const RUN_ATTRIBUTES: [&str; 6] =
    ["PK", "status", "workflow_name", "created_at", "updated_at", "parent_run_id"];

/// A list of attributes as an expression, with the names that it needs.
pub(super) fn projection(attributes: &[&str]) -> (String, HashMap<String, String>) {
    let names: HashMap<String, String> =
        attributes.iter().enumerate().map(|(at, name)| (format!("#p{at}"), (*name).to_owned())).collect();
    let expression: Vec<String> = (0..attributes.len()).map(|at| format!("#p{at}")).collect();
    (expression.join(", "), names)
}

pub(super) fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

pub(super) fn key(partition: impl Into<String>, sort: impl Into<String>) -> Item {
    HashMap::from([("PK".to_owned(), text(partition)), ("SK".to_owned(), text(sort))])
}

/// The text of an attribute; none where it is absent or no text.
pub(super) fn text_of<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    item.get(name).and_then(|value| value.as_s().ok()).map(String::as_str)
}

/// The texts of an item's key.
pub(super) fn key_of(item: &Item) -> (String, String) {
    let part = |name| text_of(item, name).unwrap_or_default().to_owned();
    (part("PK"), part("SK"))
}

pub(super) fn run_key(id: &str) -> Item {
    key(run_partition(id), METADATA)
}

pub(super) fn run_partition(id: &str) -> String {
    format!("RUN#{id}")
}

/// Whether a run of this id can be there: longer keys are refused.
pub(super) fn fits(id: &str) -> bool {
    id.len() + "RUN#".len() <= KEY_MAX
}

/// The run of an item; none where it is none.
pub(super) fn seen(item: &Item) -> Option<Seen> {
    let id = text_of(item, "PK")?.strip_prefix("RUN#")?;
    let owned = |name| text_of(item, name).map(str::to_owned);
    Some(Seen {
        id: id.to_owned(),
        status: owned("status").unwrap_or_default(),
        updated_at: Stamp::read(owned("updated_at")),
        created_at: Stamp::read(owned("created_at")),
        workflow: owned("workflow_name").unwrap_or_default(),
        parent: owned("parent_run_id"),
    })
}
