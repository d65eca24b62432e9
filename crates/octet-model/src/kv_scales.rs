//! Scales of an FP8 KV cache: the many names under which checkpoints carry them, and what missing ones mean.

use std::collections::BTreeMap;

use octet_backend::KvScale;
use octet_float8::fnuz;

/// What a scale in a checkpoint is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Key,
    Value,
    /// One for both, from before there were two.
    Both,
    /// Queries and probabilities: for devices that quantize those too; 16-bit attention does not.
    Unused,
}

/// Suffixes after `model.layers.N.`, with what they are for. ModelOpt and AutoFP8 put scales on the projections,
/// compressed-tensors on the attention, Quark calls them output scales.
const SUFFIXES: [(&str, Role); 16] = [
    ("self_attn.attn.k_scale", Role::Key),
    ("self_attn.attn.v_scale", Role::Value),
    ("self_attn.k_scale", Role::Key),
    ("self_attn.v_scale", Role::Value),
    ("self_attn.q_scale", Role::Unused),
    ("self_attn.k_proj.k_scale", Role::Key),
    ("self_attn.v_proj.v_scale", Role::Value),
    ("self_attn.qkv_proj.k_scale", Role::Key),
    ("self_attn.qkv_proj.v_scale", Role::Value),
    ("self_attn.qkqkv_proj.k_scale", Role::Key),
    ("self_attn.qkqkv_proj.v_scale", Role::Value),
    ("self_attn.k_proj.output_scale", Role::Key),
    ("self_attn.v_proj.output_scale", Role::Value),
    ("self_attn.q_proj.output_scale", Role::Unused),
    ("self_attn.prob_output_scale", Role::Unused),
    ("self_attn.kv_scale", Role::Both),
];

/// A layer's scales as they were found.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Found {
    key: Option<f32>,
    value: Option<f32>,
}

/// Scales of all layers, gathered by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct KvScales {
    layers: BTreeMap<usize, Found>,
}

/// Scales, ready for the cache, and how many layers had none of their own.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ResolvedScales {
    /// One for each layer.
    pub(crate) scales: Vec<KvScale>,
    /// Layers for which the checkpoint has none, so that 1.0 is used.
    pub(crate) layers_without: usize,
}

impl KvScales {
    /// Whether a tensor is one of these scales that is used: then it is to be read and handed to [`KvScales::insert`].
    pub(crate) fn wants(name: &str) -> bool {
        role(name).is_some_and(|(_, role)| role != Role::Unused)
    }

    /// Takes one scale. Of several (one for each head) the largest is used, which covers them all.
    pub(crate) fn insert(&mut self, name: &str, values: &[f32]) {
        let Some((layer, role)) = role(name) else { return };
        let scale = values.iter().copied().fold(f32::MIN, f32::max);
        // Training code writes -1 or 0 where it has not calibrated.
        if !(scale > 0.0 && scale.is_finite()) {
            return;
        }
        let found = self.layers.entry(layer).or_default();
        match role {
            Role::Key => found.key = Some(scale),
            Role::Value => found.value = Some(scale),
            Role::Both => {
                found.key.get_or_insert(scale);
                found.value.get_or_insert(scale);
            }
            Role::Unused => {}
        }
    }

    /// Both given: used, and doubled on a device that stores FNUZ, whose codes mean half as much. One given: used for
    /// both. None given: 1.0, not doubled. All as in vLLM.
    pub(crate) fn resolve(&self, layers: usize, is_fnuz: bool) -> ResolvedScales {
        let mut layers_without = 0;
        let adapt = |scale| if is_fnuz { fnuz::scale(scale) } else { scale };
        let both = |key, value| KvScale { key: adapt(key), value: adapt(value) };
        let scales = (0..layers)
            .map(|layer| match self.layers.get(&layer).copied().unwrap_or_default() {
                Found { key: Some(key), value: Some(value) } => both(key, value),
                Found { key: Some(one), value: None } | Found { key: None, value: Some(one) } => {
                    both(one, one)
                }
                Found { key: None, value: None } => {
                    layers_without += 1;
                    KvScale::ONE
                }
            })
            .collect();
        ResolvedScales { scales, layers_without }
    }
}

/// Layer and role of a scale's name, if it is one.
fn role(name: &str) -> Option<(usize, Role)> {
    let (_, rest) = name.split_once("layers.")?;
    let (layer, suffix) = rest.split_once('.')?;
    let layer = layer.parse().ok()?;
    SUFFIXES.iter().find(|(known, _)| *known == suffix).map(|&(_, role)| (layer, role))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(found: &[(&str, f32)]) -> ResolvedScales {
        let mut scales = KvScales::default();
        for (name, value) in found {
            if KvScales::wants(name) {
                scales.insert(name, &[*value]);
            }
        }
        scales.resolve(1, false)
    }

    #[test]
    fn every_spelling_is_understood() {
        for (key, value) in [
            ("k_proj.k_scale", "v_proj.v_scale"),
            ("k_scale", "v_scale"),
            ("attn.k_scale", "attn.v_scale"),
            ("qkv_proj.k_scale", "qkv_proj.v_scale"),
            ("qkqkv_proj.k_scale", "qkqkv_proj.v_scale"),
            ("k_proj.output_scale", "v_proj.output_scale"),
        ] {
            let (key, value) =
                (format!("model.layers.0.self_attn.{key}"), format!("model.layers.0.self_attn.{value}"));
            let resolved = resolve(&[(&key, 0.5), (&value, 0.25)]);
            assert_eq!(resolved.scales, [KvScale { key: 0.5, value: 0.25 }], "{key}");
            assert_eq!(resolved.layers_without, 0);
        }
    }

    #[test]
    fn what_is_missing_follows_the_rules() {
        let only_value = resolve(&[("model.layers.0.self_attn.v_scale", 0.25)]);
        assert_eq!(only_value.scales, [KvScale { key: 0.25, value: 0.25 }]);
        let deprecated = resolve(&[("model.layers.0.self_attn.kv_scale", 0.5)]);
        assert_eq!(deprecated.scales, [KvScale { key: 0.5, value: 0.5 }]);
        let uncalibrated =
            resolve(&[("model.layers.0.self_attn.k_scale", -1.0), ("model.layers.0.self_attn.v_scale", 0.0)]);
        let mut fnuz = KvScales::default();
        fnuz.insert("model.layers.1.self_attn.k_scale", &[0.5, 0.25]);
        assert_eq!(fnuz.resolve(2, true).scales, [KvScale::ONE, KvScale { key: 1.0, value: 1.0 }]);
        assert_eq!(uncalibrated, ResolvedScales { scales: vec![KvScale::ONE], layers_without: 1 });
    }

    #[test]
    fn other_names_are_left_alone() {
        for name in [
            "model.layers.0.self_attn.k_proj.weight_scale",
            "model.layers.0.self_attn.k_zero_point",
            "model.layers.0.self_attn.q_proj.output_scale",
            "model.layers.0.self_attn.prob_output_scale",
            "lm_head.output_scale",
        ] {
            assert!(!KvScales::wants(name), "{name}");
        }
    }
}
