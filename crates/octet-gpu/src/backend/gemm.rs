//! Which kernel computes a product: what was chosen for its problem and number of rows, or the default.

use std::cell::{OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use octet_backend::{
    BackendError, DataType, GemmProblem, LinearPart, LinearSpec, LinearUse, ScaleShape, TokenBucket,
};

use crate::backend::GpuBackend;
use crate::backend::float8::{LinearInput, code_stride};
use crate::backend::linear::GpuLinear;
use crate::backend::tensor::PADDING;
use crate::blas::{Algorithm, Description, Library, Product, solution_name};
use crate::driver::Device;
use crate::kernels::ElementType;
use crate::{BlasOptions, GpuError, Kind};

/// Name of whatever [`Gemms::solution`] takes without a choice.
pub(super) const DEFAULT: &str = "Default";

/// Rows up to which weights are read by the kernel for few rows, where BLAS libraries are weak.
const FEW_ROWS: usize = 16;
/// Rows up to which that kernel, which reads weights anew for each sixteen, is worth a try.
const SKINNY_ROWS: usize = 64;
/// Rows from which on large tiles are worth a try.
const LARGE_TILE_ROWS: usize = 24;
/// Solutions that a library is asked for by a tuner.
const MOST_SOLUTIONS: usize = 1024;

/// A kernel of ours, see `linear.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    /// For up to sixteen rows at a time.
    Skinny,
    /// Tiles of 32 rows.
    Tile32,
    /// Tiles of 128 rows, or 64 of exact types.
    TileLarge,
}

impl Kernel {
    const ALL: [Self; 3] = [Self::Skinny, Self::Tile32, Self::TileLarge];

    /// Its name in results files.
    const fn name(self) -> &'static str {
        match self {
            Self::Skinny => "Octet_Skinny",
            Self::Tile32 => "Octet_Tile_32",
            Self::TileLarge => "Octet_Tile_Large",
        }
    }

    /// The kernel for this number of rows, without tuning.
    const fn default_for(rows: usize) -> Self {
        match rows {
            0..=FEW_ROWS => Self::Skinny,
            17..=64 => Self::Tile32,
            _ => Self::TileLarge,
        }
    }

    const fn fits(self, rows: usize) -> bool {
        match self {
            Self::Skinny => rows <= SKINNY_ROWS,
            Self::Tile32 => true,
            Self::TileLarge => rows >= LARGE_TILE_ROWS,
        }
    }
}

/// How a product is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Solution {
    /// By a kernel of ours.
    Own(Kernel),
    /// By a library.
    Library(Algorithm),
}

/// Number of a family, by which weights find theirs at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FamilyId(usize);

/// The families of a weight: the output is an activation, or of 32 bits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Families {
    activation: FamilyId,
    wide: FamilyId,
}

impl Families {
    pub(super) fn of_output(self, output: ElementType) -> FamilyId {
        if output == ElementType::F32 { self.wide } else { self.activation }
    }
}

/// Products that differ in their number of rows alone.
struct Family {
    /// The problem of one token.
    problem: GemmProblem,
    /// The library's, if it is asked for this.
    product: Option<Product>,
    /// What was chosen, by bucket.
    chosen: [Option<Solution>; TokenBucket::COUNT],
    /// What the library suggests, by exact number of rows, asked for once.
    suggested: HashMap<usize, Solution>,
}

/// One product to be computed.
#[derive(Clone, Copy)]
pub(super) struct ProductRun<'a> {
    pub(super) weight: &'a GpuLinear,
    pub(super) rows: usize,
    /// `[rows, columns]`, with the element type of a wide one.
    pub(super) input: (LinearInput, ElementType),
    /// `[rows, features]`: address, stride and type.
    pub(super) target: (u64, usize, ElementType),
}

/// All products, and the library if there is one.
pub(super) struct Gemms {
    device: Device,
    options: BlasOptions,
    families: Vec<Family>,
    /// Solutions of the library that a tuner asked for.
    listed: RefCell<HashMap<GemmProblem, Vec<Algorithm>>>,
    /// Set while a solution is timed: choices do not matter then.
    forced: Option<Solution>,
    // Last: products go before their library.
    library: OnceCell<Option<Arc<Library>>>,
}

impl Gemms {
    pub(super) fn new(device: &Device, options: &BlasOptions) -> Self {
        Self {
            device: device.clone(),
            options: options.clone(),
            families: Vec::new(),
            listed: RefCell::default(),
            forced: None,
            library: OnceCell::new(),
        }
    }

    /// The library, opened when it is asked for first: its workspace should be there before the rest of the memory is
    /// divided.
    pub(super) fn library(&self) -> Option<&Arc<Library>> {
        let open = || {
            if self.options.is_off {
                return None;
            }
            match Library::open(&self.device, &self.options) {
                Ok(library) => {
                    tracing::info!("products of many rows by {}", library.describe());
                    Some(Arc::new(library))
                }
                Err(error @ GpuError::LibraryMissing { .. }) => {
                    tracing::info!(%error, "all products by Octet's own kernels");
                    None
                }
                Err(error) => {
                    tracing::warn!(%error, "all products by Octet's own kernels");
                    None
                }
            }
        };
        self.library.get_or_init(open).as_ref()
    }

    /// The family of a problem, made if it is new.
    fn family(&mut self, problem: &GemmProblem) -> FamilyId {
        let problem = problem.with_tokens(1);
        let known = self.families.iter().position(|family| family.problem == problem);
        FamilyId(known.unwrap_or_else(|| {
            let product = self.describe(&problem);
            let none = [None; TokenBucket::COUNT];
            self.families.push(Family { problem, product, chosen: none, suggested: HashMap::new() });
            self.families.len() - 1
        }))
    }

    /// The library's objects for a problem, if it is to be asked.
    fn describe(&self, problem: &GemmProblem) -> Option<Product> {
        let k = match problem.activation {
            DataType::F8(_) => code_stride(problem.columns),
            _ => problem.columns.next_multiple_of(PADDING),
        };
        let strides = [k, problem.rows.next_multiple_of(PADDING)];
        let description = Description::of(self.device.api().kind, problem, strides)?;
        match Product::new(self.library()?, description) {
            Ok(product) => product,
            Err(error) => {
                tracing::warn!(%error, "{problem} by Octet's own kernels");
                None
            }
        }
    }

    pub(super) fn problem(&self, family: FamilyId) -> GemmProblem {
        self.families[family.0].problem
    }

    /// What computes this number of rows.
    fn solution(&mut self, family: FamilyId, rows: usize) -> Solution {
        if let Some(forced) = self.forced {
            return forced;
        }
        let chosen = self.families[family.0].chosen[TokenBucket::of(rows).index()];
        chosen.unwrap_or_else(|| self.default_solution(family, rows))
    }

    /// What computes this number of rows without a choice: our own kernel for few, the library's suggestion for many.
    pub(super) fn default_solution(&mut self, family: FamilyId, rows: usize) -> Solution {
        let own = Solution::Own(Kernel::default_for(rows));
        let Family { product, suggested, .. } = &mut self.families[family.0];
        let Some(product) = product.as_ref().filter(|_| rows > FEW_ROWS) else { return own };
        *suggested.entry(rows).or_insert_with(|| {
            let first = list(product, rows, 1).into_iter().next();
            first.map_or(own, Solution::Library)
        })
    }

    /// The library's solutions of a problem.
    fn list(&self, problem: &GemmProblem) -> Vec<Algorithm> {
        if let Some(known) = self.listed.borrow().get(problem) {
            return known.clone();
        }
        let kind = self.device.api().kind;
        let family = self.families.iter().find(|family| family.problem == problem.with_tokens(1));
        let found = match family {
            Some(Family { product: Some(product), .. }) => of_bucket(kind, product, problem.bucket),
            Some(_) => Vec::new(),
            None => self
                .describe(problem)
                .map_or_else(Vec::new, |product| of_bucket(kind, &product, problem.bucket)),
        };
        self.listed.borrow_mut().insert(*problem, found.clone());
        found
    }

    /// Names of all solutions of a problem, the default not among them.
    pub(super) fn names(&self, problem: &GemmProblem) -> Vec<String> {
        let rows = problem.bucket.tokens();
        let listed = self.list(problem);
        // Where a kernel of ours is the default, it has no second name.
        let default = (rows <= FEW_ROWS || listed.is_empty()).then(|| Kernel::default_for(rows));
        let own = Kernel::ALL.into_iter().filter(|kernel| kernel.fits(rows) && Some(*kernel) != default);
        let own = own.map(|kernel| kernel.name().to_owned());
        let kind = self.device.api().kind;
        own.chain(listed.iter().map(|algorithm| solution_name(kind, algorithm))).collect()
    }

    /// The solution of a name; nothing inside if it is the default, nothing at all if the problem has none such.
    pub(super) fn find(&self, problem: &GemmProblem, name: &str) -> Option<Option<Solution>> {
        if name == DEFAULT {
            return Some(None);
        }
        let rows = problem.bucket.tokens();
        if let Some(kernel) = Kernel::ALL.into_iter().find(|kernel| kernel.name() == name) {
            return kernel.fits(rows).then_some(Some(Solution::Own(kernel)));
        }
        // Older versions of PyTorch also name how operands are transposed, which is always the same here.
        let name = name.replace("Gemm_Hipblaslt_TN_", "Gemm_Hipblaslt_");
        let kind = self.device.api().kind;
        let found = self.list(problem).into_iter().find(|algorithm| solution_name(kind, algorithm) == name);
        found.map(|algorithm| Some(Solution::Library(algorithm)))
    }

    /// Chooses for a problem; says whether that changes anything.
    pub(super) fn choose(&mut self, problem: &GemmProblem, solution: Option<Solution>) -> bool {
        let family = self.family(problem);
        let place = &mut self.families[family.0].chosen[problem.bucket.index()];
        let changes = *place != solution;
        *place = solution;
        changes
    }

    /// From now on every product is solved so, whatever was chosen: something is about to be timed.
    pub(super) fn force(&mut self, solution: Solution) {
        self.forced = Some(solution);
    }

    /// Choices hold again.
    pub(super) fn release(&mut self) {
        self.forced = None;
    }
}

/// A library's solutions; none if it has trouble to name them.
fn list(product: &Product, rows: usize, most: usize) -> Vec<Algorithm> {
    product.solutions(rows, most).unwrap_or_else(|error| {
        tracing::warn!(%error, "a library names no solutions");
        Vec::new()
    })
}

/// The solutions of a product that compute every number of rows of a bucket, those that the library thinks fastest
/// first. hipBLASLt does not look at sizes again when it is handed a solution, so that one for other sizes would give
/// wrong numbers: they are listed for the largest number and for the one before it, which have no common factor that a
/// solution could depend on.
fn of_bucket(kind: Kind, product: &Product, bucket: TokenBucket) -> Vec<Algorithm> {
    let rows = bucket.tokens();
    let mut found = list(product, rows, MOST_SOLUTIONS);
    if !found.is_empty() && TokenBucket::of(rows - 1) == bucket && rows > 1 {
        let also: HashSet<String> = list(product, rows - 1, MOST_SOLUTIONS)
            .iter()
            .map(|algorithm| solution_name(kind, algorithm))
            .collect();
        found.retain(|algorithm| also.contains(&solution_name(kind, algorithm)));
    }
    found
}

impl GpuBackend {
    /// Element type of activations, as the seam names it.
    pub(super) fn activation_type(&self) -> DataType {
        if self.activation == ElementType::F32 { DataType::F32 } else { DataType::BF16 }
    }

    /// The families of a weight that is about to be loaded, for inputs in FP8 or in the activations' type.
    pub(super) fn families(
        &mut self,
        spec: &LinearSpec,
        parts: &[LinearPart<'_>],
        has_float8_inputs: bool,
    ) -> Families {
        let weight = match spec.data_type {
            DataType::F8(format) => {
                let kept = self.device.architecture().float8(format);
                DataType::F8(kept.map_or(format, |(kept, _)| kept))
            }
            wide => wide,
        };
        let problem = GemmProblem {
            rows: parts.iter().map(|part| part.weight.rows).sum(),
            bucket: TokenBucket::of(1),
            columns: parts.first().map_or(0, |part| part.weight.columns),
            weight,
            activation: if has_float8_inputs { weight } else { self.activation_type() },
            output: self.activation_type(),
            scales: ScaleShape::finest(parts.iter().map(|part| part.scale.shape())),
            has_bias: spec.bias.is_some(),
            is_gated: spec.usage == LinearUse::Gated,
        };
        let activation = self.gemms.family(&problem);
        let wide = self.gemms.family(&GemmProblem { output: DataType::F32, ..problem });
        Families { activation, wide }
    }

    /// Multiplies with what was chosen for this number of rows, or with the default.
    pub(super) fn product(&mut self, run: &ProductRun<'_>) -> Result<(), BackendError> {
        let Some(families) = run.weight.families else {
            panic!("a weight loaded as {:?} cannot be multiplied by", run.weight.usage);
        };
        let family = families.of_output(run.target.2);
        let kernel = match self.gemms.solution(family, run.rows) {
            Solution::Own(kernel) => kernel,
            Solution::Library(algorithm) => match self.by_library(family, run, &algorithm) {
                Ok(()) => return Ok(()),
                Err(error) => self.instead_of(family, run.rows, &algorithm, &error)?,
            },
        };
        run.weight.multiply(&self.stream, kernel, run)
    }

    fn by_library(
        &mut self,
        family: FamilyId,
        run: &ProductRun<'_>,
        algorithm: &Algorithm,
    ) -> Result<(), GpuError> {
        let operands = run.weight.blas_operands(run);
        let Some(product) = &mut self.gemms.families[family.0].product else {
            unreachable!("only a family with a product has solutions of the library")
        };
        // SAFETY: the caller checked the operands' shapes, the family is the one of their types, and they live as long
        // as the backend's stream is used.
        unsafe { product.multiply(&self.stream, run.rows, &operands, algorithm) }
    }

    /// The kernel of ours that replaces a solution which the library refused, from now on.
    fn instead_of(
        &mut self,
        family: FamilyId,
        rows: usize,
        algorithm: &Algorithm,
        error: &GpuError,
    ) -> Result<Kernel, BackendError> {
        let solution = solution_name(self.device.api().kind, algorithm);
        if self.gemms.forced.is_some() {
            return Err(BackendError::Solution { solution, reason: error.to_string() });
        }
        let problem = self.gemms.problem(family).with_tokens(rows);
        tracing::warn!(%error, "{problem} by Octet's own kernels, not by {solution}");
        let kernel = Kernel::default_for(rows);
        self.gemms.choose(&problem, Some(Solution::Own(kernel)));
        Ok(kernel)
    }
}
