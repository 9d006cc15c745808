//! Commands that run a model, and the options they share.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use nanoinfer_engine::KvType;

use super::ranges::count;

/// Continue a text.
///
/// The prompt comes from --prompt, --prompt-file, or standard input. Without --chat it is raw
/// text that the model continues; with --chat it is a question put through the model's chat
/// template. The answer goes to standard output as it arrives: byte for byte into a file or pipe,
/// with control characters made visible on a terminal.
#[derive(Args)]
#[command(after_help = "\
Examples:
  nanoinfer generate --prompt 'The capital of France is' -n 20
  git diff | nanoinfer generate --chat --system 'Summarise this change.'
  nanoinfer generate --prompt-file story.txt --temp 0.8 --top-p 0.95 --seed 7

With --json one object is printed at the end: prompt_tokens and tokens (ids), text, finish_reason
(stop, length, context, cancelled), reused_tokens (of the prompt, found in a cache), overflow and
evicted_tokens (those that have slid out of the context), drafts, timings,
isa, threads. In drafts, passes is how often the model ran after the prompt, tokens_per_pass what came
of it, drafted and accepted count tokens, all together and from lookup and draft model. In timings,
load_ms counts from the start of the process until the model can take tokens, ttft_ms from then to the
first token, prefill_tps and decode_tps are tokens per second. With --json, Ctrl-C still prints what
there is.")]
pub(crate) struct Generate {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Text to continue
    #[arg(long, short, conflicts_with = "prompt_file")]
    pub(crate) prompt: Option<String>,
    /// File with the text to continue
    #[arg(long, value_name = "FILE")]
    pub(crate) prompt_file: Option<PathBuf>,
    /// Put the prompt through the model's chat template, as a user's message
    #[arg(long)]
    pub(crate) chat: bool,
    /// Instruction to the model, before the message
    #[arg(long, requires = "chat", value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Most tokens to generate
    #[arg(short, long = "max-tokens", value_name = "N", default_value_t = 256)]
    pub(crate) n: usize,
    #[command(flatten)]
    pub(crate) drafts: DraftArgs,
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    /// Print one JSON object at the end, instead of text as it comes
    #[arg(long)]
    pub(crate) json: bool,
}

/// Talk with a model.
///
/// On a terminal the chat takes the whole screen: answers as they come, and beside them what the
/// engine does. Enter sends, Esc stops an answer, `/help` lists keys and commands, F2 shows the
/// inside; `exit` or Ctrl-C quits.
///
/// With standard input or output piped, or with --plain, it reads messages line by line and
/// answers on standard output, everything else on standard error. `exit`, the end of the input, or
/// Ctrl-C quits.
#[derive(Args)]
#[command(after_help = "\
Examples:
  nanoinfer chat
  nanoinfer chat --model Qwen.gguf --system 'Answer in one sentence.' --temp 0.7
  echo 'Name three rivers.' | nanoinfer chat > answer.txt

Exit codes: 0 left by exit, Ctrl-C or the end of the input; 129 the terminal was closed, 143 ended
by SIGTERM, 130 by SIGINT (or Ctrl-C with --plain); 101 a bug, told after the terminal is restored.

Environment:
  NANOINFER_HISTORY  file for the messages sent (default: in the platform's state folder; empty:
                     keep none)
  NO_COLOR           no colours")]
pub(crate) struct Chat {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Instruction to the model, before the conversation
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Most tokens of one answer (default: until it ends)
    #[arg(short, long = "max-tokens", value_name = "N")]
    pub(crate) n: Option<usize>,
    /// Line by line, on a terminal too
    #[arg(long)]
    pub(crate) plain: bool,
    #[command(flatten)]
    pub(crate) drafts: DraftArgs,
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
}

/// Which model, and how it is run.
#[derive(Args, Clone)]
pub(crate) struct ModelArgs {
    /// .nano or .gguf file, Hugging Face folder, hub id (org/name), or smollm2
    #[arg(long, short, default_value = "smollm2")]
    pub(crate) model: String,
    /// Branch, tag or commit of a hub model (default: main)
    #[arg(long, value_name = "REV")]
    pub(crate) revision: Option<String>,
    /// Read the whole file into memory at the start instead of mapping it: slower to start and
    /// nothing is shared, but the file may change or vanish meanwhile
    #[arg(long)]
    pub(crate) no_mmap: bool,
    /// Threads to compute with (default: the physical cores this process may use)
    #[arg(long, value_name = "N", value_parser = count(1024))]
    pub(crate) threads: Option<u64>,
    /// Positions to keep room for (default: the model's, at most 4096)
    #[arg(long, value_name = "N", value_parser = count(1 << 30))]
    pub(crate) ctx: Option<u64>,
    /// How to cache keys and values (default: q8 for q8 models, f32 for f32 models)
    #[arg(long, value_enum)]
    pub(crate) kv: Option<Kv>,
    /// What happens when the context is full
    #[arg(long, value_enum, default_value_t = Overflow::Stop)]
    pub(crate) overflow: Overflow,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Overflow {
    /// The answer ends, with the reason `context`
    Stop,
    /// The oldest tokens but the system's message are forgotten, 64 at a time, and it goes on
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

/// What is remembered of prompts between runs. None of it changes a token of an answer.
#[derive(Args, Clone)]
#[command(next_help_heading = "Remembering (changes speed, never the text)")]
pub(crate) struct CacheArgs {
    /// Folder in which to keep what was computed of prompts, and to look for it: the same beginning
    /// is then not computed again, by a later run either. Its files hold your texts; only you can
    /// read them
    #[arg(long, value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,
    /// Most megabytes of that folder; what was not used for longest goes first
    #[arg(long, value_name = "MB", default_value_t = 2048, requires = "cache_dir",
          value_parser = count(1 << 40))]
    pub(crate) cache_size: u64,
}

/// How answers come faster. None of it changes a token of them.
#[derive(Args, Clone)]
#[command(next_help_heading = "Drafting (changes speed, never the text)")]
pub(crate) struct DraftArgs {
    /// Small model with the same vocabulary that drafts; what it drafts is verified several tokens
    /// a pass
    #[arg(long, value_name = "MODEL", conflicts_with = "no_draft")]
    pub(crate) draft: Option<String>,
    /// One token a pass; do not draft from what the text repeats either
    #[arg(long)]
    pub(crate) no_draft: bool,
    /// Draft exactly this many tokens whenever there is anything to draft: for tests, whose
    /// outcome must not depend on how fast passes are
    #[arg(long, hide = true, value_name = "N", conflicts_with = "no_draft")]
    pub(crate) draft_length: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kv {
    /// 8 bits, rotated, a scale per position and head: the smallest and fastest
    Q8,
    /// Half precision: twice the size
    F16,
    /// Single precision: four times the size, nothing lost
    F32,
}

impl From<Kv> for KvType {
    fn from(kv: Kv) -> Self {
        match kv {
            Kv::Q8 => Self::Q8,
            Kv::F16 => Self::F16,
            Kv::F32 => Self::F32,
        }
    }
}

/// How the next token is chosen. What is not given is as the model's own defaults say; a model
/// without defaults takes the most likely token.
#[derive(Args)]
#[command(next_help_heading = "Sampling (default: as the model says, else the most likely token)")]
pub(crate) struct SamplingArgs {
    /// Temperature; 0 always takes the most likely token
    #[arg(long, value_name = "T", value_parser = temperature, allow_negative_numbers = true)]
    pub(crate) temp: Option<f32>,
    /// Choose among the K most likely tokens; 0 = all
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<usize>,
    /// Choose among the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", value_parser = probability, allow_negative_numbers = true)]
    pub(crate) top_p: Option<f32>,
    /// Choose among tokens at least this likely, relative to the likeliest
    #[arg(long, value_name = "P", value_parser = probability, allow_negative_numbers = true)]
    pub(crate) min_p: Option<f32>,
    /// Divide the logits of tokens already seen by this; 1 = off
    #[arg(long, value_name = "X", value_parser = positive, allow_negative_numbers = true)]
    pub(crate) repeat_penalty: Option<f32>,
    /// Subtract this from the logits of tokens already generated
    #[arg(long, value_name = "X", value_parser = penalty, allow_negative_numbers = true)]
    pub(crate) presence_penalty: Option<f32>,
    /// Subtract this, times how often, from the logits of tokens already generated
    #[arg(long, value_name = "X", value_parser = penalty, allow_negative_numbers = true)]
    pub(crate) frequency_penalty: Option<f32>,
    /// Seed of the random numbers: the same seed gives the same text (default: 0)
    #[arg(long, value_name = "S")]
    pub(crate) seed: Option<u64>,
    /// End when this text is generated (may be given several times)
    #[arg(long, value_name = "STR", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) stop: Vec<String>,
    /// Go on when the model says it is done
    #[arg(long)]
    pub(crate) ignore_eos: bool,
}

/// Show the tokens of a text.
///
/// No beginning-of-text token is added. Control tokens written out, like <|im_end|>, become the
/// tokens they name, as in text made by a chat template; with --plain they stay text, as in what a
/// person types.
#[derive(Args)]
#[command(after_help = "\
Example:
  nanoinfer tokenize --text 'Hello, world' --json
    {\"decoded\":\"Hello, world\",\"ids\":[19556,28,905]}")]
pub(crate) struct Tokenize {
    /// .nano or .gguf file, Hugging Face folder, hub id (org/name), or smollm2
    #[arg(long, short, default_value = "smollm2")]
    pub(crate) model: String,
    /// Text to encode
    #[arg(long, short)]
    pub(crate) text: String,
    /// Treat the names of control tokens as ordinary text
    #[arg(long)]
    pub(crate) plain: bool,
    /// Print {"ids":[…],"decoded":"…"}
    #[arg(long)]
    pub(crate) json: bool,
}

/// Compute the logits at every position of a token sequence.
///
/// Writes a safetensors file with one tensor `logits`, float32 [tokens, vocabulary]: row i scores
/// what follows token i. For comparing with other implementations.
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
    number(text, |v| v > 0.0 && v <= 100.0, "a number above 0, at most 100")
}

fn penalty(text: &str) -> Result<f32, String> {
    number(text, |v| v.abs() <= 100.0, "a number from -100 to 100")
}
