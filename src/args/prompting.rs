//! Options that determine how a text becomes a prompt.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use nanoinfer_format::Precision;

use super::ranges::{Think, think};

/// How a text becomes a prompt.
#[derive(Args)]
pub(crate) struct PromptArgs {
    /// Keep the line end at the end of a file or of standard input
    #[arg(long)]
    pub(crate) keep_newline: bool,
    /// Turn names of control tokens in the text, such as <|im_end|>, into those tokens; for prompts
    /// that you trust. The model's first token is not repeated if the text begins with its name
    #[arg(long, conflicts_with = "chat")]
    pub(crate) special: bool,
    /// Format the text as a user message with the model's chat template
    #[arg(long)]
    pub(crate) chat: bool,
    /// System message: instructions for the model
    #[arg(long, requires = "chat", value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) system: Option<String>,
    /// Chat template to use instead of the model's: a well-known format (such as chatml, gemma,
    /// llama2, llama3, mistral-v3, phi3), or a file with a Jinja template
    #[arg(long, requires = "chat", value_name = "NAME|FILE")]
    pub(crate) chat_template: Option<PathBuf>,
    /// Whether the model reasons before it answers, if its chat template has a switch for that: on, off, or the
    /// maximum number of tokens for it
    #[arg(long, requires = "chat", value_name = "on|off|N", value_parser = think)]
    pub(crate) think: Option<Think>,
    /// Fill in the middle: the text before the gap. For models with tokens for this, such as those for
    /// code completion
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true,
          conflicts_with_all = ["chat", "prompt", "prompt_file"])]
    pub(crate) fim_prefix: Option<String>,
    /// Fill in the middle: the text after the gap
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true,
          conflicts_with_all = ["chat", "prompt", "prompt_file"])]
    pub(crate) fim_suffix: Option<String>,
}

/// Show the tokens of a text.
///
/// The tokens are those that `generate` would process with the same options: the text comes from
/// --text, --file or standard input, and the model's first token (BOS) is included if it adds one.
#[derive(Args)]
#[command(after_help = "\
Examples:
  nanoinfer tokenize --text 'Hello, world' --json
    {\"ids\":[19556,28,905],\"decoded\":\"Hello, world\",\"pieces\":[\"Hello\",\",\",\" world\"]}
  nanoinfer tokenize --chat --system 'Be brief.' --file question.txt
  nanoinfer tokenize --special --no-bos --text '<|im_end|>'")]
pub(crate) struct Tokenize {
    /// .nano or .gguf file, Hugging Face folder, hub id (org/name), or smollm2
    #[arg(long, short, default_value = "smollm2")]
    pub(crate) model: OsString,
    /// Precision of the weights, as for `generate`; it does not affect tokens
    #[arg(long, value_name = "PRECISION", default_value = "auto")]
    pub(crate) quant: Precision,
    /// Text to encode
    #[arg(
        long = "text",
        short = 't',
        value_name = "TEXT",
        alias = "prompt",
        conflicts_with = "prompt_file",
        allow_hyphen_values = true
    )]
    pub(crate) prompt: Option<String>,
    /// File that contains the text
    #[arg(long = "file", short = 'f', value_name = "FILE", alias = "prompt-file")]
    pub(crate) prompt_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) form: PromptArgs,
    /// Omit the token that the model adds at the beginning of a text
    #[arg(long, conflicts_with = "chat")]
    pub(crate) no_bos: bool,
    /// The default since --special exists
    #[arg(long, hide = true, conflicts_with = "special")]
    pub(crate) plain: bool,
    /// Print {"ids":[…],"decoded":"…","pieces":[…]}: the ids, their text, and the text of each
    #[arg(long)]
    pub(crate) json: bool,
}
