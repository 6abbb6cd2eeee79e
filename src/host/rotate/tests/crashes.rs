//! Rotations that end in the middle, and those that have no leases.

use std::{fs, os::unix::fs::MetadataExt, thread, time::Duration};

use super::{World, *};

#[test]
fn without_leases_nothing_is_lost_and_a_note_says_what_is_guessed() {
    let means = [(false, false), (true, false), (true, true)];
    for (no_exchange, no_links) in means {
        let mut world = World::new(100);
        world.faults = Faults { no_leases: true, no_exchange, no_links, ..Faults::default() };
        let held = world.open();
        let rotated = world.rotate();
        assert_eq!((rotated.how, rotated.notes.len()), (How::Fallback, 2));
        assert_eq!((world.read("log"), world.names().len()), (world.lines(90), 2));
        world.write_to(&held, 1);
        assert_eq!(world.rotate().notes.len(), 1);
        assert_eq!(world.rotate().notes, Vec::<String>::new());
        assert_eq!((world.read("log"), world.names()), (world.lines(90), vec!["log".to_owned()]));
    }
}

#[test]
fn who_neither_owns_the_log_nor_may_lease_it_falls_back() {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    let world = World::new(100);
    std::os::unix::fs::chown(world.path("log"), Some(1234), Some(1234)).expect("the tests run as root");
    let rotate = || {
        let mut own = capabilities(None).unwrap();
        own.effective.remove(CapabilitySet::LEASE);
        // This thread's alone.
        set_capabilities(None, own).unwrap();
        world.rotate()
    };
    let rotated = thread::scope(|scope| scope.spawn(rotate).join().unwrap());
    assert_eq!((rotated.how, rotated.notes.len()), (How::Fallback, 2));
    let metadata = fs::metadata(world.path("log")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid(), world.read("log")), (1234, 1234, world.lines(90)));
    assert_eq!((world.rotate().notes, world.names()), (Vec::new(), vec!["log".to_owned()]));
}

#[test]
fn a_part_whose_log_is_gone_is_kept_and_said() {
    let world = World::new(1);
    let name =
        name::of_progress("log".as_ref(), name::Progress { inode: 1, start: 2, copied: 3, next: name::Next::Open });
    fs::write(world.temp.path().join(&name), "a\nb\n").unwrap();
    assert_eq!(world.rotate().notes.len(), 1);
    assert!(world.temp.path().join(&name).exists());
}

/// Ends a rotation at every change of the disk; what is left the next ones finish.
fn crash_everywhere(faults: &Faults, keeps_holder: bool) {
    let is_ordered = !keeps_holder && !faults.no_links;
    let mut ended = 0;
    for changes in 0.. {
        let mut world = World::new(0);
        (world.generations, world.faults) = (5, faults.clone());
        // Three generations are there already.
        for _ in 0..3 {
            world.write(100);
            for _ in 0..3 {
                world.rotate_in(Mode::Apply, Duration::from_secs(5)).unwrap();
            }
        }
        world.write(100);
        let held = keeps_holder.then(|| world.open());
        *world.faults.left.lock().unwrap() = Some(changes);
        // What fails is an error, or a note where it is a late file's.
        let _ = world.rotate_in(Mode::Apply, Duration::from_millis(5));
        if let Some(held) = held {
            world.write_to(&held, 2);
        }
        world.write(2);
        for _ in 0..2 {
            let _ = world.rotate_in(Mode::Apply, Duration::from_secs(5));
        }
        let is_over = world.faults.left.lock().unwrap().take() != Some(0);
        for _ in 0..4 {
            world.rotate_in(Mode::Apply, Duration::from_secs(5)).unwrap();
        }
        let history = world.history();
        let mut seen: Vec<_> = history.lines().collect();
        if !is_ordered {
            seen.sort_by_key(|line| line[5..].parse::<u64>().unwrap());
        }
        seen.dedup();
        let expected = world.lines(0);
        assert_eq!(seen, expected.lines().collect::<Vec<_>>(), "after {changes} changes");
        let names = world.names();
        assert!(names.iter().all(|name| !name.contains("rotating")), "after {changes} changes: {names:?}");
        if is_over {
            break;
        }
        ended += 1;
    }
    assert!(ended > 10, "{ended} crashes");
}

#[test]
fn a_crash_at_any_moment_is_finished_by_the_next_rotation() {
    crash_everywhere(&Faults::default(), false);
}

#[test]
fn a_crash_under_a_holder_is_finished_by_the_next_rotation() {
    crash_everywhere(&Faults::default(), true);
}

#[test]
fn a_crash_without_leases_is_finished_by_the_next_rotations() {
    for (no_exchange, no_links) in [(false, false), (true, false), (true, true)] {
        crash_everywhere(&Faults { no_leases: true, no_exchange, no_links, ..Faults::default() }, false);
    }
}
