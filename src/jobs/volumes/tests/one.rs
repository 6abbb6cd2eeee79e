//! One volume by hand: the same rules, the same mark.

use super::*;
use crate::volumes::memory::Fault;

#[tokio::test]
async fn each_rule_of_the_sweep_speaks() {
    let mut world = World::new();
    world.config.require_label = Some(("app".to_owned(), "chat".to_owned()));
    for thread in ["goes", "used", "open", "unknown", "unlabelled"] {
        let labels = [("app".to_owned(), if thread == "unlabelled" { "x" } else { "chat" }.to_owned())];
        world.engine.add_volume(Volume { name: volume(thread), labels: labels.into(), created_at: None, folder: None });
    }
    for (thread, is_closed) in [
        ("goes", true),
        ("used", true),
        ("open", false),
        ("unlabelled", true),
        ("absent", true),
        ("open-absent", false),
    ] {
        world.marks.set(thread, is_closed).await;
    }
    world.engine.add_user(&volume("used"), user("exited"), Bond::Listed);
    let volumes = world.volumes();
    for (thread, fate) in [
        ("goes", Fate::Removed),
        ("goes", Fate::Settled),
        ("absent", Fate::Absent),
        ("absent", Fate::Settled),
        ("used", Fate::Referenced("container web (1d5c3f7a9b2e, exited)".to_owned())),
        ("open", Fate::Open),
        ("open-absent", Fate::Open),
        ("unknown", Fate::Unknown),
        ("nothing-at-all", Fate::Unknown),
        ("unlabelled", Fate::Unlabelled),
    ] {
        assert_eq!(volumes.remove(thread).await.unwrap(), fate, "{thread}");
    }
    assert_eq!((world.engine.asked(), world.marks.marks()), (vec![volume("goes")], 2));
}

#[tokio::test]
async fn an_id_that_no_volume_can_be_named_after_is_refused() {
    let world = World::new();
    world.engine.add(&volume("qq"));
    for id in ["", "/", "qq?force=1", "../qq", "a b"] {
        let refused = world.volumes().remove(id).await;
        assert!(matches!(refused, Err(JobError::Refused(_))), "{id:?}: {refused:?}");
    }
    assert!(world.engine.asked().is_empty());
}

#[tokio::test]
async fn what_failed_is_tried_at_once_and_waits_longer_afterwards() {
    let world = World::new();
    world.closed("1").await;
    world.engine.set_fault_of(&volume("1"), Some(Fault::Fails { status: 500, message: "stuck".to_owned() }));
    for attempts in 1..=3 {
        assert!(world.volumes().remove("1").await.is_err());
        assert_eq!(world.backoffs().await["1"].attempts, attempts);
    }
    world.engine.set_fault_of(&volume("1"), None);
    assert_eq!(world.volumes().remove("1").await.unwrap(), Fate::Removed);
    assert!(world.backoffs().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_has_the_row_in_hand_is_waited_for_and_not_for_ever() {
    let world = World::new();
    world.closed("1").await;
    let hold = world.marks.hold(&["1".to_owned()]).await.unwrap();
    assert_eq!(world.volumes().remove("1").await.unwrap(), Fate::Changed);
    let volumes = world.volumes();
    let (fate, ()) = tokio::join!(volumes.remove("1"), async {
        tokio::task::yield_now().await;
        drop(hold);
    });
    assert_eq!(fate.unwrap(), Fate::Removed);
}

#[tokio::test]
async fn what_is_known_of_one_is_what_a_list_of_all_has() {
    let world = World::new();
    world.closed("1").await;
    world.closed("12").await;
    world.engine.add_user(&volume("1"), user("running"), Bond::Mount);
    let volumes = world.volumes();
    let (all, known) = (volumes.all().await.unwrap(), volumes.of("1").await.unwrap());
    assert_eq!((all.len(), known.found.as_ref(), &known.volume), (2, all.first(), &volume("1")));
    let none = volumes.of("x").await.unwrap();
    assert!(none.row.is_none() && none.found.is_none());
}
