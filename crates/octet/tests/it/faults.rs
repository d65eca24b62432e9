//! Checkpoints and flags that cannot be served: each is refused at start, with what is wrong and what would be right.

use std::fs;
use std::net::TcpListener;

use serde_json::{Value, json};

use crate::checkpoint::{Checkpoint, Tensor, VOCABULARY, byte_tokenizer};
use crate::program::{Server, end_of, program, refusal};

/// Refuses a checkpoint; all of these words must be in the last line.
#[track_caller]
fn expect_refusal(checkpoint: &Checkpoint, options: &[&str], words: &[&str]) {
    let folder = checkpoint.write();
    expect_words(&refusal(folder.path(), options), words);
}

#[track_caller]
fn expect_words(said: &str, words: &[&str]) {
    let last = said.lines().last().unwrap_or_default();
    let missing: Vec<&&str> = words.iter().filter(|word| !last.contains(**word)).collect();
    assert!(missing.is_empty(), "{missing:?} are missing in the last line of:\n{said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_folder_without_weights() {
    let folder = Checkpoint::llama().write();
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    expect_words(&refusal(folder.path(), &[]), &["safetensors"]);
    fs::remove_file(folder.path().join("config.json")).unwrap();
    expect_words(&refusal(folder.path(), &[]), &["config.json"]);
}

#[test]
fn files_that_are_cut_off_or_lie() {
    let checkpoint = Checkpoint::llama();
    let whole = checkpoint.safetensors();
    let header_length = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let mut long_header = whole.clone();
    long_header[..8].copy_from_slice(&(u64::MAX / 2).to_le_bytes());
    let mut not_json = whole.clone();
    not_json[8..12].copy_from_slice(b"????");
    for (what, bytes) in [
        ("empty", Vec::new()),
        ("shorter than a header's length", whole[..5].to_vec()),
        ("cut off in the header", whole[..8 + header_length / 2].to_vec()),
        ("cut off in the data", whole[..whole.len() - 100].to_vec()),
        ("a header longer than the file", long_header),
        ("a header that is not JSON", not_json),
    ] {
        let folder = checkpoint.write();
        fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
        let said = refusal(folder.path(), &[]);
        assert!(said.contains("model.safetensors"), "{what}: {said}");
        expect_words(&said, &[]);
    }
}

#[test]
fn a_tensor_that_is_missing_or_has_another_shape() {
    let mut checkpoint = Checkpoint::llama();
    checkpoint.tensors.remove("model.layers.1.mlp.up_proj.weight");
    expect_refusal(&checkpoint, &[], &["model.layers.1.mlp.up_proj.weight"]);
    let mut checkpoint = Checkpoint::llama();
    let wrong = Tensor::f32(&[64, 32], &[0.0; 64 * 32]);
    checkpoint.tensors.insert("model.layers.0.self_attn.q_proj.weight".to_owned(), wrong);
    expect_refusal(&checkpoint, &[], &["model.layers.0.self_attn.q_proj.weight", "64"]);
}

#[test]
fn weights_that_are_not_numbers() {
    for damage in [f32::NAN, f32::INFINITY] {
        let mut checkpoint = Checkpoint::llama();
        let tensor = checkpoint.tensors.get_mut("model.layers.1.mlp.down_proj.weight").unwrap();
        tensor.bytes[400..404].copy_from_slice(&damage.to_le_bytes());
        expect_refusal(&checkpoint, &[], &["model.layers.1.mlp.down_proj.weight", "row 1, column 4"]);
    }
}

#[test]
fn architectures_and_methods_that_are_unknown() {
    let mut checkpoint = Checkpoint::llama();
    checkpoint.config["architectures"] = json!(["FutureForCausalLM"]);
    checkpoint.config["model_type"] = json!("future");
    expect_refusal(&checkpoint, &[], &["FutureForCausalLM", "LlamaForCausalLM", "Qwen3ForCausalLM"]);
    let mut checkpoint = Checkpoint::llama();
    checkpoint.config["quantization_config"] = json!({"quant_method": "guess"});
    expect_refusal(&checkpoint, &[], &["guess", "fp8", "compressed-tensors", "quark"]);
}

#[test]
fn float8_without_scales() {
    let mut checkpoint = Checkpoint::llama();
    checkpoint.config["quantization_config"] =
        json!({"quant_method": "fp8", "activation_scheme": "dynamic", "ignored_layers": ["lm_head"]});
    let linears = checkpoint.tensors.iter_mut().filter(|(name, _)| name.contains("_proj"));
    for (_, tensor) in linears {
        let elements = tensor.bytes.len() / 4;
        // 0x38 is 1 in E4M3.
        *tensor = Tensor { element: "F8_E4M3", shape: tensor.shape.clone(), bytes: vec![0x38; elements] };
    }
    expect_refusal(&checkpoint, &[], &["weight_scale"]);
}

#[test]
fn tokens_that_the_model_does_not_embed() {
    let mut checkpoint = Checkpoint::llama();
    checkpoint.tokenizer = byte_tokenizer(VOCABULARY + 8);
    let server = Server::start(checkpoint.write().path(), &["--served-model-name", "tiny"]);
    let said = &server.said_at_start;
    assert!(said.contains("the tokenizer has 280 tokens and the model embeds 272"), "{said}");
    let answer = |prompt: Value| {
        server.post("/v1/completions", &json!({"model": "tiny", "prompt": prompt, "max_tokens": 2}))
    };
    assert_eq!(answer(json!("ab")).0, 200);
    let (status, body) = answer(json!([VOCABULARY]));
    assert!(status == 400 && body.to_string().contains("272"), "{body}");
}

#[test]
fn a_tokenizer_that_cannot_be_read() {
    let mut checkpoint = Checkpoint::llama();
    checkpoint.tokenizer = json!({"model": {"type": "Guess"}});
    expect_refusal(&checkpoint, &[], &["tokenizer.json"]);
}

/// Each of these would end the engine, or every request that leaves the value open.
#[test]
fn sampling_defaults_that_cannot_be() {
    let folder = Checkpoint::llama().write();
    let path = folder.path().join("generation_config.json");
    for (key, value) in
        [("min_p", "1.5"), ("top_p", "0.0"), ("repetition_penalty", "0"), ("temperature", "-1")]
    {
        fs::write(&path, format!("{{\"{key}\": {value}}}")).unwrap();
        let found = format!("generation_config.json: {key} is {value}, expected ");
        expect_words(&refusal(folder.path(), &[]), &[&found]);
    }
}

#[test]
fn a_port_in_use() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    expect_refusal(&Checkpoint::llama(), &["--port", &port], &[&port]);
}

#[test]
fn too_little_memory() {
    let checkpoint = Checkpoint::llama();
    // One block of 16 tokens takes 2 * 2 layers * 16 * 2 heads * 16 * 2 bytes: 4 KiB. 256 tokens need 16 of them.
    expect_refusal(&checkpoint, &["--kv-cache-memory-bytes", "20K", "--max-model-len", "256"], &["256"]);
    expect_refusal(&checkpoint, &["--kv-cache-memory-bytes", "100"], &["KV"]);
}

#[test]
fn more_kv_cache_than_memory_is_refused_before_the_weights_are_loaded() {
    let folder = Checkpoint::llama().write();
    let said = refusal(folder.path(), &["--kv-cache-memory-bytes", "4000T"]);
    expect_words(&said, &["--kv-cache-memory-bytes asks for 4096000.000 GiB", "GiB in all"]);
    assert!(!said.contains("loaded in"), "{said}");
}

#[test]
fn flags_that_cannot_be_followed() {
    let folder = Checkpoint::llama().write();
    for (options, words) in [
        (&["--max-model-len", "100000"][..], &["100000", "256"][..]),
        (&["--block-size", "24"], &["24", "16"]),
        (&["--gpu-memory-utilization", "1.5"], &["1.5"]),
        (&["--max-num-seqs", "64", "--max-num-batched-tokens", "32"], &["64", "32"]),
        (&["--generation-config", "/nowhere"], &["/nowhere has no generation_config.json"]),
        (&["--max-stream-gap", "0.2", "--no-enable-chunked-prefill"], &["--max-stream-gap 0.2", "leave one"]),
        (&["--max-logprobs", "-2"], &["-2", "-1 (no limit)"]),
        (&["--device", "cpu", "--step-timeout", "5"], &["--step-timeout 5", "for GPUs"]),
        (&["--revision", "main"], &["--revision main", "Hub id"]),
        (
            &["--override-generation-config", r#"{"min_p": 1.5}"#],
            &["--override-generation-config: min_p is 1.5, expected a number from 0 to 1"],
        ),
        (&["--override-generation-config", r#"{"heat": 1}"#], &["heat is 1", "min_p"]),
        (&["--hf-overrides", r#"{"hidden_act": "relu"}"#], &["hidden_act is \"relu\"", "silu"]),
        (&["--hf-overrides.hidden_act", "relu"], &["hidden_act is \"relu\"", "silu"]),
    ] {
        expect_words(&refusal(folder.path(), options), words);
    }
}

/// Serves a word that must be refused without a question to the Hub: nothing listens where that would be.
#[test]
fn words_that_name_no_model() {
    let folder = Checkpoint::llama().write();
    let inside = |name: &str| folder.path().join(name).display().to_string();
    for (word, words) in [
        (inside("config.json"), &["is a config without weights", "name the folder of a checkpoint"][..]),
        (inside("model.safetensors"), &["names no model", "name the folder that holds it"]),
        (inside("missing"), &["names no model", "a folder that exists; of this path,"]),
        ("qwen3-0.6b".to_owned(), &["is a config without weights", "--load-format dummy"]),
        ("Qwen/Qwen3-0.6B@v1".to_owned(), &["Qwen/Qwen3-0.6B --revision v1"]),
        ("https://huggingface.co/Qwen/Qwen3-0.6B".to_owned(), &["the id instead of the address"]),
        ("~/model".to_owned(), &["the shell did not replace ~"]),
    ] {
        let mut command = program(&["serve", &word, "--host", "127.0.0.1", "--port", "0"]);
        let ended = end_of(command.env("HF_ENDPOINT", "http://127.0.0.1:9"));
        assert_eq!(ended.status.code(), Some(1), "{word}: {}", ended.stderr);
        expect_words(&ended.stderr, words);
    }
}

/// The flag and the variables of the Hub, as far as they show without one.
#[test]
fn the_cache_of_the_hub_is_where_it_is_said_to_be() {
    let folder = Checkpoint::llama().write();
    let cache = folder.path().join("cache");
    let snapshots = cache.join("models--octet--tiny/snapshots");
    let commit = "0123456789abcdef0123456789abcdef01234567";
    fs::create_dir_all(&snapshots).unwrap();
    std::os::unix::fs::symlink(folder.path(), snapshots.join(commit)).unwrap();
    let said = |flags: &[&str], variables: &[(&str, &str)]| {
        // A length that is refused when the model was found.
        let model = ["serve", "octet/tiny", "--revision", commit, "--max-model-len", "100000"];
        let local = ["--host", "127.0.0.1", "--port", "0", "--threads", "1"];
        let mut command = program(&[&model[..], &local, flags].concat());
        command.env("HF_HUB_OFFLINE", "1").env("HOME", folder.path()).envs(variables.iter().copied());
        end_of(&mut command).stderr
    };
    let found = "100000 is above the 256 tokens";
    for variables in [
        ("HF_HUB_CACHE", "~/cache"),
        ("HUGGINGFACE_HUB_CACHE", "$HOME/cache"),
        ("HF_HUB_CACHE", cache.to_str().unwrap()),
    ] {
        assert!(said(&[], &[variables]).contains(found), "{variables:?}");
    }
    assert!(said(&["--download-dir", cache.to_str().unwrap()], &[]).contains(found));
    let absent = said(&[], &[("HF_HOME", "/nowhere")]);
    expect_words(&absent, &["HF_HUB_OFFLINE is set and the cache /nowhere/hub has no"]);
    let noted = refusal(folder.path(), &["--download-dir", "/x", "--max-model-len", "100000"]);
    assert!(noted.contains("note: --download-dir /x is for models of the Hub"), "{noted}");
}
