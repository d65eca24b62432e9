//! A JSON body for every endpoint that takes one, sent over a socket to a whole server with a small model.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use octet_cpu::{CpuBackend, CpuOptions, PoolOptions};
use octet_engine::{EngineConfig, Pooling};
use octet_model::{
    KvCacheChoice, LoadFormat, LoadOptions, LoadedModel, MaxModelLen, ModelSource, RunnerLimits, WeightType,
};
use octet_server::{EmbeddingModel, ListenAddress, Model, ServerConfig, Service, bind};
use octet_text::{ChatTemplate, Tokenizer};

use crate::folder::Folder;
use crate::halves;

const PATHS: [&str; 5] =
    ["/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/tokenize", "/detokenize"];

/// A model of one narrow layer: what is tried here is the way to it and back.
const CONFIG: &str = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 259,
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": true}"#;

/// The tokenizer whose tokens are bytes is a seed of its own.
const TOKENIZER: &[u8] = include_bytes!("../seeds/tokenizer/bytes");

const TEMPLATE: &str = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}";

const VOCABULARY_SIZE: usize = 259;
const MAX_MODEL_LEN: usize = 64;
const BLOCK_SIZE: usize = 16;
const NUM_BLOCKS: usize = 65;
const MAX_NUM_SEQS: usize = 8;

/// Longer than any request takes: an answer that does not come is a hang.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn run(bytes: &[u8]) -> bool {
    static ADDRESS: OnceLock<SocketAddr> = OnceLock::new();
    let address = *ADDRESS.get_or_init(start);
    let mut is_taken = false;
    for path in PATHS {
        let answer = post(address, path, bytes);
        let status = answer.get(9..12).and_then(|status| std::str::from_utf8(status).ok());
        let status: u16 = status.and_then(|status| status.parse().ok()).unwrap_or_else(|| {
            panic!("{path} was answered with {:?}", String::from_utf8_lossy(&answer));
        });
        assert!(status < 500, "{path}: the server blames itself: {}", String::from_utf8_lossy(&answer));
        is_taken |= status == 200;
    }
    is_taken
}

fn post(address: SocketAddr, path: &str, body: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time is set");
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: octet\r\nContent-Type: application/json\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    // A server that refuses a body early may close before it has all of it; its answer counts.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert!(!answer.is_empty(), "{path} is not answered: {error}");
    }
    answer
}

/// Starts the server, which lives as long as the process.
fn start() -> SocketAddr {
    let folder = Folder::new();
    let (tokenizer, tokenizer_config) = halves(TOKENIZER);
    folder.write("config.json", CONFIG.as_bytes());
    folder.write("tokenizer.json", tokenizer);
    folder.write("tokenizer_config.json", tokenizer_config);
    let tokenizer = Tokenizer::load(folder.path()).expect("the seed is a tokenizer");
    let (engine, engine_thread) = octet_engine::spawn(engine_config(), runner(&folder)).expect("an engine");
    let template = ChatTemplate::compile(TEMPLATE, None, None).expect("a template");
    let model = Model {
        eos_token_id: tokenizer.eos().map(|eos| eos.id),
        tokenizer: Arc::new(tokenizer),
        template: Some(Arc::new(template)),
        tool_template: None,
        names: vec!["small".to_owned()],
        root: "small".to_owned(),
        max_model_len: MAX_MODEL_LEN,
        vocabulary_size: VOCABULARY_SIZE,
        stop_token_ids: Vec::new(),
        embedding: EmbeddingModel {
            size: 4,
            pooling: Pooling::Mean,
            normalize: true,
            matryoshka: Some(Vec::new()),
        },
    };
    let config =
        ServerConfig { host: "127.0.0.1".to_owned(), port: 0, access_log: false, ..ServerConfig::default() };
    let socket = bind(&config).expect("a free port");
    let service = Service { config, model, engine, engine_thread };
    let (ready, is_ready) = mpsc::channel();
    thread::spawn(move || {
        let ended = octet_server::run(service, socket, |address| {
            ready.send(address.clone()).expect("somebody waits for the address");
        });
        panic!("the server ended: {ended:?}");
    });
    match is_ready.recv_timeout(PATIENCE).expect("the server starts") {
        ListenAddress::Tcp(address) => address,
        ListenAddress::Unix(path) => panic!("no path was asked for: {}", path.display()),
    }
}

fn engine_config() -> EngineConfig {
    EngineConfig { max_num_seqs: MAX_NUM_SEQS, ..EngineConfig::new(NUM_BLOCKS, BLOCK_SIZE, MAX_MODEL_LEN) }
}

fn runner(folder: &Folder) -> octet_model::Runner<CpuBackend> {
    let threads = PoolOptions { workers: Some(1), ..PoolOptions::default() };
    let options = CpuOptions { threads, ..CpuOptions::default() };
    let backend = CpuBackend::new(&options).expect("a CPU");
    let load = LoadOptions {
        weight_type: WeightType::Auto,
        quantization: None,
        quantize_head: false,
        load_format: LoadFormat::Dummy,
        kv_cache_type: KvCacheChoice::Auto,
        max_model_len: MaxModelLen::Model,
        seed: 0,
    };
    let source = ModelSource::Folder(folder.path().to_owned());
    let model = LoadedModel::load(backend, &source, &load, &mut |_| {}).expect("a model of made-up weights");
    let limits = RunnerLimits {
        max_batched_tokens: engine_config().max_num_batched_tokens,
        max_sequences: MAX_NUM_SEQS,
        max_model_len: MAX_MODEL_LEN,
        block_size: BLOCK_SIZE,
        num_blocks: NUM_BLOCKS,
    };
    model.into_runner(limits).expect("room for it")
}
