//! A tiny checkpoint, written by hand so that each of its parts can be made wrong.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

/// Rows of the embedding; the tokenizer has fewer tokens.
pub(crate) const VOCABULARY: usize = 272;

/// Longest sequence.
pub(crate) const MAX_MODEL_LEN: usize = 256;

const HIDDEN: usize = 64;
const INTERMEDIATE: usize = 96;
const LAYERS: usize = 2;

/// Tokens for single bytes come first; then the special ones.
const END_OF_TEXT: usize = 256;

/// A folder that is removed when the test ends.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("octet-test-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder for the test");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder that stays behind harms nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// One tensor as safetensors stores it.
#[derive(Clone)]
pub(crate) struct Tensor {
    /// The name of the element type in the header.
    pub(crate) element: &'static str,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

impl Tensor {
    pub(crate) fn f32(shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { element: "F32", shape: shape.to_vec(), bytes }
    }
}

/// A checkpoint before it is written.
pub(crate) struct Checkpoint {
    pub(crate) config: Value,
    pub(crate) tokenizer: Value,
    pub(crate) tensors: BTreeMap<String, Tensor>,
}

impl Checkpoint {
    /// A Llama of two layers with weights that look random, whose text is bytes.
    pub(crate) fn llama() -> Self {
        let config = json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": HIDDEN,
            "intermediate_size": INTERMEDIATE,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": MAX_MODEL_LEN,
            "vocab_size": VOCABULARY,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "hidden_act": "silu",
            "tie_word_embeddings": false,
            "torch_dtype": "bfloat16",
            "bos_token_id": END_OF_TEXT,
            "eos_token_id": END_OF_TEXT,
        });
        Self { config, tokenizer: byte_tokenizer(END_OF_TEXT + 1), tensors: llama_tensors() }
    }

    /// Writes all files into a new folder.
    pub(crate) fn write(&self) -> Folder {
        let folder = Folder::new();
        let write = |name: &str, bytes: &[u8]| {
            fs::write(folder.path().join(name), bytes).expect("a file in the test's folder");
        };
        write("config.json", self.config.to_string().as_bytes());
        write("tokenizer.json", self.tokenizer.to_string().as_bytes());
        write("tokenizer_config.json", json!({"eos_token": "<|end|>"}).to_string().as_bytes());
        write("model.safetensors", &self.safetensors());
        folder
    }

    /// Length of the header, the header, the data: <https://github.com/huggingface/safetensors#format>.
    pub(crate) fn safetensors(&self) -> Vec<u8> {
        let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
        for (name, tensor) in &self.tensors {
            let begin = data.len();
            data.extend(&tensor.bytes);
            let entry = json!({
                "dtype": tensor.element,
                "shape": tensor.shape,
                "data_offsets": [begin, data.len()],
            });
            header.insert(name.clone(), entry);
        }
        let header = Value::Object(header).to_string();
        let length = (header.len() as u64).to_le_bytes();
        [&length[..], header.as_bytes(), &data].concat()
    }
}

fn llama_tensors() -> BTreeMap<String, Tensor> {
    let mut state = 1u64;
    let mut random = |rows: usize, columns: usize| {
        let scale = 3.0 / (columns as f32).sqrt();
        let values: Vec<f32> = (0..rows * columns).map(|_| scale * uniform(&mut state)).collect();
        Tensor::f32(&[rows, columns], &values)
    };
    let norm = || Tensor::f32(&[HIDDEN], &[1.0; HIDDEN]);
    let mut tensors = BTreeMap::new();
    tensors.insert("model.embed_tokens.weight".to_owned(), random(VOCABULARY, HIDDEN));
    tensors.insert("lm_head.weight".to_owned(), random(VOCABULARY, HIDDEN));
    tensors.insert("model.norm.weight".to_owned(), norm());
    for layer in 0..LAYERS {
        let mut insert =
            |name: &str, tensor| tensors.insert(format!("model.layers.{layer}.{name}.weight"), tensor);
        for (name, rows, columns) in [
            ("self_attn.q_proj", 64, HIDDEN),
            ("self_attn.k_proj", 32, HIDDEN),
            ("self_attn.v_proj", 32, HIDDEN),
            ("self_attn.o_proj", HIDDEN, 64),
            ("mlp.gate_proj", INTERMEDIATE, HIDDEN),
            ("mlp.up_proj", INTERMEDIATE, HIDDEN),
            ("mlp.down_proj", HIDDEN, INTERMEDIATE),
        ] {
            insert(name, random(rows, columns));
        }
        insert("input_layernorm", norm());
        insert("post_attention_layernorm", norm());
    }
    tensors
}

/// The next of a fixed sequence between -1 and 1 (xorshift64*).
fn uniform(state: &mut u64) -> f32 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    let mixed = state.wrapping_mul(0x2545_F491_4F6C_DD1D);
    (mixed >> 40) as f32 / (1 << 23) as f32 - 1.0
}

/// A byte-level tokenizer without merges: a token for each byte, `<|end|>` after them, and fillers up to `size`.
pub(crate) fn byte_tokenizer(size: usize) -> Value {
    let mut vocabulary: serde_json::Map<String, Value> =
        byte_alphabet().into_iter().enumerate().map(|(id, letter)| (letter.to_string(), json!(id))).collect();
    for id in END_OF_TEXT + 1..size {
        vocabulary.insert(format!("filler{id}"), json!(id));
    }
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [{
            "id": END_OF_TEXT, "content": "<|end|>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        }],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": [],
        },
    })
}

/// The letters that GPT-2's byte-level alphabet writes bytes 0 to 255 as: printable ones as themselves, the others
/// from U+0100 on.
fn byte_alphabet() -> Vec<char> {
    let mut next = 0x100;
    (0u8..=255)
        .map(|byte| {
            if matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF) {
                return char::from(byte);
            }
            let letter = char::from_u32(next).expect("letters from U+0100 on are characters");
            next += 1;
            letter
        })
        .collect()
}
