//! What the device computes with in a step: a tensor for each operand of the list's projections, and few besides.

use octet_backend::{Backend, BackendError, TensorRole, TensorSpec};

use crate::ModelConfig;
use crate::layer::Model;
use crate::layer::sites::Operand;

/// A tensor for each operand.
pub(crate) struct Workspace<B: Backend> {
    /// In the order of [`Operand::ALL`].
    tensors: Vec<B::Tensor>,
}

/// Tensors of output rows, which are computed in pieces.
const OF_OUTPUT_ROWS: [Operand; 4] =
    [Operand::Gathered, Operand::GatheredNormed, Operand::Logits, Operand::Hidden];

/// The workspace's tensors for steps of at most `tokens` rows, of which `logit_rows` are looked at together.
pub(crate) fn workspace_specs(config: &ModelConfig, tokens: usize, logit_rows: usize) -> Vec<TensorSpec> {
    let mut columns = [0; Operand::ALL.len()];
    for (projection, site) in Model::of(config, false).linears() {
        let Some(projection) = projection else { continue };
        let [input, output] = projection.operands();
        for (operand, width) in [(input, site.columns), (output, site.output_columns())] {
            columns[operand as usize] = width.max(columns[operand as usize]);
        }
    }
    // What no projection reads or writes is the residual, or rows of it.
    let columns = columns.map(|columns| if columns == 0 { config.hidden } else { columns });
    let spec = |(operand, columns)| {
        let rows = if OF_OUTPUT_ROWS.contains(&operand) { logit_rows } else { tokens };
        let role = match operand {
            Operand::Residual | Operand::Gathered | Operand::Hidden => TensorRole::Residual,
            Operand::Logits => TensorRole::Logits,
            _ => TensorRole::Activation,
        };
        TensorSpec { role, rows, columns }
    };
    Operand::ALL.into_iter().zip(columns).map(spec).collect()
}

impl<B: Backend> Workspace<B> {
    /// Allocates what [`workspace_specs`] says.
    pub(crate) fn allocate(
        backend: &mut B,
        config: &ModelConfig,
        tokens: usize,
        logit_rows: usize,
    ) -> Result<Self, BackendError> {
        let specs = workspace_specs(config, tokens, logit_rows);
        let tensors = specs.into_iter().map(|spec| backend.allocate(spec)).collect::<Result<_, _>>()?;
        Ok(Self { tensors })
    }

    /// The tensor of an operand.
    pub(crate) fn tensor(&self, operand: Operand) -> &B::Tensor {
        &self.tensors[operand as usize]
    }

    /// The tensors of several operands, no two of which are the same.
    pub(crate) fn tensors<const N: usize>(&mut self, operands: [Operand; N]) -> [&mut B::Tensor; N] {
        let tensors = self.tensors.get_disjoint_mut(operands.map(|operand| operand as usize));
        tensors.expect("operands of an operation differ")
    }
}
