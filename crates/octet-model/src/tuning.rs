//! A model's projections as the tuner's device: its own weights and workspace are the operands, so that tuning takes no
//! memory and layers are read one after another, as a step reads them.

use std::time::Duration;

use octet_backend::{
    BackendError, BucketSet, GemmDevice, GemmProblem, GemmRun, TokenBucket, TunableBackend, Validator,
};

use crate::decoder::Decoder;
use crate::layer::sites::Projection;
use crate::workspace::Workspace;

/// What a model's tuner keeps between its runs.
#[derive(Debug, Default)]
pub(crate) struct TuningState {
    /// Groups of batch sizes that layers have met.
    pub(crate) met_by_layers: BucketSet,
    /// Groups of numbers of output rows that the head has met.
    pub(crate) met_by_head: BucketSet,
    /// Every kind of projection that the model has; empty until somebody tunes.
    kinds: Vec<Kind>,
    /// Where the current problem's weights are, by projection and position in the model's list.
    places: Vec<(Projection, usize)>,
    /// The last run's projection.
    last: Option<Projection>,
    /// As many bytes of weights take turns, if there is a limit.
    rotating_bytes: Option<usize>,
    /// Memory for inputs, kept.
    inputs: Vec<f32>,
}

/// Weights that are tuned together.
#[derive(Debug)]
struct Kind {
    /// Their problem, for one token.
    problem: GemmProblem,
    projection: Projection,
    /// Their positions in the model's list.
    positions: Vec<usize>,
}

/// A model's projections, to be tuned.
pub struct ProjectionBench<'a, B: TunableBackend> {
    backend: &'a mut B,
    decoder: &'a Decoder<B>,
    workspace: &'a mut Workspace<B>,
    state: &'a mut TuningState,
    /// The most rows of a layer's projections.
    layer_rows: usize,
    /// The most rows of the head.
    head_rows: usize,
}

impl<'a, B: TunableBackend> ProjectionBench<'a, B> {
    /// The projections of a decoder, in steps of at most `layer_rows` rows, `head_rows` of which get logits together.
    pub(crate) fn new(
        backend: &'a mut B,
        decoder: &'a Decoder<B>,
        workspace: &'a mut Workspace<B>,
        state: &'a mut TuningState,
        (layer_rows, head_rows): (usize, usize),
    ) -> Self {
        let bench = Self { backend, decoder, workspace, state, layer_rows, head_rows };
        if bench.state.kinds.is_empty() {
            bench.state.kinds = bench.kinds();
        }
        bench
    }

    /// Sorts the model's weights into kinds, in the order of a step.
    fn kinds(&self) -> Vec<Kind> {
        let mut kinds: Vec<Kind> = Vec::new();
        for (position, (projection, weight)) in self.decoder.projections().enumerate() {
            let [input, output] = projection.operands().map(|operand| self.workspace.tensor(operand));
            let problem = self.backend.gemm_problem(weight, input, output, 1);
            match kinds.iter_mut().find(|kind| (kind.problem, kind.projection) == (problem, projection)) {
                Some(kind) => kind.positions.push(position),
                None => kinds.push(Kind { problem, projection, positions: vec![position] }),
            }
        }
        kinds.sort_by_key(|kind| kind.projection == Projection::Head);
        kinds
    }

    /// The problems of steps: of the layers for each bucket in `layers`, and of the head for each in `head`.
    /// Each is there once, however many layers have it.
    #[must_use]
    pub fn problems(&self, layers: BucketSet, head: BucketSet) -> Vec<GemmProblem> {
        let mut problems = Vec::new();
        for &Kind { problem, projection, .. } in &self.state.kinds {
            let buckets = if projection == Projection::Head { head } else { layers };
            for bucket in buckets.iter().filter(|bucket| self.can_have(projection, *bucket)) {
                let problem = problem.with_tokens(bucket.tokens());
                if !problems.contains(&problem) {
                    problems.push(problem);
                }
            }
        }
        problems
    }

    /// All problems that steps of at most `tokens` tokens can have, `output_rows` of which are looked at.
    #[must_use]
    pub fn possible_problems(&self, tokens: usize, output_rows: usize) -> Vec<GemmProblem> {
        let (mut layers, mut head) = (BucketSet::default(), BucketSet::default());
        layers.extend(TokenBucket::up_to(tokens));
        head.extend(TokenBucket::up_to(output_rows.min(tokens)));
        self.problems(layers, head)
    }

    /// The problems that steps have had so far.
    #[must_use]
    pub fn met_problems(&self) -> Vec<GemmProblem> {
        self.problems(self.state.met_by_layers, self.state.met_by_head)
    }

    /// Lets weights of at most `bytes` bytes take turns, and at least one.
    pub fn set_rotating_bytes(&mut self, bytes: Option<usize>) {
        self.state.rotating_bytes = bytes;
    }

    fn most_rows(&self, projection: Projection) -> usize {
        if projection == Projection::Head { self.head_rows } else { self.layer_rows }
    }

    /// Whether any batch of the group is small enough for the workspace.
    fn can_have(&self, projection: Projection, bucket: TokenBucket) -> bool {
        bucket <= TokenBucket::of(self.most_rows(projection))
    }

    /// Rows that stand for a group: its largest batch, or the largest that there can be.
    fn rows(&self, projection: Projection, problem: &GemmProblem) -> usize {
        problem.bucket.tokens().min(self.most_rows(projection))
    }

    /// The kinds of projection that have a problem.
    fn kinds_of(&self, problem: &GemmProblem) -> impl Iterator<Item = &Kind> {
        let is_it = |kind: &&Kind| {
            kind.problem.with_tokens(problem.bucket.tokens()) == *problem
                && self.can_have(kind.projection, problem.bucket)
        };
        self.state.kinds.iter().filter(is_it)
    }
}

/// Numbers from -1 to 1 that look random: what matters is that they are neither zero nor all the same.
fn fill(values: &mut Vec<f32>, count: usize) {
    let mut state = 0x2545_f491_u32;
    values.clear();
    values.resize_with(count, || {
        // Marsaglia's 32-bit xorshift.
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        f32::from(i16::from_le_bytes([state.to_le_bytes()[1], state.to_le_bytes()[2]])) / 32768.0
    });
}

fn not_here(problem: &GemmProblem) -> BackendError {
    BackendError::Device(format!("this model has no product {problem}"))
}

impl<B: TunableBackend> GemmDevice for ProjectionBench<'_, B> {
    fn validators(&self) -> Vec<Validator> {
        self.backend.gemm_validators()
    }

    fn pytorch_validators(&self) -> Vec<Validator> {
        self.backend.pytorch_validators()
    }

    fn solutions(&self, problem: &GemmProblem) -> Vec<String> {
        if self.kinds_of(problem).next().is_none() {
            Vec::new()
        } else {
            self.backend.gemm_solutions(problem)
        }
    }

    fn begin(&mut self, problem: &GemmProblem) -> Result<(), BackendError> {
        let places = |kind: &Kind| {
            let projection = kind.projection;
            kind.positions.clone().into_iter().map(move |position| (projection, position))
        };
        let mut places: Vec<_> = self.kinds_of(problem).flat_map(places).collect();
        if let Some(bytes) = self.state.rotating_bytes {
            places.truncate(bytes / problem.weight_bytes().max(1) + 1);
        }
        let mut filled = None;
        for &(projection, _) in &places {
            // Those of a kind follow each other.
            if filled.replace(projection) != Some(projection) {
                let rows = self.rows(projection, problem);
                fill(&mut self.state.inputs, rows * problem.columns);
                let [input, _] = self.workspace.tensors(projection.operands());
                self.backend.write_tensor(input, &self.state.inputs)?;
            }
        }
        self.state.places = places;
        Ok(())
    }

    fn run(&mut self, problem: &GemmProblem, solution: &str, turn: usize) -> Result<Duration, BackendError> {
        let places = &self.state.places;
        let place = places.get(turn.checked_rem(places.len()).unwrap_or(0));
        let &(projection, position) = place.ok_or_else(|| not_here(problem))?;
        self.state.last = Some(projection);
        let rows = self.rows(projection, problem);
        let (_, weight) = self.decoder.projections().nth(position).ok_or_else(|| not_here(problem))?;
        let [input, output] = self.workspace.tensors(projection.operands());
        self.backend.time_gemm(GemmRun { weight, solution, rows, input, output })
    }

    fn output(&mut self, problem: &GemmProblem) -> Result<Vec<f32>, BackendError> {
        let projection = self.state.last.ok_or_else(|| not_here(problem))?;
        let rows = self.rows(projection, problem);
        let [_, output] = projection.operands();
        self.backend.read_tensor(self.workspace.tensor(output), rows)
    }

    fn choose(&mut self, problem: &GemmProblem, solution: &str) -> bool {
        self.backend.choose_gemm(problem, solution)
    }

    fn floor_seconds(&mut self, problem: &GemmProblem) -> Option<f64> {
        let projection = self.kinds_of(problem).next()?.projection;
        let rows = self.rows(projection, problem);
        self.backend.gemm_floor_seconds(problem, rows)
    }
}
