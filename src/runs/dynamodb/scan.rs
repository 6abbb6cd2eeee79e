//! Reads the whole table, a page at a time.

use super::{
    DynamoStore,
    keys::{Item, projection, text},
};
use crate::runs::StoreError;

/// What of the table is looked for. The table is read, and paid for, as a whole.
#[derive(Debug)]
pub(super) struct Filter {
    pub(super) condition: &'static str,
    pub(super) values: &'static [(&'static str, &'static str)],
    pub(super) attributes: &'static [&'static str],
}

/// One of several parts of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) at: i32,
    pub(super) of: i32,
}

impl DynamoStore {
    /// What a filter finds in the next MiB, and where to go on.
    pub(super) async fn scan_page(
        &self,
        filter: &Filter,
        segment: Option<Segment>,
        behind: Option<Item>,
    ) -> Result<(Vec<Item>, Option<Item>), StoreError> {
        let (expression, names) = projection(filter.attributes);
        let mut scan = self.client.scan().table_name(&self.table).filter_expression(filter.condition);
        for (name, value) in filter.values {
            scan = scan.expression_attribute_values(*name, text(*value));
        }
        let scan = scan
            .projection_expression(expression)
            .set_expression_attribute_names(Some(names))
            .set_segment(segment.map(|segment| segment.at))
            .set_total_segments(segment.map(|segment| segment.of))
            .set_exclusive_start_key(behind);
        let _permit = self.permit().await;
        let answer = scan.send().await.map_err(|error| self.error(&error))?;
        Ok((answer.items.unwrap_or_default(), answer.last_evaluated_key))
    }
}
