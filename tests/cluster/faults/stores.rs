//! A store that is gone for a while.

use std::time::Duration;

use tokio::time::sleep;

use super::over;
use crate::{
    cluster::{Cluster, Harm, Plan},
    proxy::Way,
    redis::RedisServer,
};

/// How long the store is away.
const AWAY: Duration = Duration::from_secs(4);

async fn is_harmless(name: &'static str, way: Way) {
    let server = RedisServer::start().await;
    // Each execution has the server start new processes, which takes its time.
    let mut cluster = Cluster::start(name, Plan { is_postgres: true, jobs: 5, ..over(&server) }).await;
    for _ in 0..2 {
        cluster
            .harm(Harm::of(name).mutes_store(), async |cluster: &mut Cluster| {
                let store = cluster.store_way.as_ref().expect("a store on a server");
                store.set(way);
                sleep(AWAY).await;
                store.set(Way::Open);
            })
            .await;
        cluster.more(40).await;
    }
    cluster.prove().await;
}

#[tokio::test]
async fn a_store_that_is_gone_for_a_while_costs_no_tick() {
    is_harmless("a store that is gone", Way::Cut).await;
}

#[tokio::test]
async fn a_store_that_does_not_answer_for_a_while_costs_no_tick() {
    is_harmless("a store that does not answer", Way::Silent).await;
}
