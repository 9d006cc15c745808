//! Options of the server.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::Args;
use nanoinfer_format::Precision;

use super::ranges::count;
use super::running::Kv;

/// Serve a model to programs, with the APIs of OpenAI, Anthropic and Ollama.
///
/// Any client that can be pointed to another address works: http://127.0.0.1:8080/v1 for those of
/// OpenAI. Many requests share every pass of the model, without an effect on their answers, and what
/// a conversation has in common with an earlier one is not computed again. A page to chat is at
/// http://127.0.0.1:8080/.
///
/// Without --keys, only programs on this machine are answered. SIGTERM and Ctrl-C let running answers
/// end, within --drain seconds; a second one ends the server at once. Every option can be set by an
/// environment variable instead, NANOINFER_PORT for --port, and so on, or in a file (--config).
///
/// On Linux, before the first request, the server gives up its access to files other than --cache-dir,
/// to programs and to connections of its own; its first lines say what is in force. Under systemd, it
/// reports when it is ready, and takes over a socket that is passed on (LISTEN_FDS).
#[derive(Args)]
#[command(after_help = "\
Examples:
  nanoinfer serve
  nanoinfer serve --model fast=Qwen3-0.6B.gguf --model large=model.nano --port 9000
  nanoinfer serve --host 0.0.0.0 --keys keys.txt
  curl http://127.0.0.1:8080/v1/chat/completions -d \\
    '{\"messages\": [{\"role\": \"user\", \"content\": \"Hi!\"}]}'

A file of --keys has a line for each: a name, the key (or blake3: and its hash), and optionally
requests=N (at once), tokens=N (per minute, of prompts and answers) and class=interactive, normal or
background. Lines that begin with # are skipped.

A file of --config is TOML: the options by their long names, such as port = 9000 or
model = [\"fast=small.gguf\", \"large=model.nano\"]. The command line and the environment come first.

Exit codes: 0 ended by SIGTERM or Ctrl-C, 1 failure, 2 usage error.")]
pub(crate) struct Serve {
    /// Model, optionally with the name that requests use (repeatable; the first is the default): a
    /// .nano file, a GGUF file, a Hugging Face folder, a hub id, or smollm2
    #[arg(
        long,
        value_name = "[NAME=]MODEL",
        env = "NANOINFER_MODEL",
        value_delimiter = ',',
        default_value = "smollm2"
    )]
    pub(crate) model: Vec<OsString>,
    /// Precision of the weights: q8, q5, q4, q3, q2, f32, or bits per weight such as 4.25; auto is any
    /// that is in the cache, or else q8, or q5 from a billion parameters
    #[arg(long, value_name = "PRECISION", env = "NANOINFER_QUANT", default_value = "auto")]
    pub(crate) quant: Precision,
    /// Chat template to use instead of the model's: a well-known format, or a file with a Jinja template
    #[arg(long, value_name = "NAME|FILE", env = "NANOINFER_CHAT_TEMPLATE")]
    pub(crate) chat_template: Option<PathBuf>,
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS", env = "NANOINFER_HOST", default_value = "127.0.0.1")]
    pub(crate) host: String,
    /// Port to listen on; 0 is any free one
    #[arg(long, value_name = "N", env = "NANOINFER_PORT", default_value_t = 8080)]
    pub(crate) port: u16,
    /// Unix socket to listen on instead, as unix:PATH
    #[arg(long, value_name = "unix:PATH", env = "NANOINFER_LISTEN", value_parser = socket)]
    pub(crate) listen: Option<PathBuf>,
    /// File with the keys of clients, which every request then needs
    #[arg(long, value_name = "FILE", env = "NANOINFER_KEYS")]
    pub(crate) keys: Option<PathBuf>,
    /// Let requests with different keys reuse each other's contexts. It is faster, but shows, by the time of an
    /// answer, what others asked
    #[arg(long, env = "NANOINFER_SHARE_PREFIXES", requires = "keys")]
    pub(crate) share_prefixes: bool,
    /// Answer /metrics without a key, for routers that choose a server by its figures. They show no text, but how
    /// much all clients use
    #[arg(long, env = "NANOINFER_PUBLIC_METRICS", requires = "keys")]
    pub(crate) public_metrics: bool,
    /// Seconds without requests after which a model is unloaded; the next request loads it again (default:
    /// never)
    #[arg(long, value_name = "S", env = "NANOINFER_IDLE_SECONDS", value_parser = count(1 << 30))]
    pub(crate) idle_seconds: Option<u64>,
    /// Megabytes for loaded models, with their keys and values (default: no limit). A request for another
    /// model waits until an idle one, or the answers of one, have made room
    #[arg(long, value_name = "MB", env = "NANOINFER_MODELS_MB", value_parser = count(1 << 40))]
    pub(crate) models_mb: Option<u64>,
    /// Number of threads (default: the physical cores available to this process)
    #[arg(long, value_name = "N", env = "NANOINFER_THREADS", value_parser = count(1024))]
    pub(crate) threads: Option<u64>,
    /// Maximum number of requests that are answered at the same time
    #[arg(long, value_name = "N", env = "NANOINFER_SEQUENCES", default_value_t = 64,
          value_parser = count(256))]
    pub(crate) sequences: u64,
    /// Maximum number of tokens in a context (default: the length that the model was trained for)
    #[arg(long, value_name = "N", env = "NANOINFER_CTX", value_parser = count(1 << 30))]
    pub(crate) ctx: Option<u64>,
    /// Precision of cached keys and values (default: q8, or f32 for f32 models)
    #[arg(long, value_enum, env = "NANOINFER_KV")]
    pub(crate) kv: Option<Kv>,
    /// Megabytes for the keys and values of all contexts (default: a quarter of the free memory)
    #[arg(long, value_name = "MB", env = "NANOINFER_KV_MB", value_parser = count(1 << 40))]
    pub(crate) kv_mb: Option<u64>,
    /// Milliseconds for a pass while answers are generated: shorter passes make answers flow more
    /// evenly, longer ones read prompts faster
    #[arg(long, value_name = "MS", env = "NANOINFER_PASS_MS", default_value_t = 150,
          value_parser = count(60_000))]
    pub(crate) pass_ms: u64,
    /// Maximum number of requests that wait; further ones are refused with 429
    #[arg(long, value_name = "N", env = "NANOINFER_QUEUE", default_value_t = 256,
          value_parser = count(1 << 20))]
    pub(crate) queue: u64,
    /// Maximum time for an answer in seconds (default: none); then it ends as it is
    #[arg(long, value_name = "S", env = "NANOINFER_MAX_SECONDS", value_parser = count(1 << 30))]
    pub(crate) max_seconds: Option<u64>,
    /// Seconds for which running answers may continue when the server ends
    #[arg(long, value_name = "S", env = "NANOINFER_DRAIN", default_value_t = 30)]
    pub(crate) drain: u64,
    /// Folder for computed prompts, which are then also found after a restart. The files contain your
    /// text and are readable only by you
    #[arg(long, value_name = "DIR", env = "NANOINFER_CACHE_DIR")]
    pub(crate) cache_dir: Option<PathBuf>,
    /// Maximum size of the cache folder in megabytes
    #[arg(long, value_name = "MB", env = "NANOINFER_CACHE_SIZE", default_value_t = 2048,
          value_parser = count(1 << 40))]
    pub(crate) cache_size: u64,
    /// Keep the access to files, programs and the network that the server does not need
    #[arg(long, env = "NANOINFER_NO_SANDBOX", value_parser = clap::builder::BoolishValueParser::new())]
    pub(crate) no_sandbox: bool,
    /// TOML file with options, for those that neither the command line nor the environment sets
    #[arg(long, value_name = "FILE", env = "NANOINFER_CONFIG")]
    pub(crate) config: Option<PathBuf>,
}

fn socket(text: &str) -> Result<PathBuf, String> {
    let path = text.strip_prefix("unix:").filter(|path| !path.is_empty());
    path.map(PathBuf::from).ok_or_else(|| "expected unix:PATH".to_owned())
}

/// A model to serve, and its name in requests.
pub(crate) struct NamedModel {
    pub(crate) name: String,
    pub(crate) source: OsString,
}

impl NamedModel {
    /// Reads `[NAME=]MODEL`.
    pub(crate) fn parse(argument: &OsStr) -> Self {
        let named = argument.to_str().and_then(|text| text.split_once('='));
        let is_name = |name: &str| {
            let plain = |c: char| c.is_alphanumeric() || "-_.:/".contains(c);
            !name.is_empty() && name.chars().all(plain)
        };
        match named {
            Some((name, source)) if is_name(name) && !Path::new(argument).exists() => {
                Self { name: name.to_owned(), source: source.into() }
            }
            _ => Self { name: name_of(argument), source: argument.to_owned() },
        }
    }
}

/// The name of a model that was given none: that of its file, or the hub id.
fn name_of(source: &OsStr) -> String {
    let path = Path::new(source);
    let whole = || source.to_string_lossy().into_owned();
    match path.file_stem().filter(|_| path.exists()) {
        Some(_) if path.is_dir() => {
            path.file_name().map_or_else(whole, |name| name.to_string_lossy().into_owned())
        }
        Some(stem) => stem.to_string_lossy().into_owned(),
        None => whole(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_have_names() {
        for (argument, name, source) in [
            ("smollm2", "smollm2", "smollm2"),
            ("fast=org/model", "fast", "org/model"),
            ("org/model@main", "org/model@main", "org/model@main"),
            ("a b=c", "a b=c", "a b=c"),
            ("Cargo.toml", "Cargo", "Cargo.toml"),
            ("src", "src", "src"),
        ] {
            let model = NamedModel::parse(OsStr::new(argument));
            assert_eq!((model.name.as_str(), model.source.to_str()), (name, Some(source)));
        }
    }
}
