//! The protocol of `blobs`, explored: each order in which writers of one digest, sweepers and an inventory can take their
//! steps, crashes among them.
//!
//! A step of the model is one transaction or one call of the object store; time is not in it, so each blob is old
//! enough and each task silent enough whenever a sweep looks. The protocol holds, and each design that looks simpler loses
//! bytes that somebody has finalized.

mod steps;

use std::collections::{BTreeMap, BTreeSet};

use stateright::{Checker, HasDiscoveries, Model, Property};

/// Which blob. Its bytes are under a key of its own, or under 0 in a design where the digest is the key.
type Id = u8;

/// Final refs have bytes: what all of this is for.
const SAFE: &str = "a final ref has a live row and its bytes";
/// Sweeping ends with nothing left that nobody refers to.
const CLEAN: &str = "once all is quiet, a sweep and an inventory leave what is referred to and nothing else";
/// The inventory may delete what has no row only.
const SPARED: &str = "the inventory condemns nothing that is pending or live";

/// How a blob is put and swept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Design {
    /// The protocol: each upload has a key of its own, and nothing leads back from deleting.
    Protocol,
    /// The digest is the key, and where the object is there it is not uploaded.
    Head,
    /// The digest is the key; a row that is being deleted is made pending again, and the bytes uploaded again.
    Revive,
    /// The digest is the key; a writer waits until a row that is being deleted is gone.
    Wait,
    /// The protocol, but the inventory asks for the rows first and lists the objects afterwards.
    RowsFirst,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Row {
    Pending,
    Live,
    Deleting,
}

/// Where a writer stands: what it does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum At {
    Begin,
    Upload(Id),
    Commit(Id),
    Finalize,
    /// Its ref is final.
    Done,
    /// It failed, gave up or crashed.
    Failed,
}

/// A writer, which is a task of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Task {
    at: At,
    /// Its ref: to which blob.
    holds: Option<Id>,
    /// It was released: what it does from now on is refused.
    closed: bool,
    /// It was fenced once and began again.
    again: bool,
}

/// Where a sweeper stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Sweep {
    Idle,
    /// It will delete the bytes.
    Claimed(Id),
    /// It will forget the row.
    Deleted(Id),
}

/// Where the inventory stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Inventory {
    Idle,
    /// It has listed this object, and will look its id up.
    Listed(Id),
    /// It has read the ids of all rows, and will list an object. No step of the protocol.
    Read(BTreeSet<Id>),
    /// It will delete this object.
    Condemned(Id),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    /// The catalog's blobs.
    rows: BTreeMap<Id, Row>,
    /// The keys of the objects that are there.
    objects: BTreeSet<Id>,
    /// In order, as the sweepers: one is as good as another.
    tasks: Vec<Task>,
    sweeps: Vec<Sweep>,
    inventory: Inventory,
    /// The id of the next blob.
    next: Id,
    /// How many crashes are still to come at most.
    crashes: u8,
}

impl State {
    fn is_referred_to(&self, id: Id) -> bool {
        self.tasks.iter().any(|task| task.holds == Some(id))
    }

    fn live(&self) -> Option<Id> {
        self.rows.iter().find(|(_, row)| **row == Row::Live).map(|(id, _)| *id)
    }

    /// What the final refs refer to.
    fn finals(&self) -> BTreeSet<Id> {
        self.tasks.iter().filter(|task| task.at == At::Done).filter_map(|task| task.holds).collect()
    }

    /// Nobody is in the middle of anything.
    fn is_quiet(&self) -> bool {
        self.tasks.iter().all(|task| matches!(task.at, At::Done | At::Failed))
            && self.sweeps.iter().all(|sweep| *sweep == Sweep::Idle)
            && self.inventory == Inventory::Idle
    }
}

/// A step: whose, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// A writer does what is next.
    Write(usize),
    /// A task says that it failed, or crashes: it does nothing more.
    Fail(usize),
    /// What the task put and did not finalize is released, because it said so or because a sweep takes it for dead, which
    /// it need not be.
    Release(usize),
    /// A sweeper claims this blob, or takes over one that is claimed.
    Claim(usize, Id),
    /// A sweeper that has claimed one does what is next.
    Sweep(usize),
    /// A sweeper forgets all that it had in hand.
    Crash(usize),
    /// The inventory lists this object.
    List(Id),
    /// The inventory does what is next.
    Inventory,
}

struct Blobs {
    design: Design,
    writers: usize,
    sweepers: usize,
    inventory: bool,
    crashes: u8,
}

impl Model for Blobs {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            rows: BTreeMap::new(),
            objects: BTreeSet::new(),
            tasks: vec![Task { at: At::Begin, holds: None, closed: false, again: false }; self.writers],
            sweeps: vec![Sweep::Idle; self.sweepers],
            inventory: Inventory::Idle,
            next: 0,
            crashes: self.crashes,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        self.steps(state, actions);
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        self.take(&mut state, step)?;
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![Property::always(SAFE, is_safe)];
        if self.inventory {
            properties.push(Property::always(SPARED, is_spared));
        }
        if self.design == Design::Protocol {
            properties.push(Property::always(CLEAN, is_clean));
            properties.extend(reached());
        }
        properties
    }
}

/// What the model comes by: without these the others are worth nothing.
fn reached() -> [Property<Blobs>; 4] {
    [
        Property::sometimes("all finalize one blob", |_: &Blobs, state: &State| {
            state.finals().len() == 1 && state.tasks.iter().all(|task| task.at == At::Done)
        }),
        Property::sometimes("a writer is fenced", |_: &Blobs, state: &State| state.tasks.iter().any(|task| task.again)),
        Property::sometimes("a claimed blob's bytes are there beside a final ref", |_: &Blobs, state: &State| {
            let is_claimed = |id| state.sweeps.contains(&Sweep::Claimed(id));
            !state.finals().is_empty() && state.objects.iter().any(|id| is_claimed(*id))
        }),
        Property::sometimes("only an inventory can find it", |_: &Blobs, state: &State| {
            state.is_quiet() && state.objects.iter().any(|key| !state.rows.contains_key(key))
        }),
    ]
}

fn is_safe(model: &Blobs, state: &State) -> bool {
    let is_there = |id| state.rows.get(id) == Some(&Row::Live) && state.objects.contains(&model.key(*id));
    state.finals().iter().all(is_there)
}

fn is_spared(_: &Blobs, state: &State) -> bool {
    let Inventory::Condemned(id) = &state.inventory else { return true };
    !matches!(state.rows.get(id), Some(Row::Pending | Row::Live))
}

/// One sweeper and then the inventory go on, alone, until neither finds anything more.
fn is_clean(model: &Blobs, state: &State) -> bool {
    if !state.is_quiet() {
        return true;
    }
    let mut state = state.clone();
    while let Some(step) = steps::tidy(&state) {
        model.take(&mut state, step).expect("what tidies can be done");
    }
    let rows: BTreeSet<Id> = state.rows.keys().copied().collect();
    rows == state.finals() && state.objects == rows
}

/// How one comes from the beginning to a state that must not be.
fn broken(design: Design, property: &'static str) -> Vec<Step> {
    let model = Blobs { design, writers: 2, sweepers: 2, inventory: design == Design::RowsFirst, crashes: 0 };
    let checker = model.checker().finish_when(HasDiscoveries::AnyOf([property].into())).spawn_bfs().join();
    let path = checker.discovery(property);
    path.unwrap_or_else(|| panic!("{design:?} holds, in {} states", checker.unique_state_count())).into_actions()
}

fn holds(writers: usize, sweepers: usize, inventory: bool, crashes: u8) {
    let model = Blobs { design: Design::Protocol, writers, sweepers, inventory, crashes };
    let checker = model.checker().spawn_bfs().join();
    println!(
        "writers {writers}, sweepers {sweepers}, inventory {inventory}, crashes {crashes}: {} states",
        checker.unique_state_count()
    );
    checker.assert_properties();
}

#[test]
fn the_protocol_holds() {
    holds(2, 2, false, 1);
}

#[test]
fn the_protocol_holds_beside_an_inventory() {
    holds(2, 1, true, 1);
}

#[test]
fn to_skip_the_upload_of_what_is_there_loses_it() {
    broken(Design::Head, SAFE);
}

#[test]
fn to_revive_what_is_being_deleted_loses_it() {
    broken(Design::Revive, SAFE);
}

#[test]
fn to_wait_for_the_reaper_loses_it_to_a_second_one() {
    let path = broken(Design::Wait, SAFE);
    assert_eq!(path.iter().filter(|step| matches!(step, Step::Claim(..))).count(), 2, "{path:?}");
}

#[test]
fn an_inventory_that_looks_up_and_then_lists_takes_what_was_put_between() {
    broken(Design::RowsFirst, SPARED);
    broken(Design::RowsFirst, SAFE);
}
