//! Sites of weights as data: what a model consists of is said once, as a list of these (`layer/mod.rs`), and planner,
//! reader, packer, decoder, memory plan and tuner walk that list.

use std::marker::PhantomData;

use octet_backend::{Backend, LinearUse};

use crate::families::NormWeights;

/// What stands at the sites of a list: descriptions, plans, or weights on a device.
pub(crate) trait Stage {
    /// At a linear.
    type Linear;
    /// At a norm.
    type Vector;
}

/// Sites as the config describes them.
#[derive(Debug)]
pub(crate) struct Described;

impl Stage for Described {
    type Linear = LinearSite;
    type Vector = VectorSite;
}

/// Weights on a device.
pub(crate) struct OnDevice<B>(PhantomData<B>);

impl<B: Backend> Stage for OnDevice<B> {
    type Linear = B::Linear;
    type Vector = B::Vector;
}

/// What is left after a walk that only looks.
impl Stage for () {
    type Linear = ();
    type Vector = ();
}

/// Turns what stands at each site into something else. Lists call it in their order, which is the only one there is:
/// whatever is done to sites one after another agrees on it.
pub(crate) trait Walk<'a, From: Stage, To: Stage> {
    /// What ends the walk.
    type Error;

    /// Turns a linear; `projection` is what it multiplies in a step, none for a table that is only looked up.
    fn linear(
        &mut self,
        projection: Option<Projection>,
        from: &'a From::Linear,
    ) -> Result<To::Linear, Self::Error>;

    /// Turns a norm's weight.
    fn vector(&mut self, from: &'a From::Vector) -> Result<To::Vector, Self::Error>;

    /// Turns the weight of a norm that not every model has.
    fn optional(&mut self, from: Option<&'a From::Vector>) -> Result<Option<To::Vector>, Self::Error> {
        from.map(|from| self.vector(from)).transpose()
    }
}

/// A linear: one matrix on the device, one or several in the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinearSite {
    /// Name of the whole, which errors and patterns of quantization use.
    pub(crate) name: String,
    /// What it is made of, in the order of its rows.
    pub(crate) parts: Vec<PartSite>,
    /// Input features.
    pub(crate) columns: usize,
    /// Whether its parts have biases.
    pub(crate) bias: bool,
    /// What it is for.
    pub(crate) usage: LinearUse,
    /// Who may quantize it.
    pub(crate) quantized: Quantized,
}

impl LinearSite {
    /// Output features of all parts.
    pub(crate) fn rows(&self) -> usize {
        self.parts.iter().map(|part| part.rows).sum()
    }

    /// Columns of the output: gate and up become one.
    pub(crate) fn output_columns(&self) -> usize {
        if self.usage == LinearUse::Gated { self.rows() / 2 } else { self.rows() }
    }
}

/// A matrix of the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartSite {
    /// Name of the module: `.weight` and `.bias` follow.
    pub(crate) name: String,
    /// Output features.
    pub(crate) rows: usize,
}

/// Who may quantize a linear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quantized {
    /// Nobody: a table.
    Never,
    /// The checkpoint's method or the user's.
    AsConfigured,
    /// The checkpoint, if the weight is stored so whatever its method names, and the user by a choice of its own: the
    /// head.
    IfStoredOrAsked,
}

/// The weight of a norm.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct VectorSite {
    /// Name of the tensor.
    pub(crate) name: String,
    /// Elements.
    pub(crate) length: usize,
    /// What the elements are.
    pub(crate) values: VectorValues,
}

/// What the elements of a norm's weight are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum VectorValues {
    /// Those of the checkpoint.
    Stored(NormWeights),
    /// All this number; no checkpoint has them.
    Constant(f32),
}

/// The modules under a name, such as `model.layers.0.mlp`.
pub(super) struct Module(pub(super) String);

impl Module {
    /// A linear under a fused name, made of parts: their names and rows.
    pub(super) fn linear(
        &self,
        fused: &str,
        parts: &[(&str, usize)],
        columns: usize,
        usage: LinearUse,
        bias: bool,
    ) -> LinearSite {
        let Self(prefix) = self;
        let part = |&(name, rows): &(&str, usize)| PartSite { name: format!("{prefix}.{name}"), rows };
        LinearSite {
            name: format!("{prefix}.{fused}"),
            parts: parts.iter().map(part).collect(),
            columns,
            bias,
            usage,
            quantized: Quantized::AsConfigured,
        }
    }

    /// A norm's weight.
    pub(super) fn norm(&self, name: &str, length: usize, weights: NormWeights) -> VectorSite {
        VectorSite {
            name: format!("{}.{name}.weight", self.0),
            length,
            values: VectorValues::Stored(weights),
        }
    }
}

/// The multiplications with weights of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Projection {
    /// Queries, keys and values.
    Qkv,
    /// Attention's output.
    Output,
    /// Gate and up projection.
    GateUp,
    /// Down projection.
    Down,
    /// Logits.
    Head,
}

impl Projection {
    /// Input and output.
    pub(crate) const fn operands(self) -> [Operand; 2] {
        match self {
            Self::Qkv => [Operand::Normed, Operand::Qkv],
            Self::Output => [Operand::Attended, Operand::Branch],
            Self::GateUp => [Operand::Normed, Operand::Gated],
            Self::Down => [Operand::Gated, Operand::Branch],
            Self::Head => [Operand::GatheredNormed, Operand::Logits],
        }
    }
}

/// The tensors of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operand {
    /// `[tokens, hidden]`: what layers add to.
    Residual,
    /// `[tokens, hidden]`: the residual as a layer part reads it.
    Normed,
    /// `[tokens, (query_heads + 2 * kv_heads) * head_dim]`.
    Qkv,
    /// `[tokens, query_heads * head_dim]`.
    Attended,
    /// `[tokens, intermediate]`.
    Gated,
    /// `[tokens, hidden]`: what a layer part gives.
    Branch,
    /// `[logit rows, hidden]`.
    Gathered,
    /// `[logit rows, hidden]`.
    GatheredNormed,
    /// `[logit rows, vocabulary]`.
    Logits,
    /// `[logit rows, hidden]`: hidden states that are the result.
    Hidden,
}

impl Operand {
    /// All of them, in order.
    pub(crate) const ALL: [Self; 10] = [
        Self::Residual,
        Self::Normed,
        Self::Qkv,
        Self::Attended,
        Self::Gated,
        Self::Branch,
        Self::Gathered,
        Self::GatheredNormed,
        Self::Logits,
        Self::Hidden,
    ];
}
