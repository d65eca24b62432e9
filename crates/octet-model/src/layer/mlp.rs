//! The gated MLP: `down(activation(gate) * up)` of the normed residual.

use octet_backend::{Activation, Backend, BackendError, LinearUse};

use super::sites::{Described, Module, OnDevice, Projection, Stage, Walk};
use crate::ModelConfig;
use crate::workspace::Workspace;

/// The sites of a layer's MLP.
pub(crate) struct Mlp<S: Stage> {
    /// `[hidden]`.
    pub(crate) input_norm: S::Vector,
    /// Gate, then up: `[2 * intermediate, hidden]`.
    pub(crate) gate_up: S::Linear,
    /// `[hidden, intermediate]`.
    pub(crate) down: S::Linear,
}

impl Mlp<Described> {
    pub(super) fn of(config: &ModelConfig, layer: &Module) -> Self {
        let ModelConfig { hidden, intermediate, traits, .. } = *config;
        let module = Module(format!("{}.mlp", layer.0));
        let gate_up = [("gate_proj", intermediate), ("up_proj", intermediate)];
        let down = [("down_proj", hidden)];
        Self {
            input_norm: layer.norm("post_attention_layernorm", hidden),
            gate_up: module.linear("gate_up_proj", &gate_up, hidden, LinearUse::Gated, traits.mlp_bias),
            down: module.linear("down_proj", &down, intermediate, LinearUse::Multiply, traits.mlp_bias),
        }
    }
}

impl<S: Stage> Mlp<S> {
    pub(super) fn walk<'a, T: Stage, W: Walk<'a, S, T>>(&'a self, walk: &mut W) -> Result<Mlp<T>, W::Error> {
        Ok(Mlp {
            input_norm: walk.vector(&self.input_norm)?,
            gate_up: walk.linear(Some(Projection::GateUp), &self.gate_up)?,
            down: walk.linear(Some(Projection::Down), &self.down)?,
        })
    }
}

impl<B: Backend> Mlp<OnDevice<B>> {
    /// The norm of the residual that it begins with, and the projection that reads it.
    pub(crate) fn entry(&self) -> (&B::Vector, &B::Linear) {
        (&self.input_norm, &self.gate_up)
    }

    /// From the normed residual to the branch.
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
