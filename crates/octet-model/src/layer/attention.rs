//! Attention: queries, keys and values of the normed residual, rotation, the KV cache, the output projection.

use octet_backend::{AttentionSpec, Backend, BackendError, LinearUse, RotaryAndCache};

use super::BranchNorms;
use super::sites::{Described, Module, OnDevice, Operand, Projection, Stage, Walk};
use crate::ModelConfig;
use crate::families::HeadNorm;
use crate::workspace::Workspace;

/// The sites of a layer's attention.
pub(crate) struct Attention<S: Stage> {
    /// Of the residual that it reads, `[hidden]`.
    pub(crate) input_norm: Option<S::Vector>,
    /// `[head_dim]`, or `[query_heads * head_dim]`.
    pub(crate) query_norm: Option<S::Vector>,
    /// `[head_dim]`, or `[kv_heads * head_dim]`.
    pub(crate) key_norm: Option<S::Vector>,
    /// `[(query_heads + 2 * kv_heads) * head_dim, hidden]`.
    pub(crate) qkv: S::Linear,
    /// `[hidden, query_heads * head_dim]`.
    pub(crate) output: S::Linear,
    /// Of what it adds to the residual, `[hidden]`.
    pub(crate) post_norm: Option<S::Vector>,
}

impl Attention<Described> {
    pub(super) fn of(config: &ModelConfig, layer: &Module, norms: BranchNorms) -> Self {
        let ModelConfig { hidden, query_heads, kv_heads, head_dim, traits, .. } = *config;
        let (queries, keys) = (query_heads * head_dim, kv_heads * head_dim);
        let module = Module(format!("{}.self_attn", layer.0));
        let head_norm = |name, columns| {
            let length = match traits.query_key_norm? {
                HeadNorm::Each => head_dim,
                HeadNorm::Together => columns,
            };
            Some(module.norm(name, length, traits.norm_weights))
        };
        let parts = [("q_proj", queries), ("k_proj", keys), ("v_proj", keys)];
        let output = [("o_proj", hidden)];
        Self {
            input_norm: norms.before,
            query_norm: head_norm("q_norm", queries),
            key_norm: head_norm("k_norm", keys),
            qkv: module.linear("qkv_proj", &parts, hidden, LinearUse::Multiply, traits.qkv_bias),
            output: module.linear("o_proj", &output, queries, LinearUse::Multiply, traits.output_bias),
            post_norm: norms.after,
        }
    }
}

impl<S: Stage> Attention<S> {
    pub(super) fn walk<'a, T: Stage, W: Walk<'a, S, T>>(
        &'a self,
        walk: &mut W,
    ) -> Result<Attention<T>, W::Error> {
        Ok(Attention {
            input_norm: walk.optional(self.input_norm.as_ref())?,
            query_norm: walk.optional(self.query_norm.as_ref())?,
            key_norm: walk.optional(self.key_norm.as_ref())?,
            qkv: walk.linear(Some(Projection::Qkv), &self.qkv)?,
            output: walk.linear(Some(Projection::Output), &self.output)?,
            post_norm: walk.optional(self.post_norm.as_ref())?,
        })
    }
}

impl<B: Backend> Attention<OnDevice<B>> {
    /// The norm of the residual that it begins with, if any, and the projection that reads it.
    pub(crate) fn entry(&self) -> (Option<&B::Vector>, &B::Linear) {
        (self.input_norm.as_ref(), &self.qkv)
    }

    /// From the residual, normed, to the branch.
    pub(crate) fn run(
        &self,
        backend: &mut B,
        (spec, epsilon): (AttentionSpec, f32),
        (rope, cache): (&B::Rope, &mut B::KvCache),
        workspace: &mut Workspace<B>,
    ) -> Result<(), BackendError> {
        let [normed, qkv] = workspace.tensors(Projection::Qkv.operands());
        backend.linear(&self.qkv, normed, qkv)?;
        let (query_norm, key_norm) = (self.query_norm.as_ref(), self.key_norm.as_ref());
        backend.rotary_and_cache(spec, RotaryAndCache { qkv, query_norm, key_norm, epsilon, rope, cache })?;
        let [qkv, attended] = workspace.tensors([Operand::Qkv, Operand::Attended]);
        backend.attention(spec, qkv, cache, attended)?;
        let [attended, branch] = workspace.tensors(Projection::Output.operands());
        backend.linear(&self.output, attended, branch)
    }
}
