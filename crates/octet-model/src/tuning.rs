//! A loaded model as the tuner's device: its own weights and workspace are the operands, so that tuning takes no memory
//! and layers are read one after another, as a step reads them.

use std::time::Duration;

use octet_backend::{
    BackendError, BucketSet, GemmDevice, GemmProblem, GemmRun, TokenBucket, TunableBackend, Validator,
};

use crate::decoder::Product;
use crate::runner::Runner;

/// What a tuner of this model keeps between its runs.
#[derive(Debug, Default)]
pub(crate) struct TuningState {
    /// Groups of batch sizes that layers have met.
    pub(crate) met_by_layers: BucketSet,
    /// Groups of numbers of output rows that the head has met.
    pub(crate) met_by_head: BucketSet,
    /// Where the current problem's weights are: product and layer.
    places: Vec<(Product, usize)>,
    /// The last run's product.
    last: Option<Product>,
    /// As many bytes of weights take turns, if there is a limit.
    rotating_bytes: Option<usize>,
    /// Memory for inputs, kept.
    inputs: Vec<f32>,
}

impl<B: TunableBackend> Runner<B> {
    /// The products of steps of so many tokens, for each group of `layers`, and of the head for each group of `head`.
    /// Each is there once, however many layers have it.
    #[must_use]
    pub fn gemm_problems(&self, layers: BucketSet, head: BucketSet) -> Vec<GemmProblem> {
        let mut problems = Vec::new();
        for product in Product::ALL {
            let buckets = if product == Product::Head { head } else { layers };
            let buckets = buckets.iter().filter(|bucket| self.can_have(product, *bucket));
            for bucket in buckets {
                for weight in self.decoder.weights_of(product) {
                    let problem = self.problem(product, weight, bucket);
                    if !problems.contains(&problem) {
                        problems.push(problem);
                    }
                }
            }
        }
        problems
    }

    /// All products that steps of at most `tokens` tokens can have, `output_rows` of which are looked at.
    #[must_use]
    pub fn possible_gemm_problems(&self, tokens: usize, output_rows: usize) -> Vec<GemmProblem> {
        let (mut layers, mut head) = (BucketSet::default(), BucketSet::default());
        layers.extend(TokenBucket::up_to(tokens));
        head.extend(TokenBucket::up_to(output_rows.min(tokens)));
        self.gemm_problems(layers, head)
    }

    /// The products that steps have had so far.
    #[must_use]
    pub fn met_gemm_problems(&self) -> Vec<GemmProblem> {
        self.gemm_problems(self.tuning.met_by_layers, self.tuning.met_by_head)
    }

    /// Groups that steps have met, of layers and of the head: they change when [`Runner::met_gemm_problems`] does.
    #[must_use]
    pub fn met_buckets(&self) -> (BucketSet, BucketSet) {
        (self.tuning.met_by_layers, self.tuning.met_by_head)
    }

    /// Lets no more weights take turns than make up so many bytes, and one at least.
    pub fn set_rotating_bytes(&mut self, bytes: Option<usize>) {
        self.tuning.rotating_bytes = bytes;
    }

    /// The most rows of a product.
    fn most_rows(&self, product: Product) -> usize {
        if product == Product::Head { self.logit_rows } else { self.max_batched_tokens }
    }

    /// Whether any batch of the group is small enough for the workspace.
    fn can_have(&self, product: Product, bucket: TokenBucket) -> bool {
        bucket <= TokenBucket::of(self.most_rows(product))
    }

    /// Rows that stand for a group: its largest batch, or the largest that there can be.
    fn rows(&self, product: Product, problem: &GemmProblem) -> usize {
        problem.bucket.tokens().min(self.most_rows(product))
    }

    fn problem(&self, product: Product, weight: &B::Linear, bucket: TokenBucket) -> GemmProblem {
        let (input, output) = self.workspace.view_of(product);
        self.backend.gemm_problem(weight, input, output, bucket.tokens())
    }

    /// Where a problem's weights are.
    fn places(&self, problem: &GemmProblem) -> Vec<(Product, usize)> {
        let products = Product::ALL.into_iter().filter(|it| self.can_have(*it, problem.bucket));
        let mut places = Vec::new();
        for product in products {
            for (layer, weight) in self.decoder.weights_of(product).enumerate() {
                if self.problem(product, weight, problem.bucket) == *problem {
                    places.push((product, layer));
                }
            }
        }
        places
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

impl<B: TunableBackend> GemmDevice for Runner<B> {
    fn validators(&self) -> Vec<Validator> {
        self.backend.gemm_validators()
    }

    fn pytorch_validators(&self) -> Vec<Validator> {
        self.backend.pytorch_validators()
    }

    fn solutions(&self, problem: &GemmProblem) -> Vec<String> {
        if self.places(problem).is_empty() { Vec::new() } else { self.backend.gemm_solutions(problem) }
    }

    fn begin(&mut self, problem: &GemmProblem) -> Result<(), BackendError> {
        let mut places = self.places(problem);
        if let Some(bytes) = self.tuning.rotating_bytes {
            places.truncate(bytes / problem.weight_bytes().max(1) + 1);
        }
        for product in Product::ALL {
            if places.iter().any(|(place, _)| *place == product) {
                let rows = self.rows(product, problem);
                fill(&mut self.tuning.inputs, rows * problem.columns);
                let (input, _) = self.workspace.operands_of(product);
                self.backend.write_tensor(input, &self.tuning.inputs)?;
            }
        }
        self.tuning.places = places;
        Ok(())
    }

    fn run(&mut self, problem: &GemmProblem, solution: &str, turn: usize) -> Result<Duration, BackendError> {
        let places = &self.tuning.places;
        let place = places.get(turn.checked_rem(places.len()).unwrap_or(0));
        let &(product, layer) = place.ok_or_else(|| not_here(problem))?;
        self.tuning.last = Some(product);
        let rows = self.rows(product, problem);
        let weight = self.decoder.weights_of(product).nth(layer).ok_or_else(|| not_here(problem))?;
        let (input, output) = self.workspace.operands_of(product);
        self.backend.time_gemm(GemmRun { weight, solution, rows, input, output })
    }

    fn output(&mut self, problem: &GemmProblem) -> Result<Vec<f32>, BackendError> {
        let product = self.tuning.last.ok_or_else(|| not_here(problem))?;
        let rows = self.rows(product, problem);
        let (_, output) = self.workspace.operands_of(product);
        self.backend.read_tensor(output, rows)
    }

    fn choose(&mut self, problem: &GemmProblem, solution: &str) -> bool {
        self.backend.choose_gemm(problem, solution)
    }

    fn floor_seconds(&mut self, problem: &GemmProblem) -> Option<f64> {
        let &(product, _) = self.places(problem).first()?;
        let rows = self.rows(product, problem);
        self.backend.gemm_floor_seconds(problem, rows)
    }
}
