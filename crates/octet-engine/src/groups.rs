//! Client requests and what they have of the engine: none gets more than its share while another waits.
//!
//! A request of many sequences (`n`, or many prompts) may use everything that nobody else wants. What each may have
//! when it is wanted is an equal part; a request of one sequence is never above it.

use std::collections::HashMap;

use crate::request::GroupId;

/// Index of a group, valid until its last sequence has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupKey(usize);

/// A client request inside the engine.
#[derive(Clone, Copy, Debug)]
struct Group {
    id: GroupId,
    /// Sequences that have not ended.
    inside: usize,
    /// Of these, those that run, as of the last weighing.
    running: usize,
    /// Blocks that these hold; one that several hold counts for each.
    blocks: usize,
}

/// The parts that each client request may have when others wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    /// Running sequences.
    pub(crate) sequences: usize,
    /// Blocks.
    pub(crate) blocks: usize,
}

/// All client requests with a sequence inside.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    places: Vec<Group>,
    vacant: Vec<usize>,
    by_id: HashMap<GroupId, usize>,
}

impl Groups {
    /// A sequence of the client request `id` comes in.
    pub(crate) fn enter(&mut self, id: GroupId) -> GroupKey {
        let place = *self.by_id.entry(id).or_insert_with(|| {
            let group = Group { id, inside: 0, running: 0, blocks: 0 };
            match self.vacant.pop() {
                Some(place) => {
                    self.places[place] = group;
                    place
                }
                None => {
                    self.places.push(group);
                    self.places.len() - 1
                }
            }
        });
        self.places[place].inside += 1;
        GroupKey(place)
    }

    /// A sequence has ended.
    pub(crate) fn leave(&mut self, key: GroupKey) {
        let group = &mut self.places[key.0];
        group.inside -= 1;
        if group.inside == 0 {
            self.by_id.remove(&group.id);
            self.vacant.push(key.0);
        }
    }

    /// What each may have of `sequences` and `blocks`.
    pub(crate) fn shares(&self, sequences: usize, blocks: usize) -> Shares {
        let groups = self.by_id.len().max(1);
        Shares { sequences: sequences.div_ceil(groups), blocks: blocks.div_ceil(groups) }
    }

    /// Forgets what was weighed.
    pub(crate) fn clear_weights(&mut self) {
        for group in &mut self.places {
            (group.running, group.blocks) = (0, 0);
        }
    }

    /// Counts a running sequence with its blocks.
    pub(crate) fn weigh(&mut self, key: GroupKey, blocks: usize) {
        let group = &mut self.places[key.0];
        group.running += 1;
        group.blocks += blocks;
    }

    /// It counts no longer.
    pub(crate) fn unweigh(&mut self, key: GroupKey, blocks: usize) {
        let group = &mut self.places[key.0];
        group.running -= 1;
        group.blocks -= blocks;
    }

    /// Whether a client request has its share, so that its waiting sequences come after those of others.
    pub(crate) fn is_served(&self, key: GroupKey, shares: Shares) -> bool {
        let group = &self.places[key.0];
        group.running > 0 && (group.running >= shares.sequences || group.blocks >= shares.blocks)
    }

    /// Whether a client request would have its share even without one of its sequences, which holds `blocks`.
    pub(crate) fn can_spare(&self, key: GroupKey, blocks: usize, shares: Shares) -> bool {
        let group = &self.places[key.0];
        group.running > 1 && (group.running > shares.sequences || group.blocks - blocks >= shares.blocks)
    }
}
