//! A server on the tiny model, and a client of its own.
#![allow(dead_code)] // no test file uses all of them

pub(crate) mod client;
pub(crate) mod fold;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;

use nanoinfer_engine::{BatchOptions, Engine, EngineOptions, Engines, Model, PrefixStore};
use nanoinfer_format::Quant;
use nanoinfer_packer::{Input, Options as PackOptions, convert};
use nanoinfer_serve::testing::{fail_engines, limit_steps};
use nanoinfer_serve::{Handle, Keys, Listen, Load, Log, Options, Served, Server};
use nanoinfer_text::Specials;
use serde_json::{Value, json};

pub(crate) use client::{Reply, Stream};

pub(crate) const CTX: usize = 512;
pub(crate) const BLOCK: usize = 64;

/// A model with random weights and a token for each byte.
pub(crate) fn model() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    Arc::clone(MODEL.get_or_init(|| Arc::new(talking())))
}

const CONTROL: [&str; 8] = [
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|fim_prefix|>",
    "<|fim_suffix|>",
    "<|fim_middle|>",
    "<|fim_pad|>",
];

const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n\
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// Reasoning and calls as in Qwen 3, in few bytes.
const TOOL_TEMPLATE: &str = include_str!("../data/tools.jinja");

/// Added tokens that are not control tokens, from this one on.
pub(crate) const THINK: u32 = 264;
const MARKERS: [&str; 4] = ["<think>", "</think>", "<tool_call>", "</tool_call>"];
pub(crate) const END: u32 = 259;

/// The same model, with a template for reasoning and tools.
pub(crate) fn tool_model() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    Arc::clone(MODEL.get_or_init(|| Arc::new(made(TOOL_TEMPLATE, &MARKERS, END, &[]))))
}

/// A text as tokens of [`tool_model`], with markers, and the end of the answer.
pub(crate) fn script(text: &str) -> Vec<u32> {
    let tokenizer = tool_model().tokenizer().unwrap().encode(text, Specials::Parse);
    tokenizer.into_iter().chain([END]).collect()
}

fn talking() -> Model {
    made(TEMPLATE, &[], 257, &[])
}

/// The same model with a published template, whose markers are tokens.
pub(crate) fn published(template: &str, markers: &[&str]) -> Arc<Model> {
    Arc::new(made(template, markers, END, &[]))
}

/// The tokens for `yes` and `no` of [`judge`].
pub(crate) const YES_NO: [u32; 2] = [301, 302];

/// The same model, with tokens for two answers, and a tokenizer that puts a token after texts.
pub(crate) fn judge() -> Arc<Model> {
    Arc::new(made(TEMPLATE, &[], 257, &[("y", "e"), ("ye", "s"), ("n", "o")]))
}

/// With merges of the byte tokens, whose results are tokens from 300 on. With any, the tokenizer puts `</s>` after
/// texts.
fn made(template: &str, markers: &[&str], eos: u32, merges: &[(&str, &str)]) -> Model {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tiny/llama-gqa");
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(source.join(name), folder.path().join(name)).unwrap();
    }
    let mut shifted = 256..;
    let vocab = (0..=255_u8).map(|byte| {
        // Bytes without a visible character are written as the characters from 256 on.
        let visible = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..);
        let code = if visible { u32::from(byte) } else { shifted.next().unwrap() };
        (char::from_u32(code).unwrap().to_string(), Value::from(byte))
    });
    let merged = merges.iter().zip(300..).map(|((a, b), id)| (format!("{a}{b}"), Value::from(id)));
    let vocab: serde_json::Map<_, _> = vocab.chain(merged).collect();
    let merges: Vec<String> = merges.iter().map(|(a, b)| format!("{a} {b}")).collect();
    let added = CONTROL.iter().zip(256..);
    let mut added: Vec<_> =
        added.map(|(name, id)| json!({"id": id, "content": name, "special": true})).collect();
    let markers = markers.iter().zip(THINK..);
    added.extend(markers.map(|(name, id)| json!({"id": id, "content": name, "special": false})));
    let [begin, end] = ["<s>", "</s>"].map(|id| json!({"SpecialToken": {"id": id, "type_id": 0}}));
    let around = json!({
        "type": "TemplateProcessing",
        "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}, end],
        "pair": [],
        "special_tokens": {
            "<s>": {"id": "<s>", "ids": [256], "tokens": ["<s>"]},
            "</s>": {"id": "</s>", "ids": [257], "tokens": ["</s>"]},
        },
    });
    for (name, value) in [
        (
            "tokenizer.json",
            json!({
                "post_processor": if merges.is_empty() { Value::Null } else { around },
                "added_tokens": added,
                "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
                "decoder": {"type": "ByteLevel"},
                "model": {"type": "BPE", "vocab": vocab, "merges": merges},
            }),
        ),
        ("tokenizer_config.json", json!({"add_bos_token": true, "chat_template": template})),
        ("generation_config.json", json!({"bos_token_id": 256, "eos_token_id": eos})),
    ] {
        std::fs::write(folder.path().join(name), value.to_string()).unwrap();
    }
    let file = folder.path().join("model.nano");
    convert(&Input::Folder(folder.path().into()), &file, PackOptions::new(Quant::Q8)).unwrap();
    Model::open(&file).unwrap().named("tiny") // the mapping outlives the file
}

/// A running server, which ends with the test.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) handle: Handle,
    pub(crate) log: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

/// Options of [`Running::start`].
pub(crate) struct Setup {
    pub(crate) model: Arc<Model>,
    /// The names under which it is served, by an engine each.
    pub(crate) names: &'static [&'static str],
    pub(crate) sequences: usize,
    pub(crate) ctx: usize,
    pub(crate) queue: usize,
    /// Where contexts are stored.
    pub(crate) store: Option<PathBuf>,
    /// Why engines cannot be loaded again.
    pub(crate) fails: Arc<Mutex<Option<String>>>,
    pub(crate) options: Options,
}

impl Default for Setup {
    fn default() -> Self {
        let listen = Listen::Tcp("127.0.0.1:0".parse().unwrap());
        let options = Options::new(listen);
        Self {
            model: model(),
            names: &["tiny"],
            sequences: 4,
            ctx: CTX,
            queue: 64,
            store: None,
            fails: Arc::default(),
            options,
        }
    }
}

pub(crate) fn served(name: &str, sequences: usize, queue: usize) -> Served {
    serving(name, &Setup { sequences, queue, ..Setup::default() })
}

fn serving(name: &str, setup: &Setup) -> Served {
    let &Setup { sequences, ctx, queue, .. } = setup;
    let options = EngineOptions {
        threads: Some(1),
        ctx: Some(ctx),
        sequences,
        logits_rows: sequences.max(16),
        ..EngineOptions::default()
    };
    let (model, store, fails) =
        (Arc::clone(&setup.model), setup.store.clone(), Arc::clone(&setup.fails));
    let make = move || {
        if let Some(reason) = &*fails.lock().unwrap() {
            return Err(reason.clone());
        }
        let mut engines = Engines::from(Engine::new(Arc::clone(&model), &options).unwrap());
        engines.store = store.as_ref().map(|folder| PrefixStore::open(folder, 1 << 30).unwrap());
        Ok(engines)
    };
    let (engines, load) = (make().unwrap(), Some(Load::new(make)));
    let batch = BatchOptions { queue, ..BatchOptions::default() };
    Served { name: name.into(), engines, load, batch }
}

/// Bytes of a model of [`Setup`] while it is loaded.
pub(crate) fn memory(setup: &Setup) -> u64 {
    serving("", setup).engines.memory()
}

impl Running {
    pub(crate) fn start(setup: Setup) -> Self {
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&log);
        let mut options = setup.options.clone();
        options.log = Log::new(move |line| lines.lock().unwrap().push(line.to_owned()));
        let models = setup.names.iter().map(|name| serving(name, &setup)).collect();
        let server = Server::bind(models, options).unwrap();
        let (address, handle) = (server.address().parse().unwrap(), server.handle());
        let thread = Some(std::thread::spawn(move || server.run().unwrap()));
        Self { address, handle, log, thread }
    }

    pub(crate) fn new() -> Self {
        Self::start(Setup::default())
    }

    /// With a model that has reasoning and tools.
    pub(crate) fn with_tools() -> Self {
        Self::start(Setup { model: tool_model(), ..Setup::default() })
    }

    /// Makes all further answers of [`tool_model`] this text.
    pub(crate) fn script(&self, text: &str) {
        nanoinfer_serve::testing::script(&self.handle, Some(&script(text)));
    }

    pub(crate) fn with_keys(keys: &str) -> Self {
        let mut setup = Setup::default();
        setup.options.keys = Some(Keys::parse(keys).unwrap());
        Self::start(setup)
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        client::send(self.address, "GET", path, &[], "")
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Reply {
        client::send(self.address, "POST", path, &[], &body.to_string())
    }

    pub(crate) fn post_with(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Reply {
        client::send(self.address, "POST", path, headers, &body.to_string())
    }

    /// Sends a request and reads the head of its response.
    pub(crate) fn stream(&self, path: &str, body: &Value) -> Stream {
        Stream::open(self.address, path, &[], body)
    }

    pub(crate) fn chat(&self, body: &Value) -> Value {
        let reply = self.post("/v1/chat/completions", body);
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    }

    pub(crate) fn limit_steps(&self, steps: Option<u64>) {
        limit_steps(&self.handle, steps);
    }

    pub(crate) fn fail_engine(&self) {
        fail_engines(&self.handle);
    }

    /// The value of a figure.
    pub(crate) fn figure(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text();
        let line = text.lines().find(|line| line.starts_with(name) && !line.starts_with('#'));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).expect("a figure")
    }

    /// Waits until a figure has a value. There is no time limit besides that of the test runner.
    pub(crate) fn wait_for(&self, name: &str, value: f64) {
        while self.figure(name) != value {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }

    /// Ends the server and waits until it has ended.
    pub(crate) fn end(mut self) {
        self.handle.drain();
        self.thread.take().unwrap().join().unwrap();
    }

    /// Waits until the server has ended.
    pub(crate) fn join(mut self) {
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.drain();
    }
}

/// A conversation of these texts, by turns of user and assistant.
pub(crate) fn conversation(texts: &[&str]) -> Value {
    let roles = ["user", "assistant"].into_iter().cycle();
    texts.iter().zip(roles).map(|(text, role)| json!({"role": role, "content": text})).collect()
}

/// A request of a chat for `max_tokens` tokens.
pub(crate) fn chat(text: &str, max_tokens: usize) -> Value {
    json!({"model": "tiny", "messages": conversation(&[text]), "max_tokens": max_tokens, "seed": 7})
}

/// `body` with other members.
pub(crate) fn with(mut body: Value, members: Value) -> Value {
    let members = members.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(members);
    body
}

/// A bias that leaves only tokens with a text.
pub(crate) fn only_text() -> Value {
    let banned = (256..320).map(|id| (id.to_string(), json!(-100)));
    json!({"logit_bias": banned.collect::<serde_json::Map<_, _>>()})
}
