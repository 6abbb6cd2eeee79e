//! The steps of the model: which can be taken, and what each does.

use super::{At, Blobs, Design, Id, Inventory, Row, State, Step, Sweep};

impl Blobs {
    /// Where the bytes of a blob are.
    pub fn key(&self, id: Id) -> Id {
        if self.has_own_keys() { id } else { 0 }
    }

    fn has_own_keys(&self) -> bool {
        matches!(self.design, Design::Protocol | Design::RowsFirst)
    }

    /// All steps that could be taken.
    pub fn steps(&self, state: &State, steps: &mut Vec<Step>) {
        for (writer, task) in state.tasks.iter().enumerate() {
            let has_ended = matches!(task.at, At::Done | At::Failed);
            if !has_ended {
                steps.push(Step::Write(writer));
            }
            if !has_ended && state.crashes > 0 {
                steps.push(Step::Fail(writer));
            }
            let is_open = match task.at {
                At::Begin | At::Done => false,
                At::Upload(_) | At::Commit(_) | At::Finalize => !task.closed,
                At::Failed => task.holds.is_some(),
            };
            if is_open {
                steps.push(Step::Release(writer));
            }
        }
        for (sweeper, sweep) in state.sweeps.iter().enumerate() {
            match sweep {
                Sweep::Idle => steps.extend(claims(state).map(|id| Step::Claim(sweeper, id))),
                Sweep::Claimed(_) | Sweep::Deleted(_) => {
                    steps.push(Step::Sweep(sweeper));
                    if state.crashes > 0 {
                        steps.push(Step::Crash(sweeper));
                    }
                }
            }
        }
        if self.inventory {
            self.inventory_steps(state, steps);
        }
    }

    fn inventory_steps(&self, state: &State, steps: &mut Vec<Step>) {
        match &state.inventory {
            Inventory::Idle if self.design == Design::RowsFirst => steps.push(Step::Inventory),
            Inventory::Idle | Inventory::Read(_) => steps.extend(state.objects.iter().copied().map(Step::List)),
            Inventory::Listed(_) | Inventory::Condemned(_) => steps.push(Step::Inventory),
        }
    }

    /// Takes a step; `None` where it cannot be taken now.
    pub fn take(&self, state: &mut State, step: Step) -> Option<()> {
        match step {
            Step::Write(writer) => state.tasks[writer].at = self.write(state, writer)?,
            Step::Fail(writer) => {
                state.tasks[writer].at = At::Failed;
                state.crashes -= 1;
            }
            Step::Release(writer) => {
                state.tasks[writer].closed = true;
                state.tasks[writer].holds = None;
            }
            Step::Claim(sweeper, id) => {
                if self.design != Design::Head {
                    state.rows.insert(id, Row::Deleting);
                }
                state.sweeps[sweeper] = Sweep::Claimed(id);
            }
            Step::Sweep(sweeper) => self.sweep(state, sweeper),
            Step::Crash(sweeper) => {
                state.sweeps[sweeper] = Sweep::Idle;
                state.crashes -= 1;
            }
            Step::List(key) => {
                state.inventory = match &state.inventory {
                    Inventory::Read(ids) if ids.contains(&key) => Inventory::Idle,
                    Inventory::Read(_) => Inventory::Condemned(key),
                    _ => Inventory::Listed(key),
                }
            }
            Step::Inventory => take_stock(state),
        }
        for task in &mut state.tasks {
            // What makes no difference any more would only make more states.
            if matches!(task.at, At::Done | At::Failed) {
                (task.closed, task.again) = (false, false);
            }
        }
        state.tasks.sort_unstable();
        state.sweeps.sort_unstable();
        Some(())
    }

    /// Where a writer stands after its next step; `None` where it waits.
    fn write(&self, state: &mut State, writer: usize) -> Option<At> {
        let closed = state.tasks[writer].closed;
        Some(match state.tasks[writer].at {
            At::Begin | At::Finalize if closed => At::Failed,
            At::Begin => return self.begin(state, writer),
            At::Upload(id) => {
                state.objects.insert(self.key(id));
                At::Commit(id)
            }
            At::Commit(id) if closed => {
                // The transaction that refuses lets the row go too, where it is pending still.
                give_up(state, id);
                At::Failed
            }
            At::Commit(id) => self.commit(state, writer, id),
            At::Finalize => At::Done,
            ended @ (At::Done | At::Failed) => ended,
        })
    }

    /// Step 1 of the protocol; `None` where the writer waits.
    fn begin(&self, state: &mut State, writer: usize) -> Option<At> {
        if self.design == Design::Head {
            let is_there = state.objects.contains(&0) && state.rows.contains_key(&0);
            return Some(if is_there { At::Commit(0) } else { At::Upload(0) });
        }
        if let Some(id) = state.live() {
            state.tasks[writer].holds = Some(id);
            return Some(At::Finalize);
        }
        if !self.has_own_keys()
            && let Some((&id, &row)) = state.rows.first_key_value()
        {
            if self.design == Design::Wait || row == Row::Pending {
                return None;
            }
            state.rows.insert(id, Row::Pending);
            return Some(At::Upload(id));
        }
        let id = state.next;
        state.next += 1;
        state.rows.insert(id, Row::Pending);
        Some(At::Upload(id))
    }

    /// Step 3 of the protocol.
    fn commit(&self, state: &mut State, writer: usize, id: Id) -> At {
        if self.design == Design::Head {
            state.rows.insert(id, Row::Live);
            state.tasks[writer].holds = Some(id);
            return At::Finalize;
        }
        if state.rows.get(&id) != Some(&Row::Pending) {
            let again = std::mem::replace(&mut state.tasks[writer].again, true);
            return if again { At::Failed } else { At::Begin };
        }
        let to = state.live().unwrap_or(id);
        state.rows.insert(id, if to == id { Row::Live } else { Row::Deleting });
        state.tasks[writer].holds = Some(to);
        At::Finalize
    }

    /// Step 7 of the protocol.
    fn sweep(&self, state: &mut State, sweeper: usize) {
        state.sweeps[sweeper] = match state.sweeps[sweeper] {
            Sweep::Claimed(id) => {
                state.objects.remove(&self.key(id));
                Sweep::Deleted(id)
            }
            Sweep::Deleted(id) => {
                let goes = match self.design {
                    Design::Head => !state.is_referred_to(id),
                    _ => state.rows.get(&id) == Some(&Row::Deleting),
                };
                if goes {
                    state.rows.remove(&id);
                }
                Sweep::Idle
            }
            Sweep::Idle => Sweep::Idle,
        };
    }
}

fn give_up(state: &mut State, id: Id) {
    if let Some(row @ Row::Pending) = state.rows.get_mut(&id) {
        *row = Row::Deleting;
    }
}

fn take_stock(state: &mut State) {
    state.inventory = match &state.inventory {
        Inventory::Listed(key) if !state.rows.contains_key(key) => Inventory::Condemned(*key),
        Inventory::Condemned(key) => {
            state.objects.remove(key);
            Inventory::Idle
        }
        Inventory::Idle => Inventory::Read(state.rows.keys().copied().collect()),
        Inventory::Listed(_) | Inventory::Read(_) => Inventory::Idle,
    };
}

/// What a sweep alone would do next, or the inventory once that finds nothing.
pub fn tidy(state: &State) -> Option<Step> {
    let open = state.tasks.iter().position(|task| task.at == At::Failed && task.holds.is_some());
    let claim = || claims(state).next().map(|id| Step::Claim(0, id));
    let list = || state.objects.iter().find(|key| !state.rows.contains_key(key)).copied().map(Step::List);
    let busy = state.sweeps.iter().position(|sweep| *sweep != Sweep::Idle);
    match (busy, &state.inventory) {
        (Some(sweeper), _) => Some(Step::Sweep(sweeper)),
        (None, Inventory::Idle) => open.map(Step::Release).or_else(claim).or_else(list),
        (None, _) => Some(Step::Inventory),
    }
}

/// What a sweep may claim.
fn claims(state: &State) -> impl Iterator<Item = Id> {
    let may = |id, row| match row {
        Row::Live => !state.is_referred_to(id),
        Row::Pending | Row::Deleting => true,
    };
    state.rows.iter().map(|(id, row)| (*id, *row)).filter(move |(id, row)| may(*id, *row)).map(|(id, _)| id)
}
