//! Models with well-known shapes and random weights.
//!
//! Speed depends on shapes, not on values, so such a model predicts the speed of the real model
//! before it is downloaded. A small random number generator produces the stored bytes directly;
//! nothing is quantized, so a model with 7 billion weights takes only seconds to build.

use std::path::Path;

use nanoinfer_format::{
    Activation, Config, Encoding, Entry, Experts, Generation, Kind, LINE, Latent, LayerAttention,
    NormPlace, Precision, QkNorm, Quant, Recipe, RecipeError, Recurrent, RecurrentKind, Role,
    Staged, TensorSpec, Writer, schema,
};
use nanoinfer_kernels::Trellis;

use crate::rope::{RopeSpec, Scaling};
use crate::{Error, Progress};

/// The sizes of a published model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Common name of the model.
    pub name: &'static str,
    n_layers: u32,
    d_model: u32,
    d_ff: u32,
    n_heads: u32,
    n_kv_heads: u32,
    head_dim: u32,
    vocab_size: u32,
    tied_embeddings: bool,
    /// Experts per layer and experts per token; `d_ff` is then the width of one expert.
    experts: Option<[u32; 2]>,
    recurrent: Option<Hybrid>,
    attention: Option<Variant>,
    quant: Precision,
}

/// A variant of attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    /// As in Gemma 4 E: every fifth layer has no window and heads of `wide` values, the last `sharing` layers read
    /// the cache of others, and have a network of twice the width, and embeddings enter every layer.
    Shared { wide: u32, window: u32, sharing: u32, embedding: u32 },
    /// Latent attention; heads have `head_dim` values without RoPE, and as many in their outputs.
    Latent { kv_rank: u32, q_rank: u32, rope: u32 },
}

/// The recurrent layers of a shape: all but those with attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hybrid {
    kind: RecurrentKind,
    kernel: u32,
    /// Number and width of keys, then of values.
    keys: [u32; 2],
    values: [u32; 2],
    /// The layers with attention.
    attention: &'static [u32],
}

#[rustfmt::skip]
const fn shape(
    name: &'static str, n_layers: u32, [d_model, d_ff]: [u32; 2], [n_heads, n_kv_heads]: [u32; 2],
    head_dim: u32, vocab_size: u32, tied_embeddings: bool,
) -> Shape {
    Shape {
        name, n_layers, d_model, d_ff, n_heads, n_kv_heads, head_dim, vocab_size, tied_embeddings,
        experts: None, recurrent: None, attention: None, quant: Precision::Quant(Quant::Q8),
    }
}

impl Shape {
    /// All shapes, smallest first, in 8 bits.
    pub const ALL: [Shape; 17] =
        [
            shape("tiny", 2, [128, 192], [4, 2], 32, 512, false),
            shape("tiny-moe", 2, [128, 64], [4, 2], 32, 512, false).of_experts([16, 4]),
            shape("tiny-hybrid", 4, [128, 192], [4, 2], 32, 512, false).with(Hybrid {
                kind: RecurrentKind::Delta,
                kernel: 4,
                keys: [16, 16],
                values: [16, 16],
                attention: &[3],
            }),
            shape("tiny-shared", 10, [128, 128], [4, 1], 32, 512, true)
                .attending(Variant::Shared { wide: 64, window: 64, sharing: 5, embedding: 64 }),
            shape("tiny-latent", 2, [128, 192], [4, 1], 64, 512, false)
                .attending(Variant::Latent { kv_rank: 128, q_rank: 64, rope: 16 }),
            shape("smollm2-135m", 30, [576, 1536], [9, 3], 64, 49152, true),
            shape("qwen3.5-0.8b", 24, [1024, 3584], [8, 2], 256, 248_320, true).with(Hybrid {
                kind: RecurrentKind::Delta,
                kernel: 4,
                keys: [16, 128],
                values: [16, 128],
                attention: &[3, 7, 11, 15, 19, 23],
            }),
            shape("tinyllama-1.1b", 22, [2048, 5632], [32, 4], 64, 32000, false),
            shape("lfm2-1.2b", 16, [2048, 8192], [32, 8], 64, 65536, true).with(Hybrid {
                kind: RecurrentKind::Convolution,
                kernel: 3,
                keys: [0, 0],
                values: [1, 2048],
                attention: &[2, 5, 8, 10, 12, 14],
            }),
            shape("llama-3.2-1b", 16, [2048, 8192], [32, 8], 64, 128_256, true),
            shape("granite-moe-1b", 24, [1024, 512], [16, 8], 64, 49152, true).of_experts([32, 8]),
            shape("granite-4-h-1b", 40, [1536, 4096], [12, 4], 128, 100_352, true).with(Hybrid {
                kind: RecurrentKind::Mamba2,
                kernel: 4,
                keys: [1, 128],
                values: [48, 64],
                attention: &[5, 15, 25, 35],
            }),
            shape("llama-3.2-3b", 28, [3072, 8192], [24, 8], 128, 128_256, true),
            shape("minicpm3-4b", 62, [2560, 6400], [40, 1], 64, 73456, true)
                .attending(Variant::Latent { kv_rank: 256, q_rank: 768, rope: 32 }),
            shape("gemma-4-e2b", 35, [1536, 6144], [8, 1], 256, 262_144, true)
                .attending(Variant::Shared { wide: 512, window: 512, sharing: 20, embedding: 256 }),
            shape("olmoe-1b-7b", 16, [2048, 1024], [16, 16], 128, 50304, false).of_experts([64, 8]),
            shape("llama-2-7b", 32, [4096, 11008], [32, 32], 128, 32000, false),
        ];

    const fn of_experts(self, experts: [u32; 2]) -> Self {
        Self { experts: Some(experts), ..self }
    }

    const fn with(self, hybrid: Hybrid) -> Self {
        Self { recurrent: Some(hybrid), ..self }
    }

    const fn attending(self, attention: Variant) -> Self {
        Self { attention: Some(attention), ..self }
    }

    /// The shape with this name.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name == name)
    }

    /// The same shape with another vocabulary size, to draft for a model with that vocabulary.
    pub fn with_vocabulary(self, tokens: u32) -> Self {
        Self { vocab_size: tokens, ..self }
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
        quant.recipe(&self.sizes_only())?;
        Ok(Self { quant, ..self })
    }

    /// The encodings of its matrices.
    pub fn recipe(&self) -> Recipe {
        self.quant.recipe(&self.sizes_only()).expect("checked by with_precision")
    }

    /// The config of this shape, with unscaled RoPE.
    pub fn config(&self) -> Config {
        Config { quant: self.recipe().quant(), ..self.sizes_only() }
    }

    /// The config of this shape in any precision.
    fn sizes_only(&self) -> Config {
        let mut config = Config {
            d_model: self.d_model,
            d_ff: self.d_ff,
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            vocab_size: self.vocab_size,
            context_length: 1 << 17,
            tied_embeddings: self.tied_embeddings,
            value_rotation: Config::largest_value_rotation(self.head_dim),
            experts: self.experts.map(|[n, per_token]| {
                Experts::new(n, per_token, self.d_ff, self.n_layers as usize)
            }),
            // As in the models of this kind.
            qk_norm: match self.recurrent.map(|hybrid| hybrid.kind) {
                Some(RecurrentKind::Convolution | RecurrentKind::Delta) => QkNorm::Head,
                Some(RecurrentKind::Mamba2) | None => QkNorm::None,
            },
            attention_gate: self.recurrent.is_some_and(|h| h.kind == RecurrentKind::Delta),
            recurrent: self.recurrent.map(|hybrid| hybrid.config(self.n_layers)),
            ..Config::llama(self.n_layers, self.head_dim)
        };
        if let Some(variant) = self.attention {
            variant.apply(&mut config);
        }
        config
    }

    /// Total size of the tensors in bytes.
    pub fn bytes(&self) -> u64 {
        self.sizes().map(|(_, _, bytes)| bytes).sum()
    }

    /// Bytes read by a forward pass of one token: everything except untied embeddings and experts
    /// that are not chosen.
    pub fn pass_bytes(&self) -> u64 {
        let config = self.config();
        let read = |role| match role {
            Role::TokenEmbd => self.tied_embeddings,
            Role::LayerEmbd => false,
            _ => true,
        };
        let sizes = self.sizes().filter(|(role, ..)| read(*role));
        sizes.map(|(role, _, bytes)| config.read_bytes(role, bytes, 1)).sum()
    }

    /// Number of weights.
    pub fn parameters(&self) -> u64 {
        self.sizes().map(|(_, weights, _)| weights).sum()
    }

    /// Role, number of weights and size in bytes of each tensor.
    fn sizes(&self) -> impl Iterator<Item = (Role, u64, u64)> {
        specs(self).into_iter().map(|(kind, spec)| {
            let weights = match kind {
                Kind::Turns => 0,
                Kind::Vector | Kind::Rows | Kind::Matrix | Kind::Router => {
                    spec.logical.iter().map(|&n| u64::from(n)).product()
                }
            };
            (spec.role, weights, spec.stored_bytes().unwrap_or_default())
        })
    }
}

impl Variant {
    fn apply(self, c: &mut Config) {
        match self {
            Self::Shared { wide, window, sharing, embedding } => {
                let (n, narrow, d_ff) = (c.n_layers, c.head_dim, c.d_ff);
                let is_wide = |layer: u32| (layer + 1).is_multiple_of(5);
                let own = n - sharing;
                let layer = |layer: u32| LayerAttention {
                    n_kv_heads: c.n_kv_heads,
                    head_dim: if is_wide(layer) { wide } else { narrow },
                    keys_as_values: false,
                    cache_of: (0..own)
                        .rfind(|&other| is_wide(other) == is_wide(layer))
                        .filter(|_| layer >= own),
                };
                c.layer_attention = (0..n).map(layer).collect();
                c.windows = (0..n).map(|l| if is_wide(l) { 0 } else { window }).collect();
                c.layer_d_ff = (0..n).map(|l| if l < own { d_ff } else { 2 * d_ff }).collect();
                (c.head_dim, c.rotary_dim, c.d_ff) = (wide, wide, 2 * d_ff);
                (c.norm_place, c.qk_norm) = (NormPlace::Both, QkNorm::Head);
                (c.value_norm, c.layer_scale, c.layer_embedding) = (true, true, embedding);
                (c.activation, c.attention_scale) = (Activation::Gelu, 1.0);
            }
            Self::Latent { kv_rank, q_rank, rope } => {
                let nope_dim = c.head_dim;
                c.attention_scale = 1.0 / f64::from(nope_dim + rope).sqrt();
                c.head_dim = rope + kv_rank;
                c.rotary_dim = rope;
                let widths = [c.head_dim, kv_rank].map(Config::largest_value_rotation);
                c.value_rotation = widths[0].min(widths[1]);
                let (value_dim, norm_eps) = (nope_dim, c.norm_eps);
                c.latent = Some(Latent { kv_rank, q_rank, nope_dim, value_dim, norm_eps });
            }
        }
    }
}

impl Hybrid {
    fn config(self, n_layers: u32) -> Recurrent {
        let Self { kind, kernel, keys, values, attention } = self;
        let [[key_heads, key_dim], [value_heads, value_dim]] = [keys, values];
        let layers = (0..n_layers).map(|layer| !attention.contains(&layer)).collect();
        Recurrent {
            kernel,
            key_heads,
            key_dim,
            value_heads,
            value_dim,
            layers,
            ..Recurrent::of(kind)
        }
    }
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
    let mut writer = Writer::create(folder.join(shape.name))?;
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let (mut done, total) = (0, shape.bytes());
    for (kind, spec) in specs(shape) {
        let values = || spec.stored.iter().map(|&n| n as usize).product();
        writer.begin(spec.clone())?;
        match kind {
            Kind::Turns => {
                let rope = RopeSpec { theta: config.rope_theta, scaling: Scaling::None };
                let turns = rope.turns(config.rotary_dim);
                writer.write(&turns.iter().flat_map(|t| t.to_le_bytes()).collect::<Vec<_>>())?;
            }
            Kind::Matrix => panels(&spec, &mut noise, &mut |bytes| writer.write(bytes))?,
            // With equal scores, all tokens would choose the same experts.
            Kind::Router | Kind::Rows => writer.write(&noise.floats(values()))?,
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

/// Random panels, scaled so that outputs have about the same variance as inputs.
fn panels(
    spec: &TensorSpec,
    noise: &mut Noise,
    write: &mut dyn FnMut(&[u8]) -> Result<(), nanoinfer_format::Error>,
) -> Result<(), Error> {
    let Some(layout) = spec.panels() else { return Ok(()) };
    for run in layout.runs(0..layout.panels()) {
        if run.encoding == Encoding::F32Panel {
            write(&noise.floats(run.bytes.len() / 4))?;
            continue;
        }
        let scale = 1.0 / (spread(run.encoding) * (spec.stored[2] as f32).sqrt());
        let mut panel = vec![0; run.bytes.len() / run.panels.len()];
        let (scales, lines) = panel.split_at_mut(LINE);
        scales.as_chunks_mut::<4>().0.fill(scale.to_le_bytes());
        for _ in run.panels {
            noise.fill(lines);
            write(&[&*scales, &*lines].concat())?;
        }
    }
    Ok(())
}

/// Standard deviation of random weights in units of their row's scale.
fn spread(encoding: Encoding) -> f32 {
    let Some(bits) = encoding.trellis_bits() else { return 73.3 }; // uniform in -127…127
    let levels = Trellis::of(bits).levels;
    let squares: f32 = levels.iter().map(|&level| f32::from(level) * f32::from(level)).sum();
    (squares / levels.len() as f32).sqrt()
}

/// xorshift64: random enough, and as fast as memory.
struct Noise(u64);

impl Noise {
    /// Stored weights: q + 128 for q in -127..=127.
    fn fill(&mut self, bytes: &mut [u8]) {
        for eight in bytes.as_chunks_mut::<8>().0 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            *eight = self.0.to_le_bytes().map(|b| b.max(1));
        }
    }

    /// Floats from -0.5 to 0.5.
    fn floats(&mut self, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n.next_multiple_of(8)];
        self.fill(&mut bytes);
        bytes[..n].iter().flat_map(|&b| (f32::from(b) / 255.0 - 0.5).to_le_bytes()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nanoinfer_format::{BitsPerWeight, NanoFile};

    /// Padding must be zeros, which `panels` does not write.
    #[test]
    fn no_matrix_needs_padding() {
        for shape in Shape::ALL {
            let config = shape.config();
            config.validate().unwrap();
            for (_, spec) in specs(&shape).into_iter().filter(|(kind, _)| *kind != Kind::Vector) {
                assert_eq!(spec.logical, spec.stored, "{}", shape.name);
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
        for shape in &Shape::ALL[..5] {
            builds_and_is_deleted(shape);
            builds_and_is_deleted(&shape.with_quant(Quant::Q4));
            let bits = "4.5".parse().unwrap();
            builds_and_is_deleted(&shape.with_precision(bits).unwrap());
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
        assert_eq!((file.config().d_model, data), (128, bytes));
    }
}
