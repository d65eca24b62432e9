//! The gated MLP: `down(activation(gate) * up)` of the normed residual.

use octet_backend::{Activation, Backend, BackendError, LinearUse};

use super::BranchNorms;
use super::sites::{Described, Module, OnDevice, Projection, Stage, Walk};
use crate::ModelConfig;
use crate::workspace::Workspace;

/// The sites of a layer's MLP.
pub(crate) struct Mlp<S: Stage> {
    /// Of the residual that it reads, `[hidden]`.
    pub(crate) input_norm: Option<S::Vector>,
    /// Gate, then up: `[2 * intermediate, hidden]`.
    pub(crate) gate_up: S::Linear,
    /// `[hidden, intermediate]`.
    pub(crate) down: S::Linear,
    /// Of what it adds to the residual, `[hidden]`.
    pub(crate) post_norm: Option<S::Vector>,
}

impl Mlp<Described> {
    pub(super) fn of(config: &ModelConfig, layer: &Module, norms: BranchNorms) -> Self {
        let ModelConfig { hidden, intermediate, traits, .. } = *config;
        let module = Module(format!("{}.mlp", layer.0));
        let gate_up = [("gate_proj", intermediate), ("up_proj", intermediate)];
        let down = [("down_proj", hidden)];
        Self {
            input_norm: norms.before,
            gate_up: module.linear("gate_up_proj", &gate_up, hidden, LinearUse::Gated, traits.mlp_bias),
            down: module.linear("down_proj", &down, intermediate, LinearUse::Multiply, traits.mlp_bias),
            post_norm: norms.after,
        }
    }
}

impl<S: Stage> Mlp<S> {
    pub(super) fn walk<'a, T: Stage, W: Walk<'a, S, T>>(&'a self, walk: &mut W) -> Result<Mlp<T>, W::Error> {
        Ok(Mlp {
            input_norm: walk.optional(self.input_norm.as_ref())?,
            gate_up: walk.linear(Some(Projection::GateUp), &self.gate_up)?,
            down: walk.linear(Some(Projection::Down), &self.down)?,
            post_norm: walk.optional(self.post_norm.as_ref())?,
        })
    }
}

impl<B: Backend> Mlp<OnDevice<B>> {
    /// The norm of the residual that it begins with, if any, and the projection that reads it.
    pub(crate) fn entry(&self) -> (Option<&B::Vector>, &B::Linear) {
        (self.input_norm.as_ref(), &self.gate_up)
    }

    /// From the residual, normed, to the branch.
    pub(crate) fn run(
        &self,
        backend: &mut B,
        activation: Activation,
        workspace: &mut Workspace<B>,
    ) -> Result<(), BackendError> {
        let [normed, gated] = workspace.tensors(Projection::GateUp.operands());
        backend.prepare_input(gated, &self.down);
        backend.gated_linear(&self.gate_up, activation, normed, gated)?;
        let [gated, branch] = workspace.tensors(Projection::Down.operands());
        backend.linear(&self.down, gated, branch)
    }
}
