//! Which sequences get how many tokens in which blocks. Takes no clock, does no I/O and draws no random numbers: the
//! same submissions, prompt budgets and outcomes lead to the same plans.
//!
//! The rules are those of vLLM's V1 scheduler: running sequences first, in order; whoever finds no block makes the
//! sequence with the largest rank give way; then, unless somebody gave way, waiting requests while their whole prompt
//! fits. Three rules are ours. A waiting request does not wait for sequences of a worse priority, nor for those that a
//! client request of many sequences has above its share: these give way before the step is planned. Equals never do.
//! And a prompt with less than half left of what the first in line has left does not wait for it: half of the prompt
//! tokens of a step are for such brief ones, so that a question does not wait for a book.
//!
//! Why this cannot deadlock: a request is only taken if it fits alone; a sequence that runs alone always gets its
//! blocks; and when nothing runs, the next waiting request is admitted.

use crate::budget::{Brief, Budget};
use crate::config::{EngineConfig, SchedulingPolicy};
use crate::executor::{OutputRow, Slot, StepPlan};
use crate::groups::{Groups, Shares};
use crate::kv_blocks::KvBlocks;
use crate::ledger::BlockTally;
use crate::pace::Demand;
use crate::prefix_cache::PrefixId;
use crate::queue::{Rank, WaitingQueue};
use crate::request::{Pooling, Request, Task};
use crate::sequence::{Arena, Sequence, SequenceKey, Tokens};

/// What a call of [`Scheduler::schedule`] decided besides the plan.
#[derive(Debug, Default)]
pub(crate) struct Decisions {
    /// The plan's sequences, in its order. Their `scheduled` says how many tokens each gets.
    pub(crate) scheduled: Vec<SequenceKey>,
    /// Sequences admitted for the first time, with their tokens from the prefix cache.
    pub(crate) started: Vec<(SequenceKey, usize)>,
    /// Sequences that lost their blocks.
    pub(crate) preempted: usize,
}

impl Decisions {
    fn clear(&mut self) {
        self.scheduled.clear();
        self.started.clear();
        self.preempted = 0;
    }
}

/// Waiting requests that are looked at for brief prompts: the look-up of their prefixes takes time.
const LOOKED_AT: usize = 16;

/// All sequences, their order, and the blocks.
pub(crate) struct Scheduler {
    config: EngineConfig,
    pub(crate) sequences: Arena,
    kv: KvBlocks,
    /// In the order of admission.
    running: Vec<SequenceKey>,
    /// Never admitted; they hold nothing.
    fresh: WaitingQueue,
    /// Gave way; they hold a slot and no blocks.
    preempted: WaitingQueue,
    free_slots: Vec<Slot>,
    /// Slots that were ever handed out.
    slots: u32,
    groups: Groups,
    arrivals: u64,
    /// Of the last step.
    pub(crate) decisions: Decisions,
}

impl Scheduler {
    /// Nothing to do yet.
    pub(crate) fn new(config: &EngineConfig) -> Self {
        let slots = u32::try_from(config.max_num_seqs).expect("slots are counted in 32 bits");
        Self {
            sequences: Arena::default(),
            kv: KvBlocks::new(config),
            running: Vec::with_capacity(config.max_num_seqs),
            fresh: WaitingQueue::default(),
            preempted: WaitingQueue::default(),
            free_slots: (0..slots).rev().map(Slot).collect(),
            slots,
            groups: Groups::default(),
            arrivals: 0,
            decisions: Decisions::default(),
            config: config.clone(),
        }
    }

    /// Sequences that take part in steps.
    pub(crate) fn running(&self) -> usize {
        self.running.len()
    }

    /// Sequences that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.fresh.len() + self.preempted.len()
    }

    /// The blocks.
    pub(crate) const fn kv(&self) -> &KvBlocks {
        &self.kv
    }

    /// Forgets cached prefixes, if no sequence holds a block.
    pub(crate) fn reset_prefixes(&mut self) -> bool {
        self.kv.reset_prefixes()
    }

    /// Queues a request that fits alone; its sink stays with the caller.
    pub(crate) fn enqueue(&mut self, request: Request) -> (SequenceKey, Box<dyn crate::request::EventSink>) {
        let priority = match self.config.policy {
            SchedulingPolicy::FirstComeFirstServed => 0,
            SchedulingPolicy::Priority => request.priority,
        };
        let rank = Rank { priority, arrival: self.arrivals };
        self.arrivals += 1;
        let key = self.sequences.insert(Sequence {
            id: request.id,
            group: self.groups.enter(request.group),
            rank,
            cache_salt: request.cache_salt,
            prompt_tokens: request.prompt.len(),
            tokens: Tokens::Shared(request.prompt),
            computed: 0,
            scheduled: 0,
            slot: None,
            blocks: Vec::new(),
            first_live_block: 0,
            hashes: Vec::new(),
            cached_blocks: 0,
            cached_prefix: PrefixId::ROOT,
            tally: BlockTally::default(),
            prompt_logprobs: Vec::new(),
            prompt_done: false,
            abandoned: false,
            task: request.task,
        });
        self.fresh.insert(rank, key);
        (key, request.sink)
    }

    /// Takes a sequence out, wherever it is, and its blocks and slot back.
    pub(crate) fn remove(&mut self, key: SequenceKey) -> Sequence {
        let mut sequence = self.sequences.remove(key);
        if let Some(position) = self.running.iter().position(|other| *other == key) {
            self.running.remove(position);
        } else {
            let queue = if sequence.slot.is_some() { &mut self.preempted } else { &mut self.fresh };
            assert!(queue.remove(sequence.rank), "a sequence that does not run waits");
        }
        self.kv.release_all(&mut sequence);
        self.free_slots.extend(sequence.slot);
        self.groups.leave(sequence.group);
        sequence
    }

    /// Makes what a sequence computed impossible to find by others.
    pub(crate) fn distrust(&mut self, key: SequenceKey) {
        self.kv.distrust(&self.sequences[key]);
    }

    /// What the next step will find. A brief prompt counts as a stream, since its client expects a token just as soon.
    pub(crate) fn demand(&mut self) -> Demand {
        let mut demand = Demand::default();
        let mut prompts = 0;
        for key in &self.running {
            let sequence = &self.sequences[*key];
            if sequence.is_stream() {
                demand.streams += 1;
            } else {
                prompts += 1;
                demand.context = demand.context.max(sequence.computed);
            }
        }
        if let (true, Some((_, key))) = (self.running.len() < self.config.max_num_seqs, self.next_waiting()) {
            demand.context = demand.context.max(self.kv.find_prefix(&mut self.sequences[key]).0);
            prompts += self.waiting();
        }
        if demand.streams == 0 && prompts > 1 && !self.find_briefs(0).is_empty() {
            demand.streams = 1;
        }
        demand
    }

    /// Plans a step of at most `prompt_budget` prompt tokens: fills `plan` and `self.decisions`.
    pub(crate) fn schedule(&mut self, prompt_budget: usize, plan: &mut StepPlan) {
        self.decisions.clear();
        plan.prompt_budget = prompt_budget;
        let streams = self.running.iter().filter(|key| self.sequences[**key].is_stream()).count();
        let mut budget = Budget::new(self.config.max_num_batched_tokens, prompt_budget.max(1), streams);
        self.make_room(&mut budget);
        let gave_way = self.decisions.preempted;
        if self.config.enable_chunked_prefill {
            let briefs = self.find_briefs(budget.for_prompts() / 2);
            budget.keep_for(briefs);
        }
        self.schedule_running(&mut budget);
        // Only now is it settled who computes what: a sequence that was scheduled and then gave way computes nothing.
        for key in &self.decisions.scheduled {
            self.kv.cache_full_blocks(&mut self.sequences[*key]);
        }
        if self.decisions.preempted == gave_way {
            self.admit_waiting(&mut budget);
        }
        self.fill(plan);
    }

    /// Prompts that need not wait for the first in line, the briefest first; none, if it has at most `enough` left.
    fn find_briefs(&mut self, enough: usize) -> Vec<Brief> {
        let mut line: Vec<Brief> = Vec::new();
        let prompts = self.running.iter().filter(|key| !self.sequences[**key].is_stream());
        line.extend(prompts.map(|key| Brief { key: *key, left: self.sequences[*key].left(), kept: 0 }));
        if line.first().is_none_or(|first| first.left > enough) {
            self.line_up_waiting(&mut line);
        }
        let Some(first) = line.first().copied() else { return line };
        let rank = |brief: &Brief| self.sequences[brief.key].rank;
        let priority = rank(&first).priority;
        line.retain(|brief| brief.left < first.left / 2 && rank(brief).priority <= priority);
        line.sort_by_key(|brief| (brief.left, rank(brief)));
        line
    }

    /// Appends requests that wait and could come in at once, beside whoever waits before them: so that none of these
    /// finds its blocks or its slot taken.
    fn line_up_waiting(&mut self, line: &mut Vec<Brief>) {
        let mut slots = self.config.max_num_seqs.saturating_sub(self.running.len());
        let Some((rank, front)) = self.next_waiting().filter(|_| slots > 0) else { return };
        let shares = self.shares();
        let is_served = |key: SequenceKey| self.groups.is_served(self.sequences[key].group, shares);
        let may_be_served = is_served(front);
        let equals = self.preempted.of_priority(rank.priority).chain(self.fresh.of_priority(rank.priority));
        let others = equals.filter(|key| *key != front && (may_be_served || !is_served(*key)));
        let waiting: Vec<SequenceKey> = std::iter::once(front).chain(others).take(LOOKED_AT).collect();
        let mut free = self.kv.free_blocks().saturating_sub(self.promised() + self.watermark_blocks());
        for key in waiting {
            let (left, needed) = self.look_up(key);
            if slots == 0 || needed > free {
                break;
            }
            (slots, free) = (slots - 1, free - needed);
            line.push(Brief { key, left, kept: 0 });
        }
    }

    /// Tokens that a sequence with `remaining` tokens to compute gets out of `budget`, if it is no stream.
    fn share(&self, key: SequenceKey, remaining: usize, budget: &Budget) -> usize {
        let threshold = match self.config.long_prefill_token_threshold {
            0 => usize::MAX,
            threshold => threshold,
        };
        remaining.min(threshold).min(budget.for_prompt(key))
    }

    fn schedule_running(&mut self, budget: &mut Budget) {
        let mut position = 0;
        while position < self.running.len() {
            let key = self.running[position];
            let sequence = &mut self.sequences[key];
            self.kv.release_passed(sequence);
            let (computed, is_stream) = (sequence.computed, sequence.is_stream());
            let left = sequence.left();
            let tokens = if is_stream { 1 } else { self.share(key, left, budget) };
            if tokens == 0 {
                position += 1;
                continue;
            }
            loop {
                if self.kv.extend(&mut self.sequences[key], computed + tokens) {
                    self.sequences[key].scheduled = tokens;
                    self.decisions.scheduled.push(key);
                    if is_stream {
                        budget.take_for_stream();
                    } else {
                        budget.take_for_prompt(key, tokens);
                    }
                    position += 1;
                    break;
                }
                let victim = self.victim();
                self.preempt(victim, budget);
                if victim == position {
                    break;
                }
                if victim < position {
                    position -= 1;
                }
            }
        }
    }

    /// Position in `running` of the sequence of the worst priority, and among these of one that its client request has
    /// above its share, and then with the largest rank. First come first served, that is the newest.
    fn victim(&mut self) -> usize {
        self.weigh_groups();
        let shares = self.shares();
        let order = |position: &usize| {
            let sequence = &self.sequences[self.running[*position]];
            let spare = self.groups.can_spare(sequence.group, sequence.live_blocks(), shares);
            (sequence.rank.priority, spare, sequence.rank.arrival)
        };
        (0..self.running.len()).max_by_key(order).expect("a sequence that finds no block runs")
    }

    /// Counts what each client request has.
    fn weigh_groups(&mut self) {
        self.groups.clear_weights();
        for key in &self.running {
            let sequence = &self.sequences[*key];
            self.groups.weigh(sequence.group, sequence.live_blocks());
        }
    }

    fn shares(&self) -> Shares {
        self.groups.shares(self.config.max_num_seqs, self.config.usable_blocks())
    }

    /// Makes sequences give way to the next waiting one that are worse than it, or more than their client request's
    /// share, if it cannot run beside them and could without.
    fn make_room(&mut self, budget: &mut Budget) {
        let Some((rank, key)) = self.next_waiting() else { return };
        let shares = self.shares();
        let group = self.sequences[key].group;
        let may_share = !self.groups.is_served(group, shares);
        let (_, needed) = self.look_up(key);
        let mut running = self.running.len();
        let mut promised = self.promised();
        let mut free = self.kv.free_blocks();
        let mut candidates = self.running.clone();
        let mut victims = Vec::new();
        loop {
            let reserve = if running == 0 { 0 } else { self.watermark_blocks() };
            if running < self.config.max_num_seqs && needed + promised + reserve <= free {
                break;
            }
            let gives_way = |candidate: &SequenceKey| {
                let other = &self.sequences[*candidate];
                let is_worse = other.rank.priority > rank.priority;
                let is_spare = other.rank.priority == rank.priority
                    && may_share
                    && other.group != group
                    && self.groups.can_spare(other.group, other.live_blocks(), shares);
                is_worse || is_spare
            };
            let worst = candidates.iter().enumerate().filter(|(_, candidate)| gives_way(candidate));
            let Some((at, _)) = worst.max_by_key(|(_, candidate)| self.sequences[**candidate].rank) else {
                return;
            };
            let victim = candidates.swap_remove(at);
            let other = &self.sequences[victim];
            self.groups.unweigh(other.group, other.live_blocks());
            running -= 1;
            promised -= self.promised_blocks(other);
            free += other.live_blocks();
            victims.push(victim);
        }
        for victim in victims {
            let position = self.running.iter().position(|key| *key == victim).expect("a candidate runs");
            self.preempt(position, budget);
        }
    }

    /// Tokens that a waiting sequence has to compute, and blocks that it takes from the free ones for all that it has.
    fn look_up(&mut self, key: SequenceKey) -> (usize, usize) {
        let sequence = &mut self.sequences[key];
        let known = sequence.tokens.len();
        let (cached, hit) = self.kv.find_prefix(sequence);
        (known - cached, self.config.blocks_held(known).saturating_sub(hit.held()) + hit.free)
    }

    /// Takes everything but its slot from the running sequence at `position`, and into `budget` the tokens that this
    /// step had given it.
    fn preempt(&mut self, position: usize, budget: &mut Budget) {
        let key = self.running.remove(position);
        let sequence = &mut self.sequences[key];
        let is_stream = sequence.is_stream();
        self.kv.release_all(sequence);
        sequence.computed = 0;
        let tokens = std::mem::take(&mut sequence.scheduled);
        if tokens > 0 {
            self.decisions.scheduled.retain(|other| *other != key);
        }
        budget.give_back(key, tokens, is_stream);
        self.preempted.insert(sequence.rank, key);
        self.decisions.preempted += 1;
    }

    fn admit_waiting(&mut self, budget: &mut Budget) {
        let mut promised = self.promised();
        while self.running.len() < self.config.max_num_seqs {
            let next = if budget.unclaimed() > 0 { self.next_waiting() } else { self.next_brief(budget) };
            let Some((rank, key)) = next else { break };
            let Some(tokens) = self.admit(key, budget, promised) else { break };
            budget.take_for_prompt(key, tokens);
            let first_time = self.sequences[key].slot.is_none();
            let queue = if first_time { &mut self.fresh } else { &mut self.preempted };
            assert!(queue.remove(rank), "who waits is in a queue");
            self.running.push(key);
            self.decisions.scheduled.push(key);
            if first_time {
                let slot = self.free_slots.pop().unwrap_or_else(|| {
                    self.slots += 1;
                    Slot(self.slots - 1)
                });
                let sequence = &mut self.sequences[key];
                sequence.slot = Some(slot);
                sequence.reserve(&self.config);
                self.decisions.started.push((key, sequence.computed));
            }
            let sequence = &mut self.sequences[key];
            self.kv.cache_full_blocks(sequence);
            promised += self.promised_blocks(&self.sequences[key]);
        }
    }

    /// Who is next: the smaller rank of both queues, where sequences whose client request has its share come after
    /// those of equal priority.
    fn next_waiting(&mut self) -> Option<(Rank, SequenceKey)> {
        if self.waiting() == 0 {
            return None;
        }
        self.weigh_groups();
        let shares = self.shares();
        let is_served = |key: SequenceKey| self.groups.is_served(self.sequences[key].group, shares);
        let queues = [self.preempted.next(is_served), self.fresh.next(is_served)];
        let order = |next: &(Rank, SequenceKey, bool)| (next.0.priority, next.2, next.0.arrival);
        queues.into_iter().flatten().min_by_key(order).map(|(rank, key, _)| (rank, key))
    }

    /// The next of those for whom tokens of this step are kept. All that still have to get theirs wait.
    fn next_brief(&self, budget: &Budget) -> Option<(Rank, SequenceKey)> {
        budget.next_brief().map(|key| (self.sequences[key].rank, key))
    }

    /// Blocks that running sequences will still take for the tokens that are known.
    fn promised(&self) -> usize {
        self.running.iter().map(|key| self.promised_blocks(&self.sequences[*key])).sum()
    }

    /// Blocks that a running sequence will still take for the tokens that are known.
    fn promised_blocks(&self, sequence: &Sequence) -> usize {
        self.config.blocks_held(sequence.tokens.len()).saturating_sub(sequence.live_blocks())
    }

    /// Gives a waiting sequence its cached prefix and the blocks of its first tokens, if all of its known tokens will
    /// fit beside what is `promised` to others; returns the number of tokens that it computes in this step.
    fn admit(&mut self, key: SequenceKey, budget: &Budget, promised: usize) -> Option<usize> {
        let sequence = &mut self.sequences[key];
        let known = sequence.tokens.len();
        let (cached, hit) = self.kv.find_prefix(sequence);
        let (held, taken_from_free) = (hit.held(), hit.free);
        let remaining = known - cached;
        let tokens = self.share(key, remaining, budget);
        if tokens < remaining && !self.config.enable_chunked_prefill {
            return None;
        }
        let reserve = if self.running.is_empty() { 0 } else { self.watermark_blocks() };
        let needed = self.config.blocks_held(known).saturating_sub(held) + taken_from_free;
        if needed + promised + reserve > self.kv.free_blocks() {
            return None;
        }
        let sequence = &mut self.sequences[key];
        self.kv.hold_prefix(sequence);
        assert!(self.kv.extend(sequence, cached + tokens), "the whole sequence fits, so its beginning does");
        sequence.scheduled = tokens;
        Some(tokens)
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a fraction of a block count is a block count"
    )]
    fn watermark_blocks(&self) -> usize {
        (self.config.watermark * self.config.usable_blocks() as f64).ceil() as usize
    }

    fn fill(&self, plan: &mut StepPlan) {
        plan.batch.clear();
        plan.outputs.clear();
        for key in &self.decisions.scheduled {
            let sequence = &self.sequences[*key];
            let slot = sequence.slot.expect("a running sequence has a slot");
            let (start, end) = (sequence.computed, sequence.computed + sequence.scheduled);
            let first_row = plan.batch.push_sequence(&sequence.tokens[start..end], start, &sequence.blocks);
            let mut output = |position: usize, output: OutputRow| {
                let row = first_row + position - start;
                plan.batch.output_rows.push(u32::try_from(row).expect("rows are counted in 32 bits"));
                plan.outputs.push(output);
            };
            if sequence.lacks_prompt_logprobs() {
                let wanted = start.max(sequence.prompt_logprobs.len())..end.min(sequence.prompt_tokens - 1);
                for position in wanted {
                    let target = sequence.tokens[position + 1];
                    output(position, OutputRow::PromptLogprob { slot, target });
                }
            }
            match sequence.task {
                Task::Generate { .. } if end == sequence.tokens.len() => {
                    output(end - 1, OutputRow::Sample(slot));
                }
                Task::Embed(pooling) => {
                    let counts = |position: &usize| pooling.counts(*position, sequence.prompt_tokens);
                    for position in (start..end).filter(counts) {
                        let is_first = position == 0 || pooling == Pooling::Last;
                        let is_last = position + 1 == sequence.prompt_tokens || pooling == Pooling::First;
                        output(position, OutputRow::Pool { slot, is_first, is_last });
                    }
                }
                Task::Generate { .. } | Task::Score { .. } => {}
            }
        }
    }
}
