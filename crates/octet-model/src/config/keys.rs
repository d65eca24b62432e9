//! Keys of `config.json` that nobody reads: refused if they change what the model computes, else named once.

use serde_json::Value;

use super::fields::Fields;
use crate::ModelError;
use crate::families::Family;

/// What a key says if it changes nothing.
#[derive(Clone, Copy)]
enum Neutral {
    /// Null, false, or nothing in it.
    Nothing,
    /// This number, or nothing.
    Number(f64),
    /// This text, or nothing.
    Text(&'static str),
}

/// Keys that change what is computed, known from models that resemble the families here, with the value that does not.
const CHANGES_RESULTS: [(&str, Neutral); 40] = [
    ("bias", Neutral::Nothing),
    ("use_bias", Neutral::Nothing),
    ("use_qkv_bias", Neutral::Nothing),
    ("qkv_bias", Neutral::Nothing),
    ("lm_head_bias", Neutral::Nothing),
    ("attention_bias", Neutral::Nothing),
    ("mlp_bias", Neutral::Nothing),
    ("qk_norm", Neutral::Nothing),
    ("use_qk_norm", Neutral::Nothing),
    ("qk_layernorm", Neutral::Nothing),
    ("attn_logit_softcapping", Neutral::Nothing),
    ("final_logit_softcapping", Neutral::Nothing),
    ("query_pre_attn_scalar", Neutral::Nothing),
    ("clip_qkv", Neutral::Nothing),
    ("attention_multiplier", Neutral::Nothing),
    ("embedding_multiplier", Neutral::Number(1.0)),
    ("residual_multiplier", Neutral::Number(1.0)),
    ("logits_scaling", Neutral::Number(1.0)),
    ("logit_scale", Neutral::Number(1.0)),
    ("scale_emb", Neutral::Number(1.0)),
    ("scale_depth", Neutral::Nothing),
    ("dim_model_base", Neutral::Nothing),
    ("attn_temperature_tuning", Neutral::Nothing),
    ("attention_chunk_size", Neutral::Nothing),
    ("no_rope_layers", Neutral::Nothing),
    ("no_rope_layer_interval", Neutral::Nothing),
    ("rope_local_base_freq", Neutral::Nothing),
    ("rotary_emb_base", Neutral::Nothing),
    ("rotary_pct", Neutral::Number(1.0)),
    ("rotary_emb_fraction", Neutral::Number(1.0)),
    ("rope_interleaved", Neutral::Nothing),
    ("rope_traditional", Neutral::Nothing),
    ("alibi", Neutral::Nothing),
    ("position_embedding_type", Neutral::Text("rope")),
    ("use_parallel_residual", Neutral::Nothing),
    ("parallel_attn", Neutral::Nothing),
    ("use_bidirectional_attention", Neutral::Nothing),
    ("num_experts", Neutral::Number(0.0)),
    ("num_local_experts", Neutral::Number(0.0)),
    ("n_routed_experts", Neutral::Number(0.0)),
];

/// Keys that are read for every family, or say nothing about what is computed.
const KNOWN: [&str; 61] = [
    // Read here or by the checkpoint's reader.
    "architectures",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "intermediate_size",
    "rms_norm_eps",
    "hidden_act",
    "max_position_embeddings",
    "original_max_position_embeddings",
    "model_max_length",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "partial_rotary_factor",
    "tie_word_embeddings",
    "dtype",
    "torch_dtype",
    "bos_token_id",
    "eos_token_id",
    "text_config",
    "quantization_config",
    "compression_config",
    "is_matryoshka",
    "matryoshka_dimensions",
    // Training, and how other programs run the model.
    "_name_or_path",
    "_attn_implementation",
    "_attn_implementation_autoset",
    "attn_implementation",
    "attention_dropout",
    "cache_implementation",
    "auto_map",
    "embd_pdrop",
    "hidden_dropout",
    "initializer_range",
    "layer_norm_eps",
    "model_name",
    "model_type",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "pretraining_tp",
    "resid_pdrop",
    "return_dict",
    "router_aux_loss_coef",
    "sep_token_id",
    "task_specific_params",
    "tokenizer_class",
    "transformers_version",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_cache",
    "use_flash_attn",
    "use_flash_attention_2",
    // What every config inherits from transformers 4.
    "id2label",
    "label2id",
    "is_encoder_decoder",
    "torchscript",
];

/// Refuses keys that change what is computed and that the family does not know; the rest that nobody reads is returned.
///
/// # Errors
/// Such a key with a value that is not neutral.
pub(super) fn check(fields: &Fields<'_>, family: &Family) -> Result<Vec<String>, ModelError> {
    let mut ignored = Vec::new();
    for key in fields.keys().filter(|key| !family.keys.contains(key) && !KNOWN.contains(key)) {
        let Some((_, neutral)) = CHANGES_RESULTS.iter().find(|(known, _)| *known == key) else {
            ignored.push(key.to_owned());
            continue;
        };
        let value = fields.get(key);
        let (is_neutral, expected) = match *neutral {
            Neutral::Nothing => (false, "no such key".to_owned()),
            Neutral::Number(number) => (value.and_then(Value::as_f64) == Some(number), number.to_string()),
            Neutral::Text(text) => (value.and_then(Value::as_str) == Some(text), format!("\"{text}\"")),
        };
        if !is_neutral {
            let family = family.architecture;
            return Err(fields.error(key, format!("{expected}, because {family} here computes without it")));
        }
    }
    ignored.sort_unstable();
    Ok(ignored)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::families;

    fn check_keys(architecture: &str, config: &Value) -> Result<Vec<String>, String> {
        let fields = Fields::new("config.json", "", config.as_object().unwrap());
        check(&fields, families::find(architecture).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_changes_the_results_is_refused_and_the_rest_is_named() {
        for (architecture, config, found) in [
            ("LlamaForCausalLM", json!({ "attn_logit_softcapping": 50.0 }), "attn_logit_softcapping is 50.0"),
            ("LlamaForCausalLM", json!({ "logits_scaling": 8.0 }), "logits_scaling is 8.0, expected 1,"),
            ("LlamaForCausalLM", json!({ "position_embedding_type": "alibi" }), "expected \"rope\""),
            ("MistralForCausalLM", json!({ "attention_bias": true }), "attention_bias is true"),
            ("Qwen3ForCausalLM", json!({ "mlp_bias": true }), "mlp_bias is true"),
        ] {
            let error = check_keys(architecture, &config).unwrap_err();
            assert!(error.contains(found) && error.contains("computes without it"), "{error}");
        }
        let config = json!({ "attention_bias": true, "mlp_bias": true, "logits_scaling": 1.0, "clip_qkv": null,
            "position_embedding_type": "rope", "use_cache": true, "zeal": 3, "sliding_window": 8 });
        assert_eq!(check_keys("LlamaForCausalLM", &config).unwrap(), ["sliding_window", "zeal"]);
    }
}
