//! Models with the shapes of published ones and random weights.
//!
//! Speed depends on shapes, not on values, so such a model predicts the speed of the real model
//! before it is downloaded. A shape is what a model's `config.json` states, read as for a conversion. A small random
//! number generator produces the stored bytes directly; nothing is quantized, so a model with 7 billion weights takes
//! only seconds to build.

use std::collections::BTreeMap;
use std::path::Path;

use nanoinfer_format::{
    Config, Entry, Generation, Kind, Precision, Quant, Recipe, RecipeError, Role, Staged,
    TensorSpec, Writer, schema,
};
use serde_json::{Map, Value};

use crate::convert::in_precision;
use crate::hf::Settings;
use crate::{Error, Progress, hf};

mod random;

use random::Random;

/// The settings of published models that determine their sizes, by the name of the shape.
const SHAPES: &str = include_str!("shapes.json");

/// The sizes of a model.
#[derive(Clone, Debug)]
pub struct Shape {
    name: String,
    /// In f32.
    config: Config,
    /// RoPE turns per position.
    turns: Vec<u64>,
    quant: Precision,
}

impl Shape {
    /// All known shapes, smallest first, in 8 bits.
    pub fn all() -> Vec<Self> {
        let mut all: Vec<_> =
            known().into_iter().map(|(name, map)| Self::known(name, map)).collect();
        all.sort_by_cached_key(Self::bytes);
        all
    }

    /// The names of all known shapes, smallest first.
    pub fn names() -> Vec<String> {
        Self::all().into_iter().map(|shape| shape.name).collect()
    }

    /// The known shape with this name, in 8 bits.
    pub fn find(name: &str) -> Option<Self> {
        known()
            .into_iter()
            .find(|(known, _)| known == name)
            .map(|(name, map)| Self::known(name, map))
    }

    /// The shape of the model that a `config.json` describes, in 8 bits.
    ///
    /// # Errors
    /// The file cannot be read, or no such model is supported.
    pub fn read(config: &Path) -> Result<Self, Error> {
        let name = config.display().to_string();
        Self::described(name, &Settings::read(config)?)
    }

    fn known(name: String, settings: Map<String, Value>) -> Self {
        let settings = Settings::of(Path::new(&name), settings);
        Self::described(name, &settings).expect("a test reads all known shapes")
    }

    fn described(name: String, settings: &Settings) -> Result<Self, Error> {
        let described = hf::describe(settings)?;
        let (config, ropes) = (described.config, described.ropes);
        let turns = ropes.iter().flat_map(|rope| rope.turns(config.rotary_dim)).collect();
        Ok(Self { name, config, turns, quant: Quant::Q8.into() })
    }

    /// The name: a common one for the model, or the path of its config.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same shape with another vocabulary size, to draft for a model with that vocabulary.
    pub fn with_vocabulary(mut self, tokens: u32) -> Self {
        self.config.vocab_size = tokens;
        self
    }

    /// The same shape in another precision, other than f32.
    pub fn with_quant(self, quant: Quant) -> Self {
        Self { quant: quant.into(), ..self }
    }

    /// Like [`Self::with_quant`], for a precision that this shape may be unable to have.
    ///
    /// # Errors
    /// It is a number of bits that is out of range.
    pub fn with_precision(self, quant: Precision) -> Result<Self, RecipeError> {
        quant.recipe(&self.config)?;
        Ok(Self { quant, ..self })
    }

    /// The encodings of its matrices.
    pub fn recipe(&self) -> Recipe {
        self.quant.recipe(&self.config).expect("checked by with_precision")
    }

    /// The config of this shape.
    pub fn config(&self) -> Config {
        in_precision(self.config.clone(), &self.recipe())
    }

    /// Total size of the tensors in bytes.
    pub fn bytes(&self) -> u64 {
        self.sizes().map(|(_, _, bytes)| bytes).fold(0, u64::saturating_add)
    }

    /// Bytes read by a forward pass of one token: everything except untied embeddings and experts
    /// that are not chosen.
    pub fn pass_bytes(&self) -> u64 {
        let config = self.config();
        let bytes = self.sizes().map(|(role, _, bytes)| config.read_bytes(role, bytes, 1));
        bytes.fold(0, u64::saturating_add)
    }

    /// Number of weights.
    pub fn parameters(&self) -> u64 {
        self.sizes().map(|(_, weights, _)| weights).fold(0, u64::saturating_add)
    }

    /// Role, number of weights and size in bytes of each tensor.
    fn sizes(&self) -> impl Iterator<Item = (Role, u64, u64)> {
        specs(self).into_iter().map(|(kind, spec)| {
            let weights = match kind {
                Kind::Turns => 0,
                Kind::Vector | Kind::Rows | Kind::Matrix | Kind::Router => {
                    spec.logical.iter().map(|&n| u64::from(n)).fold(1, u64::saturating_mul)
                }
            };
            (spec.role, weights, spec.stored_bytes().unwrap_or(u64::MAX))
        })
    }
}

fn known() -> BTreeMap<String, Map<String, Value>> {
    serde_json::from_str(SHAPES).expect("a test reads it")
}

/// The tensors of a model without biases.
fn specs(shape: &Shape) -> Vec<(Kind, TensorSpec)> {
    let recipe = shape.recipe();
    let spec = |entry: &Entry| entry.spec(|role| recipe.encoding(entry.layer, role));
    schema(&shape.config()).map(|entry| (entry.kind, spec(&entry))).collect()
}

/// Writes a model of this shape, identical on every machine, to a temporary file in `folder`. The
/// file is deleted when the returned value is dropped; existing mappings of it stay valid.
///
/// # Errors
/// The file cannot be written.
pub fn build(
    shape: &Shape,
    folder: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Staged, Error> {
    let config = shape.config();
    let mut writer = Writer::create(folder.join("synthetic"))?;
    let mut random = Random::default();
    let (mut done, total) = (0, shape.bytes());
    for (kind, spec) in specs(shape) {
        let values = || spec.stored.iter().map(|&n| n as usize).product();
        writer.begin(spec.clone())?;
        match kind {
            Kind::Turns => {
                let turns = shape.turns.iter().flat_map(|t| t.to_le_bytes());
                writer.write(&turns.collect::<Vec<_>>())?;
            }
            // With equal scores, all tokens would choose the same experts.
            Kind::Matrix | Kind::Router => random.panels(&spec, &mut |b| writer.write(b))?,
            Kind::Rows => writer.write(&random.floats(values()))?,
            Kind::Vector => {
                // States decay.
                let value = if spec.role == Role::SsmA { -1f32 } else { 1.0 };
                let logical = spec.logical[2] as usize;
                let mut bytes = value.to_le_bytes().repeat(logical);
                bytes.resize(4 * values(), 0);
                writer.write(&bytes)?;
            }
        }
        writer.end()?;
        done += spec.stored_bytes().unwrap_or_default();
        progress(Progress { done, total, role: spec.role, layer: spec.layer });
    }
    Ok(writer.finish(&config, &Generation::default())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nanoinfer_format::{BitsPerWeight, LANES, LINE, NanoFile, Panels, Tensor};

    /// Billions of parameters of the text part, without biases and layers that only draft. Written down from memory,
    /// like the settings, or added up from them (Ministral 3, AFM, Granite Swash, OLMo Hybrid, GLM-4.5-Air), without
    /// access to the published files: agreement shows that both are consistent.
    const PARAMETERS: [(&str, f64); 62] = [
        ("smollm2-135m", 0.1345),
        ("gemma-3-270m", 0.268),
        ("ernie-4.5-0.3b", 0.36),
        ("falcon-h1-0.5b", 0.521),
        ("qwen3-0.6b", 0.596),
        ("qwen3.5-0.8b", 0.753),
        ("gemma-3-1b", 1.0),
        ("tinyllama-1.1b", 1.1),
        ("lfm2-1.2b", 1.17),
        ("llama-3.2-1b", 1.236),
        ("exaone-4-1.2b", 1.28),
        ("granite-moe-1b", 1.335),
        ("granite-4-h-1b", 1.46),
        ("olmo-2-1b", 1.485),
        ("stablelm-2-1.6b", 1.644),
        ("hunyuan-1.8b", 1.79),
        ("granite-swash-2b", 2.14),
        ("gemma-2-2b", 2.614),
        ("granite-3.3-2b", 2.534),
        ("smollm3-3b", 3.075),
        ("starcoder2-3b", 3.03),
        ("llama-3.2-3b", 3.213),
        ("ministral-3-3b", 3.43),
        ("phi-4-mini", 3.836),
        ("minicpm3-4b", 4.07),
        ("afm-4.5b", 4.62),
        ("gemma-3-4b", 3.88),
        ("qwen3-4b", 4.02),
        ("gemma-4-e2b", 4.63),
        ("granite-4-h-tiny", 6.94),
        ("olmoe-1b-7b", 6.92),
        ("llama-2-7b", 6.738),
        ("olmo-3-7b", 7.3),
        ("olmo-hybrid-7b", 7.4),
        ("qwen2.5-7b", 7.616),
        ("command-r7b", 8.03),
        ("llama-3.1-8b", 8.03),
        ("aya-expanse-8b", 8.03),
        ("ministral-8b", 8.02),
        ("apertus-8b", 8.05),
        ("qwen3-8b", 8.19),
        ("lfm2-8b-a1b", 8.34),
        ("glm-4-9b", 9.4),
        ("phi-4", 14.66),
        ("deepseek-v2-lite", 15.71),
        ("gpt-oss-20b", 20.91),
        ("ernie-4.5-21b-a3b", 21.83),
        ("mistral-small-24b", 23.57),
        ("gemma-4-26b-a4b", 25.2),
        ("glm-4.7-flash", 29.94),
        ("qwen3-30b-a3b", 30.53),
        ("nemotron-3-nano-30b-a3b", 31.58),
        ("command-r-35b", 34.98),
        ("qwen3.5-35b-a3b", 34.66),
        ("seed-oss-36b", 36.15),
        ("phi-3.5-moe", 41.87),
        ("mixtral-8x7b", 46.7),
        ("qwen3-next-80b-a3b", 79.67),
        ("glm-4.5-air", 106.85),
        ("llama-4-scout", 107.77),
        ("gpt-oss-120b", 116.83),
        ("deepseek-v3", 671.03),
    ];

    #[test]
    fn known_shapes_have_the_expected_number_of_parameters() {
        let mut wrong = Vec::new();
        for shape in Shape::all() {
            shape.config().validate().unwrap();
            let expected = PARAMETERS.into_iter().find(|(name, _)| *name == shape.name);
            let billions = shape.parameters() as f64 / 1e9;
            match expected {
                Some((_, stated)) if (billions / stated - 1.0).abs() <= 0.01 => {}
                None if shape.name.starts_with("tiny-") || shape.name == "tiny" => {}
                other => wrong.push((shape.name, billions, other)),
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        assert_eq!(PARAMETERS.len() + 5, Shape::names().len());
    }

    /// Padding of inputs must be zeros too, which `panels` does not write.
    #[test]
    fn only_rows_of_known_shapes_need_padding() {
        for shape in Shape::all() {
            for (_, spec) in specs(&shape).into_iter().filter(|(kind, _)| *kind == Kind::Matrix) {
                assert_eq!(spec.logical[2], spec.stored[2], "{} {:?}", shape.name, spec.role);
            }
        }
    }

    /// Of the matrices in layers, and of all that a pass reads.
    #[test]
    fn bits_per_weight_are_within_limits() {
        let limits = [
            (Quant::Q5, [5.15, 5.8]),
            (Quant::Q4, [4.35, 4.5]),
            (Quant::Q3, [3.4, 3.75]),
            (Quant::Q2, [2.3, 3.4]),
        ];
        for (name, quant, limits) in ["smollm2-135m", "tinyllama-1.1b"]
            .into_iter()
            .flat_map(|name| limits.map(|(quant, limits)| (name, quant, limits)))
        {
            let shape = Shape::find(name).unwrap().with_quant(quant);
            let BitsPerWeight { layers, read } = shape.recipe().bits(&shape.config());
            println!("{name} {}: {layers:.3}, {read:.3}", quant.name());
            assert!(layers <= limits[0] && read <= limits[1]);
        }
    }

    #[test]
    fn a_synthetic_model_is_valid_and_is_deleted_afterwards() {
        for shape in &Shape::all()[..5] {
            builds_and_is_deleted(shape);
            builds_and_is_deleted(&shape.clone().with_quant(Quant::Q4));
            let bits = "4.5".parse().unwrap();
            builds_and_is_deleted(&shape.clone().with_precision(bits).unwrap());
        }
    }

    /// Of every family.
    #[test]
    fn a_model_can_be_built_from_its_config_alone() {
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tiny");
        let configs = std::fs::read_dir(tiny).unwrap().map(|model| model.unwrap().path());
        let configs: Vec<_> =
            configs.map(|model| model.join("config.json")).filter(|path| path.exists()).collect();
        assert!(configs.len() > 60);
        for config in configs {
            builds_and_is_deleted(&Shape::read(&config).unwrap());
        }
    }

    fn builds_and_is_deleted(shape: &Shape) {
        let folder = tempfile::tempdir().unwrap();
        let mut last = None;
        let staged = build(shape, folder.path(), &mut |p| last = Some((p.done, p.total))).unwrap();
        let bytes = shape.bytes();
        assert_eq!(last, Some((bytes, bytes)));
        let file = NanoFile::open(staged.path()).unwrap();
        drop(staged);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        file.verify().unwrap();
        let data: u64 = file.tensors().iter().map(|t| t.len).sum();
        assert_eq!((file.config(), data), (&shape.config(), bytes));
        file.tensors()
            .iter()
            .for_each(|t| assert_eq!(zero_rows(&file, t), padding(t), "{}", t.spec.label()));
    }

    /// The number of rows of a matrix whose weights are all zero.
    fn zero_rows(file: &NanoFile, tensor: &Tensor) -> usize {
        let Some(layout) = tensor.spec.panels().filter(|_| tensor.spec.encoding.is_panel()) else {
            return 0;
        };
        let runs = layout.runs(0..layout.panels());
        let zero_rows = runs.map(|run| {
            let all_zero = |panel: &[f32]| {
                (0..LANES)
                    .filter(|&row| panel.iter().skip(row).step_by(LANES).all(|&w| w == 0.0))
                    .count()
            };
            let scales = |bytes: &[u8]| {
                bytes
                    .chunks(run.bytes.len() / run.panels.len())
                    .map(|panel| &panel[..LINE])
                    .flat_map(|scales| scales.as_chunks().0)
                    .filter(|scale| f32::from_le_bytes(**scale) == 0.0)
                    .count()
            };
            match file.panels(tensor, &run) {
                Panels::F32(values) => {
                    values.chunks(values.len() / run.panels.len()).map(all_zero).sum()
                }
                Panels::Q8(bytes) | Panels::Trellis(_, bytes) => scales(bytes),
            }
        });
        zero_rows.sum()
    }

    /// The number of rows of a matrix that are padding.
    fn padding(tensor: &Tensor) -> usize {
        let [experts, rows, _] = tensor.spec.logical;
        let stored = if tensor.spec.encoding.is_panel() { tensor.spec.stored[1] } else { rows };
        (experts * (stored - rows)) as usize
    }
}
