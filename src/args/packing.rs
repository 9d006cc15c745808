//! Commands about files: what becomes a .nano file, and what is in one.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

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

impl From<Quant> for nanoinfer_format::Quant {
    fn from(quant: Quant) -> Self {
        match quant {
            Quant::Q8 => Self::Q8,
            Quant::F32 => Self::F32,
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
