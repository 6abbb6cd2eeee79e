//! A user who may not do all that a sweep does.

use std::sync::Arc;

use apalis_janitor::{
    lock::Fence,
    runs::{
        RunStore,
        conformance::{Order, Subject, sweep_at},
    },
};

use super::{
    DynamoWorld,
    crashes::{expired, now, whole},
    edges::{JOB, told},
    proxy::{Act, Proxy},
};
use crate::dynamodb::Table;

#[tokio::test]
async fn says_which_rights_it_lacks_and_changes_nothing() {
    let table = Table::make().await;
    let proxy = Proxy::before(table.port).await;
    let store = Arc::new(table.open_by(&proxy.endpoint()).await.unwrap());
    let world = DynamoWorld::over(table, store);
    for thing in whole(expired("one")) {
        world.put(thing).await;
    }
    assert_eq!(world.store.check().await.unwrap().warnings, [""; 0]);
    let before = world.things().await;
    proxy.set(|asked| {
        let is_read = ["Query", "Scan", "GetItem"].iter().any(|word| asked.operation.ends_with(word));
        if is_read { Act::Fail("AccessDeniedException") } else { Act::Pass }
    });
    let warnings = world.store.check().await.unwrap().warnings;
    let refused = "Query, Query on GSI1, Query on GSI4, Scan, GetItem, BatchGetItem";
    assert!(warnings.len() == 1 && warnings[0].ends_with(&format!("a sweep needs: {refused}")), "{warnings:?}");
    proxy.set(|asked| {
        let is_write = ["Put", "Update", "Delete", "Write"].iter().any(|word| asked.operation.contains(word));
        if is_write { Act::Fail("AccessDeniedException") } else { Act::Pass }
    });
    let warnings = world.store.check().await.unwrap().warnings;
    let refused = "is refused what a sweep needs: PutItem, UpdateItem, DeleteItem, ConditionCheckItem, BatchWriteItem";
    assert!(warnings.len() == 1 && warnings[0].ends_with(refused), "{warnings:?}");
    let error = world.store.raise(JOB, Fence::for_test(1)).await.unwrap_err();
    let told = told(&error, &world.table);
    for part in ["AccessDeniedException: said the test", "ConditionCheckItem", "BatchWriteItem"] {
        assert!(told.contains(part), "{told}");
    }
    assert_eq!(sweep_at(world.store(), &Order::default(), now(), false).await.ids, ["one"], "a dry run only reads");
    assert_eq!(world.things().await, before);
}
