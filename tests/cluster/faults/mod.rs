//! The scenarios: each breaks one thing, again and again, and at least a hundred ticks are executed around it.

mod clock;
mod disk;
mod failover;
mod network;
mod processes;
mod redis;
mod stores;

use crate::{cluster::Plan, redis::RedisServer};

/// A cluster over one server, each host with a way of its own to it.
fn over(server: &RedisServer) -> Plan {
    Plan { redis: server.url(), through: Some(server.port()), ..Plan::default() }
}
