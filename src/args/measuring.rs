//! Options of commands that measure speed, quality and the machine.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Arg, Args, Command, ValueEnum};
use nanoinfer_format::Precision;
use nanoinfer_packer::synthetic::Shape;

use super::ranges::count;
use super::running::Kv;

/// Measure how fast a model runs on this machine.
///
/// Three kinds of test: ppN processes a prompt of N tokens in as few passes as possible, tgN
/// generates N tokens, one per pass, and cpN repeats a prompt of N tokens with drafts from it, the
/// best case for drafting. @dD means after D tokens of context, xB means B sequences at once (tokens
/// per second are summed). Tokens are random. After a warm-up, the repetitions of all tests are
/// interleaved, so that a busy machine affects all of them alike.
///
/// `of limit` is the share of this machine's limit for the same number of threads, measured in the
/// same rounds. The limit is memory bandwidth for tg (weights and cached keys and values read per
/// pass) and 8-bit multiply-adds for pp (two operations per weight and token).
#[derive(Args)]
#[command(after_help = "\
Examples:
  nanoinfer bench
  nanoinfer bench -p 0 -n 32 -d 0,2000 -b 1,4 --kv q8,f16
  nanoinfer bench --synthetic llama-2-7b -t 1,2 --json
  nanoinfer bench --synthetic tinyllama-1.1b --quant q4
  nanoinfer bench --synthetic tinyllama-1.1b --quant 4.25
  nanoinfer bench --synthetic downloads/config.json --quant q4 -n 32
  nanoinfer bench --profile -r 3
  nanoinfer bench -p 0 -n 300 --n-copy 300

JSON is an array with one object per test: test, tps (median tokens per second), mean, sd, runs
(tokens per second of each run), share_of_limit, limit, kv, threads, isa, model, quant, bits, parameters,
pass_bytes, n_prompt, n_gen, depth, batch, version; with --n-copy also drafts (as in `generate
--json`) and reused_tokens (prompt tokens cached from the previous run); with --profile also profile
(milliseconds per step).")]
pub(crate) struct Bench {
    /// .nano or .gguf file, Hugging Face folder, hub id (org/name), or smollm2
    #[arg(long, short, default_value = "smollm2", conflicts_with = "synthetic")]
    pub(crate) model: OsString,
    /// Use random weights, built in memory, instead of a model: of a known shape, or of that which a model's
    /// config.json states
    #[arg(long, value_name = "SHAPE|config.json", value_parser = ShapeName)]
    pub(crate) synthetic: Option<String>,
    /// Precision of the weights, as for `generate` (default: auto, or q8 for random weights)
    #[arg(long, value_name = "PRECISION")]
    pub(crate) quant: Option<Precision>,
    /// Prompt lengths; 0 = no pp tests
    #[arg(short = 'p', long, value_name = "N,…", value_delimiter = ',', default_value = "512",
          value_parser = tokens())]
    pub(crate) n_prompt: Vec<u64>,
    /// Numbers of tokens to generate; 0 = no tg tests
    #[arg(short = 'n', long, value_name = "N,…", value_delimiter = ',', default_value = "128",
          value_parser = tokens())]
    pub(crate) n_gen: Vec<u64>,
    /// Lengths of prompts to repeat with drafts; the prompt replaces the model's own answer
    #[arg(long, value_name = "N,…", value_delimiter = ',',
          value_parser = clap::value_parser!(u64).range(2..1 << 20))]
    pub(crate) n_copy: Vec<u64>,
    /// Tokens per draft, as for `generate`; for tests
    #[arg(long, hide = true, value_name = "N")]
    pub(crate) draft_length: Option<usize>,
    /// Tokens of context before the test; filling it is not timed
    #[arg(short = 'd', long, value_name = "D,…", value_delimiter = ',', default_value = "0",
          value_parser = tokens())]
    pub(crate) depth: Vec<u64>,
    /// Number of sequences to generate at once
    #[arg(short = 'b', long, value_name = "B,…", value_delimiter = ',', default_value = "1",
          value_parser = count(256))]
    pub(crate) batch: Vec<u64>,
    /// Number of threads (default: the physical cores available to this process)
    #[arg(short = 't', long, value_name = "T,…", value_delimiter = ',', value_parser = count(1024))]
    pub(crate) threads: Vec<u64>,
    /// Precision of cached keys and values (default: q8, or f32 for f32 models)
    #[arg(long, value_name = "KV,…", value_delimiter = ',', value_enum)]
    pub(crate) kv: Vec<Kv>,
    /// Repetitions of each test
    #[arg(short = 'r', long, value_name = "R", default_value_t = 5, value_parser = count(1000))]
    pub(crate) repetitions: u64,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Md)]
    pub(crate) output: Format,
    /// The same as `--output json`
    #[arg(long, conflicts_with = "output")]
    pub(crate) json: bool,
    /// Also show the time per step, from an extra run of each test
    #[arg(long)]
    pub(crate) profile: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A Markdown table
    Md,
    /// A JSON array
    Json,
    /// Comma-separated values with a header
    Csv,
}

/// Measure how well a model predicts text or answers questions.
///
/// The text is split into non-overlapping windows. In each window, every token of the second half is
/// predicted from all preceding tokens, as in llama.cpp's perplexity tool, so that results are
/// comparable. If the model's prompts start with a beginning-of-sequence token, that token replaces
/// the first token of every window.
///
/// With --reference, both models predict the same tokens, and the differences are reported: KL
/// divergence of the model from the reference (in nats; 0 = identical), how often both rank the same
/// token first (top1), the overlap of their five most likely tokens (top5), and the largest change of
/// a text token's log-probability.
///
/// With --choices, each line of a file is a question with possible answers; the model chooses the
/// answer with the highest probability after the question and a space.
#[derive(Args)]
#[command(after_help = "\
Examples:
  nanoinfer eval --text book.txt --tokens 4096
  nanoinfer convert --model smollm2 --quant f32 --out exact.nano
  nanoinfer eval --reference exact.nano --text book.txt --json
  nanoinfer eval --choices questions.jsonl

A line of the --choices file: {\"question\": \"2 + 2 =\", \"choices\": [\"3\", \"4\"], \"answer\": 1}
The answer is a zero-based index, the text of a choice, or a letter (A is the first choice).

--json prints one object: perplexity, perplexity_error (standard error), mean_nll, tokens (scored),
windows, window, score, quant, bits, kv, threads, isa, seconds; with --reference also
reference_perplexity, mean_kl, p50_kl, p99_kl, max_kl, top1, top5, max_change; with --choices
accuracy, accuracy_normalized (by log-likelihood per byte), questions.")]
pub(crate) struct Eval {
    /// .nano or .gguf file, Hugging Face folder, hub id (org/name), or smollm2
    #[arg(long, short, default_value = "smollm2")]
    pub(crate) model: OsString,
    /// Precision of the model's weights, as for `generate`
    #[arg(long, value_name = "PRECISION", default_value = "auto")]
    pub(crate) quant: Precision,
    /// More exact version of the model for comparison
    #[arg(long, value_name = "FILE.nano", conflicts_with = "choices")]
    pub(crate) reference: Option<OsString>,
    /// File with the text to predict (default: standard input)
    #[arg(long, value_name = "FILE", conflicts_with = "choices")]
    pub(crate) text: Option<PathBuf>,
    /// File with questions to answer
    #[arg(long, value_name = "FILE.jsonl")]
    pub(crate) choices: Option<PathBuf>,
    /// Tokens per window
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = window())]
    pub(crate) window: u64,
    /// Use only the first N tokens of the text
    #[arg(long, value_name = "N", value_parser = count(1 << 40))]
    pub(crate) tokens: Option<u64>,
    /// Which tokens of a window to score
    #[arg(long, value_enum, default_value_t = Score::Half)]
    pub(crate) score: Score,
    /// Number of threads (default: the physical cores available to this process)
    #[arg(long, short, value_name = "N", value_parser = count(1024))]
    pub(crate) threads: Option<u64>,
    /// Precision of cached keys and values (default: q8, or f32 for f32 models)
    #[arg(long, value_enum)]
    pub(crate) kv: Option<Kv>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Score {
    /// The second half: each token has at least half a window before it
    Half,
    /// Every token but the first
    All,
}

/// Describe this machine and the models it can run.
///
/// Shows the instruction set and number of threads that will be used, and why, and the available
/// memory. Measures, within seconds, the combined limits of all threads: memory bandwidth, which
/// limits decoding, and 8-bit operations, which limit long prompts.
///
/// The expected speed is 90 % of the bandwidth limit, for 8-bit weights and a short context. Weights of
/// fewer bits are compared with these, in products with one token. Measure the actual speed with
/// `nanoinfer bench --synthetic SHAPE --quant q4`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  nanoinfer doctor
  taskset -c 0 nanoinfer doctor
  nanoinfer doctor --json | jq .roofline

--json prints one object: version, machine, isa, threads, memory, roofline (bandwidth in bytes and
int8 in operations per second, each as median, minimum, maximum; ridge), encodings (relative: speed as
a multiple of q8's; gain: the same if only bytes mattered), models, largest, advice.")]
pub(crate) struct Doctor {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

fn window() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(4..=1 << 20)
}

fn tokens() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(0..=1 << 20)
}

/// The name of a known shape, or the path of a JSON file.
#[derive(Clone)]
struct ShapeName;

impl TypedValueParser for ShapeName {
    type Value = String;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<String, clap::Error> {
        match value.to_str() {
            Some(path) if path.ends_with(".json") => Ok(path.to_owned()),
            _ => PossibleValuesParser::new(Shape::names()).parse_ref(command, arg, value),
        }
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(Shape::names().into_iter().map(PossibleValue::new)))
    }
}
