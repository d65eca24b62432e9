//! An executor without a model. It stores, for each place of each block, a hash of the whole token prefix that was
//! written there, reads it back the way attention would, and samples tokens that depend on all that was read.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use octet_engine::{
    Delivery, Engine, EngineConfig, Event, EventSink, Executor, ExecutorError, Finish, FinishReason, GroupId,
    OutputRow, Pooling, Request, RequestId, RowOutcome, Slot, StepOutput, StepPlan, Task,
};
use octet_sample::{LogprobCount, PositionLogprobs, SampledToken, SamplingParams, TokenLogprob};

/// Tokens that the fake samples are below this; few, so that prefixes repeat.
pub(crate) const VOCABULARY: u32 = 5;

/// Seeds with this bit fault once as many tokens are out as the lowest bits say.
pub(crate) const FAULTY: u64 = 1 << 40;

pub(crate) fn mix(state: u64, value: u64) -> u64 {
    let mut hash = (state ^ value.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(0x632b_e59b_d9b4_e019);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash ^ (hash >> 29)
}

/// Hash of a token prefix.
pub(crate) fn prefix_hash(tokens: &[u32]) -> u64 {
    tokens.iter().fold(1, |hash, token| mix(hash, u64::from(*token)))
}

fn sampled(prefix: u64, seed: u64) -> u32 {
    u32::try_from(mix(prefix, seed) % u64::from(VOCABULARY)).unwrap()
}

fn logprobs(prefix: u64, target: u32) -> PositionLogprobs {
    let logprob = -((prefix % 1000) as f32);
    PositionLogprobs { chosen: TokenLogprob { token: target, logprob, rank: 1 }, top: Vec::new() }
}

/// What stands for the hidden state after a prefix.
fn hidden(prefix: u64) -> f32 {
    (prefix % 65_536) as f32
}

struct SlotState {
    sampling: SamplingParams,
    tokens: Vec<u32>,
    prompt_tokens: usize,
    /// Prompt logprobs given so far.
    prompt_logprobs: usize,
    /// Hidden states that count so far, a number each.
    pooled: Vec<f32>,
}

pub(crate) struct Fake {
    config: EngineConfig,
    slots: BTreeMap<Slot, SlotState>,
    /// By block and place.
    stored: Vec<Option<u64>>,
    /// Every plan so far.
    pub(crate) plans: Vec<StepPlan>,
    /// The step with this number fails, counted from 0.
    pub(crate) fails_at: Option<usize>,
    /// The step that does not end in time.
    pub(crate) stalls_at: Option<usize>,
    /// The step with this number panics.
    pub(crate) panics_at: Option<usize>,
    /// Each step takes this long.
    pub(crate) delay: Duration,
    /// On [`Fake::clock`] each row takes this long, and a step as long as ten rows more.
    pub(crate) row_time: Duration,
    time_ns: Arc<AtomicU64>,
    /// Slices of work of its own that are left, by which it tells a test how far it is.
    pub(crate) idle_slices: Arc<AtomicUsize>,
}

impl Fake {
    pub(crate) fn new(config: &EngineConfig) -> Self {
        Self {
            config: config.clone(),
            slots: BTreeMap::new(),
            stored: vec![None; config.num_blocks * config.block_size],
            plans: Vec::new(),
            fails_at: None,
            stalls_at: None,
            panics_at: None,
            delay: Duration::ZERO,
            row_time: Duration::ZERO,
            time_ns: Arc::default(),
            idle_slices: Arc::default(),
        }
    }

    /// A clock that only steps move.
    pub(crate) fn clock(&self) -> impl Fn() -> Duration + use<> {
        let time_ns = Arc::clone(&self.time_ns);
        move || Duration::from_nanos(time_ns.load(Ordering::SeqCst))
    }

    /// The seed of the sequence in a slot, by which tests know it.
    pub(crate) fn seed(&self, slot: Slot) -> u64 {
        self.slots[&slot].sampling.seed
    }

    fn place(&self, table: &[u32], position: usize) -> usize {
        let block = table[position / self.config.block_size] as usize;
        assert_ne!(block, 0, "position {position} is in the null block");
        block * self.config.block_size + position % self.config.block_size
    }

    /// Writes all rows of the plan, checks its form, and returns each row's prefix hash.
    fn write(&mut self, plan: &StepPlan) -> Vec<u64> {
        let batch = &plan.batch;
        assert!(batch.rows() <= self.config.max_num_batched_tokens, "the budget is kept");
        assert!(batch.sequences.len() <= self.config.max_num_seqs, "the number of sequences is kept");
        let mut written = HashSet::new();
        let mut hashes = Vec::new();
        for sequence in &batch.sequences {
            let table = batch.block_table(sequence);
            let end = sequence.computed + sequence.rows;
            assert!(sequence.rows > 0);
            assert_eq!(sequence.first_row, hashes.len(), "rows follow without a gap");
            assert_eq!(table.len(), end.div_ceil(self.config.block_size), "the table covers the tokens");
            let live: Vec<u32> = table.iter().copied().filter(|block| *block != 0).collect();
            assert_eq!(live.len(), live.iter().collect::<HashSet<_>>().len(), "a table names a block once");
            let mut hash = match sequence.computed {
                0 => prefix_hash(&[]),
                computed => self.stored[self.place(table, computed - 1)].expect("what is read was written"),
            };
            for row in 0..sequence.rows {
                let position = sequence.computed + row;
                assert_eq!(batch.positions[sequence.first_row + row] as usize, position);
                hash = mix(hash, u64::from(batch.tokens[sequence.first_row + row]));
                let place = self.place(table, position);
                assert!(written.insert(place), "two rows write the same place");
                self.stored[place] = Some(hash);
                hashes.push(hash);
            }
        }
        hashes
    }

    /// Checks that every place that the row at `position` sees holds that very prefix of the sequence.
    fn check_context(&self, slot: Slot, table: &[u32], position: usize) {
        let tokens = &self.slots[&slot].tokens;
        let first_seen = self.config.sliding_window.map_or(0, |window| (position + 1).saturating_sub(window));
        let mut hash = prefix_hash(&[]);
        for (index, token) in tokens[..=position].iter().enumerate() {
            hash = mix(hash, u64::from(*token));
            if index >= first_seen {
                let stored = self.stored[self.place(table, index)];
                assert_eq!(stored, Some(hash), "position {index} of {position} holds another prefix");
            }
        }
    }

    fn answer(&mut self, output: OutputRow, position: usize, hash: u64) -> RowOutcome {
        match output {
            OutputRow::PromptLogprob { slot, target } => {
                let state = self.slots.get_mut(&slot).unwrap();
                assert_eq!(
                    state.prompt_logprobs, position,
                    "each prompt logprob is asked for once, in order"
                );
                assert_eq!(state.tokens[position + 1], target);
                state.prompt_logprobs += 1;
                RowOutcome::PromptLogprobs(logprobs(hash, target))
            }
            OutputRow::Pool { slot, is_first, is_last } => {
                let state = self.slots.get_mut(&slot).unwrap();
                if is_first {
                    state.pooled.clear();
                }
                state.pooled.push(hidden(hash));
                RowOutcome::Pooled(is_last.then(|| state.pooled.clone()))
            }
            OutputRow::Sample(slot) => {
                let state = self.slots.get_mut(&slot).unwrap();
                assert_eq!(position + 1, state.tokens.len(), "the last known token's row is sampled");
                let generated = state.tokens.len() - state.prompt_tokens;
                let seed = state.sampling.seed;
                if seed & FAULTY != 0 && generated as u64 == seed % 4 {
                    return RowOutcome::Fault("it is not a number".into());
                }
                let token = sampled(hash, seed);
                state.tokens.push(token);
                RowOutcome::Token(SampledToken { token, logprobs: None })
            }
        }
    }
}

impl Executor for Fake {
    fn idle(&mut self) -> Result<bool, ExecutorError> {
        assert!(self.slots.is_empty(), "a request is inside");
        let left = self.idle_slices.load(Ordering::SeqCst).saturating_sub(1);
        self.idle_slices.store(left, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(1));
        Ok(left > 0)
    }

    fn admit(&mut self, slot: Slot, task: &Task, prompt: &[u32]) {
        let state = SlotState {
            sampling: task.sampling().cloned().unwrap_or_default(),
            tokens: prompt.to_vec(),
            prompt_tokens: prompt.len(),
            prompt_logprobs: 0,
            pooled: Vec::new(),
        };
        assert!(self.slots.insert(slot, state).is_none(), "the slot was free");
    }

    fn release(&mut self, slot: Slot) {
        assert!(self.slots.remove(&slot).is_some(), "the slot was in use");
    }

    fn execute(&mut self, plan: &StepPlan, output: &mut StepOutput) -> Result<(), ExecutorError> {
        let step = self.plans.len();
        self.plans.push(plan.clone());
        std::thread::sleep(self.delay);
        let rows = u32::try_from(10 + plan.batch.rows()).unwrap();
        let took = u64::try_from((self.row_time * rows).as_nanos()).unwrap();
        self.time_ns.fetch_add(took, Ordering::SeqCst);
        assert!(self.panics_at != Some(step), "a defect in the model");
        if self.fails_at == Some(step) {
            return Err(ExecutorError::Failed("the device is lost".into()));
        }
        if self.stalls_at == Some(step) {
            return Err(ExecutorError::Unfinished("2 rows after 5 s".into()));
        }
        let hashes = self.write(plan);
        assert!(plan.batch.output_rows.is_sorted_by(|before, after| before < after));
        for (row, wanted) in plan.batch.output_rows.iter().zip(&plan.outputs) {
            let row = *row as usize;
            let owner = plan.batch.sequences.partition_point(|sequence| sequence.first_row <= row) - 1;
            let sequence = &plan.batch.sequences[owner];
            let (OutputRow::Sample(slot)
            | OutputRow::PromptLogprob { slot, .. }
            | OutputRow::Pool { slot, .. }) = *wanted;
            let position = sequence.computed + row - sequence.first_row;
            self.check_context(slot, plan.batch.block_table(sequence), position);
            let answer = self.answer(*wanted, position, hashes[row]);
            output.rows.push(answer);
        }
        Ok(())
    }
}

/// What a request should give when nothing disturbs it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Expected {
    pub(crate) tokens: Vec<u32>,
    pub(crate) prompt_logprobs: Option<Vec<PositionLogprobs>>,
    pub(crate) pooled: Option<Vec<f32>>,
    /// `None` when the request faults.
    pub(crate) end: Option<(FinishReason, Option<u32>)>,
}

/// Runs a request alone, from the rules and without an engine.
pub(crate) fn run_alone(
    prompt: &[u32],
    sampling: &SamplingParams,
    max_tokens: usize,
    longest: usize,
) -> Expected {
    let mut tokens = prompt.to_vec();
    let end = loop {
        let generated = tokens.len() - prompt.len();
        if generated == max_tokens || tokens.len() >= longest {
            break Some((FinishReason::Length, None));
        }
        if sampling.seed & FAULTY != 0 && generated as u64 == sampling.seed % 4 {
            break None;
        }
        let token = sampled(prefix_hash(&tokens), sampling.seed);
        tokens.push(token);
        if generated + 1 >= sampling.min_tokens as usize {
            if sampling.eos_token_id == Some(token) {
                break Some((FinishReason::Stop, None));
            }
            if sampling.stop_token_ids.contains(&token) {
                break Some((FinishReason::Stop, Some(token)));
            }
        }
    };
    let prompt_logprobs = sampling.prompt_logprobs.map(|_| {
        (1..prompt.len()).map(|index| logprobs(prefix_hash(&prompt[..index]), prompt[index])).collect()
    });
    Expected { tokens: tokens.split_off(prompt.len()), prompt_logprobs, pooled: None, end }
}

/// What a request for a vector should give.
pub(crate) fn embed_alone(prompt: &[u32], pooling: Pooling) -> Expected {
    let counted = match pooling {
        Pooling::Last => prompt.len()..=prompt.len(),
        Pooling::Mean => 1..=prompt.len(),
        Pooling::First => 1..=1,
    };
    let pooled = counted.map(|length| hidden(prefix_hash(&prompt[..length]))).collect();
    let end = Some((FinishReason::Stop, None));
    Expected { tokens: Vec::new(), prompt_logprobs: None, pooled: Some(pooled), end }
}

/// Generates; no tokens are asked for where logprobs are all that is wanted.
pub(crate) fn task(sampling: SamplingParams, max_tokens: usize) -> Task {
    let sampling = Arc::new(sampling);
    if max_tokens == 0 { Task::Score { sampling } } else { Task::Generate { sampling, max_tokens } }
}

/// Neutral, without any stop.
pub(crate) fn sampling(seed: u64) -> SamplingParams {
    SamplingParams { seed, ..SamplingParams::default() }
}

pub(crate) fn with_prompt_logprobs(seed: u64) -> SamplingParams {
    SamplingParams { prompt_logprobs: Some(LogprobCount::Top(0)), ..sampling(seed) }
}

/// Events of one request, as a test reads them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record(Arc<Mutex<Vec<Event>>>);

impl Record {
    pub(crate) fn events(&self) -> Vec<Event> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn tokens(&self) -> Vec<u32> {
        let token = |event: &Event| match event {
            Event::Token { token, .. } => Some(token.token),
            _ => None,
        };
        self.events().iter().filter_map(token).collect()
    }

    /// What each token says of the end.
    pub(crate) fn token_finishes(&self) -> Vec<Option<Finish>> {
        let finish = |event: &Event| match event {
            Event::Token { finish, .. } => Some(*finish),
            _ => None,
        };
        self.events().iter().filter_map(finish).collect()
    }

    /// The last event, if it is an end; checks that none came earlier.
    pub(crate) fn end(&self) -> Option<Event> {
        let events = self.events();
        let is_end = |event: &&Event| matches!(event, Event::Finished(_) | Event::Failed(_));
        let ends = events.iter().filter(is_end).count();
        let last = events.last().filter(is_end).cloned();
        assert_eq!(ends, usize::from(last.is_some()), "one end, and nothing after it: {events:?}");
        last
    }

    pub(crate) fn finish(&self) -> Option<(FinishReason, Option<u32>)> {
        match self.end() {
            Some(Event::Finished(finished)) => Some((finished.finish.reason, finished.finish.stop_token_id)),
            _ => None,
        }
    }

    pub(crate) fn cached_tokens(&self) -> Option<usize> {
        self.events().iter().find_map(|event| match event {
            Event::Started { cached_tokens } => Some(*cached_tokens),
            _ => None,
        })
    }

    pub(crate) fn prompt_logprobs(&self) -> Option<Vec<PositionLogprobs>> {
        self.events().iter().find_map(|event| match event {
            Event::PromptLogprobs(logprobs) => Some(logprobs.clone()),
            _ => None,
        })
    }

    pub(crate) fn pooled(&self) -> Option<Vec<f32>> {
        self.events().iter().find_map(|event| match event {
            Event::Pooled(vector) => Some(vector.clone()),
            _ => None,
        })
    }
}

struct Sink {
    record: Record,
    /// Events that the client takes before it goes away.
    patience: usize,
}

impl EventSink for Sink {
    fn deliver(&mut self, event: Event) -> Delivery {
        let mut events = self.record.0.lock().unwrap();
        events.push(event);
        if events.len() > self.patience { Delivery::Gone } else { Delivery::Taken }
    }
}

/// A request with usual settings; tests change fields.
pub(crate) fn request(id: u64, prompt: &[u32], max_tokens: usize) -> (Request, Record) {
    impatient_request(id, prompt, max_tokens, usize::MAX)
}

pub(crate) fn impatient_request(
    id: u64,
    prompt: &[u32],
    max_tokens: usize,
    patience: usize,
) -> (Request, Record) {
    let record = Record::default();
    let request = Request {
        id: RequestId(id),
        group: GroupId(id),
        prompt: prompt.into(),
        task: task(sampling(id), max_tokens),
        priority: 0,
        cache_salt: None,
        sink: Box::new(Sink { record: record.clone(), patience }),
    };
    (request, record)
}

pub(crate) fn engine(config: &EngineConfig) -> Engine<Fake> {
    Engine::new(config.clone(), Fake::new(config)).unwrap()
}

/// Steps until nothing is left; more than `limit` steps are a deadlock.
pub(crate) fn drain(engine: &mut Engine<Fake>, limit: usize) {
    for _ in 0..limit {
        if !engine.has_work() {
            return;
        }
        engine.step(&|| Duration::ZERO).unwrap();
    }
    panic!("requests are left after {limit} steps: {:?}", engine.stats());
}
