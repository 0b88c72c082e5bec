//! What goes wrong by plan, and how it is taken back.

use super::{Broken, Event, World};
use crate::{
    disk::Disk,
    network::{Filter, Pair},
    scenario::{Broken as BrokenDriver, Fault},
};
use cretoai_consensus::engine::Input;
use cretoai_types::{NodeId, Phase};

/// What a fault did, to be taken back when it ends.
#[derive(Debug, Default)]
pub(super) struct Undo {
    cut: Vec<Pair>,
    slow: Vec<Pair>,
    filter: Option<Filter>,
    /// The machine that is paused, full, slow or out of time.
    machine: Option<usize>,
}

impl World {
    pub(super) fn fault(&mut self, index: usize) -> Result<(), Broken> {
        let planned = self.scenario.faults[index];
        if self.calm {
            return Ok(());
        }
        let fault = planned.fault;
        let victim = self.victim(fault);
        *self.report.faults.entry(format!("{fault:?}")).or_default() += 1;
        self.note(|| {
            format!("{fault:?} of machine {victim} until {:.3} ms", planned.until as f64 / 1000.0)
        });
        let mut undo = Undo::default();
        match fault {
            Fault::Split | Fault::OneWaySplit => {
                undo.cut = self.halves(fault == Fault::OneWaySplit)
            }
            Fault::PartialCut => undo.cut = self.some_pairs(),
            Fault::Isolate | Fault::CutLeader => undo.cut = self.pairs_of(victim, true, true),
            Fault::Mute => undo.cut = self.pairs_of(victim, true, false),
            Fault::Deafen => undo.cut = self.pairs_of(victim, false, true),
            Fault::Flap => {
                self.schedule(self.now, Event::Flap { node: victim, until: planned.until })
            }
            Fault::SlowLink => {
                undo.slow = self.pairs_of(victim, true, true);
                let micros = self.rng.range(5_000, 60_000);
                undo.slow.iter().for_each(|pair| self.network.slow(*pair, micros));
            }
            Fault::OneDecides | Fault::OnePrepares => {
                let phase = if fault == Fault::OneDecides { Phase::Commit } else { Phase::Prepare };
                undo.filter = Some(Filter { phase, only: victim });
                undo.cut = self.pairs_of(victim, true, false);
            }
            Fault::Pause | Fault::PauseLeader => {
                self.machines[victim].paused = true;
                undo.machine = Some(victim);
            }
            Fault::KillLeader => self.crash(victim, false),
            Fault::RollingRestart => self.restart_all(),
            Fault::Blackout => (0..self.machines.len()).for_each(|node| self.crash(node, true)),
            Fault::ClockForward | Fault::ClockBack => {
                let by = self.rng.range(1, 30_000) as i64;
                self.machines[victim].skew_ms +=
                    if fault == Fault::ClockForward { by } else { -by };
                undo.machine = Some(victim);
            }
            Fault::SlowDisk => {
                self.machines[victim].slow_disk = self.rng.range(5_000, 120_000);
                undo.machine = Some(victim);
            }
            Fault::WriteError | Fault::FullDisk => {
                self.machines[victim].full = true;
                undo.machine = Some(victim);
            }
            Fault::LostVolume => self.lose_volume(victim)?,
            Fault::RestoredVolume => self.restore_volume()?,
            Fault::Idle => self.idle_until = self.idle_until.max(planned.until),
        }
        undo.cut.iter().for_each(|pair| self.network.cut(*pair));
        self.network.filters.extend(undo.filter);
        self.undo.insert(index, undo);
        Ok(())
    }

    pub(super) fn fault_ends(&mut self, index: usize) -> Result<(), Broken> {
        let Some(undo) = self.undo.remove(&index) else { return Ok(()) };
        let fault = self.scenario.faults[index].fault;
        self.note(|| format!("{fault:?} ends"));
        for pair in &undo.cut {
            self.mend(*pair);
        }
        undo.slow.iter().for_each(|pair| self.network.slow(*pair, 0));
        if let Some(filter) = undo.filter
            && let Some(place) = self.network.filters.iter().position(|known| *known == filter)
        {
            self.network.filters.swap_remove(place);
        }
        let Some(victim) = undo.machine else { return Ok(()) };
        let machine = &mut self.machines[victim];
        match fault {
            Fault::ClockForward | Fault::ClockBack => {
                machine.skew_ms = self.rng.below(self.scenario.skew_ms.max(1)) as i64
            }
            Fault::SlowDisk => machine.slow_disk = 0,
            Fault::WriteError | Fault::FullDisk => {
                machine.full = false;
                return self.start(victim);
            }
            _ => {
                machine.paused = false;
                if machine.flushing.is_none() {
                    return self.take_inbox(victim);
                }
            }
        }
        Ok(())
    }

    /// Takes back one cut of a link; its ends connect again.
    pub fn mend(&mut self, (from, to): Pair) {
        self.network.mend((from, to));
        if !self.network.is_cut((from, to)) {
            let at = self.now + self.rng.below(20_000);
            self.schedule(at, Event::Connected { node: from, peer: to });
            self.schedule(at, Event::Connected { node: to, peer: from });
        }
    }

    fn victim(&mut self, fault: Fault) -> usize {
        let leader = matches!(fault, Fault::CutLeader | Fault::PauseLeader | Fault::KillLeader);
        let members = self.members();
        let id = if leader || members.is_empty() {
            self.leader()
        } else {
            members[self.rng.index(members.len())]
        };
        self.machine_of(id)
    }

    pub(super) fn machine_of(&self, id: NodeId) -> usize {
        self.machines.iter().position(|machine| machine.own == id).unwrap_or(0)
    }

    fn halves(&mut self, one_way: bool) -> Vec<Pair> {
        let count = self.machines.len();
        let side: Vec<bool> = (0..count).map(|_| self.rng.chance(500)).collect();
        let pairs = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
        pairs.filter(|(from, to)| side[*from] != side[*to] && (!one_way || side[*from])).collect()
    }

    fn some_pairs(&mut self) -> Vec<Pair> {
        let count = self.machines.len();
        let share = self.rng.range(100, 500);
        let pairs = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
        pairs.filter(|(from, to)| from != to).filter(|_| self.rng.chance(share)).collect()
    }

    /// All links of one machine, out, in, or both.
    #[must_use]
    pub fn pairs_of(&self, node: usize, out: bool, incoming: bool) -> Vec<Pair> {
        let others = (0..self.machines.len()).filter(move |other| *other != node);
        others
            .flat_map(|other| [(node, other), (other, node)])
            .filter(|(from, _)| if *from == node { out } else { incoming })
            .collect()
    }

    /// Cuts a machine off.
    pub fn isolate(&mut self, node: usize) {
        self.pairs_of(node, true, true).into_iter().for_each(|pair| self.network.cut(pair));
    }

    /// Takes back [`Self::isolate`].
    pub fn rejoin(&mut self, node: usize) {
        self.pairs_of(node, true, true).into_iter().for_each(|pair| self.mend(pair));
    }

    pub(super) fn flap(&mut self, node: usize, until: u64) -> Result<(), Broken> {
        let pairs = self.pairs_of(node, true, true);
        // What was on its way is lost, and new channels are made at once.
        pairs.iter().for_each(|pair| self.network.cut(*pair));
        pairs.iter().for_each(|pair| self.mend(*pair));
        let next = self.now + self.rng.range(10_000, 80_000);
        if next < until && !self.calm {
            self.schedule(next, Event::Flap { node, until });
        }
        Ok(())
    }

    fn restart_all(&mut self) {
        let mut at = self.now;
        for node in 0..self.machines.len() {
            self.schedule(at, Event::Restart(node));
            at += self.rng.range(20_000, 200_000);
        }
    }

    /// A clean shutdown, and a start soon after.
    pub(super) fn restart(&mut self, node: usize) -> Result<(), Broken> {
        if self.machines[node].engine.is_none() {
            return Ok(());
        }
        if self.rng.chance(700) {
            self.input(node, Input::Resign)?;
        }
        self.stop(node, false);
        let back = self.now + self.rng.range(1_000, 50_000);
        self.schedule(back, Event::Start(node));
        Ok(())
    }

    /// Volume and key are gone. The machine follows with a new key until that one is entered.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn lose_volume(&mut self, node: usize) -> Result<(), Broken> {
        self.stop(node, true);
        let fault = match self.scenario.broken {
            Some(BrokenDriver::Disk(fault)) => Some(fault),
            _ => None,
        };
        let machine = &mut self.machines[node];
        machine.disk = Disk::new(fault);
        machine.backup = None;
        machine.keys = vec![machine.next_key];
        machine.next_key += 1;
        machine.suspect = false;
        let own = machine.own;
        self.admin.replace(own);
        self.note(|| format!("node {own} has lost its volume"));
        self.start(node)
    }

    /// Somebody copies a volume while its node runs.
    pub(super) fn back_up(&mut self) -> Result<(), Broken> {
        let victim = self.victim(Fault::RestoredVolume);
        self.copy_volume(victim);
        Ok(())
    }

    /// Copies a volume, to be restored later.
    pub fn copy_volume(&mut self, node: usize) {
        let machine = &mut self.machines[node];
        let mut copy = machine.disk.clone();
        copy.lose_power(0);
        machine.backup = Some(Box::new((copy, machine.keys.clone())));
    }

    /// A volume is restored from the copy that was made of it, if one was.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn restore_volume(&mut self) -> Result<(), Broken> {
        let Some(node) =
            self.machines.iter().position(|m| m.backup.is_some() && m.attacker.is_none())
        else {
            return Ok(());
        };
        self.stop(node, true);
        let machine = &mut self.machines[node];
        if let Some(backup) = machine.backup.take() {
            (machine.disk, machine.keys) = *backup;
            // What it wrote then was durable, and was looked at then.
            machine.disk.take_fresh();
        }
        machine.suspect = true;
        let own = machine.own;
        self.checks.suspect(own, None);
        self.note(|| format!("the volume of node {own} is restored from an older copy"));
        self.start(node)
    }
}
