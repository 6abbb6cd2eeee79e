//! What goes with a run, and what looks as if it did.

use std::collections::BTreeSet;

use super::{Run, Subject, Thing, checkpoint, delete, event, expired, owned, put_all, running, seen};

/// Ids that take a statement, a pattern, a key or a path apart.
#[must_use]
pub fn odd_ids() -> Vec<String> {
    let mut ids: Vec<String> = [
        "",
        " ",
        "a'b",
        "a\"b",
        "a`b",
        "a:b",
        "a;b",
        "a%b",
        "a_b",
        "a[b]",
        "a*b",
        "a?b",
        "a\\b",
        "a/../b",
        "a\nb",
        "äöü",
        "名前",
        "🧹",
        "a\u{301}",
        "null",
        "0",
        "1e3",
        "-1",
        "' OR 1=1 --",
        "{\"a\": 1}",
        "a,b",
        "A",
        "a",
        "a ",
        "\u{feff}a",
    ]
    .map(str::to_owned)
    .to_vec();
    ids.push("long ".repeat(1_000));
    ids
}

/// Those of them that the store can hold.
pub(super) fn held_ids(subject: &dyn Subject) -> Vec<String> {
    odd_ids().into_iter().filter(|id| subject.holds(id)).collect()
}

/// Events, steps, hooks, flags and checkpoints of a run go with it; those of the next run stay.
pub async fn takes_what_belongs_to_a_run_and_nothing_of_another(subject: &dyn Subject) {
    for run in ["goes", "stays"] {
        put_all(subject, [if run == "stays" { running(expired(run)) } else { expired(run) }]).await;
        for thing in belongings(run) {
            subject.put(thing).await;
        }
    }
    for key in ["nobody:step", "of no run", "goes", ":step"] {
        subject.put(checkpoint(key)).await;
    }
    let expected: BTreeSet<Thing> = belongings("stays")
        .into_iter()
        .chain([Thing::Run(running(expired("stays")))])
        .chain(["nobody:step", "of no run", "goes", ":step"].map(checkpoint))
        .collect();
    let batch = seen(&*subject.store(), &["goes"]).await;
    let deleted = delete(&*subject.store(), 1, &batch).await;
    assert_eq!(subject.things().await, expected);
    let counts: Vec<(&str, u64)> = deleted.counts.iter().collect();
    let expected =
        [("cancellation_flags", 1), ("checkpoints", 3), ("events", 2), ("hooks", 2), ("runs", 1), ("steps", 2)];
    assert_eq!(counts, expected);
}

fn belongings(run: &str) -> Vec<Thing> {
    vec![
        event(run),
        owned("events", run, &format!("another event of {run}")),
        owned("steps", run, &format!("step_pay_{run}")),
        owned("steps", run, &format!("step_send_{run}")),
        // Hooks of two runs have the same ids.
        owned("hooks", run, "hook_approve_0"),
        owned("hooks", run, "hook_approve_1"),
        owned("cancellation_flags", run, ""),
        checkpoint(&format!("{run}:step_pay_{run}")),
        checkpoint(&format!("{run}:a:b")),
        checkpoint(&format!("step_pay_{run}")),
    ]
}

/// However odd an id is, exactly that run goes, with what is its own.
pub async fn takes_apart_ids_that_look_alike(subject: &dyn Subject) {
    let ids = held_ids(subject);
    put_all(subject, ids.iter().map(expired)).await;
    for id in &ids {
        subject.put(event(id)).await;
        subject.put(checkpoint(&format!("{id}:step_{id}"))).await;
    }
    let mut expected = subject.things().await;
    assert_eq!(expected.len(), 3 * ids.len());
    for (at, id) in ids.iter().enumerate() {
        let batch = seen(&*subject.store(), &[id]).await;
        let deleted = delete(&*subject.store(), 1 + at as u64, &batch).await;
        assert_eq!(&deleted.runs, std::slice::from_ref(id));
        for thing in [Thing::Run(expired(id)), event(id)] {
            assert!(expected.remove(&thing), "{thing:?} was not there");
        }
        let things = subject.things().await;
        // Of "a" and "a:b" either may be meant: such a checkpoint goes with the last of them.
        expected.retain(|thing| !matches!(thing, Thing::Checkpoint { key } if *key == format!("{id}:step_{id}")));
        let (runs, own): (BTreeSet<_>, BTreeSet<_>) = (owners(&things), owners(&expected));
        assert_eq!(runs, own, "after {id:?}");
    }
}

/// All but the checkpoints.
fn owners(things: &BTreeSet<Thing>) -> BTreeSet<&Thing> {
    things.iter().filter(|thing| !matches!(thing, Thing::Checkpoint { .. })).collect()
}

/// With a colon in an id, `a:b:c` may be step `b:c` of run `a` or step `c` of run `a:b`: it goes when both are gone.
pub async fn keeps_a_checkpoint_that_another_run_might_mean(subject: &dyn Subject) {
    let store = subject.store();
    put_all(subject, ["a", "a:b", "x", "x:y", "alone:z", "prefix", "prefix2"].map(expired)).await;
    let keys = ["a:b:c", "a:d", "a:b:", "x:y:z", "alone:z:s", "prefix:s", "prefix2:s", "prefix;s", "PREFIX:s"];
    for key in keys {
        subject.put(checkpoint(key)).await;
    }
    let steps = |step: &str, run: &str| owned("steps", run, step);
    put_all(subject, [running(expired("owner"))]).await;
    // The id of another run's step looks like a checkpoint of run `prefix`.
    subject.put(steps("prefix:mine", "owner")).await;
    subject.put(checkpoint("prefix:mine")).await;
    // And here it is the other way round: the step's run goes, and the key may be one of run `owner`.
    subject.put(steps("owner:theirs", "prefix")).await;
    subject.put(checkpoint("owner:theirs")).await;
    let left = async || {
        let things = subject.things().await;
        let key = |thing| if let Thing::Checkpoint { key } = thing { Some(key) } else { None };
        things.into_iter().filter_map(key).collect::<Vec<String>>()
    };
    let batch = seen(&*store, &["a", "x", "x:y", "alone:z", "prefix"]).await;
    delete(&*store, 1, &batch).await;
    assert_eq!(left().await, ["PREFIX:s", "a:b:", "a:b:c", "owner:theirs", "prefix2:s", "prefix:mine", "prefix;s"]);
    let batch = seen(&*store, &["a:b"]).await;
    let deleted = delete(&*store, 2, &batch).await;
    assert_eq!(deleted.counts.get("checkpoints"), 2);
    assert_eq!(left().await, ["PREFIX:s", "owner:theirs", "prefix2:s", "prefix:mine", "prefix;s"]);
    put_all(subject, [Run { status: "failed".to_owned(), ..expired("owner") }]).await;
    let batch = seen(&*store, &["owner"]).await;
    delete(&*store, 3, &batch).await;
    assert_eq!(left().await, ["PREFIX:s", "prefix2:s", "prefix;s"]);
}
