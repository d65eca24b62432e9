//! FP8 KV caches: close to the exact one, and scales found under every name.

use octet_backend::DataType;
use octet_float8::Float8Format;
use octet_model::{KvCacheChoice, LoadOptions, Warning};
use serde_json::json;

use crate::support::{Draft, EXACT, Golden, Tensor, limits, logits, spread};

const CASE: &str = "llama-gqa-rope-llama3";

fn with_cache(draft: &Draft, kv_cache_type: KvCacheChoice) -> (Vec<f32>, DataType, Vec<Warning>) {
    let model = draft.load_with(LoadOptions { kv_cache_type, ..EXACT }).unwrap();
    let (kv_type, warnings) = (model.kv_type(), model.warnings().to_vec());
    let mut runner = model.into_runner(limits(128)).unwrap();
    (logits(&mut runner, &Golden::read(CASE).prompt, usize::MAX / 2), kv_type, warnings)
}

#[test]
fn float8_caches_stay_close() {
    let golden = Golden::read(CASE);
    for (choice, format, tolerance) in [
        (KvCacheChoice::Fp8, Float8Format::E4M3, 0.12),
        (KvCacheChoice::Fp8E4m3, Float8Format::E4M3, 0.12),
        (KvCacheChoice::Fp8E5m2, Float8Format::E5M2, 0.25),
    ] {
        let (found, kv_type, warnings) = with_cache(&Draft::of(CASE), choice);
        let differences: Vec<f32> =
            found.iter().zip(&golden.logits).map(|(found, exact)| found - exact).collect();
        let difference = spread(&differences) / spread(&golden.logits);

        assert!(difference > 1e-4 && difference < tolerance, "{choice}: {difference}");
        assert_eq!(kv_type, DataType::F8(format));
        let model = Draft::of(CASE).load_on_cpu(LoadOptions { kv_cache_type: choice, ..EXACT }).unwrap();
        let mut runner = model.into_runner(limits(128)).unwrap();
        let on_cpu = logits(&mut runner, &golden.prompt, usize::MAX / 2);
        // A sum in another order may fall on the other side of a rounding border, so not to the last place.
        let apart: Vec<f32> = on_cpu.iter().zip(&found).map(|(cpu, reference)| cpu - reference).collect();
        assert!(spread(&apart) / spread(&found) < 0.02, "{choice} on the CPU backend: {}", spread(&apart));
        let missing = Warning::KvScalesMissing { layers: 2 };
        assert_eq!(warnings.contains(&missing), format == Float8Format::E4M3, "{choice}");
    }
}

#[test]
fn scales_are_found_under_every_name() {
    let with_names = |key: &str, value: &str| {
        let mut draft = Draft::of(CASE);
        for layer in 0..2 {
            let prefix = format!("model.layers.{layer}.self_attn");
            // No power of two: those only move exponents, and the codes stay what they were.
            draft.tensors.insert(format!("{prefix}.{key}"), Tensor::f32(&[1], &[0.037]));
            draft.tensors.insert(format!("{prefix}.{value}"), Tensor::f32(&[], &[0.011]));
        }
        let (found, _, warnings) = with_cache(&draft, KvCacheChoice::Fp8);
        assert_eq!(warnings, [], "{key}");
        found
    };
    let unscaled = with_cache(&Draft::of(CASE), KvCacheChoice::Fp8).0;
    let expected = with_names("k_scale", "v_scale");
    assert_ne!(expected, unscaled);
    for (key, value) in [
        ("k_proj.k_scale", "v_proj.v_scale"),
        ("k_proj.output_scale", "v_proj.output_scale"),
        ("qkv_proj.k_scale", "qkv_proj.v_scale"),
    ] {
        assert_eq!(with_names(key, value), expected, "{key}");
    }
}

/// They are E4M3's; E5M2 has range enough without.
#[test]
fn scales_do_not_apply_to_e5m2_and_that_is_said() {
    let mut draft = Draft::of(CASE);
    draft.tensors.insert("model.layers.0.self_attn.k_scale".to_owned(), Tensor::f32(&[], &[0.037]));
    let (found, _, warnings) = with_cache(&draft, KvCacheChoice::Fp8E5m2);
    assert_eq!(warnings, [Warning::KvScalesNotUsed]);
    assert_eq!(found, with_cache(&Draft::of(CASE), KvCacheChoice::Fp8E5m2).0);
}

/// compressed-tensors' `kv_cache_scheme` makes `auto` mean FP8.
#[test]
fn a_checkpoint_can_ask_for_a_float8_cache() {
    let mut draft = Draft::of(CASE);
    draft.config["quantization_config"] = json!({
        "quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {},
        "kv_cache_scheme": { "num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": true },
    });
    assert_eq!(with_cache(&draft, KvCacheChoice::Auto).1, DataType::F8(Float8Format::E4M3));
    draft.config["quantization_config"]["kv_cache_scheme"]["num_bits"] = json!(4);
    let error = draft.error();
    assert!(error.contains("kv_cache_scheme float 4 bits") && error.contains("8 bits, symmetric"), "{error}");
}
