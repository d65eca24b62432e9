//! Every kind of bad input gets an error that says what was wrong, where, and what would be right.

use std::fs;

use octet_model::{LoadFormat, LoadOptions, LoadedModel, MaxModelLen, ModelSource, OnlineQuantization};
use octet_reference::ReferenceBackend;
use serde_json::{Value, json};

use crate::support::{Draft, EXACT, Tensor, error_of, load, says, write_tensors};

const CASE: &str = "llama-gqa-rope-llama3";
const QUERY: &str = "model.layers.0.self_attn.q_proj.weight";

/// Changes the bytes of a written checkpoint and loads it.
fn error_after(change: impl FnOnce(&mut Vec<u8>)) -> String {
    let folder = Draft::of(CASE).write();
    let path = folder.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(&path, bytes).unwrap();
    error_of(folder.path())
}

/// Replaces a text in the header by another one of the same length.
fn replace(bytes: &mut [u8], from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let place = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
    bytes[place..place + to.len()].copy_from_slice(to.as_bytes());
}

#[test]
fn folders_without_a_model() {
    let folder = tempfile::tempdir().unwrap();
    says(&error_of(folder.path()), &["has no config.json", "a model's folder holds"]);
    fs::write(folder.path().join("params.json"), "{}").unwrap();
    says(&error_of(folder.path()), &["Mistral's own format"]);

    let config = Draft::of(CASE).config.to_string();
    fs::write(folder.path().join("config.json"), config).unwrap();
    says(&error_of(folder.path()), &["has no model.safetensors", "--load-format dummy"]);
    fs::write(folder.path().join("pytorch_model.bin"), "x").unwrap();
    says(&error_of(folder.path()), &["pickle", "convert them to safetensors"]);

    fs::write(folder.path().join("config.json"), "{\n  \"architectures\": [\n").unwrap();
    says(&error_of(folder.path()), &["config.json is not valid JSON", "line 3"]);
}

#[test]
fn files_that_are_damaged() {
    says(&error_after(|bytes| bytes.truncate(5)), &["model.safetensors: has 5 bytes"]);
    says(&error_after(|bytes| bytes.truncate(200)), &["states a header of", "in a file of 200"]);
    let cut = error_after(|bytes| bytes.truncate(bytes.len() - 100));
    says(&cut, &["is cut short", "bytes of", "incomplete: "]);
    says(&error_after(|bytes| bytes.extend([0; 7])), &["has 7 bytes that its header does not speak of"]);
    says(&error_after(|bytes| bytes[8] = b'x'), &["has a header that is not valid"]);
    let pointer = error_after(|bytes| *bytes = b"version https://git-lfs.github.com/spec/v1\n".to_vec());
    says(&pointer, &["pointer of Git LFS", "git lfs pull"]);
}

#[test]
fn headers_that_lie() {
    let shape = error_after(|bytes| replace(bytes, "\"shape\":[64,64]", "\"shape\":[64,63]"));
    says(&shape, &["a header that lies", "[64, 63] in F32 cannot lie at bytes"]);
    let offsets = error_after(|bytes| replace(bytes, "\"data_offsets\":[0,", "\"data_offsets\":[4,"));
    says(&offsets, &["a header that lies", "4.."]);
    let element = error_after(|bytes| replace(bytes, "\"dtype\":\"F32\"", "\"dtype\":\"F64\""));
    says(&element, &["a header that lies", "in F64"]);
}

/// What is right for one family is named as wrong in another.
#[test]
fn norms_of_another_family() {
    let norm = "model.layers.0.self_attn.q_norm.weight";
    let mut draft = Draft::of("olmo2");
    draft.tensors.insert(norm.to_owned(), Tensor::f32(&[16], &[1.0; 16]));
    says(&draft.error(), &[norm, "[16]", "[64]"]);
    let mut draft = Draft::of("olmo2");
    let before = "model.layers.1.input_layernorm.weight";
    draft.tensors.insert(before.to_owned(), Tensor::f32(&[64], &[1.0; 64]));
    says(&draft.error(), &[before, "Olmo2ForCausalLM"]);
    let mut draft = Draft::of(CASE);
    draft.config["architectures"] = json!(["Olmo2ForCausalLM"]);
    says(&draft.error(), &["lacks 6 tensors", "model.layers.0.post_feedforward_layernorm.weight"]);
}

/// Factors and bounds that no model can mean.
#[test]
fn factors_and_bounds_out_of_range() {
    for (case, key, value) in [
        ("granite", "embedding_multiplier", json!(0)),
        ("granite", "residual_multiplier", json!(-0.2)),
        ("granite", "logits_scaling", json!("8")),
        ("gemma2", "query_pre_attn_scalar", json!(0.0)),
        ("gemma2", "attn_logit_softcapping", json!(-50.0)),
        ("gemma2", "final_logit_softcapping", json!(true)),
        ("gemma2", "layer_types", json!(["full_attention"])),
        ("gemma2", "hidden_activation", json!("relu")),
    ] {
        let mut draft = Draft::of(case);
        draft.config[key] = value.clone();
        says(&draft.error(), &[&format!("{key} is {value}, expected")]);
    }
}

#[test]
fn tensors_that_do_not_fit_the_config() {
    let mut draft = Draft::of(CASE);
    draft.tensors.remove(QUERY);
    draft.tensors.remove("model.norm.weight");
    says(&draft.error(), &["lacks 2 tensors", QUERY, "model.norm.weight"]);

    let mut draft = Draft::of(CASE);
    draft.config["num_hidden_layers"] = json!(40);
    says(&draft.error(), &["lacks 342 tensors", "and 337 more"]);

    let mut draft = Draft::of(CASE);
    draft.config["intermediate_size"] = json!(100);
    says(&draft.error(), &["mlp.gate_proj.weight has shape [", "the config implies [100, 64]"]);

    let mut draft = Draft::of(CASE);
    draft.config["vocab_size"] = json!(300);
    says(&draft.error(), &["model.embed_tokens.weight has shape [", "the config implies [300, 64]"]);
}

#[test]
fn tensors_of_no_use_are_a_warning() {
    let mut draft = Draft::of(CASE);
    draft.tensors.insert("model.layers.0.self_attn.q_proj.bias".to_owned(), Tensor::f32(&[2], &[0.0; 2]));
    draft
        .tensors
        .insert("model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(), Tensor::f32(&[1], &[1.0]));
    let model = draft.load().unwrap();
    let [warning] = model.warnings() else { panic!("{:?}", model.warnings()) };
    says(&warning.to_string(), &["1 tensors", "q_proj.bias"]);
}

#[test]
fn tensors_that_are_there_twice() {
    let draft = Draft::of(CASE);
    let folder = draft.write();
    fs::rename(folder.path().join("model.safetensors"), folder.path().join("a.safetensors")).unwrap();
    load(folder.path(), EXACT).expect("any file name will do");
    let again = draft.tensors.iter().take(1).map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
    write_tensors(&folder.path().join("b.safetensors"), &again);
    let name = draft.tensors.keys().next().unwrap();
    says(&error_of(folder.path()), &["b.safetensors: holds 1 tensors a second time", name, "a.safetensors"]);
}

#[test]
fn weights_that_are_not_numbers() {
    for (name, row, column) in
        [(QUERY, 3, 5), ("model.layers.1.mlp.up_proj.weight", 40, 63), ("model.embed_tokens.weight", 7, 0)]
    {
        for (value, quantization) in
            [(f32::NAN, None), (f32::INFINITY, None), (f32::NAN, Some(OnlineQuantization::Tensor))]
        {
            let mut draft = Draft::of(CASE);
            let tensor = draft.tensors.get_mut(name).unwrap();
            let mut values = tensor.numbers();
            values[row * tensor.shape[1] + column] = value;
            *tensor = Tensor::f32(&tensor.shape.clone(), &values);
            let error = draft.load_with(LoadOptions { quantization, ..EXACT }).err().unwrap().to_string();
            says(&error, &[name, &format!("row {row}, column {column}")]);
        }
    }
    let mut draft = Draft::of(CASE);
    let norm = "model.layers.1.input_layernorm.weight";
    draft.tensors.insert(norm.to_owned(), Tensor::f32(&[64], &[f32::NAN; 64]));
    says(&draft.error(), &[norm, "column 0"]);
}

/// A checkpoint in the `fp8` layout, every code 1.0, every scale one.
fn float8() -> Draft {
    let mut draft = Draft::of(CASE);
    draft.config["quantization_config"] = json!({ "quant_method": "fp8", "activation_scheme": "dynamic" });
    for linear in draft.linears() {
        let weight = format!("{linear}.weight");
        let shape = draft.tensors[&weight].shape.clone();
        let codes = vec![0x38; shape.iter().product()];
        draft.tensors.insert(weight, Tensor::e4m3(&shape, codes));
        draft.tensors.insert(format!("{linear}.weight_scale"), Tensor::f32(&[], &[1.0]));
    }
    draft
}

#[test]
fn float8_weights_and_scales_that_are_wrong() {
    float8().load().expect("the unchanged checkpoint is fine");
    let scale = "model.layers.1.self_attn.k_proj.weight_scale";
    let mut draft = float8();
    draft.tensors.remove(scale);
    says(&draft.error(), &["lacks 1 tensors", scale]);

    for value in [-1.0, 0.0, f32::NAN, f32::INFINITY] {
        let mut draft = float8();
        draft.tensors.insert(scale.to_owned(), Tensor::f32(&[], &[value]));
        says(&draft.error(), &[scale, "positive finite number"]);
    }
    let mut draft = float8();
    draft.tensors.insert(scale.to_owned(), Tensor::f32(&[3], &[1.0; 3]));
    says(&draft.error(), &[scale, "has shape [3]"]);

    let mut draft = float8();
    draft.tensors.get_mut(QUERY).unwrap().bytes[2 * 64 + 9] = 0x7F;
    says(&draft.error(), &[QUERY, "row 2, column 9"]);

    let mut draft = float8();
    draft.config["quantization_config"]["activation_scheme"] = json!("static");
    says(&draft.error(), &["lacks 14 tensors", "input_scale"]);

    let mut draft = float8();
    draft.config.as_object_mut().unwrap().remove("quantization_config");
    says(&draft.error(), &[QUERY, "stored as F8_E4M3", "nothing in the config says"]);

    let mut draft = Draft::of(CASE);
    draft.config["quantization_config"] = json!({ "quant_method": "fp8", "activation_scheme": "dynamic" });
    says(&draft.error(), &[QUERY, "stored as F32", "quantization_config says"]);
}

#[test]
fn parts_of_a_linear_that_disagree() {
    let mut draft = float8();
    draft.config["quantization_config"]["ignored_layers"] = json!(["model.layers.0.self_attn.v_proj"]);
    let parts =
        ["model.layers.0.self_attn.qkv_proj", "v_proj is not quantized", "q_proj is fp8_e4m3 per tensor"];
    says(&draft.error(), &parts);
}

#[test]
fn quantizations_that_are_not_supported() {
    let group = |weights: Value, format: &str| {
        json!({ "quant_method": "compressed-tensors", "format": format,
            "config_groups": { "group_0": { "targets": ["Linear"], "weights": weights } } })
    };
    let int8 = json!({ "num_bits": 8, "type": "int", "strategy": "channel" });
    let shifted = json!({ "num_bits": 8, "type": "int", "strategy": "channel", "symmetric": false });
    let int4 = json!({ "num_bits": 4, "type": "int", "strategy": "group", "group_size": 128 });
    let grouped = json!({ "num_bits": 8, "type": "float", "strategy": "group", "group_size": 128 });
    let quark = json!({ "quant_method": "quark", "export": {},
        "global_quant_config": { "weight": { "dtype": "int4", "qscheme": "per_group" } } });
    for (config, found) in [
        (json!({ "quant_method": "gptq", "bits": 4 }), "gptq"),
        (json!({ "quant_method": "awq" }), "awq"),
        (group(int8.clone(), "pack-quantized"), "pack-quantized with weights of int 8 bits"),
        (group(shifted, "int-quantized"), "asymmetric weights of int 8 bits"),
        (group(int4, "pack-quantized"), "pack-quantized with weights of int 4 bits"),
        (group(grouped, "float-quantized"), "strategy group"),
        (quark, "quark with weights in int4 per_group"),
    ] {
        let mut draft = Draft::of(CASE);
        draft.config["quantization_config"] = config;
        let supported = "supported: FP8 weights (per tensor, per channel, in blocks)";
        says(&draft.error(), &[found, "is not supported", supported]);
    }
    let mut draft = Draft::of(CASE);
    draft.config["quantization_config"] = group(int8, "int-quantized");
    says(&draft.error(), &["q_proj.weight is stored as F32, expected I8, because quantization_config"]);
    draft.config["quantization_config"] = json!({ "quant_method": "fp8" });
    says(&draft.error(), &["quantization_config.activation_scheme is missing", "\"static\" or \"dynamic\""]);
    draft.config["quantization_config"] =
        json!({ "quant_method": "quark", "export": {}, "global_quant_config": {}, "exclude": ["re:("] });
    says(&draft.error(), &["quantization_config.exclude", "valid expressions; re:("]);
}

/// A key that nobody reads may be what the weights need, as rotations do.
#[test]
fn quantization_keys_that_are_not_read_are_refused() {
    let float = json!({ "num_bits": 8, "type": "float", "strategy": "channel" });
    let compressed = |change: &dyn Fn(&mut Value)| {
        let mut config = json!({ "quant_method": "compressed-tensors", "format": "float-quantized", "version": "0.12",
            "quantization_status": "compressed", "transform_config": { "config_groups": {} },
            "config_groups": { "group_0": { "targets": ["Linear"], "weights": float.clone() } } });
        change(&mut config);
        config
    };
    let rotation = json!({ "config_groups": { "u": { "type": "hadamard", "apply": [] } } });
    let quark = json!({ "quant_method": "quark", "export": {}, "algo_config": [{ "name": "rotation", "r1": true }],
        "global_quant_config": { "weight": { "dtype": "fp8_e4m3", "qscheme": "per_tensor" } } });
    for (config, found) in [
        (
            compressed(&|config| config["transform_config"] = rotation.clone()),
            "quantization_config.transform_config is",
        ),
        (
            compressed(&|config| config["config_groups"]["group_0"]["weights"]["actorder"] = json!("group")),
            "weights.actorder is \"group\"",
        ),
        (
            compressed(&|config| config["config_groups"]["group_0"]["output_activations"] = float.clone()),
            "group_0.output_activations is",
        ),
        (quark, "quantization_config.algo_config is"),
        (
            json!({ "quant_method": "fp8", "activation_scheme": "dynamic", "modules_to_convert": ["model.embed_tokens"] }),
            "quantization_config.modules_to_convert is",
        ),
    ] {
        let mut draft = Draft::of(CASE);
        draft.config["quantization_config"] = config;
        says(&draft.error(), &[found, "expected"]);
    }
    let mut draft = Draft::of(CASE);
    draft.config["quantization_config"] = compressed(&|_| ());
    says(&draft.error(), &[QUERY, "stored as F32"]);
}

#[test]
fn choices_that_contradict_the_checkpoint() {
    let same = LoadOptions { quantization: Some(OnlineQuantization::Tensor), ..EXACT };
    float8().load_with(same).expect("fp8 asked for, fp8 found");
    let quantization = Some(OnlineQuantization::Channel);
    let error = float8().load_with(LoadOptions { quantization, ..EXACT }).err().unwrap().to_string();
    says(&error, &["quantized already (fp8)", "--quantization fp8_per_channel cannot be applied"]);
    let max_model_len = MaxModelLen::Tokens(1 << 30);
    let error = Draft::of(CASE).load_with(LoadOptions { max_model_len, ..EXACT }).err().unwrap().to_string();
    says(&error, &["max_model_len 1073741824 is above the", "tokens that the model's config allows"]);
}

#[test]
fn unknown_shapes_and_models() {
    let load = |source: &ModelSource| {
        let options = LoadOptions { load_format: LoadFormat::Dummy, ..EXACT };
        LoadedModel::load(ReferenceBackend::new(), source, &options, &mut |_| {}).err().unwrap().to_string()
    };
    says(
        &load(&ModelSource::Shape("llama-9".to_owned())),
        &["the shape llama-9", "llama-3.2-1b, qwen3-0.6b"],
    );
    let word = ModelSource::of_word("some where").unwrap_err().to_string();
    says(&word, &["some where names no model", "a folder that exists", "llama-160m"]);
}
