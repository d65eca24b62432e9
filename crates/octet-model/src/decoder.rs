//! The one decoder: what every family here does, with their differences as options.
//!
//! `h += o(attention(rope(q), rope(k), v))` and `h += down(activation(gate) * up)`, each on the RMS norm of `h`.

use std::ops::Range;

use octet_backend::{
    Activation, AttentionSpec, Backend, BackendError, Join, Norm, RmsNorm, RotaryAndCache, TensorRole,
    TensorSpec,
};

use crate::ModelConfig;
use crate::layer::attention::Attention;
use crate::layer::mlp::Mlp;
use crate::layer::sites::{OnDevice, Projection};
use crate::layer::{Layer, Model};

/// A model's weights with the constants that go with them.
pub(crate) struct Decoder<B: Backend> {
    weights: Model<OnDevice<B>>,
    attention: Vec<AttentionSpec>,
    activation: Activation,
    norm_epsilon: f32,
}

/// What the device computes with in a step.
pub(crate) struct Workspace<B: Backend> {
    /// `[tokens, hidden]`.
    residual: B::Tensor,
    /// `[tokens, hidden]`.
    normed: B::Tensor,
    /// `[tokens, (query_heads + 2 * kv_heads) * head_dim]`.
    qkv: B::Tensor,
    /// `[tokens, query_heads * head_dim]`.
    attended: B::Tensor,
    /// `[tokens, intermediate]`.
    gated: B::Tensor,
    /// `[tokens, hidden]`: what a part of a layer gives, before it joins the residual.
    branch: B::Tensor,
    /// `[logit rows, hidden]`.
    gathered: B::Tensor,
    /// `[logit rows, hidden]`.
    gathered_normed: B::Tensor,
    /// `[logit rows, vocabulary]`.
    pub(crate) logits: B::Tensor,
}

/// The workspace's tensors, in the order of its fields.
pub(crate) fn workspace_specs(config: &ModelConfig, tokens: usize, logit_rows: usize) -> [TensorSpec; 9] {
    let spec = |role, rows, columns| TensorSpec { role, rows, columns };
    [
        spec(TensorRole::Residual, tokens, config.hidden),
        spec(TensorRole::Activation, tokens, config.hidden),
        spec(TensorRole::Activation, tokens, config.qkv_columns()),
        spec(TensorRole::Activation, tokens, config.attention_columns()),
        spec(TensorRole::Activation, tokens, config.intermediate),
        spec(TensorRole::Activation, tokens, config.hidden),
        spec(TensorRole::Residual, logit_rows, config.hidden),
        spec(TensorRole::Activation, logit_rows, config.hidden),
        spec(TensorRole::Logits, logit_rows, config.vocabulary),
    ]
}

impl<B: Backend> Workspace<B> {
    /// Allocates for steps of at most `tokens` rows, of which `logit_rows` are looked at together.
    pub(crate) fn allocate(
        backend: &mut B,
        config: &ModelConfig,
        tokens: usize,
        logit_rows: usize,
    ) -> Result<Self, BackendError> {
        let mut specs = workspace_specs(config, tokens, logit_rows).into_iter();
        let mut next = || backend.allocate(specs.next().expect("there is a spec for each field"));
        Ok(Self {
            residual: next()?,
            normed: next()?,
            qkv: next()?,
            attended: next()?,
            gated: next()?,
            branch: next()?,
            gathered: next()?,
            gathered_normed: next()?,
            logits: next()?,
        })
    }
}

impl<B: Backend> Workspace<B> {
    /// Input and output of a projection.
    pub(crate) fn operands_of(&mut self, projection: Projection) -> (&mut B::Tensor, &mut B::Tensor) {
        match projection {
            Projection::Qkv => (&mut self.normed, &mut self.qkv),
            Projection::Output => (&mut self.attended, &mut self.branch),
            Projection::GateUp => (&mut self.normed, &mut self.gated),
            Projection::Down => (&mut self.gated, &mut self.branch),
            Projection::Head => (&mut self.gathered_normed, &mut self.logits),
        }
    }

    /// The same, to look at.
    pub(crate) fn view_of(&self, projection: Projection) -> (&B::Tensor, &B::Tensor) {
        match projection {
            Projection::Qkv => (&self.normed, &self.qkv),
            Projection::Output => (&self.attended, &self.branch),
            Projection::GateUp => (&self.normed, &self.gated),
            Projection::Down => (&self.gated, &self.branch),
            Projection::Head => (&self.gathered_normed, &self.logits),
        }
    }
}

impl<B: Backend> Decoder<B> {
    pub(crate) fn new(config: &ModelConfig, weights: Model<OnDevice<B>>) -> Self {
        let attention = config.windows.iter().enumerate().map(|(layer, &sliding_window)| AttentionSpec {
            layer,
            query_heads: config.query_heads,
            scale: (config.head_dim as f32).sqrt().recip(),
            sliding_window,
        });
        Self {
            attention: attention.collect(),
            weights,
            activation: config.activation,
            norm_epsilon: config.norm_epsilon,
        }
    }

    /// The weights of all projections, in the order of the list.
    pub(crate) fn projections(&self) -> impl Iterator<Item = (Projection, &B::Linear)> {
        self.weights.linears().into_iter().filter_map(|(projection, weight)| Some((projection?, weight)))
    }

    /// Computes the batch up to the last layer: `workspace.residual` holds its output.
    pub(crate) fn forward(
        &self,
        backend: &mut B,
        rope: &B::Rope,
        cache: &mut B::KvCache,
        workspace: &mut Workspace<B>,
    ) -> Result<(), BackendError> {
        let layers = &self.weights.layers;
        backend.embed(&self.weights.embedding, &mut workspace.residual)?;
        if let Some(first) = layers.first() {
            let Workspace { residual, normed, .. } = &mut *workspace;
            let Opening { norm, reader } = self.opening_of_attention(first);
            backend.prepare_input(normed, reader);
            backend.rms_norm(RmsNorm { input: residual, norm, output: normed })?;
        }
        for (index, (layer, &attention)) in layers.iter().zip(&self.attention).enumerate() {
            self.attend(backend, (&layer.attention, attention), (rope, cache), workspace)?;
            join(backend, workspace, Some(self.opening_of_mlp(layer)))?;
            self.feed_forward(backend, &layer.mlp, workspace)?;
            join(backend, workspace, layers.get(index + 1).map(|next| self.opening_of_attention(next)))?;
        }
        Ok(())
    }

    fn norm<'a>(&self, weight: &'a B::Vector) -> Norm<'a, B> {
        Norm { weight, epsilon: self.norm_epsilon }
    }

    fn opening_of_attention<'a>(&self, layer: &'a Layer<OnDevice<B>>) -> Opening<'a, B> {
        Opening { norm: self.norm(&layer.attention.input_norm), reader: &layer.attention.qkv }
    }

    fn opening_of_mlp<'a>(&self, layer: &'a Layer<OnDevice<B>>) -> Opening<'a, B> {
        Opening { norm: self.norm(&layer.mlp.input_norm), reader: &layer.mlp.gate_up }
    }

    /// From the normed residual to the branch.
    fn attend(
        &self,
        backend: &mut B,
        (layer, attention): (&Attention<OnDevice<B>>, AttentionSpec),
        (rope, cache): (&B::Rope, &mut B::KvCache),
        workspace: &mut Workspace<B>,
    ) -> Result<(), BackendError> {
        let Workspace { normed, qkv, attended, branch, .. } = workspace;
        backend.linear(&layer.qkv, normed, qkv)?;
        backend.rotary_and_cache(
            attention,
            RotaryAndCache {
                qkv,
                query_norm: layer.query_norm.as_ref(),
                key_norm: layer.key_norm.as_ref(),
                epsilon: self.norm_epsilon,
                rope,
                cache,
            },
        )?;
        backend.attention(attention, qkv, cache, attended)?;
        backend.linear(&layer.output, attended, branch)
    }

    /// From the normed residual to the branch.
    fn feed_forward(
        &self,
        backend: &mut B,
        layer: &Mlp<OnDevice<B>>,
        workspace: &mut Workspace<B>,
    ) -> Result<(), BackendError> {
        let Workspace { normed, gated, branch, .. } = workspace;
        backend.prepare_input(gated, &layer.down);
        backend.gated_linear(&layer.gate_up, self.activation, normed, gated)?;
        backend.linear(&layer.down, gated, branch)
    }

    /// Computes the logits of a part of the batch's output rows.
    pub(crate) fn logits(
        &self,
        backend: &mut B,
        workspace: &mut Workspace<B>,
        selection: Range<usize>,
    ) -> Result<(), BackendError> {
        let Workspace { residual, gathered, gathered_normed, logits, .. } = workspace;
        let rows = selection.len();
        let head = self.weights.head();
        backend.gather_rows(selection, residual, gathered)?;
        backend.prepare_input(gathered_normed, head);
        let norm =
            RmsNorm { input: gathered, norm: self.norm(&self.weights.final_norm), output: gathered_normed };
        backend.logits(rows, norm, head, logits)
    }
}

/// What a part of a layer begins with: the norm of the residual, and the linear that reads it.
struct Opening<'a, B: Backend> {
    norm: Norm<'a, B>,
    reader: &'a B::Linear,
}

/// Adds the branch to the residual, and opens the next part, if there is one.
fn join<B: Backend>(
    backend: &mut B,
    workspace: &mut Workspace<B>,
    next: Option<Opening<'_, B>>,
) -> Result<(), BackendError> {
    let Workspace { residual, normed, branch, .. } = workspace;
    if let Some(next) = &next {
        backend.prepare_input(normed, next.reader);
    }
    let next = next.map(|next| (next.norm, normed));
    backend.join(Join { residual, branch, post_norm: None, scale: 1.0, next })
}
