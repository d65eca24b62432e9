//! Facts that stand in two files or keys: what counts is what transformers makes of them (`tools/golden/facts.py`).

use std::fs;
use std::path::Path;

use octet_backend::DataType;
use octet_model::{
    ConfigOverrides, GenerationConfig, GenerationKeys, LoadFormat, LoadOptions, LoadedModel, MaxModelLen,
    ModelConfig, ModelSource, ResolvedModel, Warning,
};
use octet_reference::ReferenceBackend;
use serde_json::{Map, Value, json};

use crate::support::{Draft, EXACT, load, load_on};

/// The cases about one fact.
fn cases(fact: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/facts.json");
    let facts: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let cases = facts[fact].as_array().unwrap();
    assert!(!cases.is_empty());
    cases.clone()
}

fn parse(case: &Value) -> ModelConfig {
    let config = ModelConfig::parse(&case["config"].to_string(), Path::new("config.json"));
    config.unwrap_or_else(|error| panic!("{}: {error}", case["name"]))
}

#[test]
fn rotations_are_those_of_transformers() {
    for case in cases("rope") {
        let (spec, name) = (parse(&case).rope.spec(), &case["name"]);
        let expected: Vec<f64> = serde_json::from_value(case["inverse_frequencies"].clone()).unwrap();
        assert_eq!(spec.inverse_frequencies.len(), expected.len(), "{name}");
        for (found, expected) in spec.inverse_frequencies.iter().zip(expected) {
            assert!((f64::from(*found) / expected - 1.0).abs() < 1e-5, "{name}: {found} for {expected}");
        }
        let magnitude = case["magnitude"].as_f64().unwrap();
        assert!((f64::from(spec.magnitude) - magnitude).abs() < 1e-6, "{name}: {}", spec.magnitude);
    }
}

#[test]
fn windows_are_those_of_transformers() {
    for case in cases("windows") {
        let expected: Vec<Option<usize>> = serde_json::from_value(case["windows"].clone()).unwrap();
        assert_eq!(parse(&case).windows, expected, "{}", case["name"]);
    }
}

#[test]
fn element_types_are_those_of_transformers() {
    for case in cases("dtype") {
        let expected = match case["dtype"].as_str().unwrap() {
            "float16" => DataType::F16,
            "bfloat16" => DataType::BF16,
            _ => DataType::F32,
        };
        assert_eq!(parse(&case).stored_type, Some(expected), "{}", case["name"]);
    }
}

#[test]
fn ids_that_end_a_sequence_are_those_of_transformers() {
    for case in cases("eos") {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("generation_config.json");
        if case["generation_config"].is_object() {
            fs::write(&path, case["generation_config"].to_string()).unwrap();
        }
        let generation = GenerationConfig::read(Some(&path), GenerationKeys::All, &Map::new()).unwrap();
        let expected: Vec<u32> = serde_json::from_value(case["eos_token_ids"].clone()).unwrap();
        assert_eq!(parse(&case).ending_ids(&generation), expected, "{}", case["name"]);
    }
}

/// A head that is the embedding is not kept twice, nor spoken of.
#[test]
fn a_stored_head_that_is_the_same_stays_tied() {
    let mut draft = Draft::of("qwen2-tied");
    let embedding = draft.tensors["model.embed_tokens.weight"].clone();
    draft.tensors.insert("lm_head.weight".to_owned(), embedding);
    let model = draft.load().unwrap();
    assert_eq!((model.warnings(), model.config().tied_embeddings), (&[][..], true));

    let head = draft.tensors.get_mut("lm_head.weight").unwrap();
    *head.bytes.last_mut().unwrap() ^= 1;
    let model = draft.load().unwrap();
    assert_eq!((model.warnings(), model.config().tied_embeddings), (&[Warning::HeadDiffers][..], false));
}

#[test]
fn the_longest_sequence_has_one_rule() {
    let draft = |change: Value| {
        let mut draft = Draft::of("llama-rope-linear");
        let keys = draft.config.as_object_mut().unwrap();
        keys.extend(change.as_object().unwrap().clone());
        draft.write()
    };
    let refused = |folder: &Path, tokens: usize| {
        let options = LoadOptions { max_model_len: MaxModelLen::Tokens(tokens), ..EXACT };
        load(folder, options).err().map(|error| error.to_string()).unwrap_or_default()
    };
    let folder = draft(json!({ "rope_scaling": null }));
    assert_eq!(refused(folder.path(), 256), "");
    let error = refused(folder.path(), 257);
    assert!(
        error.contains("above the 256 tokens") && error.contains("max_position_embeddings 256"),
        "{error}"
    );
    fs::write(folder.path().join("tokenizer_config.json"), r#"{"model_max_length": 100}"#).unwrap();
    assert_eq!(load(folder.path(), EXACT).unwrap().config().longest_sequence(), 100);
    let error = refused(folder.path(), 101);
    assert!(error.contains("model_max_length 100 in tokenizer_config.json"), "{error}");
    fs::write(folder.path().join("tokenizer_config.json"), r#"{"model_max_length": 1e30}"#).unwrap();
    assert_eq!(load(folder.path(), EXACT).unwrap().config().longest_sequence(), 256);

    let folder = draft(json!({ "rope_scaling": null, "model_max_length": 300 }));
    assert_eq!((refused(folder.path(), 300), refused(folder.path(), 301).is_empty()), (String::new(), false));
    let folder =
        draft(json!({ "rope_scaling": { "type": "dynamic", "factor": 4.0 }, "model_max_length": 300 }));
    assert_eq!(refused(folder.path(), 256), "");
    let error = refused(folder.path(), 257);
    assert!(error.contains("rotate its cached keys anew") && error.contains("yarn or linear"), "{error}");
}

#[test]
fn overrides_are_laid_over_the_file_and_checked_like_it() {
    let folder = Draft::of("llama-rope-yarn").write();
    let source = ModelSource::Folder(folder.path().to_owned());
    let resolve = |typed: &str| {
        let overrides: ConfigOverrides = typed.parse().unwrap();
        ResolvedModel::with_overrides(&source, LoadFormat::Auto, &overrides, &mut |_| {})
    };
    let config = resolve(r#"{"rope_parameters": {"factor": 2.0}, "eos_token_id": 9}"#).unwrap().config;
    assert_eq!((config.rope.longest_sequence(None), &config.eos_token_ids[..]), (256, &[9][..]));
    let plain = resolve("").unwrap().config;
    assert!(plain.rope.spec().inverse_frequencies[7] < config.rope.spec().inverse_frequencies[7]);
    let error = resolve(r#"{"logits_scaling": 8}"#).unwrap_err().to_string();
    assert!(error.contains("config.json: logits_scaling is 8, expected 1"), "{error}");

    let model = resolve(r#"{"zeal": 1}"#).unwrap();
    let model = LoadedModel::load_resolved(ReferenceBackend::new(), model, &EXACT, &mut |_| {}).unwrap();
    let said: Vec<_> = model.warnings().iter().map(ToString::to_string).collect();
    assert!(said.len() == 1 && said[0].ends_with("keys that are not known are ignored: zeal"), "{said:?}");
}

#[test]
fn the_quantization_of_config_json_wins_over_a_file_of_its_own() {
    let file = json!({ "producer": { "name": "modelopt" },
        "quantization": { "quant_algo": "FP8", "kv_cache_quant_algo": null, "exclude_modules": ["*"] } });
    let folder = Draft::of("llama-mha").write();
    let path = folder.path().join("hf_quant_config.json");
    fs::write(&path, file.to_string()).unwrap();
    let quantization = |folder: &Path| {
        load_on(ReferenceBackend::new(), folder, EXACT)
            .map(|model| model.quantization())
            .map_err(|it| it.to_string())
    };
    assert_eq!(quantization(folder.path()), Ok(Some("modelopt")));
    fs::write(&path, file.to_string().replace("\"FP8\"", "\"NVFP4\"")).unwrap();
    let error = quantization(folder.path()).unwrap_err();
    assert!(error.contains("modelopt NVFP4 is not supported"), "{error}");
    let mut draft = Draft::of("llama-mha");
    draft.config["quantization_config"] = json!({ "quant_method": "fp8", "activation_scheme": "dynamic", "ignored_layers": ["model", "lm_head"] });
    fs::write(folder.path().join("config.json"), draft.config.to_string()).unwrap();
    assert_eq!(quantization(folder.path()), Ok(Some("fp8")));
}
