//! What a job's report says where something could not be deleted.

use std::path::Path;

use apalis_janitor::{
    Janitor,
    config::Config,
    report::{Mode, Outcome},
};

use super::world::SqliteWorld;

#[tokio::test]
async fn a_run_that_the_owner_holds_makes_the_report_a_failed_one() {
    let world = SqliteWorld::new("delete").await;
    let insert = "INSERT INTO workflow_runs (run_id, workflow_name, status, created_at, updated_at) \
                  SELECT value, 'order', 'completed', '2020-01-01T00:00:00+00:00', '2020-01-01T00:00:00+00:00' \
                  FROM json_each('[\"held\", \"free\", \"free too\"]')";
    world.execute(insert).await;
    let hold =
        "CREATE TABLE invoice (run_id TEXT REFERENCES workflow_runs (run_id)); INSERT INTO invoice VALUES ('held')";
    world.execute(hold).await;
    let folder = world.path.parent().unwrap();
    let janitor = janitor(folder, &world.path).await;
    let report = janitor.run("old-runs", Mode::Apply).await.unwrap();
    assert_eq!((report.outcome, report.reason.as_deref()), (Outcome::Failed, Some("1 could not be deleted")));
    assert_eq!((report.planned.get("runs"), report.deleted.get("runs"), report.batches), (3, 2, 1));
    assert_eq!(report.failures.len(), 1);
    assert_eq!(report.failures[0].item, "held");
    world.execute("DROP TABLE invoice").await;
    let report = janitor.run("old-runs", Mode::Apply).await.unwrap();
    assert_eq!((report.outcome, report.reason, report.failures), (Outcome::Done, None, Vec::new()));
}

async fn janitor(folder: &Path, store: &Path) -> Janitor {
    let text = format!(
        "[jobs.old-runs]\nkind = \"retention\"\nstore = \"sqlite://{}\"\nretention_days = 30\n",
        store.display()
    );
    let config = Config::parse(&text, &folder.join("janitor.toml")).unwrap();
    Janitor::connect(config).await.unwrap()
}
