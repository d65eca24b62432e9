//! What a device with a choice of kernels adds to [`Backend`], and what a tuner drives.

use std::time::Duration;

use super::GemmProblem;
use crate::{Backend, BackendError};

/// Something that results of tuning depend on, such as the device's name or a library's version. Results hold only
/// where all of them are equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validator {
    /// Its name, in upper case.
    pub key: String,
    /// Its value, without commas and line ends: lines of the results file have no quoting.
    pub value: String,
}

impl Validator {
    /// A validator; what a line of the file cannot carry becomes a space.
    #[must_use]
    pub fn new(key: &str, value: &str) -> Self {
        let value = value.replace([',', '\n', '\r'], " ");
        Self { key: key.to_owned(), value: value.split_whitespace().collect::<Vec<_>>().join(" ") }
    }
}

/// Operands of [`TunableBackend::time_gemm`].
pub struct GemmRun<'a, B: Backend> {
    /// A weight of the problem.
    pub weight: &'a B::Linear,
    /// A solution that [`TunableBackend::gemm_solutions`] named.
    pub solution: &'a str,
    /// Tokens to multiply; at most those of the problem's bucket.
    pub rows: usize,
    /// `[at least rows, columns of the weight]`.
    pub input: &'a B::Tensor,
    /// `[at least rows, output columns]`; overwritten.
    pub output: &'a mut B::Tensor,
}

/// A device that has several kernels for a product.
pub trait TunableBackend: Backend {
    /// What results depend on: the device, its architecture, the libraries whose solutions it names.
    fn gemm_validators(&self) -> Vec<Validator>;

    /// Validators of PyTorch's files that this device can vouch for, so that solutions which PyTorch found can be
    /// taken over. A device without PyTorch's libraries has none.
    fn pytorch_validators(&self) -> Vec<Validator> {
        Vec::new()
    }

    /// The product of these operands for `tokens` tokens. Of the tensors only the element types matter.
    fn gemm_problem(
        &self,
        weight: &Self::Linear,
        input: &Self::Tensor,
        output: &Self::Tensor,
        tokens: usize,
    ) -> GemmProblem;

    /// The same product as this device computes it, which may keep other types of activations; none if it cannot hold
    /// such a weight. For problems that came from elsewhere.
    fn gemm_equivalent(&self, problem: &GemmProblem) -> Option<GemmProblem>;

    /// Names of the ways to solve a problem. The first is `Default`: what happens without tuning. Names are stable and
    /// have no commas. None for a problem that the device does not have.
    fn gemm_solutions(&self, problem: &GemmProblem) -> Vec<String>;

    /// Multiplies once, waits for the end, and returns how long it took. Choices do not matter to it.
    ///
    /// # Errors
    /// A solution that does not fit; a fault of the device.
    fn time_gemm(&mut self, run: GemmRun<'_, Self>) -> Result<Duration, BackendError>;

    /// From now on, products of this problem are solved so. Says whether the device has such a solution for it; if
    /// not, nothing changes.
    fn choose_gemm(&mut self, problem: &GemmProblem, solution: &str) -> bool;

    /// The fewest seconds in which a kernel can multiply `tokens` tokens, if that is known. It may have to be measured first.
    fn gemm_floor_seconds(&mut self, problem: &GemmProblem, tokens: usize) -> Option<f64> {
        let _ = (problem, tokens);
        None
    }
}

/// A device with operands for its problems: what a tuner drives. A loaded model is one, and so is a device that makes
/// up weights of the wanted shapes.
pub trait GemmDevice {
    /// As [`TunableBackend::gemm_validators`].
    fn validators(&self) -> Vec<Validator>;

    /// As [`TunableBackend::pytorch_validators`].
    fn pytorch_validators(&self) -> Vec<Validator> {
        Vec::new()
    }

    /// As [`TunableBackend::gemm_solutions`]; none for a problem that it has no operands for.
    fn solutions(&self, problem: &GemmProblem) -> Vec<String>;

    /// Prepares operands. Called once before the first [`GemmDevice::run`] of a problem.
    ///
    /// # Errors
    /// No memory; a problem that the device does not have.
    fn begin(&mut self, problem: &GemmProblem) -> Result<(), BackendError>;

    /// Multiplies once and returns how long it took. Runs of different `turn` use different weights where there are
    /// several, so that one after another finds them outside of the caches, as a model's step does.
    ///
    /// # Errors
    /// A solution that does not fit the problem; a fault of the device.
    fn run(&mut self, problem: &GemmProblem, solution: &str, turn: usize) -> Result<Duration, BackendError>;

    /// The output of the last run as `f32`, row-major.
    ///
    /// # Errors
    /// Of the device.
    fn output(&mut self, problem: &GemmProblem) -> Result<Vec<f32>, BackendError>;

    /// As [`TunableBackend::choose_gemm`].
    fn choose(&mut self, problem: &GemmProblem, solution: &str) -> bool;

    /// Seconds below which no kernel can solve the problem, if that is known.
    fn floor_seconds(&mut self, problem: &GemmProblem) -> Option<f64> {
        let _ = problem;
        None
    }
}
