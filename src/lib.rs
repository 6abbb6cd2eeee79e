//! Retention and orphan sweeps for task-queue clusters, as an apalis worker.
//!
//! Workflow engines leave ended runs behind, with their events, steps and checkpoints, failed tasks leave artifacts, and
//! closed threads leave container volumes. A job of this crate deletes the runs that ended long enough ago, the artifacts that
//! nothing refers to, or the volumes of threads that are closed: on a queue, one worker at a time in a cluster, with a plan to
//! look at beforehand and a report afterwards. The README of the repository is about the command `janitor`; this is about the
//! library below it.
//!
//! # The walk
//! config → beat → queue → worker → lock → job → store → report → ledger, metrics, log. No arrow returns.
//!
//! 1. [`config`] reads `janitor.toml`. A [`Config`](config::Config) that exists is valid.
//! 2. [`beat`] turns the ticks of a schedule into [requests](queue::Request), each tick once however many beats run.
//! 3. [`queue`] brings a request to a worker, at least once: Redis Streams in a cluster, a SQLite file on one host.
//! 4. [`worker`](handle) is an apalis worker with one handler for all jobs. A request says which job, in which mode, and
//!    for which tick; what to delete, where and how old is said by the worker's own configuration.
//! 5. [`lock`] lets one holder of a job through. It hands out a [`Fence`](lock::Fence), without which nothing can be
//!    deleted, and which each delete compares with the newest that the store has seen.
//! 6. [`jobs`] fetch a page, decide, act, until everything is seen or a limit comes first. A dry run is a run that does
//!    not act.
//! 7. [`runs`] are the stores. A store reads runs and deletes those that still are as they were read; which may go is
//!    decided by one pure function, [`Policy::decide`](runs::policy::Policy::decide), for all stores.
//!    [`blobs`] are the stores of artifacts, which tasks put and a sweep cleans; its page has the protocol.
//!    [`volumes`] are a container engine and the table of threads that says whose volumes are gone.
//! 8. [`report`] is what came of it, kept by the [`ledger`] and counted by the [`metrics`].
//!
//! Every way in ends in [`Janitor::execute`]: a beat's tick, a request by hand, `janitor run` and a worker of your own.
//!
//! # An example
//! ```no_run
//! use apalis::prelude::Monitor;
//! use apalis_janitor::{Janitor, config::Config, report::Mode};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let janitor = Janitor::connect(Config::load("janitor.toml")?).await?;
//! janitor.enqueue("old-runs", Mode::Apply).await?; // for whichever worker takes it
//! let report = janitor.run("old-runs", Mode::DryRun).await?; // here and now
//! println!("{} runs would go", report.planned.get("runs"));
//! Monitor::new().register(move |_| janitor.worker("w1")).run().await?; // in your own monitor
//! # Ok(())
//! # }
//! ```
//! [`handle`] runs on any other apalis backend, too. A janitor over parts of your own choice, such as the memory answers
//! for tests, is made by [`Janitor::over`]; a run store of your own is put in by [`Janitor::with_store`], and
//! an engine and a table of your own by [`Janitor::with_volumes`].
//!
//! # Seams
//! [`Clock`](clock::Clock), [`Queue`](queue::Queue), [`Lock`](lock::Lock), [`Ledger`](ledger::Ledger),
//! [`RunStore`](runs::RunStore), [`Catalog`](blobs::Catalog), [`Objects`](blobs::Objects), [`Engine`](volumes::Engine) and
//! [`Marks`](volumes::Marks) are traits, and each answer to one is a file or a folder beside it. What an answer promises is a suite of tests in the trait's own module,
//! `conformance`, public with the feature `test-util`.
//!
//! # Features
//! | feature | what it brings | default |
//! | --- | --- | --- |
//! | `cli` | what only the command `janitor` needs | yes |
//! | `redis` | queue, lock and ledger in Redis | yes |
//! | `sqlite` | the embedded mode, and SQLite as a run store and as the catalog of a blob store | yes |
//! | `metrics` | Prometheus metrics and `/healthz` | yes |
//! | `postgres` | Postgres and Citus as run stores, and Postgres as the catalog of a blob store | no |
//! | `mysql` | MariaDB and MySQL as run stores | no |
//! | `dynamodb` | DynamoDB as a run store | no |
//! | `cassandra` | Cassandra as a run store | no |
//! | `s3` | S3 for the objects of a blob store | no |
//! | `docker` | jobs of kind `volumes` | no |
//! | `full` | all of the above | no |
//! | `test-util` | conformance suites, a clock to be set, fences without a lock: for tests | no |

pub mod beat;
pub mod blobs;
pub mod clock;
pub mod config;
mod connect;
#[cfg(feature = "sqlite")]
pub mod embedded;
mod execute;
pub mod host;
mod janitor;
pub mod jobs;
pub mod ledger;
#[cfg(feature = "redis")]
pub mod link;
pub mod lock;
pub mod metrics;
pub mod queue;
pub mod report;
pub mod runs;
pub mod volumes;
pub mod worker;

pub use connect::ConnectError;
pub use execute::{Ask, Ended, Next};
pub use janitor::{Janitor, RunError, UnknownJob, VolumesError};
pub use worker::{handle, run_worker};

/// The examples of the README, which compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
