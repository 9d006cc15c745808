//! Options of commands that write or examine model files.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Subcommand};
use nanoinfer_format::Precision;

use super::ranges::count;

/// Convert a model to a .nano file.
///
/// Reads safetensors or pytorch_model.bin (with config.json and tokenizer.json alongside) or GGUF,
/// rotates and quantizes the weights, and stores them in the kernels' layout. Code in the source is
/// never executed. The output file appears only when it is complete. Less than 8 bits are calibrated,
/// which takes minutes. Other commands convert automatically, into the cache, and do not calibrate.
#[derive(Args)]
#[command(after_help = "\
Examples:
  nanoinfer convert --model ./my-model-folder --out my-model.nano
  nanoinfer convert --model llama.Q8_0.gguf --out llama.nano
  nanoinfer convert --model org/name:model.Q8_0.gguf --revision v1.0 --out model.nano
  nanoinfer convert --model ./my-model-folder --lora ./my-adapter:0.8 --out mine.nano
  nanoinfer convert --model smollm2 --bake system.txt --out helper.nano
  nanoinfer convert --model smollm2 --quant q4 --out small.nano
  nanoinfer convert --model smollm2 --quant 4.25 --recipe recipe.txt --out mine.nano
  nanoinfer convert --model smollm2 --quant q5 --calibrate none --out quick.nano
  nanoinfer convert --model smollm2 --quant f32 --out reference.nano

Precisions:
  q8         8-bit integers: a quarter of the size of f32, nearly identical answers
  q5         5-bit codes: two thirds of the size of q8
  q4         4-bit codes: little more than half the size of q8
  q3         3-bit codes: less than half the size of q8, clearly worse answers
  q2         2-bit codes: the smallest files, much worse answers
  f32        32-bit floats, unchanged: the reference for comparisons
  a number   the best encodings with at most so many bits per weight, on average over all that is read
             for a token

The lines of a --recipe, of which later ones win; * stands for any text, # starts a comment:
  layers.0.*  q8
  *.attn_v    q8
  output      q5
The matrices of a layer are attn_q, attn_k, attn_v, attn_output, ffn_gate, ffn_up and ffn_down; those of
experts are ffn_gate_exps, ffn_up_exps and ffn_down_exps. Others are token_embd and output.")]
pub(crate) struct Convert {
    /// Hub id (org/name or org/name:file.gguf), Hugging Face folder, .gguf file, or smollm2
    #[arg(long, short)]
    pub(crate) model: OsString,
    /// Branch, tag or commit of a hub model (default: main)
    #[arg(long, value_name = "REV")]
    pub(crate) revision: Option<String>,
    /// File to write
    #[arg(long, short, value_name = "FILE.nano")]
    pub(crate) out: PathBuf,
    /// Precision of the weights: q8, q5, q4, q3, q2, f32, or bits per weight such as 4.25; auto is q8, or
    /// q5 from a billion parameters
    #[arg(long, value_name = "PRECISION", default_value = "auto")]
    pub(crate) quant: Precision,
    /// File with other encodings for some matrices: a pattern and an encoding per line
    #[arg(long, value_name = "FILE")]
    pub(crate) recipe: Option<PathBuf>,
    /// Text for which errors of less than 8 bits are kept small: a file, or `none` for a faster
    /// conversion with larger errors (default: the model writes 64 texts itself)
    #[arg(long, value_name = "FILE|none")]
    pub(crate) calibrate: Option<PathBuf>,
    /// Seed of the texts that the model writes for calibration; each gives a slightly different file
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "calibrate")]
    pub(crate) calibrate_seed: u64,
    /// Folder of a LoRA adapter to merge into the weights, and its scale (default: 1; repeatable)
    #[arg(long, value_name = "FOLDER[:SCALE]",
          value_parser = OsStringValueParser::new().try_map(|text| lora(&text)))]
    pub(crate) lora: Vec<nanoinfer_packer::Lora>,
    /// File with a system message to precompute and store in the model's file; it becomes the default
    /// for `chat` and `generate --chat`
    #[arg(long, value_name = "FILE")]
    pub(crate) bake: Option<PathBuf>,
}

/// Show the contents of a model file.
///
/// For a .nano file: architecture, sections, encodings and sizes by role, and every tensor. For a Hugging Face
/// folder, or a GGUF, safetensors or PyTorch file: settings, formats and tensors, and whether it can
/// be converted. Weights are not read, except by --against, which compares them with their source.
#[derive(Args)]
#[command(after_help = "\
Examples:
  nanoinfer inspect model.nano --json | jq .config
  nanoinfer inspect model.nano --against ./model-folder
  nanoinfer inspect model.Q4_K_M.gguf

--against adds to each tensor its relative error (root of the summed squared errors divided by root of
the summed squared weights), the same error in dB, and the largest error of a single value.")]
pub(crate) struct Inspect {
    /// File or Hugging Face folder
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Source of the .nano file, to compute each tensor's quantization error
    #[arg(long, value_name = "SOURCE")]
    pub(crate) against: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Check every byte of a .nano file, and the model's results.
///
/// Opening a file checks only its structure, which is fast. This command verifies all hashes, checks
/// that all scales are finite, and repeats the self-check recorded at conversion: token ids, chat
/// template and logits must match bit for bit.
#[derive(Args)]
#[command(after_help = "\
Example:
  nanoinfer verify model.nano && echo intact

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
/// A model given as a hub id, folder, GGUF file or alias is converted once and cached. The conversion
/// of a source that has changed replaces the earlier one.
///
/// Each line shows the name, the precision (or source, for a downloaded file), the size, when the file
/// was made and last used, and the source.
#[derive(Args)]
#[command(after_help = "\
Examples:
  nanoinfer models
  nanoinfer models remove smollm2
  nanoinfer models remove HuggingFaceTB/SmolLM2-360M-Instruct
  nanoinfer models remove ./my-model-folder
  nanoinfer models remove --unused 90

With --json: name, model, kind (a precision such as q8, or source), source, bytes, made and used (seconds since
1970), path; for remove, the removed entries.")]
pub(crate) struct Models {
    #[command(subcommand)]
    pub(crate) action: Option<ModelsAction>,
    /// Print a JSON array
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Subcommand)]
pub(crate) enum ModelsAction {
    /// List cached models (the default)
    List,
    /// Remove a model's files from the cache
    Remove {
        /// Name or path of a listed file, or name, path, hub id or alias of a model to remove with all its
        /// files
        #[arg(required_unless_present = "unused")]
        name: Option<OsString>,
        /// Remove all models that were not used in the last DAYS days
        #[arg(long, value_name = "DAYS", conflicts_with = "name", value_parser = count(36_500))]
        unused: Option<u64>,
    },
}

/// Parses `FOLDER` or `FOLDER:SCALE`. A folder whose name ends in a colon and a number needs an
/// explicit scale.
fn lora(text: &OsStr) -> Result<nanoinfer_packer::Lora, String> {
    let split = text.to_str().and_then(|text| text.rsplit_once(':'));
    let split = split.and_then(|(f, s)| Some((OsStr::new(f), s.parse::<f32>().ok()?)));
    let (folder, scale) = split.unwrap_or((text, 1.0));
    if folder.is_empty() || !scale.is_finite() || scale.abs() > 1000.0 {
        return Err("expected FOLDER or FOLDER:SCALE, with a scale from -1000 to 1000".into());
    }
    Ok(nanoinfer_packer::Lora { folder: folder.into(), scale })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lora_adapters_and_scales() {
        let parsed =
            |text: &str| lora(OsStr::new(text)).map(|l| (l.folder.display().to_string(), l.scale));
        assert_eq!(parsed("a/b"), Ok(("a/b".into(), 1.0)));
        assert_eq!(parsed("a/b:0.5"), Ok(("a/b".into(), 0.5)));
        assert_eq!(parsed("a:x"), Ok(("a:x".into(), 1.0)));
        assert_eq!(parsed("a:-2:1"), Ok(("a:-2".into(), 1.0)));
        for bad in ["", ":1", "a:inf", "a:nan", "a:1e9"] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }
}
