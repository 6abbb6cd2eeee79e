//! What was dropped, kept for a while.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    time::Duration,
};

use super::{World, *};

#[test]
fn generations_and_the_live_file_are_the_whole_log() {
    let mut world = World::new(0);
    world.generations = 3;
    let deadline = Duration::from_mins(1);
    for round in 1..=3 {
        world.write(100);
        assert_eq!(world.rotate_in(Mode::Apply, deadline).unwrap().how, How::Lease);
        assert_eq!(world.history(), world.lines(0), "round {round}");
    }
    assert_eq!(world.names(), ["log", "log.1", "log.2.gz", "log.3.gz"]);
    // The oldest one goes.
    world.write(100);
    assert!(world.rotate_in(Mode::Apply, deadline).unwrap().bytes_freed > 0);
    assert_eq!((world.history(), world.names().len()), (world.lines(90), 4));
    // Fewer are kept: the others go.
    world.generations = 1;
    world.write(100);
    world.rotate_in(Mode::Apply, deadline).unwrap();
    assert_eq!((world.history(), world.names()), (world.lines(390), vec!["log".to_owned(), "log.1".to_owned()]));
}

#[test]
fn files_that_look_like_generations_stay_where_none_are_kept() {
    let mut world = World::new(100);
    for name in ["log.1", "log.2.gz", "log.20260101", "log.rotating-x"] {
        fs::write(world.path(name), "").unwrap();
    }
    world.rotate();
    assert_eq!(world.names().len(), 5);
    world.generations = 1;
    world.write(100);
    world.rotate();
    // What goes on from the first one is taken for ours.
    assert_eq!(world.names(), ["log", "log.1", "log.20260101", "log.rotating-x"]);
}

#[test]
fn a_generation_that_is_written_to_is_not_compressed() {
    let mut world = World::new(100);
    (world.generations, world.keep_lines) = (2, 0);
    world.rotate();
    let held = OpenOptions::new().append(true).open(world.path("log.1")).unwrap();
    world.write(100);
    world.rotate_in(Mode::Apply, Duration::from_mins(1)).unwrap();
    assert_eq!(world.names(), ["log", "log.1", "log.2"]);
    (&held).write_all(b"late\n").unwrap();
    drop(held);
    world.rotate_in(Mode::Apply, Duration::from_mins(1)).unwrap();
    assert_eq!(world.names(), ["log", "log.1", "log.2.gz"]);
    assert!(world.read("log.2.gz").ends_with("line 99\nlate\n"));
}

#[test]
fn a_holder_that_stays_does_not_cost_a_generation_its_lines() {
    let mut world = World::new(50_000);
    world.generations = 1;
    let held = world.open();
    world.rotate();
    world.write_to(&held, 5);
    drop(held);
    world.rotate();
    assert_eq!(world.names(), ["log", "log.1"]);
    assert!(world.history() == world.lines(0));
}
