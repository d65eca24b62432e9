//! A server on a port of its own, with a tokenizer whose tokens are bytes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use octet_engine::{EngineConfig, EngineHandle, Executor, Pooling};
use octet_server::{EmbeddingModel, ListenAddress, Model, ServerConfig, ServerError, Service, bind, run};
use octet_text::{ChatTemplate, Tokenizer};
use serde_json::json;

use crate::client::{Answer, Client};
use crate::executor::{Admitted, EOS, Scripted};

/// The longest sequence of the served model.
pub(crate) const MAX_MODEL_LEN: usize = 512;

/// Ids: 256 bytes, then `<s>`, `</s>` and `<pad>`.
pub(crate) const VOCABULARY_SIZE: usize = 259;

/// Beginning of sequence.
pub(crate) const BOS: u32 = 256;

const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}\
                        {% if add_generation_prompt %}[assistant]{% endif %}{% if shout %}{{ shout }}{% endif %}";

/// What a test changes of the server.
pub(crate) struct Options {
    pub(crate) server: ServerConfig,
    pub(crate) engine: EngineConfig,
    pub(crate) step_time: Duration,
    pub(crate) with_template: bool,
    /// Rows of the embedding; the tokenizer has [`VOCABULARY_SIZE`] tokens.
    pub(crate) embedded_tokens: usize,
    pub(crate) embedding: EmbeddingModel,
}

impl Default for Options {
    fn default() -> Self {
        let server = ServerConfig {
            host: "127.0.0.1".to_owned(),
            port: 0,
            access_log: false,
            ..ServerConfig::default()
        };
        let engine = EngineConfig::new(257, 16, MAX_MODEL_LEN);
        Self {
            server,
            engine,
            step_time: Duration::ZERO,
            with_template: true,
            embedded_tokens: VOCABULARY_SIZE,
            embedding: EmbeddingModel { size: 4, pooling: Pooling::Last, normalize: true, matryoshka: None },
        }
    }
}

/// A server in a thread, wherever it listens.
pub(crate) struct Running {
    pub(crate) engine: EngineHandle,
    pub(crate) thread: JoinHandle<Result<(), ServerError>>,
}

/// Starts a server.
pub(crate) fn launch(
    options: Options,
    executor: impl Executor + 'static,
    on_ready: impl FnOnce(&ListenAddress) + Send + 'static,
) -> Running {
    let (engine, engine_thread) = octet_engine::spawn(options.engine, executor).unwrap();
    let socket = bind(&options.server).unwrap();
    let mut model = model(options.with_template, options.embedded_tokens);
    model.embedding = options.embedding;
    let service = Service { config: options.server, model, engine: engine.clone(), engine_thread };
    let thread = std::thread::spawn(move || run(service, socket, on_ready));
    Running { engine, thread }
}

/// A running server. It stops when it is dropped.
pub(crate) struct TestServer {
    pub(crate) address: SocketAddr,
    pub(crate) engine: EngineHandle,
    pub(crate) admitted: Admitted,
    thread: Option<JoinHandle<Result<(), ServerError>>>,
}

impl TestServer {
    pub(crate) fn start() -> Self {
        Self::with(Options::default())
    }

    pub(crate) fn with(options: Options) -> Self {
        let admitted = Admitted::default();
        let executor = Scripted::new(options.step_time, Arc::clone(&admitted));
        let mut server = Self::with_executor(options, executor);
        server.admitted = admitted;
        server
    }

    pub(crate) fn with_executor(options: Options, executor: impl Executor + 'static) -> Self {
        let (ready, is_ready) = mpsc::channel();
        let running = launch(options, executor, move |address| ready.send(address.clone()).unwrap());
        let Running { engine, thread } = running;
        let address = is_ready.recv_timeout(Duration::from_secs(20)).unwrap();
        let ListenAddress::Tcp(address) = address else { panic!("the server listens at a port") };
        Self { address, engine, admitted: Admitted::default(), thread: Some(thread) }
    }

    pub(crate) fn client(&self) -> Client {
        Client { address: self.address }
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.client().request("GET", path, &[], None)
    }

    pub(crate) fn post(&self, path: &str, body: &serde_json::Value) -> Answer {
        self.client().post(path, body.to_string().as_bytes())
    }

    /// Waits until no sequence is in the engine.
    pub(crate) fn wait_until_idle(&self) {
        wait_for("an idle engine", || {
            let stats = self.engine.stats();
            stats.running == 0 && stats.waiting == 0
        });
        assert_eq!(self.engine.stats().kv_cache_usage, 0.0, "all blocks are free");
    }

    /// Waits for the server's own end.
    pub(crate) fn join(mut self) -> Result<(), ServerError> {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.engine.shutdown(Duration::ZERO);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.unwrap().unwrap();
            }
        }
    }
}

/// Polls: for what another thread does and nothing announces.
pub(crate) fn wait_for(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within 20 seconds");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn model(with_template: bool, vocabulary_size: usize) -> Model {
    let folder = tokenizer_folder();
    let tokenizer = Tokenizer::load(&folder).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    let bos = tokenizer.bos().map(|token| token.text.clone());
    let eos = tokenizer.eos().map(|token| token.text.clone());
    assert_eq!(tokenizer.vocabulary_size(), VOCABULARY_SIZE);
    let template = ChatTemplate::compile(TEMPLATE, bos.as_deref(), eos.as_deref()).unwrap();
    Model {
        tokenizer: Arc::new(tokenizer),
        template: with_template.then(|| Arc::new(template)),
        tool_template: None,
        names: vec!["scripted".to_owned(), "house/other-name".to_owned()],
        root: "/models/scripted".to_owned(),
        max_model_len: MAX_MODEL_LEN,
        vocabulary_size,
        eos_token_id: Some(EOS),
        stop_token_ids: Vec::new(),
        embedding: Options::default().embedding,
    }
}

/// A byte-level BPE without merges, in the form of `tokenizer.json`. The id of a byte is the byte.
fn tokenizer_folder() -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("tokenizer-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let vocabulary: serde_json::Map<String, serde_json::Value> =
        (0..=255_u8).map(|byte| (byte_letter(byte).to_string(), json!(byte))).collect();
    let special = |id: u32, text: &str| {
        json!({ "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true })
    };
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                             "use_regex": false });
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [special(256, "<s>"), special(257, "</s>"), special(258, "<pad>")],
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": { "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [256], "tokens": ["<s>"] } } },
        "decoder": byte_level,
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                   "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                   "vocab": vocabulary, "merges": [] },
    });
    let config = json!({ "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>",
                         "tokenizer_class": "PreTrainedTokenizerFast" });
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(folder.join("tokenizer_config.json"), config.to_string()).unwrap();
    folder
}

/// GPT-2's letters for bytes: printable ones stand for themselves, the others for letters from U+0100 on, in order.
fn byte_letter(byte: u8) -> char {
    let is_printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if is_printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|other| !is_printable(*other)).count() as u32;
    char::from_u32(0x100 + before).unwrap()
}
