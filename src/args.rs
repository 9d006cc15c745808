//! The command line: what can be typed, what it means, and what is refused.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand, ValueEnum};
use nanoinfer_packer::synthetic::Shape;

/// A language model on this computer's CPU: exact, small, readable.
///
/// Without --model, `chat` and `generate` use smollm2 (SmolLM2-135M-Instruct). It is fetched and
/// converted on first use, then kept.
#[derive(Parser)]
#[command(name = "nanoinfer", version, max_term_width = 100, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  nanoinfer chat
  nanoinfer generate --prompt 'Once upon a time' -n 100
  nanoinfer generate --chat --prompt 'Why is the sky blue?' --json
  nanoinfer convert --model HuggingFaceTB/SmolLM2-360M-Instruct --out big.nano

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C.

Environment:
  NANOINFER_HOME  folder for converted models (default: the platform's cache folder)
  NANOINFER_ISA   force an instruction set (default: the best here; `nanoinfer doctor` lists them)
  HF_TOKEN, HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE, HF_HUB_DOWNLOAD_TIMEOUT
                  as for Hugging Face's own tools
  HTTPS_PROXY, ALL_PROXY, NO_PROXY  as usual
  NO_COLOR        no colours";

#[derive(Subcommand)]
pub(crate) enum Command {
    Convert(Convert),
    Generate(Generate),
    Chat(Chat),
    Tokenize(Tokenize),
    Logits(Logits),
    Inspect(Inspect),
    Verify(Verify),
    Models(Models),
    Bench(Bench),
    Eval(Eval),
    Doctor(Doctor),
    Completions(Completions),
    Man(Man),
}

/// Turn a model into a .nano file.
///
/// Reads safetensors or pytorch_model.bin (with config.json and tokenizer.json beside them) or
/// GGUF, rotates and quantizes the weights, and lays them out as the kernels read them. Nothing in
/// a source is ever run. The file appears under its
/// name only when it is complete. Other commands do this by themselves, into the cache.
#[derive(Args)]
#[command(after_help = "\
Examples:
  nanoinfer convert --model ./my-model-folder --out my-model.nano
  nanoinfer convert --model llama.Q8_0.gguf --out llama.nano
  nanoinfer convert --model org/name:model.Q8_0.gguf --revision v1.0 --out model.nano
  nanoinfer convert --model ./my-model-folder --lora ./my-adapter:0.8 --out mine.nano
  nanoinfer convert --model smollm2 --bake system.txt --out helper.nano
  nanoinfer convert --model smollm2 --quant f32 --out reference.nano")]
pub(crate) struct Convert {
    /// Hub id (org/name or org/name:file.gguf), Hugging Face folder, .gguf file, or smollm2
    #[arg(long, short)]
    pub(crate) model: String,
    /// Branch, tag or commit of a hub model (default: main)
    #[arg(long, value_name = "REV")]
    pub(crate) revision: Option<String>,
    /// File to write
    #[arg(long, short, value_name = "FILE.nano")]
    pub(crate) out: PathBuf,
    /// How to store the weights
    #[arg(long, value_enum, default_value_t = Quant::Q8)]
    pub(crate) quant: Quant,
    /// Folder of a LoRA adapter to merge into the weights, and how much of it (default: 1; may be
    /// given several times)
    #[arg(long, value_name = "FOLDER[:SCALE]", value_parser = lora)]
    pub(crate) lora: Vec<nanoinfer_packer::Lora>,
    /// File with a system's message: what the model computes of it becomes part of the file, and it
    /// is what `chat` and `generate --chat` begin with if no other is given
    #[arg(long, value_name = "FILE")]
    pub(crate) bake: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Quant {
    /// 8-bit integers, rotated: a quarter of the size, answers all but the same
    Q8,
    /// 32-bit floats as they are: the reference to compare with
    F32,
}

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

/// Measure how fast a model runs here.
///
/// Two kinds of test: ppN processes a prompt of N tokens in as few passes as possible, tgN
/// generates N tokens one pass at a time. @dD means behind D tokens of context, xB means B
/// sequences at once (tokens per second are then the sum). Tokens are random. Every test runs once
/// to warm up; then the repetitions of all tests take turns, so that a busy machine disturbs all
/// of them alike.
///
/// `of limit` compares with what this machine can do at most with as many threads, measured in the
/// same turns: memory bandwidth for tg (weights and cached keys and values read per pass), 8-bit
/// multiply-adds for pp (two operations per weight and token).
#[derive(Args)]
#[command(after_help = "\
Examples:
  nanoinfer bench
  nanoinfer bench -p 0 -n 32 -d 0,2000 -b 1,4 --kv q8,f16
  nanoinfer bench --synthetic llama-2-7b -t 1,2 -o json
  nanoinfer bench --profile -r 3

JSON is an array with one object per test: test, tps (median tokens per second), mean, sd, runs (each
run's tokens per second), share_of_limit, limit, kv, threads, isa, model, parameters, pass_bytes,
n_prompt, n_gen, depth, batch, version; with --profile also profile (milliseconds per step).")]
pub(crate) struct Bench {
    /// .nano or .gguf file, Hugging Face folder, hub id (org/name), or smollm2
    #[arg(long, short, default_value = "smollm2", conflicts_with = "synthetic")]
    pub(crate) model: String,
    /// Instead of a model, random 8-bit weights of a known shape, built in memory
    #[arg(long, value_name = "SHAPE", value_parser = shape_name())]
    pub(crate) synthetic: Option<String>,
    /// Prompt lengths; 0 = no pp tests
    #[arg(short = 'p', long, value_name = "N,…", value_delimiter = ',', default_value = "512",
          value_parser = tokens())]
    pub(crate) n_prompt: Vec<u64>,
    /// Numbers of tokens to generate; 0 = no tg tests
    #[arg(short = 'n', long, value_name = "N,…", value_delimiter = ',', default_value = "128",
          value_parser = tokens())]
    pub(crate) n_gen: Vec<u64>,
    /// Tokens of context before the test begins; filled without being timed
    #[arg(short = 'd', long, value_name = "D,…", value_delimiter = ',', default_value = "0",
          value_parser = tokens())]
    pub(crate) depth: Vec<u64>,
    /// Sequences that generate at once
    #[arg(short = 'b', long, value_name = "B,…", value_delimiter = ',', default_value = "1",
          value_parser = count(256))]
    pub(crate) batch: Vec<u64>,
    /// Threads (default: the physical cores this process may use)
    #[arg(short = 't', long, value_name = "T,…", value_delimiter = ',', value_parser = count(1024))]
    pub(crate) threads: Vec<u64>,
    /// How to cache keys and values (default: q8 for q8 models, f32 for f32 models)
    #[arg(long, value_name = "KV,…", value_delimiter = ',', value_enum)]
    pub(crate) kv: Vec<Kv>,
    /// Repetitions of every test
    #[arg(short = 'r', long, value_name = "R", default_value_t = 5, value_parser = count(1000))]
    pub(crate) repetitions: u64,
    /// How to print the results
    #[arg(short, long, value_enum, default_value_t = Format::Md)]
    pub(crate) output: Format,
    /// Show also where the time goes, step by step, in one more run of every test
    #[arg(long)]
    pub(crate) profile: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A Markdown table
    Md,
    /// A JSON array
    Json,
    /// Comma-separated values with a header line
    Csv,
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

/// Show what is in a model file.
///
/// Of a .nano file: architecture, sections, what takes the space, and every tensor. Of a Hugging
/// Face folder, or a GGUF, safetensors or PyTorch file: settings, formats and tensors, and whether
/// it can be converted. No weights are read, unless --against asks how far the converted weights
/// are from their source.
#[derive(Args)]
#[command(after_help = "\
Examples:
  nanoinfer inspect model.nano --json | jq .config
  nanoinfer inspect model.nano --against ./model-folder
  nanoinfer inspect model.Q4_K_M.gguf

--against adds to each tensor: error, the root of the sum of squared errors over that of squared
weights; the same in dB; and the largest error of one value.")]
pub(crate) struct Inspect {
    /// File or Hugging Face folder to look at
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// What the .nano file was made of: compute the error of each tensor
    #[arg(long, value_name = "SOURCE")]
    pub(crate) against: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Check every byte of a .nano file, and what the model computes.
///
/// Opening a file checks its structure only, so that it takes no time. This compares all of it
/// with its hashes, checks that all scales are finite, and runs the model on the prompts it was run
/// on when it was packed: token ids, chat template and logits must be the same, bit for bit.
#[derive(Args)]
#[command(after_help = "\
Example:
  nanoinfer verify model.nano && echo sound

With --json: file, bytes, self_check (same, absent, other numerics), cases.")]
pub(crate) struct Verify {
    /// File to check
    #[arg(value_name = "FILE.nano")]
    pub(crate) file: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// List or remove cached models.
///
/// Models given as a hub id, folder, GGUF file or alias are converted once and kept in the cache.
#[derive(Args)]
#[command(after_help = "\
Examples:
  nanoinfer models
  nanoinfer models remove smollm2
  nanoinfer models remove HuggingFaceTB/SmolLM2-360M-Instruct")]
pub(crate) struct Models {
    #[command(subcommand)]
    pub(crate) action: Option<ModelsAction>,
    /// Print a JSON array
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Subcommand)]
pub(crate) enum ModelsAction {
    /// List cached models (what `nanoinfer models` does by itself)
    List,
    /// Remove a model's files from the cache
    Remove {
        /// As the list names it: one file, or a model with all its files
        name: String,
    },
}

/// The command that was typed, or the exit code after help or an error was printed.
pub(crate) fn parse() -> Result<Command, ExitCode> {
    Cli::try_parse().map(|cli| cli.command).map_err(|error| {
        if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
            let _ = error.print(); // into a closed pipe: the reader had enough
            return ExitCode::SUCCESS;
        }
        if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            let _ = error.print();
            return ExitCode::from(2);
        }
        let message = match error.get(ContextKind::InvalidArg) {
            Some(ContextValue::String(arg)) if arg == "--lora" && is_unknown(&error) => {
                MERGE_LORA.into()
            }
            _ => usage_line(&error.to_string()),
        };
        crate::report::say(&message);
        ExitCode::from(2)
    })
}

/// Other engines take an adapter where they run a model.
const MERGE_LORA: &str = "error: adapters are merged when a model is converted: \
`nanoinfer convert --model MODEL --lora FOLDER --out merged.nano`, then use --model merged.nano";

fn is_unknown(error: &clap::Error) -> bool {
    error.kind() == ErrorKind::UnknownArgument
}

/// Clap's message without its usage text, on one line.
fn usage_line(message: &str) -> String {
    let told = message.lines().map(str::trim).filter(|l| !l.is_empty());
    let told = told.filter(|l| !l.starts_with("Usage:") && !l.starts_with("For more information"));
    let lines: Vec<&str> = told.collect();
    let help = std::env::args().nth(1).filter(|a| !a.starts_with('-'));
    let known = help.filter(|name| definition().find_subcommand(name).is_some());
    let command = known.map_or("nanoinfer".to_owned(), |name| format!("nanoinfer {name}"));
    format!("{}; see `{command} --help`", lines.join(" "))
}

/// Say what this machine is and what it can run.
///
/// Tells which instruction set and how many threads will be used and why, how much memory is free,
/// and measures within seconds what all threads together can do at most: bytes read from memory,
/// which is what limits decoding, and 8-bit operations, which is what limits long prompts.
///
/// The expected speed is 90 % of what the bandwidth allows, for 8-bit weights and a short context.
/// `nanoinfer bench --synthetic SHAPE` measures it.
#[derive(Args)]
#[command(after_help = "\
Examples:
  nanoinfer doctor
  taskset -c 0 nanoinfer doctor
  nanoinfer doctor --json | jq .roofline

With --json one object is printed: version, machine, isa, threads, memory, roofline (bandwidth in
bytes and int8 in operations per second, each median, least, most; ridge), models, largest, advice.")]
pub(crate) struct Doctor {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Print a script that completes commands and options in a shell.
#[derive(Args)]
#[command(after_help = "\
Examples:
  nanoinfer completions bash > ~/.local/share/bash-completion/completions/nanoinfer
  nanoinfer completions zsh > \"${fpath[1]}/_nanoinfer\"
  nanoinfer completions fish > ~/.config/fish/completions/nanoinfer.fish")]
pub(crate) struct Completions {
    /// Shell to write for
    pub(crate) shell: clap_complete::Shell,
}

/// Print or write the manual pages.
#[derive(Args)]
#[command(after_help = "\
Examples:
  nanoinfer man | man -l -
  nanoinfer man --dir ~/.local/share/man/man1 && man nanoinfer-bench")]
pub(crate) struct Man {
    /// Write the pages of all commands into this folder (default: print the page of nanoinfer)
    #[arg(long, value_name = "FOLDER")]
    pub(crate) dir: Option<PathBuf>,
}

/// The whole command line, for what describes it.
pub(crate) fn definition() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

fn count(max: u64) -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=max)
}

/// Measure how well a model predicts a text, or answers questions.
///
/// The text is cut into windows that do not overlap, and within each window every token of the
/// second half is predicted from all tokens before it, as llama.cpp's perplexity does, so that
/// numbers compare. A model whose prompts begin with a beginning-of-text token gets it in place of
/// the first token of every window.
///
/// With --reference, both models predict the same tokens, and the differences are reported:
/// KL divergence of the model's prediction from the reference's (in nats; 0 = the same), how often
/// both have the same likeliest token (top1), how much of their five likeliest is common (top5), and
/// the largest change of a text token's log-probability.
///
/// With --choices, each line of a file is a question with answers to choose from; the model chooses
/// the one it finds likeliest after the question and a blank.
#[derive(Args)]
#[command(after_help = "\
Examples:
  nanoinfer eval --text book.txt --tokens 4096
  nanoinfer convert --model smollm2 --quant f32 --out exact.nano
  nanoinfer eval --reference exact.nano --text book.txt --json
  nanoinfer eval --choices questions.jsonl

A line of --choices: {\"question\": \"2 + 2 =\", \"choices\": [\"3\", \"4\"], \"answer\": 1}
The answer is an index from 0, the text of a choice, or a letter from A.

With --json one object is printed: perplexity, perplexity_error (standard error), mean_nll, tokens
(scored), windows, window, score, kv, threads, isa, seconds; with --reference also
reference_perplexity, mean_kl, p50_kl, p99_kl, max_kl, top1, top5, max_change; with --choices
accuracy, accuracy_normalized (by the bytes of a choice), questions.")]
pub(crate) struct Eval {
    /// .nano or .gguf file, Hugging Face folder, hub id (org/name), or smollm2
    #[arg(long, short, default_value = "smollm2")]
    pub(crate) model: String,
    /// The same model in a more exact form, to compare with
    #[arg(long, value_name = "FILE.nano", conflicts_with = "choices")]
    pub(crate) reference: Option<String>,
    /// Text to predict (default: standard input)
    #[arg(long, value_name = "FILE", conflicts_with = "choices")]
    pub(crate) text: Option<PathBuf>,
    /// Questions to answer
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
    /// Threads to compute with (default: the physical cores this process may use)
    #[arg(long, short, value_name = "N", value_parser = count(1024))]
    pub(crate) threads: Option<u64>,
    /// How the model caches keys and values (default: q8 for q8 models, f32 for f32 models)
    #[arg(long, value_enum)]
    pub(crate) kv: Option<Kv>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Score {
    /// The second half, each token with at least half a window before it
    Half,
    /// Every token but the first
    All,
}

fn window() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(4..=1 << 20)
}

fn tokens() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(0..=1 << 20)
}

fn shape_name() -> clap::builder::PossibleValuesParser {
    Shape::ALL.map(|s| s.name).into()
}

fn number(text: &str, fits: impl Fn(f32) -> bool, expected: &str) -> Result<f32, String> {
    let value = text.parse::<f32>().ok().filter(|v| v.is_finite() && fits(*v));
    value.ok_or_else(|| format!("expected {expected}"))
}

/// `FOLDER` or `FOLDER:SCALE`; a folder whose name ends in a colon and a number has to be followed
/// by a scale.
fn lora(text: &str) -> Result<nanoinfer_packer::Lora, String> {
    let split = text.rsplit_once(':').and_then(|(f, s)| Some((f, s.parse::<f32>().ok()?)));
    let (folder, scale) = split.unwrap_or((text, 1.0));
    if folder.is_empty() || !scale.is_finite() || scale.abs() > 1000.0 {
        return Err("expected FOLDER or FOLDER:SCALE, with a scale from -1000 to 1000".into());
    }
    Ok(nanoinfer_packer::Lora { folder: folder.into(), scale })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        definition().debug_assert();
    }

    #[test]
    fn adapters_and_their_scales() {
        let parsed = |text| lora(text).map(|l| (l.folder.display().to_string(), l.scale));
        assert_eq!(parsed("a/b"), Ok(("a/b".into(), 1.0)));
        assert_eq!(parsed("a/b:0.5"), Ok(("a/b".into(), 0.5)));
        assert_eq!(parsed("a:x"), Ok(("a:x".into(), 1.0)));
        assert_eq!(parsed("a:-2:1"), Ok(("a:-2".into(), 1.0)));
        for bad in ["", ":1", "a:inf", "a:nan", "a:1e9"] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn usage_errors_fit_a_line() {
        let error = |args: &[&str]| match Cli::try_parse_from(args) {
            Ok(_) => panic!("{args:?} was accepted"),
            Err(e) => usage_line(&e.to_string()),
        };
        for (args, says) in [
            (&["nanoinfer", "convert", "--model", "x"][..], "--out"),
            (&["nanoinfer", "generate", "--tmep", "1"], "--temp"),
            (&["nanoinfer", "generate", "--temp", "nan"], "0 to 100"),
            (&["nanoinfer", "generate", "--top-p", "1.5"], "0 to 1"),
            (&["nanoinfer", "generate", "--threads", "0"], "1..=1024"),
            (&["nanoinfer", "generate", "--system", "x"], "--chat"),
            (&["nanoinfer", "generate", "--prompt", "x", "--prompt-file", "y"], "--prompt-file"),
            (&["nanoinfer", "logits", "--tokens", "1,x", "--out", "y"], "invalid digit"),
            (&["nanoinfer", "frobnicate"], "frobnicate"),
        ] {
            let line = error(args);
            assert!(line.contains(says) && !line.contains('\n'), "{args:?}: {line}");
            assert!(line.starts_with("error: "), "{line}");
        }
    }
}
