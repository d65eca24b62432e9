//! The files of a folder: what the ecosystem leaves there loads, what cannot be a model says what it is instead.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use octet_model::{
    GenerationConfig, GenerationKeys, LoadFormat, LoadOptions, LoadedModel, ModelError, ModelSource,
    ResolvedModel, Warning,
};
use octet_reference::ReferenceBackend;
use serde_json::{Map, Value, json};

use crate::support::{
    Draft, EXACT, Golden, Tensor, distance, error_of, limits, load, logits, says, write_tensors,
};

const CASE: &str = "llama-gqa-rope-llama3";
const INDEX: &str = "model.safetensors.index.json";
const GENERATION: &str = "generation_config.json";

/// Loads a folder that must give transformers' logits, and returns its warnings.
#[track_caller]
fn warnings_of(folder: &Path) -> Vec<String> {
    let model = load(folder, EXACT).unwrap();
    let warnings = model.warnings().iter().map(ToString::to_string).collect();
    let golden = Golden::read(CASE);
    let mut runner = model.into_runner(limits(128)).unwrap();
    let found = logits(&mut runner, &golden.prompt, usize::MAX / 2);
    assert!(distance(&found, &golden.logits) < 1e-3, "other weights were read");
    warnings
}

/// The case in two shards, `a` with the embedding alone.
fn sharded(weight_map: impl Fn(&str) -> &'static str) -> tempfile::TempDir {
    let draft = Draft::of(CASE);
    let folder = draft.write();
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let (first, second): (BTreeMap<_, _>, BTreeMap<_, _>) =
        draft.tensors.clone().into_iter().partition(|(name, _)| name.contains("embed"));
    write_tensors(&folder.path().join("a.safetensors"), &first);
    write_tensors(&folder.path().join("b.safetensors"), &second);
    let map: serde_json::Map<String, Value> =
        draft.tensors.keys().map(|name| (name.clone(), json!(weight_map(name)))).collect();
    write_index(folder.path(), &Value::Object(map));
    folder
}

fn right(name: &str) -> &'static str {
    if name.contains("embed") { "a.safetensors" } else { "b.safetensors" }
}

fn write_index(folder: &Path, map: &Value) {
    fs::write(folder.join(INDEX), json!({ "metadata": {}, "weight_map": map }).to_string()).unwrap();
}

fn index_of(folder: &Path) -> Value {
    serde_json::from_slice::<Value>(&fs::read(folder.join(INDEX)).unwrap()).unwrap()["weight_map"].clone()
}

#[test]
fn an_index_may_be_wrong_where_nothing_depends_on_it() {
    assert_eq!(warnings_of(sharded(right).path()), [""; 0]);
    let folder = sharded(right);
    let mut map = index_of(folder.path());
    map["model.layers.0.self_attn.rotary_emb.inv_freq"] = json!("b.safetensors");
    write_index(folder.path(), &map);
    says(&warnings_of(folder.path())[0], &["the index lists 1 tensors that no file holds", "inv_freq"]);
    let elsewhere = sharded(|_| "a.safetensors");
    fs::rename(elsewhere.path().join("b.safetensors"), elsewhere.path().join("c.safetensors")).unwrap();
    says(&error_of(elsewhere.path()), &["lacks 20 tensors", "beside it, not read: c.safetensors"]);
    let swapped = sharded(|name| if name.contains("norm") { "a.safetensors" } else { right(name) });
    says(&warnings_of(swapped.path())[0], &["the index names the wrong file for 5 tensors", "norm.weight"]);
}

#[test]
fn an_index_whose_files_are_not_there() {
    let folder = sharded(right);
    fs::remove_file(folder.path().join("b.safetensors")).unwrap();
    says(&error_of(folder.path()), &[INDEX, "names 2 files, of which 1 are not there: b.safetensors"]);
    // The shards were merged into one file.
    write_tensors(&folder.path().join("model.safetensors"), &Draft::of(CASE).tensors);
    let warnings = warnings_of(folder.path());
    assert!(
        warnings.iter().any(|it| it.contains("model.safetensors is read in their place")),
        "{warnings:?}"
    );
    write_index(folder.path(), &json!({ "a": "../model.safetensors" }));
    says(&error_of(folder.path()), &["not a plain file name"]);
}

#[test]
fn other_files_of_weights_are_not_read_and_named() {
    let folder = sharded(right);
    for name in ["model.safetensors", "consolidated.safetensors", "adapter_model.safetensors"] {
        fs::write(folder.path().join(name), "not even a header").unwrap();
    }
    fs::create_dir(folder.path().join("original")).unwrap();
    let warnings = warnings_of(folder.path());
    says(
        &warnings[0],
        &["what is not read: ", "adapter_model.s", "consolidated.s", "model.safetensors", "original/"],
    );
    // Without an index, any names will do.
    fs::remove_file(folder.path().join(INDEX)).unwrap();
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    says(&warnings_of(folder.path())[0], &["consolidated.safetensors"]);
    let part = folder.path().join("model-00001-of-00002.safetensors");
    fs::rename(folder.path().join("b.safetensors"), &part).unwrap();
    says(&error_of(folder.path()), &["has 1 of 2 shards and no index"]);
}

#[test]
fn of_two_tensors_of_a_name_the_index_tells_which() {
    let folder = sharded(right);
    let mut wrong = Draft::of(CASE).tensors;
    wrong.retain(|name, _| name == "model.norm.weight" || name.contains("embed"));
    wrong.insert("model.norm.weight".to_owned(), Tensor::f32(&[64], &[7.0; 64]));
    write_tensors(&folder.path().join("a.safetensors"), &wrong);
    assert_eq!(warnings_of(folder.path()), [""; 0]);
    fs::remove_file(folder.path().join(INDEX)).unwrap();
    says(&error_of(folder.path()), &["b.safetensors: holds 1 tensors a second time", "a.safetensors"]);
}

#[test]
fn tensors_that_would_change_results_are_not_passed_over() {
    let one = |name: &str, value: f32| {
        let mut draft = Draft::of(CASE);
        draft.tensors.insert(name.to_owned(), Tensor::f32(&[64], &[value; 64]));
        draft
    };
    for name in [
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.1.self_attn.q_norm.weight",
        "model.layers.1.post_feedforward_layernorm.weight",
        "model.norm.bias",
        "lm_head.bias",
    ] {
        let error = one(name, 0.5).error();
        says(&error, &["1 tensors that LlamaForCausalLM does not use", name, "results would be wrong"]);
    }
    // What changes nothing is named: zeros that are added, layers that are not computed, towers beside the model.
    for (name, value) in [
        ("model.layers.0.self_attn.q_proj.bias", 0.0),
        ("model.layers.2.mlp.up_proj.weight", 0.5),
        ("visual.patch_embed.weight", 0.5),
    ] {
        let model = one(name, value).load().unwrap();
        let [Warning::UnusedTensors { count: 1, first }] = model.warnings() else { panic!("{name}") };
        assert_eq!(first, name);
    }
    for name in ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.0.self_attn.q_scale"] {
        assert_eq!(one(name, 0.5).load().unwrap().warnings(), [], "{name}");
    }
}

#[test]
fn names_under_another_prefix_are_found() {
    let renamed = |rename: &dyn Fn(&str) -> String| {
        let mut draft = Draft::of(CASE);
        draft.tensors = draft.tensors.into_iter().map(|(name, it)| (rename(&name), it)).collect();
        draft
    };
    let all = Draft::of(CASE).tensors.len();
    let foreign = renamed(&|name| format!("language_model.{name}"));
    let held = format!("it holds {all} others: language_model.");
    let there = format!("{all} of those that are lacking are there under language_model.");
    says(&foreign.error(), &[&format!("lacks {all} tensors"), &held, &there, "multimodal"]);
    // transformers loads a decoder that was saved without its head.
    let bare = renamed(&|name| name.strip_prefix("model.").unwrap_or(name).to_owned()).write();
    says(&warnings_of(bare.path())[0], &["as if model. stood before"]);
}

#[test]
fn folders_say_what_they_hold_instead() {
    for (names, words) in [
        (&[][..], "it is empty"),
        (&["model-Q4_K_M.gguf", "README.md"], "a GGUF file (model-Q4_K_M.gguf)"),
        (&["adapter_config.json", "adapter_model.safetensors"], "an adapter"),
        (&["config.json", "pytorch_model.bin"], "pickle format (pytorch_model.bin)"),
        (&["config.json", "model.onnx"], "another runtime (model.onnx)"),
        (&["model_index.json"], "diffusers"),
        (&["params.json", "consolidated.safetensors"], "Mistral's own format"),
        (&["params.json", "consolidated.00.pth"], "pickle format (consolidated.00.pth)"),
        (&["snapshots/x", "refs/main"], "the Hub's cache"),
        (&["inner/config.json"], "its folder inner has a config.json"),
        (&["a.txt", "b.txt"], "it holds a.txt, b.txt; a model's folder holds"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let text =
                if *name == "config.json" { Draft::of(CASE).config.to_string() } else { "{}".to_owned() };
            fs::write(path, text).unwrap();
        }
        says(&error_of(folder.path()), &[words]);
    }
}

fn resolve(source: &ModelSource, load_format: LoadFormat) -> Result<ResolvedModel, ModelError> {
    ResolvedModel::new(source, load_format, &mut |_| {})
}

#[test]
fn a_config_alone_has_random_weights_only_if_asked_for() {
    let folder = Draft::of(CASE).write();
    let path = folder.path().join("config.json");
    let source = ModelSource::of_word(path.to_str().unwrap()).unwrap();
    for format in [LoadFormat::Auto, LoadFormat::Safetensors] {
        let error = resolve(&source, format).unwrap_err().to_string();
        let instead = format!("name the folder of a checkpoint, as in {}", folder.path().display());
        says(&error, &["is a config without weights", &instead, "--load-format dummy"]);
    }
    let model = resolve(&source, LoadFormat::Dummy).unwrap();
    assert_eq!(model.folder.as_deref(), Some(folder.path()), "its tokenizer is there");
    fs::rename(&path, folder.path().join("other.json")).unwrap();
    let source = ModelSource::of_word(folder.path().join("other.json").to_str().unwrap()).unwrap();
    assert!(resolve(&source, LoadFormat::Auto).is_err());
    assert_eq!(resolve(&source, LoadFormat::Dummy).unwrap().folder, None);
}

#[test]
fn another_reader_of_the_same_files_is_named() {
    let folder = Draft::of(CASE).write();
    let options = LoadOptions { load_format: "runai_streamer".parse().unwrap(), ..EXACT };
    let model = load(folder.path(), options).unwrap();
    says(&model.warnings()[0].to_string(), &["--load-format runai_streamer", "the same weights"]);
}

#[test]
fn what_is_no_file_is_refused_at_once() {
    let replaced = |name: &str, replace: &dyn Fn(&Path)| {
        let folder = Draft::of(CASE).write();
        let path = folder.path().join(name);
        let _ = fs::remove_file(&path);
        replace(&path);
        if name == GENERATION {
            // Read by whoever needs it, not by the loader.
            return GenerationConfig::read(Some(&path), GenerationKeys::All, &Map::new())
                .unwrap_err()
                .to_string();
        }
        error_of(folder.path())
    };
    let pipe = |path: &Path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    let link = |target: &'static str| move |path: &Path| std::os::unix::fs::symlink(target, path).unwrap();
    for name in ["config.json", GENERATION, "hf_quant_config.json", "model.safetensors", INDEX] {
        says(&replaced(name, &pipe), &[name, "it is a pipe or a device, expected a file"]);
        says(&replaced(name, &link("/dev/zero")), &[name, "it is a pipe or a device"]);
    }
    for name in ["config.json", GENERATION, "hf_quant_config.json", "model.safetensors"] {
        says(&replaced(name, &|path| fs::create_dir(path).unwrap()), &[name]);
    }
    for name in ["config.json", "model.safetensors"] {
        says(&replaced(name, &link("../blobs/x")), &[name, "a link to ../blobs/x, which does not exist"]);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    pipe(&path);
    let error = ModelSource::of_word(path.to_str().unwrap()).unwrap_err().to_string();
    says(&error, &["this is a pipe or a device"]);
}

/// A file with this header and `data_bytes` zeros behind it.
fn headed(header: &str, data_bytes: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data_bytes]].concat()
}

#[test]
fn headers_that_cannot_be() {
    let entry = |shape: &str, start: u64, end: u64| {
        format!(r#"{{"dtype":"F32","shape":{shape},"data_offsets":[{start},{end}]}}"#)
    };
    let [whole, huge] = [entry("[2]", 0, 8), entry("[4294967296,4294967296,4294967296]", 0, 8)];
    let length_of_2_60 = [&(1u64 << 60).to_le_bytes()[..], b"{}"].concat();
    for (bytes, words) in [
        (length_of_2_60, "states a header of 1152921504606846976 bytes"),
        (headed(&format!(r#"{{"a":{whole},"a":{whole}}}"#), 8), "a stands there twice"),
        (
            headed(&format!(r#"{{"a":{whole},"b":{whole}}}"#), 8),
            "b starts at byte 0, the one before it ends at 8",
        ),
        (headed(&format!(r#"{{"a":{huge}}}"#), 8), "cannot lie at bytes 0..8"),
        (headed(&format!(r#"{{"a":{}}}"#, entry("[2]", 8, 0)), 8), "cannot lie at bytes 8..0"),
        (headed(&format!(r#"{{"a":{}}}"#, entry("[-2]", 0, 8)), 8), "a header that is not valid"),
        (headed(&format!(r#"{{"a":{}}}"#, entry("[1e99]", 0, 8)), 8), "a header that is not valid"),
        (headed(&format!(r#"{{"a":{}}}"#, entry("[1099511627776]", 0, 1 << 42)), 8), "is cut short: 8 bytes"),
        (headed(&"[".repeat(100_000), 0), "a header that is not valid"),
        (headed("{}", 0), "lacks"),
    ] {
        let folder = Draft::of(CASE).write();
        fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
        says(&error_of(folder.path()), &[words]);
    }
}

#[test]
fn a_long_name_of_a_file_is_no_id() {
    let error = |word: &str| {
        let source = ModelSource::of_word(word);
        let loaded = source.and_then(|source| {
            LoadedModel::load(ReferenceBackend::new(), &source, &EXACT, &mut |_| {}).map(|_| ())
        });
        loaded.unwrap_err().to_string()
    };
    says(&error(&format!("a/{}", "b".repeat(200))), &["names no model"]);
    says(&error("/no/such/folder"), &["of this path, / does"]);
}
