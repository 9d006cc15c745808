//! Conversion of a source to a `.nano` file.

use std::path::Path;

use nanoinfer_format::{Config, Recipe, Staged};

use crate::model::Model;
use crate::{Error, Input, Options, lora, pack, recipe};

/// The result of [`convert`].
#[derive(Clone, Debug, PartialEq)]
pub struct Converted {
    /// The identity of the model.
    pub content_id: [u8; 32],
    /// Size of the file in bytes.
    pub bytes: u64,
    /// Number of tensors in the file.
    pub tensors: usize,
    /// The model's config.
    pub config: Config,
    /// Whether the source has a tokenizer; without one, the model accepts only token ids.
    pub has_tokenizer: bool,
    /// Whether the source has a chat template.
    pub has_chat_template: bool,
    /// What the user should know about the conversion, one line each.
    pub notes: Vec<String>,
}

/// Converts `input` to the file `out`, which appears only once it is complete.
///
/// # Errors
/// The source is damaged, incomplete or of an unsupported kind, or the file cannot be written.
pub fn convert(input: &Input, out: &Path, options: Options<'_>) -> Result<Converted, Error> {
    let (staged, converted) = convert_staged(input, out, options)?;
    staged.commit()?;
    Ok(converted)
}

/// Like [`convert`], but leaves the last step to the caller: the file is complete but has a
/// temporary name until the caller commits it, for example after testing it.
///
/// # Errors
/// As for [`convert`].
pub fn convert_staged(
    input: &Input,
    out: &Path,
    options: Options<'_>,
) -> Result<(Staged, Converted), Error> {
    let mut model = input.open()?;
    for lora in &options.loras {
        lora::merge(&mut model, lora)?;
    }
    refuse_own_source(&model, out)?;
    let recipe = recipe(&model.config, options.quant, options.exceptions.as_ref())?;
    model.config = in_precision(model.config, &recipe);
    let rounded = model.weights.rounded().filter(|_| recipe.is_coded());
    model.notes.extend(rounded.map(|format| {
        format!(
            "the source has weights in {format}; rounding them again adds to their errors, so \
             convert the original weights if you have them"
        )
    }));
    let (staged, tensors) = pack::pack(&model, &recipe, out, options)?;
    let path = staged.path();
    let bytes =
        std::fs::metadata(path).map_err(Error::io(path, "cannot read the file size"))?.len();
    let converted = Converted {
        content_id: staged.content_id(),
        bytes,
        tensors,
        has_tokenizer: model.tokenizer.is_some(),
        has_chat_template: model.chat_template.is_some(),
        notes: model.notes,
        config: model.config,
    };
    Ok((staged, converted))
}

/// Rejects an output that would replace a file of the source.
fn refuse_own_source(model: &Model, out: &Path) -> Result<(), Error> {
    let Ok(target) = out.canonicalize() else { return Ok(()) };
    if model.files.iter().any(|f| f.canonicalize().is_ok_and(|f| f == target)) {
        return Err(Error::source(out, "is a file of the source; choose another output"));
    }
    Ok(())
}

/// The config of a model once its matrices have these encodings.
pub(crate) fn in_precision(config: Config, recipe: &Recipe) -> Config {
    let quant = recipe.quant();
    let shapes = config.attention_shapes();
    let widths = shapes.flat_map(|shape| [shape.head_dim, shape.value_dim]);
    let rotations = widths.map(|width| Config::largest_value_rotation(width as u32));
    let value_rotation = rotations.min().filter(|_| quant.is_rotated()).unwrap_or(1);
    Config { quant, value_rotation, ..config }
}
