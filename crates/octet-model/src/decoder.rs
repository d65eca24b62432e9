//! The one decoder: what every family here does, with their differences as options.
//!
//! `h += attention(norm(h))` and `h += mlp(norm(h))`, layer by layer, or `h += norm(attention(h))` and so on, with factors
//! and bounds in places. A branch is joined to the residual `h` by the same operation that norms the sum for the next
//! branch.

use std::ops::Range;

use half::{bf16, f16};
use octet_backend::{Activation, AttentionSpec, Backend, BackendError, DataType, Head, Join, Norm, RmsNorm};

use crate::ModelConfig;
use crate::families::Scales;
use crate::layer::sites::{OnDevice, Operand, Projection};
use crate::layer::{IDENTITY_EPSILON, Model};
use crate::workspace::Workspace;

/// A model's weights with the constants that go with them.
pub(crate) struct Decoder<B: Backend> {
    weights: Model<OnDevice<B>>,
    attention: Vec<AttentionSpec>,
    activation: Activation,
    norm_epsilon: f32,
    scales: Scales,
}

/// What begins a branch: the norm of the residual, if any, and the projection that reads it.
type Entry<'a, B> = (Option<&'a <B as Backend>::Vector>, &'a <B as Backend>::Linear);

impl<B: Backend> Decoder<B> {
    /// `weight_type` is what the weights are kept in, unless they are quantized.
    pub(crate) fn new(config: &ModelConfig, weight_type: DataType, weights: Model<OnDevice<B>>) -> Self {
        let mut scales = config.traits.scales;
        if scales.embedding_is_rounded {
            scales.embedding = match weight_type {
                DataType::BF16 => bf16::from_f32(scales.embedding).to_f32(),
                DataType::F16 => f16::from_f32(scales.embedding).to_f32(),
                DataType::F32 | DataType::F8(_) | DataType::I8 => scales.embedding,
            };
        }
        let attention = config.windows.iter().enumerate().map(|(layer, &sliding_window)| AttentionSpec {
            layer,
            query_heads: config.query_heads,
            scale: scales.attention.unwrap_or_else(|| (config.head_dim as f32).sqrt().recip()),
            score_cap: scales.score_cap,
            sliding_window,
        });
        Self {
            attention: attention.collect(),
            weights,
            activation: config.activation,
            norm_epsilon: config.norm_epsilon,
            scales,
        }
    }

    /// The weights of all projections, in the order of the list.
    pub(crate) fn projections(&self) -> impl Iterator<Item = (Projection, &B::Linear)> {
        self.weights.linears().into_iter().filter_map(|(projection, weight)| Some((projection?, weight)))
    }

    /// Computes the batch up to the last layer: the workspace's residual is its output.
    pub(crate) fn forward(
        &self,
        backend: &mut B,
        rope: &B::Rope,
        cache: &mut B::KvCache,
        workspace: &mut Workspace<B>,
    ) -> Result<(), BackendError> {
        let layers = &self.weights.layers;
        let mut entries = layers.iter().map(|layer| layer.attention.entry());
        let [residual, normed] = workspace.tensors([Operand::Residual, Operand::Normed]);
        backend.embed(&self.weights.embedding, self.scales.embedding, residual)?;
        if let Some((norm, reader)) = entries.next() {
            backend.prepare_input(normed, reader);
            backend.rms_norm(RmsNorm { input: residual, norm: self.entry_norm(norm), output: normed })?;
        }
        for (layer, &attention) in layers.iter().zip(&self.attention) {
            let constants = (attention, self.norm_epsilon);
            layer.attention.run(backend, constants, (rope, &mut *cache), workspace)?;
            self.join(backend, layer.attention.post_norm.as_ref(), Some(layer.mlp.entry()), workspace)?;
            layer.mlp.run(backend, self.activation, workspace)?;
            self.join(backend, layer.mlp.post_norm.as_ref(), entries.next(), workspace)?;
        }
        Ok(())
    }

    fn norm<'a>(&self, weight: &'a B::Vector) -> Norm<'a, B> {
        Norm { weight, epsilon: self.norm_epsilon }
    }

    /// The norm with which a branch reads the residual: without a weight, it reads it as it is.
    fn entry_norm<'a>(&'a self, weight: Option<&'a B::Vector>) -> Norm<'a, B> {
        match (weight, &self.weights.identity) {
            (Some(weight), _) => self.norm(weight),
            (None, Some(weight)) => Norm { weight, epsilon: IDENTITY_EPSILON },
            (None, None) => unreachable!("the list has an identity where norms are missing"),
        }
    }

    /// Ends a branch, and begins the next one unless it was the last.
    fn join(
        &self,
        backend: &mut B,
        post_norm: Option<&B::Vector>,
        next: Option<Entry<'_, B>>,
        workspace: &mut Workspace<B>,
    ) -> Result<(), BackendError> {
        let [residual, branch, normed] =
            workspace.tensors([Operand::Residual, Operand::Branch, Operand::Normed]);
        if let Some((_, reader)) = next {
            backend.prepare_input(normed, reader);
        }
        let next = next.map(|(norm, _)| (self.entry_norm(norm), normed));
        let post_norm = post_norm.map(|weight| self.norm(weight));
        backend.join(Join { residual, branch, post_norm, scale: self.scales.residual, next })
    }

    /// Computes the logits of a part of the batch's output rows.
    pub(crate) fn logits(
        &self,
        backend: &mut B,
        workspace: &mut Workspace<B>,
        selection: Range<usize>,
    ) -> Result<(), BackendError> {
        let rows = gather(backend, workspace, selection)?;
        let head = self.weights.head();
        let [input, output, logits] =
            workspace.tensors([Operand::Gathered, Operand::GatheredNormed, Operand::Logits]);
        backend.prepare_input(output, head);
        backend.logits(
            rows,
            RmsNorm { input, norm: self.norm(&self.weights.final_norm), output },
            Head { weight: head, scale: self.scales.logits, cap: self.scales.logit_cap },
            logits,
        )
    }

    /// Computes the final hidden states of a part of the batch's output rows.
    pub(crate) fn hidden(
        &self,
        backend: &mut B,
        workspace: &mut Workspace<B>,
        selection: Range<usize>,
    ) -> Result<(), BackendError> {
        let rows = gather(backend, workspace, selection)?;
        let [input, output] = workspace.tensors([Operand::Gathered, Operand::Hidden]);
        backend.norm_gathered(rows, RmsNorm { input, norm: self.norm(&self.weights.final_norm), output })
    }
}

/// Puts a part of the batch's output rows together; gives their number.
fn gather<B: Backend>(
    backend: &mut B,
    workspace: &mut Workspace<B>,
    selection: Range<usize>,
) -> Result<usize, BackendError> {
    let rows = selection.len();
    let [residual, gathered] = workspace.tensors([Operand::Residual, Operand::Gathered]);
    backend.gather_rows(selection, residual, gathered)?;
    Ok(rows)
}
