//! The inputs of a model's matrices, layer by layer.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use nanoinfer_engine::{BatchToken, Engine, EngineOptions, Error, Model, Observed};
use nanoinfer_format::{Config, Encoding, Role};
use nanoinfer_packer::quantize::{Factor, Hessian, Kernels, strand_column};

use super::texts::context;

/// Memory for the correlations of the layers that a pass runs together.
const GROUP_BYTES: usize = 2_000_000_000;
/// Added to the mean square of the residual stream, by which inputs are divided.
const TINY: f32 = 1e-6;

/// A matrix: its layer and its role. Q, K and V are parts of one matrix, as are gate and up.
type Matrix = (Option<u32>, Role);

/// The factors of matrices. There are none for matrices of experts, nor for a matrix whose inputs were all
/// zero.
pub type Factors = BTreeMap<Matrix, Factor>;

/// Texts on their way through the layers of a model. The memory it takes is that of the residual stream
/// of all tokens, and the correlations of as many layers as fit into 2 GB, but at least one.
#[derive(Debug)]
pub struct Calibration {
    engine: Engine,
    kernels: Kernels,
    texts: Vec<Vec<u32>>,
    /// The residual stream of every pass over a part of a text.
    residuals: Vec<Vec<f32>>,
    /// The first layer that the texts have not passed.
    next: usize,
    /// Layers to pass at a time.
    at_once: usize,
}

impl Calibration {
    /// Prepares texts to pass the layers of a model of 8 bits. Longer texts than its context are cut.
    ///
    /// # Errors
    /// The model cannot be run.
    pub fn new(
        model: Arc<Model>,
        threads: Option<usize>,
        mut texts: Vec<Vec<u32>>,
    ) -> Result<Self, Error> {
        let longest = texts.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let ctx = Some(context(&model, longest));
        let chunk = EngineOptions::default().chunk;
        let options =
            EngineOptions { threads, ctx, logits_rows: chunk, ..EngineOptions::default() };
        let engine = Engine::new(model, &options)?;
        texts.iter_mut().for_each(|text| text.truncate(engine.ctx()));
        let kernels = Kernels::new(engine.isa()).expect("the engine runs on it");
        let width = engine.model().config().d_model_padded();
        let residual = |part: &[u32]| vec![0.0; part.len() * width];
        let residuals = texts.iter().flat_map(|t| t.chunks(chunk)).map(residual).collect();
        let at_once = layers_at_once(engine.model().config());
        Ok(Self { engine, kernels, texts, residuals, next: 0, at_once })
    }

    /// Passes all texts through the next layers, and returns their number and the factors of their
    /// matrices, with the last layer those of the output matrix too. `None` if no layer is left.
    ///
    /// # Errors
    /// The model cannot be run.
    pub fn next_layers(&mut self) -> Result<Option<(Range<usize>, Factors)>, Error> {
        let Self { engine, kernels, texts, residuals, next, at_once } = self;
        let model = engine.model().clone();
        let n = model.config().n_layers as usize;
        if *next == n {
            return Ok(None);
        }
        let layers = *next..n.min(*next + *at_once);
        let (mut sums, mut residuals) = (BTreeMap::new(), residuals.iter_mut());
        for text in texts {
            let seq = engine.open()?;
            for part in text.chunks(engine.max_batch()) {
                let logits = layers.end == n;
                let token = |&token: &u32| BatchToken { seq, token, logits };
                let batch: Vec<_> = part.iter().map(token).collect();
                let mut seen = Vec::new();
                let mut observe = |o: &Observed<'_>| seen.push(Inputs::of(o));
                let residual = residuals.next().expect("one per part");
                engine.forward_layers(&batch, layers.clone(), residual, &mut observe)?;
                for Inputs { matrix, m, k, x } in seen {
                    let sum = sums.entry(matrix).or_insert_with(|| Hessian::new(k));
                    sum.add(kernels, &x, m, engine.threads());
                }
            }
            engine.close(seq)?;
        }
        *next = layers.end;
        let factors = sums.into_iter().filter_map(|(matrix, sum)| {
            let rotation = rotation(&model, matrix)?;
            Some((matrix, sum.factor(kernels, rotation, engine.threads())?))
        });
        Ok(Some((layers, factors.collect())))
    }
}

/// Number of layers whose correlations fit into [`GROUP_BYTES`], at least 1.
fn layers_at_once(config: &Config) -> usize {
    let d = config.d_model_padded();
    let inputs = [d, config.attn_out_inputs(), d, config.d_ff_padded()];
    let bytes: usize = inputs.iter().map(|k| k * k * size_of::<f32>()).sum();
    (GROUP_BYTES / bytes).max(1)
}

/// The size of the blocks by which the inputs of a matrix are rotated. The output matrix may be that of
/// the embeddings.
fn rotation(model: &Model, (layer, role): Matrix) -> Option<usize> {
    let tensor = |role| model.file().tensor(role, layer);
    let spec = &tensor(role).or_else(|| tensor(Role::TokenEmbd))?.spec;
    Some(spec.rotation_of(Encoding::Q8Panel) as usize)
}

/// The inputs of a matrix in a pass.
struct Inputs {
    matrix: Matrix,
    m: usize,
    k: usize,
    /// `[k/16][m][16]`, columns in strand order, each input multiplied by the root of its weight.
    x: Vec<f32>,
}

impl Inputs {
    /// An error matters in relation to the residual stream that it is added to, so inputs of products that
    /// are added weigh the inverse of its mean square. Otherwise the few tokens at which some models have
    /// enormous activations would outweigh all others.
    fn of(seen: &Observed<'_>) -> Self {
        let (m, k) = (seen.m, seen.k);
        let mut x = vec![0.0; m * k];
        let mut row = vec![0.0; k];
        for token in 0..m {
            seen.read(token, &mut row);
            let square = seen.residual_mean_square(token);
            let root = square.map_or(1.0, |square| 1.0 / (square + TINY).sqrt());
            for (i, value) in row.iter().enumerate() {
                let column = strand_column(i, k);
                x[(column / 16 * m + token) * 16 + column % 16] = root * value;
            }
        }
        Self { matrix: (seen.layer, seen.role), m, k, x }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use nanoinfer_format::Quant;
    use nanoinfer_packer::{Input, Options, convert};

    use super::super::generate;
    use super::*;

    fn model(name: &str) -> Arc<Model> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tiny").join(name);
        let out = tempfile::tempdir().unwrap();
        let file = out.path().join("model.nano");
        convert(&Input::Folder(folder), &file, Options::new(Quant::Q8)).unwrap();
        Arc::new(Model::open(&file).unwrap())
    }

    /// All factors, in passes over `at_once` layers.
    fn factors(model: &Arc<Model>, threads: usize, at_once: usize) -> Factors {
        let texts = generate(model, Some(threads), 2, 7, |_| {}).unwrap();
        let mut calibration = Calibration::new(model.clone(), Some(threads), texts).unwrap();
        calibration.at_once = at_once;
        let (mut all, mut next) = (Factors::new(), 0);
        while let Some((layers, factors)) = calibration.next_layers().unwrap() {
            assert_eq!(layers.start, next);
            next = layers.end;
            all.extend(factors);
        }
        assert_eq!(next, model.config().n_layers as usize);
        all
    }

    #[test]
    fn factors_depend_neither_on_threads_nor_on_how_layers_are_grouped() {
        let model = model("llama-gqa");
        let expected = factors(&model, 1, usize::MAX);
        assert!(factors(&model, 2, 1) == expected);
        let roles = [Role::AttnQkv, Role::AttnOutput, Role::FfnGateUp, Role::FfnDown];
        let layers = 0..model.config().n_layers;
        let all = layers.flat_map(|layer| roles.map(|role| (Some(layer), role)));
        let all: Vec<Matrix> = [(None, Role::Output)].into_iter().chain(all).collect();
        assert_eq!(expected.keys().copied().collect::<Vec<_>>(), all);
    }

    #[test]
    fn matrices_of_experts_have_no_factors() {
        let model = model("mixtral-experts");
        let factors = factors(&model, 2, 1);
        let layers = model.config().n_layers as usize;
        assert_eq!(factors.len(), 2 * layers + 1);
    }

    #[test]
    fn texts_differ_and_depend_only_on_the_seed() {
        let model = model("llama-gqa");
        let texts = generate(&model, Some(1), 18, 7, |_| {}).unwrap();
        assert_eq!(generate(&model, Some(2), 18, 7, |_| {}).unwrap(), texts);
        let mut unique = texts.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), 18);
        let length = context(&model, crate::calibrate::TEXT_TOKENS);
        assert!(texts.iter().all(|t| t.len() == length), "{length}");
        assert_ne!(generate(&model, Some(1), 1, 8, |_| {}).unwrap()[0], texts[0]);
    }
}
