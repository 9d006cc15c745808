//! The inputs of a model's matrices, layer by layer.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use nanoinfer_engine::{BatchToken, Engine, EngineOptions, Error, Model, Observed};
use nanoinfer_format::{Config, Encoding, Role};
use nanoinfer_packer::quantize::{
    Calibrate, Factor, Factors, Hessian, Kernels, Matrix, strand_column,
};

use super::texts::context;

/// Memory for the correlations of the layers that a pass runs together.
const GROUP_BYTES: usize = 2_000_000_000;
/// The reason why calibration failed.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Added to the mean square of the residual stream, by which inputs are divided.
const TINY: f32 = 1e-6;

/// Texts on their way through the layers of a model. The memory it takes is that of the residual stream
/// of all tokens, and the correlations of as many layers as fit into 2 GB, but at least one.
#[derive(Debug)]
pub struct Calibration<'a> {
    engine: Engine,
    kernels: Kernels,
    texts: Vec<Vec<u32>>,
    /// The residual stream of every pass over a part of a text.
    residuals: Vec<Vec<f32>>,
    /// The first layer that the texts have not passed.
    next: usize,
    /// Layers to pass at a time.
    at_once: usize,
    progress: Progress<'a>,
}

/// Layers that texts have passed, and have to pass.
#[derive(Default)]
struct Progress<'a> {
    done: usize,
    total: usize,
    report: Option<&'a dyn Fn(usize, usize)>,
}

impl fmt::Debug for Progress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.done, self.total)
    }
}

impl<'a> Calibration<'a> {
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
        let config = engine.model().config();
        let (at_once, total) = (layers_at_once(config), texts.len() * config.n_layers as usize);
        let progress = Progress { total, ..Progress::default() };
        Ok(Self { engine, kernels, texts, residuals, next: 0, at_once, progress })
    }

    /// Calls `report` after each text that has passed layers, with the number of layers passed by all texts so
    /// far, and their total.
    pub fn on_progress(&mut self, report: &'a dyn Fn(usize, usize)) {
        self.progress.report = Some(report);
    }

    /// Passes all texts through layers, and returns the factors of their matrices, or if `output`, that of
    /// the output matrix. There are none for the down projections of experts, nor for matrices whose
    /// inputs were all zero.
    fn pass(&mut self, layers: Range<usize>, output: bool) -> Result<Factors, Error> {
        let Self { engine, kernels, texts, residuals, progress, .. } = self;
        let (mut sums, mut residuals) = (BTreeMap::new(), residuals.iter_mut());
        for text in texts {
            let seq = engine.open()?;
            for part in text.chunks(engine.max_batch()) {
                let token = |&token: &u32| BatchToken { seq, token, logits: output };
                let batch: Vec<_> = part.iter().map(token).collect();
                let mut seen = Vec::new();
                let mut observe = |o: &Observed<'_>| {
                    if (o.role == Role::Output) == output {
                        seen.push(Inputs::of(o));
                    }
                };
                let residual = residuals.next().expect("one per part");
                engine.forward_layers(&batch, layers.clone(), residual, &mut observe)?;
                for Inputs { matrix, m, k, x } in seen {
                    let sum = sums.entry(matrix).or_insert_with(|| Hessian::new(k));
                    sum.add(kernels, &x, m, engine.threads());
                }
            }
            engine.close(seq)?;
            progress.done += layers.len();
            if let Some(report) = progress.report {
                report(progress.done, progress.total);
            }
        }
        let factors = sums.into_iter().filter_map(|(matrix, sum)| {
            let rotation = rotation(engine.model(), matrix)?;
            Some((matrix, sum.factor(kernels, rotation, engine.threads())?))
        });
        Ok(factors.collect())
    }

    fn n_layers(&self) -> usize {
        self.engine.model().config().n_layers as usize
    }
}

impl Calibrate for Calibration<'_> {
    fn output(&mut self) -> Result<Option<Factor>, Failure> {
        self.progress.total += self.texts.len() * self.n_layers();
        Ok(self.pass(0..self.n_layers(), true)?.into_values().next())
    }

    fn next_layers(&mut self) -> Result<(Range<usize>, Factors), Failure> {
        let layers = self.next..self.n_layers().min(self.next + self.at_once);
        let factors = self.pass(layers.clone(), false)?;
        self.next = layers.end;
        Ok((layers, factors))
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

    use super::super::{OwnText, generate};
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
        let texts =
            generate(model, Some(threads), OwnText { texts: 2, seed: 7 }, |_, _| {}).unwrap();
        let mut calibration = Calibration::new(model.clone(), Some(threads), texts).unwrap();
        calibration.at_once = at_once;
        let output = calibration.output().unwrap().expect("inputs that vary");
        let mut all = Factors::from([((None, Role::Output), output)]);
        while calibration.next < calibration.n_layers() {
            let next = calibration.next;
            let (layers, factors) = calibration.next_layers().unwrap();
            assert_eq!(layers.start, next);
            all.extend(factors);
        }
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
    fn experts_share_the_factor_of_gate_and_up() {
        let model = model("mixtral-experts");
        let factors = factors(&model, 2, 1);
        let layers = model.config().n_layers as usize;
        assert_eq!(factors.len(), 3 * layers + 1);
        assert!(factors.contains_key(&(Some(0), Role::FfnGateUpExperts)));
    }

    #[test]
    fn texts_differ_and_depend_only_on_the_seed() {
        let model = model("llama-gqa");
        let write = |threads, texts, seed| {
            generate(&model, Some(threads), OwnText { texts, seed }, |_, _| {}).unwrap()
        };
        let texts = write(1, 18, 7);
        assert_eq!(write(2, 18, 7), texts);
        let mut unique = texts.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), 18);
        let length = context(&model, crate::calibrate::TEXT_TOKENS);
        assert!(texts.iter().all(|t| t.len() == length), "{length}");
        assert_ne!(write(1, 1, 8)[0], texts[0]);
    }
}
