//! Options of commands that run a model.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use nanoinfer_engine::KvType;
use nanoinfer_format::Precision;

use super::following::FollowArgs;
use super::prompting::PromptArgs;
use super::ranges::{MaxTokens, Seed, Think, count, max_tokens, seed, think, top_k};

/// Generate text from a prompt.
///
/// The prompt comes from --prompt, --prompt-file, or standard input. The model continues it as raw
/// text or, with --chat, answers it as a user message formatted with its chat template. Names of
/// control tokens in it are ordinary text, unless --special is given. Of a file and of standard
/// input, a byte-order mark and one line end at the end are dropped; --prompt is used as typed. The
/// answer is streamed to standard output: byte for byte to a file or pipe, with control characters
/// made visible on a terminal.
#[derive(Args)]
#[command(after_help = "\
Examples:
  nanoinfer generate --prompt 'The capital of France is' -n 20
  git diff | nanoinfer generate --chat --system 'Summarise this change.'
  nanoinfer generate --prompt-file story.txt --temp 0.8 --top-p 0.95 --seed 7
  nanoinfer generate --special --prompt-file by-hand.txt --stop '<|im_end|>'
  nanoinfer generate --model old.gguf --chat --chat-template chatml --prompt 'Hi!'
  nanoinfer generate --model coder.gguf --fim-prefix 'def add(a, b):' --fim-suffix 'print(add(1, 2))'
  nanoinfer generate --chat --json-schema person.json --prompt 'Describe Ada Lovelace in JSON.'
  nanoinfer generate --model Qwen/Qwen3-0.6B --chat --think 200 --prompt 'What is 17 times 23?'

With --json-schema or --grammar, only tokens that continue a valid answer can be chosen, so that it always is
valid, unless it is cut off (finish_reason length). JSON has one space after colons and commas and no other
whitespace outside of strings. Text that has no alternative, such as names of properties, takes few passes.

--json prints one object at the end: prompt_tokens and tokens (ids), text, finish_reason (stop,
length, context, cancelled), seed, reused_tokens (prompt tokens found in a cache), overflow, evicted_tokens
(dropped from a sliding context), drafts, timings, isa, threads. In drafts, passes counts forward
passes after the prompt and tokens_per_pass is their average yield; drafted and accepted count tokens,
in total and per source (lookup, model, forced). In timings, load_ms is the time from process start until the
model accepts tokens, ttft_ms from then to the first token; prefill_tps and decode_tps are tokens per
second. After Ctrl-C, --json still prints the text so far.")]
pub(crate) struct Generate {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Prompt text
    #[arg(long, short, conflicts_with = "prompt_file", allow_hyphen_values = true)]
    pub(crate) prompt: Option<String>,
    /// File that contains the prompt
    #[arg(long, value_name = "FILE")]
    pub(crate) prompt_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) form: PromptArgs,
    #[command(flatten)]
    pub(crate) follow: FollowArgs,
    /// Maximum number of tokens to generate; -1 = until the answer ends or the context is full
    #[arg(short, long = "max-tokens", value_name = "N", default_value = "256",
          value_parser = max_tokens, allow_negative_numbers = true)]
    pub(crate) n: MaxTokens,
    /// Print one JSON object at the end instead of streaming text
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) drafts: DraftArgs,
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
}

/// Chat with a model.
///
/// On a terminal, the chat is full-screen, with live engine telemetry. Enter sends, Esc stops
/// an answer, `/help` lists keys and commands, F2 shows details; `exit` or Ctrl-C quits.
///
/// With standard input or output piped, or with --plain, it reads messages line by line, and writes
/// answers to standard output and everything else to standard error. A line that begins with a
/// command, such as /clear or /system TEXT, executes it (/help lists all); `//` at the beginning
/// sends a slash. `exit`, the end of the input, or Ctrl-C quits.
///
/// Line by line, the oldest turns are dropped when the context is full, with a note. A message that
/// does not fit on its own, or that the chat template rejects, is skipped, and an answer that reaches
/// the end of the context is cut off. With --overflow slide, messages and answers of any length fit.
/// If standard input is piped, an unknown command or invalid UTF-8 ends the chat.
#[derive(Args)]
#[command(after_help = "\
Examples:
  nanoinfer chat
  nanoinfer chat --model Qwen.gguf --system 'Answer in one sentence.' --temp 0.7
  echo 'Name three rivers.' | nanoinfer chat > answer.txt

Exit codes: 0 quit by exit, Ctrl-C or end of input; 1 failure or, with standard input piped, a message
that was not answered or an answer that the end of the context cut off; 129 terminal closed; 143
SIGTERM; 130 SIGINT (or Ctrl-C with --plain); 101 internal error, reported after the terminal is
restored.

Environment:
  NANOINFER_HISTORY  file for the input history (default: in the platform's state folder; if
                     empty, no file)
  NO_COLOR           disable colours")]
pub(crate) struct Chat {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// System message: instructions for the model
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) system: Option<String>,
    /// Chat template to use instead of the model's: a well-known format (such as chatml, gemma,
    /// llama2, llama3, mistral-v3, phi3), or a file with a Jinja template
    #[arg(long, value_name = "NAME|FILE")]
    pub(crate) chat_template: Option<PathBuf>,
    /// Whether the model reasons before it answers, if its chat template has a switch for that: on, off, or the
    /// maximum number of tokens for it
    #[arg(long, value_name = "on|off|N", value_parser = think)]
    pub(crate) think: Option<Think>,
    /// Maximum number of tokens per answer; -1 = unlimited
    #[arg(short, long = "max-tokens", value_name = "N", default_value = "-1",
          value_parser = max_tokens, allow_negative_numbers = true)]
    pub(crate) n: MaxTokens,
    /// Chat line by line, even on a terminal
    #[arg(long)]
    pub(crate) plain: bool,
    #[command(flatten)]
    pub(crate) drafts: DraftArgs,
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
}

/// The model and how to run it.
#[derive(Args, Clone)]
pub(crate) struct ModelArgs {
    /// .nano or .gguf file, Hugging Face folder, hub id (org/name), or smollm2
    #[arg(long, short, default_value = "smollm2")]
    pub(crate) model: OsString,
    /// Branch, tag or commit of a hub model (default: main)
    #[arg(long, value_name = "REV")]
    pub(crate) revision: Option<String>,
    /// Precision of the weights: q8, q5, q4, q3, q2, f32, or bits per weight such as 4.25; auto is any
    /// that is in the cache, or else q8, or q5 from a billion parameters
    #[arg(long, value_name = "PRECISION", default_value = "auto")]
    pub(crate) quant: Precision,
    /// Read the model into memory instead of mapping its file: starts more slowly and shares no memory
    /// with other processes, but the file may change or disappear while in use
    #[arg(long)]
    pub(crate) no_mmap: bool,
    /// Number of threads (default: the physical cores available to this process)
    #[arg(long, value_name = "N", value_parser = count(1024))]
    pub(crate) threads: Option<u64>,
    /// Context size in tokens (default: the model's, up to 4096). Beyond what the model was trained for,
    /// its output is usually useless
    #[arg(long, value_name = "N", value_parser = count(1 << 30))]
    pub(crate) ctx: Option<u64>,
    /// Precision of cached keys and values (default: q8, or f32 for f32 models)
    #[arg(long, value_enum)]
    pub(crate) kv: Option<Kv>,
    /// Behaviour when the context is full
    #[arg(long, value_enum, default_value_t = Overflow::Stop)]
    pub(crate) overflow: Overflow,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Overflow {
    /// End the answer with finish reason `context`
    Stop,
    /// Drop the oldest tokens after the system message, 64 at a time, and continue
    Slide,
}

impl From<Overflow> for nanoinfer_engine::Overflow {
    fn from(overflow: Overflow) -> Self {
        match overflow {
            Overflow::Stop => Self::Stop,
            Overflow::Slide => Self::Slide,
        }
    }
}

/// Persistent prompt cache. It never changes a generated token.
#[derive(Args, Clone)]
#[command(next_help_heading = "Prompt cache (affects speed, never the text)")]
pub(crate) struct CacheArgs {
    /// Folder for computed prompts: a later prompt, in this or another run, reuses the longest common
    /// prefix. The files contain your text and are readable only by you
    #[arg(long, value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,
    /// Maximum size of the cache folder in megabytes; the least recently used files are deleted first
    #[arg(long, value_name = "MB", default_value_t = 2048, requires = "cache_dir",
          value_parser = count(1 << 40))]
    pub(crate) cache_size: u64,
}

/// Speculative decoding. It never changes a generated token.
#[derive(Args, Clone)]
#[command(next_help_heading = "Drafting (affects speed, never the text)")]
pub(crate) struct DraftArgs {
    /// Small model with the same vocabulary that drafts tokens; a pass verifies several at once
    #[arg(long, value_name = "MODEL", conflicts_with = "no_draft")]
    pub(crate) draft: Option<OsString>,
    /// Disable all drafting, including drafts from repetitions in the context: one token per pass
    #[arg(long)]
    pub(crate) no_draft: bool,
    /// Number of tokens per draft whenever possible; for tests, whose outcome must not depend on
    /// timing
    #[arg(long, hide = true, value_name = "N", conflicts_with = "no_draft")]
    pub(crate) draft_length: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kv {
    /// 4 bits: half the size of q8, but less accurate, by about as much as q4 weights
    Q4,
    /// 8 bits, rotated, with a scale per position and head
    Q8,
    /// Half precision: twice the size
    F16,
    /// Single precision: four times the size, lossless
    F32,
}

impl From<Kv> for KvType {
    fn from(kv: Kv) -> Self {
        match kv {
            Kv::Q4 => Self::Q4,
            Kv::Q8 => Self::Q8,
            Kv::F16 => Self::F16,
            Kv::F32 => Self::F32,
        }
    }
}

/// How the next token is chosen. Omitted options keep the model's own defaults; a model without
/// defaults chooses the most likely token.
#[derive(Args)]
#[command(
    next_help_heading = "Sampling (default: the model's own settings, else the most likely token)"
)]
pub(crate) struct SamplingArgs {
    /// Temperature; 0 always chooses the most likely token
    #[arg(long, value_name = "T", value_parser = temperature, allow_negative_numbers = true)]
    pub(crate) temp: Option<f32>,
    /// Choose among the K most likely tokens; 0 or -1 = all
    #[arg(long, value_name = "K", value_parser = top_k, allow_negative_numbers = true)]
    pub(crate) top_k: Option<usize>,
    /// Choose among the most likely tokens with this total probability
    #[arg(long, value_name = "P", value_parser = probability, allow_negative_numbers = true)]
    pub(crate) top_p: Option<f32>,
    /// Choose among tokens with at least this probability relative to the most likely token
    #[arg(long, value_name = "P", value_parser = probability, allow_negative_numbers = true)]
    pub(crate) min_p: Option<f32>,
    /// Divisor for the logits of tokens already seen; 1 = off
    #[arg(long, value_name = "X", value_parser = positive, allow_negative_numbers = true)]
    pub(crate) repeat_penalty: Option<f32>,
    /// Subtract this from the logits of tokens already generated
    #[arg(long, value_name = "X", value_parser = penalty, allow_negative_numbers = true)]
    pub(crate) presence_penalty: Option<f32>,
    /// Subtract this from the logits of tokens already generated, once per occurrence
    #[arg(long, value_name = "X", value_parser = penalty, allow_negative_numbers = true)]
    pub(crate) frequency_penalty: Option<f32>,
    /// Random seed: the same seed produces the same text (default: 0); -1 = a random one, which is
    /// printed
    #[arg(long, value_name = "S", value_parser = seed, allow_negative_numbers = true)]
    pub(crate) seed: Option<Seed>,
    /// Stop when this string is generated, or the control token with this name (repeatable). The
    /// string is used as typed; a line end is $'\n' in most shells
    #[arg(long, value_name = "STR", allow_hyphen_values = true,
          value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) stop: Vec<String>,
    /// Continue after the model's end-of-sequence token
    #[arg(long)]
    pub(crate) ignore_eos: bool,
}

/// Compute the logits at every position of a token sequence.
///
/// Writes a safetensors file with one tensor `logits`, float32 [tokens, vocabulary]: row i holds the
/// logits after token i. For comparison with other implementations.
#[derive(Args)]
#[command(after_help = "\
Example:
  nanoinfer logits --model reference.nano --tokens 1,9690,198 --out logits.safetensors")]
pub(crate) struct Logits {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Token ids, separated by commas
    #[arg(long, value_name = "IDS", value_delimiter = ',', required = true)]
    pub(crate) tokens: Vec<u32>,
    /// File to write
    #[arg(long, short, value_name = "FILE.safetensors")]
    pub(crate) out: PathBuf,
}

fn number(text: &str, fits: impl Fn(f32) -> bool, expected: &str) -> Result<f32, String> {
    let value = text.parse::<f32>().ok().filter(|v| v.is_finite() && fits(*v));
    value.ok_or_else(|| format!("expected {expected}"))
}

fn temperature(text: &str) -> Result<f32, String> {
    number(text, |v| (0.0..=100.0).contains(&v), "a number from 0 to 100")
}

fn probability(text: &str) -> Result<f32, String> {
    number(text, |v| (0.0..=1.0).contains(&v), "a number from 0 to 1")
}

fn positive(text: &str) -> Result<f32, String> {
    number(text, |v| v > 0.0 && v <= 100.0, "a number greater than 0 and at most 100")
}

fn penalty(text: &str) -> Result<f32, String> {
    number(text, |v| v.abs() <= 100.0, "a number from -100 to 100")
}
