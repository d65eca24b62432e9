//! What a model consists of: the list of its weights' sites, and its parts, a file each.
//!
//! [`Model`] is generic over what stands at each site: the config describes it, the planner turns descriptions into
//! plans, the packer plans into weights on a device, and the decoder computes with those. All of them, and whoever only
//! looks, take the one [`Model::walk`], so that they cannot disagree on the order; and as sites are fields, a weight
//! cannot be taken for another, nor be forgotten.

pub(crate) mod attention;
pub(crate) mod mlp;
pub(crate) mod sites;

use std::convert::Infallible;

use octet_backend::LinearUse;

use crate::ModelConfig;
use crate::families::NormPlacement;
use attention::Attention;
use mlp::Mlp;
use sites::{
    Described, LinearSite, Module, PartSite, Projection, Quantized, Stage, VectorSite, VectorValues, Walk,
};

/// Weight and epsilon of a norm that changes nothing: the epsilon is so much larger than any mean square that the sum
/// is the epsilon, whose root the weight undoes. Both are powers of two, so nothing is rounded.
const IDENTITY_WEIGHT: f32 = (1u64 << 50) as f32;
pub(crate) const IDENTITY_EPSILON: f32 = IDENTITY_WEIGHT * IDENTITY_WEIGHT;

/// Everything that a model has weights for.
pub(crate) struct Model<S: Stage> {
    /// Token embedding, and the head too if there is no other. `[vocabulary, hidden]`.
    pub(crate) embedding: S::Linear,
    /// The head, unless tied. `[vocabulary, hidden]`.
    pub(crate) head: Option<S::Linear>,
    /// Layers, in order.
    pub(crate) layers: Vec<Layer<S>>,
    /// What stands for the norm where a part of a layer reads the residual as it is. `[hidden]`.
    pub(crate) identity: Option<S::Vector>,
    /// `[hidden]`.
    pub(crate) final_norm: S::Vector,
}

/// What a layer has weights for.
pub(crate) struct Layer<S: Stage> {
    pub(crate) attention: Attention<S>,
    pub(crate) mlp: Mlp<S>,
}

/// The norms of one branch, both `[hidden]`.
struct BranchNorms {
    /// Of the residual that it reads.
    before: Option<VectorSite>,
    /// Of what it adds to the residual.
    after: Option<VectorSite>,
}

impl BranchNorms {
    /// Those of a layer's attention, and those of its MLP. The same name means different norms in different families.
    fn of_layer(config: &ModelConfig, layer: &Module) -> [Self; 2] {
        let names = match config.traits.norms {
            NormPlacement::Before => [[Some("input"), None], [Some("post_attention"), None]],
            NormPlacement::After => [[None, Some("post_attention")], [None, Some("post_feedforward")]],
            NormPlacement::Both => {
                [[Some("input"), Some("post_attention")], [Some("pre_feedforward"), Some("post_feedforward")]]
            }
        };
        let norm = |name| layer.norm(&format!("{name}_layernorm"), config.hidden, config.traits.norm_weights);
        names.map(|[before, after]| Self { before: before.map(norm), after: after.map(norm) })
    }
}

impl Model<Described> {
    /// The list for a config. A head of its own is one that is not tied, or that is quantized apart from the embedding.
    pub(crate) fn of(config: &ModelConfig, quantize_head: bool) -> Self {
        const EMBEDDING: &str = "model.embed_tokens";
        let ModelConfig { vocabulary: rows, hidden: columns, tied_embeddings, .. } = *config;
        let table = |name: &str, part: &str, usage, quantized| {
            let parts = vec![PartSite { name: part.to_owned(), rows }];
            LinearSite { name: name.to_owned(), parts, columns, bias: false, usage, quantized }
        };
        let is_head = tied_embeddings && !quantize_head;
        let usage = if is_head { LinearUse::EmbedAndMultiply } else { LinearUse::Embed };
        let head = if tied_embeddings { EMBEDDING } else { "lm_head" };
        let layer = |layer| {
            let module = Module(format!("model.layers.{layer}"));
            let [of_attention, of_mlp] = BranchNorms::of_layer(config, &module);
            Layer {
                attention: Attention::of(config, &module, of_attention),
                mlp: Mlp::of(config, &module, of_mlp),
            }
        };
        Self {
            embedding: table(EMBEDDING, EMBEDDING, usage, Quantized::Never),
            head: (!is_head).then(|| table("lm_head", head, LinearUse::Multiply, Quantized::IfStoredOrAsked)),
            layers: (0..config.layers).map(layer).collect(),
            identity: (config.traits.norms == NormPlacement::After).then(|| VectorSite {
                name: "identity".to_owned(),
                length: columns,
                values: VectorValues::Constant(IDENTITY_WEIGHT),
            }),
            final_norm: Module("model".to_owned()).norm("norm", columns, config.traits.norm_weights),
        }
    }
}

impl<S: Stage> Model<S> {
    /// Takes what stands at each site to the next stage. The large tables come first, while memory is free.
    pub(crate) fn walk<'a, T: Stage, W: Walk<'a, S, T>>(
        &'a self,
        walk: &mut W,
    ) -> Result<Model<T>, W::Error> {
        let embeds_only = self.head.is_some();
        let embedding = walk.linear((!embeds_only).then_some(Projection::Head), &self.embedding)?;
        let head = self.head.as_ref().map(|head| walk.linear(Some(Projection::Head), head)).transpose()?;
        let mut layers = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            layers.push(Layer { attention: layer.attention.walk(walk)?, mlp: layer.mlp.walk(walk)? });
        }
        let identity = walk.optional(self.identity.as_ref())?;
        Ok(Model { embedding, head, layers, identity, final_norm: walk.vector(&self.final_norm)? })
    }

    /// All linears, in the order of the walk, with what they multiply in a step.
    pub(crate) fn linears(&self) -> Vec<(Option<Projection>, &S::Linear)> {
        let mut linears = Linears(Vec::new());
        let Ok(_) = self.walk::<(), _>(&mut linears);
        linears.0
    }

    /// What computes the logits.
    pub(crate) fn head(&self) -> &S::Linear {
        self.head.as_ref().unwrap_or(&self.embedding)
    }
}

/// A walk that collects linears.
struct Linears<'a, L>(Vec<(Option<Projection>, &'a L)>);

impl<'a, S: Stage> Walk<'a, S, ()> for Linears<'a, S::Linear> {
    type Error = Infallible;

    fn linear(&mut self, projection: Option<Projection>, from: &'a S::Linear) -> Result<(), Infallible> {
        self.0.push((projection, from));
        Ok(())
    }

    fn vector(&mut self, _: &'a S::Vector) -> Result<(), Infallible> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_changes_no_number() {
        for value in [0.0f32, -0.1, 3.7, 65_504.0, 1e9, 1.0 / 3e9] {
            let reciprocal = 1.0 / (value * value + IDENTITY_EPSILON).sqrt();
            assert_eq!(value * reciprocal * IDENTITY_WEIGHT, value);
        }
    }
}
