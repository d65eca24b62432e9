//! What the names of tensors say when they are not those that a config implies.

use std::collections::{HashMap, HashSet};

use crate::checkpoint::first_of;
use crate::kv_scales::KvScales;

/// Beginnings that tools and other architectures leave before the usual names, and what to do about them.
const PREFIXES: [(&str, &str); 7] = [
    ("base_model.model.", "PEFT's wrapper of an adapter: merge it (merge_and_unload) and save the model"),
    ("_orig_mod.", "torch.compile's wrapper: save the module inside it"),
    ("module.", "a wrapper for parallel training: save the module inside it"),
    ("_fsdp_wrapped_module.", "a wrapper for parallel training: save the module inside it"),
    ("language_model.", "the text part of a multimodal model: save that as a model of its own"),
    ("model.language_model.", "the text part of a multimodal model: save that as a model of its own"),
    ("transformer.", "another architecture than the config's"),
];

/// Endings of tensors that change no result: tables that are computed anew, and scales of what is not quantized here.
const WITHOUT_EFFECT: [&str; 10] = [
    "rotary_emb.inv_freq",
    "rotary_pos_emb.inv_freq",
    "rotary_emb.cos_cached",
    "rotary_emb.sin_cached",
    "_zero_point",
    "output_scale",
    ".q_scale",
    ".input_scale",
    ".activation_scale",
    ".prob_scale",
];

/// How many lacking names are looked for under another prefix; more would say the same.
const NAMES_TRIED: usize = 64;

/// Whether a tensor that is not read is known to change nothing.
pub(super) fn is_without_effect(name: &str) -> bool {
    KvScales::wants(name) || WITHOUT_EFFECT.iter().any(|end| name.ends_with(end))
}

/// Whether a tensor belongs to what is computed: to one of the first `layers` layers, the embedding, the last norm or
/// the head. Such a tensor changes results where it is read.
pub(super) fn is_of_the_decoder(name: &str, layers: usize) -> bool {
    if let Some(rest) = name.strip_prefix("model.layers.") {
        let number = rest.split('.').next().and_then(|number| number.parse::<usize>().ok());
        return number.is_some_and(|number| number < layers);
    }
    ["model.embed_tokens.", "model.norm.", "lm_head."].iter().any(|start| name.starts_with(start))
}

/// What lies in a checkpoint in place of the tensors that it lacks.
pub(super) fn instead(missing: &[String], others: &[&str]) -> String {
    if others.is_empty() {
        return String::new();
    }
    let first = first_of(others.iter().map(|&name| name.to_owned()).collect());
    let held = format!("; it holds {} others: {first}", others.len());
    match foreign_prefix(missing, others) {
        None => held,
        Some((prefix, count)) => {
            let known = PREFIXES.iter().find(|(it, _)| *it == prefix);
            let what = known.map_or_else(String::new, |(_, what)| format!(", {what}"));
            format!("{held}. {count} of those that are lacking are there under {prefix}{what}")
        }
    }
}

/// What stands before the lacking names, or in place of their `model.`, in most of the others; and in how many.
fn foreign_prefix(missing: &[String], others: &[&str]) -> Option<(String, usize)> {
    let mut votes: HashMap<&str, usize> = HashMap::new();
    for name in missing.iter().take(NAMES_TRIED) {
        let short = name.strip_prefix("model.").unwrap_or(name);
        for other in others {
            let prefix = other.strip_suffix(name.as_str()).or_else(|| other.strip_suffix(short));
            if let Some(prefix) = prefix.filter(|prefix| prefix.ends_with('.')) {
                *votes.entry(prefix).or_default() += 1;
            }
        }
    }
    let (prefix, _) = votes.into_iter().max_by_key(|&(prefix, count)| (count, prefix.len()))?;
    let others: HashSet<&str> = others.iter().copied().collect();
    let is_there = |name: &&String| {
        let short = name.strip_prefix("model.").unwrap_or(name);
        [name.as_str(), short].iter().any(|it| others.contains(format!("{prefix}{it}").as_str()))
    };
    Some((prefix.to_owned(), missing.iter().filter(is_there).count()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_prefix_is_recognised() {
        let usual =
            ["model.norm.weight", "model.layers.0.mlp.up_proj.weight", "lm_head.weight"].map(str::to_owned);
        for (prefix, keeps_model, what) in [
            ("base_model.model.", true, "PEFT"),
            ("_orig_mod.", true, "torch.compile"),
            ("language_model.", true, "multimodal"),
            ("model.language_model.", false, "multimodal"),
            ("transformer.", false, "another architecture"),
            ("model.", true, ""),
        ] {
            let renamed = |name: &String| {
                let short = name.strip_prefix("model.").unwrap_or(name);
                format!("{prefix}{}", if keeps_model { name } else { short })
            };
            let others: Vec<String> = usual.iter().map(renamed).collect();
            let others: Vec<&str> = others.iter().map(String::as_str).collect();
            let text = instead(&usual, &others);
            assert!(text.contains("it holds 3 others: ") && text.contains(what), "{text}");
            assert!(
                text.contains(&format!("3 of those that are lacking are there under {prefix}")),
                "{text}"
            );
        }
        assert_eq!(instead(&usual, &[]), "");
        assert!(!instead(&usual, &["visual.blocks.0"]).contains("under"));
    }

    #[test]
    fn tensors_of_computed_layers_count() {
        for name in ["model.layers.1.self_attn.q_norm.weight", "lm_head.bias", "model.norm.bias"] {
            assert!(is_of_the_decoder(name, 2), "{name}");
        }
        for name in ["model.layers.2.mlp.up_proj.weight", "visual.patch", "mtp.norm.weight"] {
            assert!(!is_of_the_decoder(name, 2), "{name}");
        }
    }
}
