//! Weight binding: finds every tensor of the forward pass once and checks its shape.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

pub(crate) use nanoinfer_format::Panels;
use nanoinfer_format::{
    ActType, Config, Encoding, Entry, GROUP, LANES, LINE, NanoFile, PanelLayout, Part, QUAD,
    Recurrent, Role, Rope, TensorSpec, schema,
};

// Format and kernels define the panel layout independently; this checks that they agree.
const _: () = {
    use nanoinfer_kernels as kernels;
    assert!(LANES == kernels::LANES && GROUP == kernels::GROUP);
    assert!(LINE == kernels::LINE && QUAD == kernels::QUAD);
    // All are linear, so two sizes suffice.
    let mut k = GROUP;
    while k <= 2 * GROUP {
        let (q8, f32) = (Encoding::Q8Panel.panel_bytes(k), Encoding::F32Panel.panel_bytes(k));
        assert!(matches!(q8, Some(bytes) if bytes == kernels::q8_panel_bytes(k)));
        let values = kernels::f32_panel_len(k);
        assert!(matches!(f32, Some(bytes) if bytes == values * size_of::<f32>()));
        let trellis = [Encoding::Q2Panel, Encoding::Q3Panel, Encoding::Q4Panel, Encoding::Q5Panel];
        let mut i = 0;
        while i < trellis.len() {
            let bytes = trellis[i].panel_bytes(k);
            assert!(
                matches!(bytes, Some(bytes) if bytes == kernels::trellis_panel_bytes(i + 2, k))
            );
            i += 1;
        }
        k += GROUP;
    }
};

/// A matrix in the file, in panels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix {
    tensor: usize,
    /// Panels of 16 rows.
    pub panels: usize,
    /// Inputs per row, including padding.
    pub k: usize,
    layout: PanelLayout,
    bias: Option<usize>,
}

/// A plain vector in the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vector(usize);

/// Weights of a norm, or of a convolution.
#[derive(Clone, Copy)]
pub(crate) struct Norm {
    pub weight: Vector,
    pub bias: Option<Vector>,
}

/// One transformer layer. The config determines which parts and norms it has.
pub(crate) struct Layer {
    pub attn_norm: Option<Norm>,
    pub attention: Option<Attention>,
    /// In place of attention, or beside it.
    pub recurrent: Option<RecurrentMixer>,
    pub attn_post_norm: Option<Norm>,
    pub ffn_norm: Option<Norm>,
    pub ffn: Option<Ffn>,
    pub ffn_post_norm: Option<Norm>,
    /// What enters the layer beside the residual stream.
    pub embedding: Option<LayerEmbedding>,
    /// `[1]`, the factor of the residual stream behind the layer.
    pub scale: Option<Vector>,
}

pub(crate) struct Attention {
    /// `[kv heads · (group + 2) · head, d_model]`; with gates, `2 · group`; without K or V of its own, fewer
    pub qkv: Matrix,
    /// `[head]`, or `[heads · head]` where one norm covers all heads
    pub q_norm: Option<Norm>,
    /// `[head]` or `[kv heads · head]`
    pub k_norm: Option<Norm>,
    /// `[heads]`, scores that enter the softmax without a position
    pub sinks: Option<Vector>,
    /// `[d_model, heads · head]`
    pub output: Matrix,
    pub latent: Option<LatentMatrices>,
}

/// The projections of latent attention.
pub(crate) struct LatentMatrices {
    /// `[heads · (nope + rope), query vector]`, or `d_model`
    pub queries: Matrix,
    /// `heads × [latent, nope]`
    pub keys: Matrix,
    /// `heads × [value, latent]`
    pub values: Matrix,
}

/// How a token's embedding for a layer enters the residual stream.
pub(crate) struct LayerEmbedding {
    /// `[layer embedding, d_model]`
    pub gate: Matrix,
    /// `[d_model, layer embedding]`
    pub output: Matrix,
    pub norm: Norm,
}

/// The embeddings of tokens that enter layers.
pub(crate) struct LayerEmbeddings {
    /// `[vocab, layers · layer embedding]`
    pub table: Matrix,
    /// `[layers · layer embedding, d_model]`
    pub projection: Matrix,
    /// `[layer embedding]`
    pub norm: Norm,
}

/// The mixer of a recurrent layer.
pub(crate) struct RecurrentMixer {
    /// Its sizes.
    pub config: Recurrent,
    /// `[channels + gates + steps, d_model]`
    pub input: Matrix,
    /// `[kernel, channels]`, and a bias per channel
    pub conv: Norm,
    /// `[heads]`; with the following, `None` for a convolution
    pub a: Option<Vector>,
    /// `[heads]`
    pub dt_bias: Option<Vector>,
    /// `[heads]`
    pub d: Option<Vector>,
    /// `[value]` or `[inner]`
    pub norm: Option<Vector>,
    /// `[d_model, inner]`
    pub output: Matrix,
}

/// The feed-forward part of a layer.
pub(crate) enum Ffn {
    Dense(Dense),
    Experts(ExpertMatrices),
}

/// A feed-forward network.
pub(crate) struct Dense {
    /// `[2 · d_ff, d_model]`, alternating panels; `[d_ff, d_model]` without a gate
    pub gate_up: Matrix,
    /// `[d_model, d_ff]`
    pub down: Matrix,
}

/// A mixture of experts. The matrices of all experts are concatenated.
pub(crate) struct ExpertMatrices {
    /// `[experts, d_model]`, f32 in every model
    pub router: Box<Matrix>,
    /// `[experts]`, added to scores to choose experts
    pub router_bias: Option<Vector>,
    /// `experts × [2 · d_ff, d_model]`, alternating panels
    pub gate_up: Matrix,
    /// `experts × [d_model, d_ff]`
    pub down: Matrix,
    /// The network through which all tokens pass.
    pub shared: Option<Box<Dense>>,
    /// `[1, d_model]`, the score of its gate, f32 in every model
    pub shared_gate: Option<Box<Matrix>>,
    /// `[experts]`, factors of the weights of experts
    pub scale: Option<Vector>,
    /// Norms of their own, if they do not share those of the layer.
    pub norms: Option<Box<ExpertNorms>>,
}

/// Norms of experts, `[d_model]` each.
pub(crate) struct ExpertNorms {
    /// Of the router's input.
    pub router: Norm,
    /// Of the experts' input.
    pub input: Norm,
    /// Of the output of the network beside them.
    pub shared_output: Norm,
    /// Of the experts' output.
    pub output: Norm,
}

/// All weights, as references into the mapped file.
pub(crate) struct Weights {
    /// `[vocab, d_model]`
    pub token_embd: Matrix,
    pub layer_embeddings: Option<LayerEmbeddings>,
    pub layers: Vec<Layer>,
    pub output_norm: Norm,
    /// `[vocab, d_model]`; the embedding itself when tied
    pub output: Matrix,
    rope_turns: usize,
}

type Result<T> = std::result::Result<T, String>;

/// A tensor of the schema and its bias, if any: indices into the tensor table.
#[derive(Clone, Copy)]
struct Found {
    tensor: usize,
    bias: Option<usize>,
}

/// All tensors of the schema, found and checked.
struct Binder<'a> {
    file: &'a NanoFile,
    found: HashMap<(Role, Option<u32>), Found>,
}

impl<'a> Binder<'a> {
    fn new(file: &'a NanoFile) -> Result<Self> {
        let mut found = HashMap::new();
        for entry in schema(file.config()) {
            let (role, layer) = (entry.role, entry.layer);
            let tensor = file.tensor_index(role, layer).ok_or_else(|| missing(role, layer))?;
            check(&file.tensors()[tensor].spec, &expected(&entry, &file.tensors()[tensor].spec))?;
            let bias = entry.bias.and_then(|bias| file.tensor_index(bias, layer));
            if let (Some(bias), Some(expected)) = (bias, entry.bias_spec()) {
                check(&file.tensors()[bias].spec, &expected)?;
            }
            found.insert((role, layer), Found { tensor, bias });
        }
        let known: HashSet<usize> =
            found.values().flat_map(|f| [Some(f.tensor), f.bias]).flatten().collect();
        match file.tensors().iter().enumerate().find(|(i, _)| !known.contains(i)) {
            Some((_, t)) => Err(format!("{} does not belong to this architecture", name(&t.spec))),
            None => Ok(Self { file, found }),
        }
    }

    fn find(&self, role: Role, layer: Option<u32>) -> Result<Found> {
        self.found.get(&(role, layer)).copied().ok_or_else(|| missing(role, layer))
    }

    /// A norm, if the model has it.
    fn norm(&self, role: Role, layer: Option<u32>) -> Option<Norm> {
        let Found { tensor, bias } = *self.found.get(&(role, layer))?;
        Some(Norm { weight: Vector(tensor), bias: bias.map(Vector) })
    }

    /// A norm that the model must have.
    fn required_norm(&self, role: Role, layer: Option<u32>) -> Result<Norm> {
        self.norm(role, layer).ok_or_else(|| missing(role, layer))
    }

    /// A vector, if the model has it.
    fn vector(&self, role: Role, layer: Option<u32>) -> Option<Vector> {
        Some(Vector(self.found.get(&(role, layer))?.tensor))
    }

    fn matrix(&self, role: Role, layer: Option<u32>) -> Result<Matrix> {
        let Found { tensor, bias } = self.find(role, layer)?;
        let spec = &self.file.tensors()[tensor].spec;
        let layout = spec.panels().ok_or_else(|| format!("{} has no panels", name(spec)))?;
        let (panels, k) = (layout.panels(), spec.stored[2] as usize);
        Ok(Matrix { tensor, panels, k, layout, bias })
    }

    fn attention(&self, layer: Option<u32>) -> Result<Attention> {
        Ok(Attention {
            qkv: self.matrix(Role::AttnQkv, layer)?,
            q_norm: self.norm(Role::AttnQNorm, layer),
            k_norm: self.norm(Role::AttnKNorm, layer),
            sinks: self.vector(Role::AttnSinks, layer),
            output: self.matrix(Role::AttnOutput, layer)?,
            latent: self.file.config().latent.as_ref().map(|_| self.latent(layer)).transpose()?,
        })
    }

    fn latent(&self, layer: Option<u32>) -> Result<LatentMatrices> {
        Ok(LatentMatrices {
            queries: self.matrix(Role::AttnQB, layer)?,
            keys: self.matrix(Role::AttnKB, layer)?,
            values: self.matrix(Role::AttnVB, layer)?,
        })
    }

    fn recurrent(&self, config: &Recurrent, layer: Option<u32>) -> Result<RecurrentMixer> {
        Ok(RecurrentMixer {
            config: config.clone(),
            input: self.matrix(Role::SsmIn, layer)?,
            conv: self.required_norm(Role::SsmConv, layer)?,
            a: self.vector(Role::SsmA, layer),
            dt_bias: self.vector(Role::SsmDtBias, layer),
            d: self.vector(Role::SsmD, layer),
            norm: self.vector(Role::SsmNorm, layer),
            output: self.matrix(Role::SsmOut, layer)?,
        })
    }

    fn layer(&self, layer: u32) -> Result<Layer> {
        let l = Some(layer);
        let dense = || {
            let (gate_up, down) =
                (self.matrix(Role::FfnGateUp, l)?, self.matrix(Role::FfnDown, l)?);
            Ok::<_, String>(Dense { gate_up, down })
        };
        let (config, index) = (self.file.config(), layer as usize);
        let ffn = match config.experts_of(index) {
            None if !config.has_ffn(index) => None,
            None => Some(Ffn::Dense(dense()?)),
            Some(e) => Some(Ffn::Experts(ExpertMatrices {
                router: Box::new(self.matrix(Role::FfnRouter, l)?),
                router_bias: self.vector(Role::FfnRouterBias, l),
                gate_up: self.matrix(Role::FfnGateUpExperts, l)?,
                down: self.matrix(Role::FfnDownExperts, l)?,
                shared: e.shared.as_ref().map(|_| dense().map(Box::new)).transpose()?,
                shared_gate: e
                    .shared
                    .as_ref()
                    .filter(|shared| shared.gate)
                    .map(|_| self.matrix(Role::FfnSharedGate, l).map(Box::new))
                    .transpose()?,
                scale: self.vector(Role::FfnExpertsScale, l),
                norms: e.separate_norms.then(|| self.expert_norms(l).map(Box::new)).transpose()?,
            })),
        };
        Ok(Layer {
            attn_norm: self.norm(Role::AttnNorm, l),
            attention: config.attends(index).then(|| self.attention(l)).transpose()?,
            recurrent: config.recurrent_of(index).map(|r| self.recurrent(r, l)).transpose()?,
            attn_post_norm: self.norm(Role::AttnPostNorm, l),
            ffn_norm: self.norm(Role::FfnNorm, l),
            ffn,
            ffn_post_norm: self.norm(Role::FfnPostNorm, l),
            embedding: (config.layer_embedding > 0).then(|| self.layer_embedding(l)).transpose()?,
            scale: self.vector(Role::LayerScale, l),
        })
    }

    fn expert_norms(&self, layer: Option<u32>) -> Result<ExpertNorms> {
        Ok(ExpertNorms {
            router: self.required_norm(Role::FfnRouterNorm, layer)?,
            input: self.required_norm(Role::FfnExpertsNorm, layer)?,
            shared_output: self.required_norm(Role::FfnSharedPostNorm, layer)?,
            output: self.required_norm(Role::FfnExpertsPostNorm, layer)?,
        })
    }

    fn layer_embedding(&self, layer: Option<u32>) -> Result<LayerEmbedding> {
        Ok(LayerEmbedding {
            gate: self.matrix(Role::LayerGate, layer)?,
            output: self.matrix(Role::LayerOut, layer)?,
            norm: self.required_norm(Role::LayerPostNorm, layer)?,
        })
    }

    fn layer_embeddings(&self) -> Result<LayerEmbeddings> {
        Ok(LayerEmbeddings {
            table: self.matrix(Role::LayerEmbd, None)?,
            projection: self.matrix(Role::LayerProj, None)?,
            norm: self.required_norm(Role::LayerProjNorm, None)?,
        })
    }
}

/// The spec that the schema requires of a tensor, with its own encodings where those are panel encodings.
fn expected(entry: &Entry, is: &TensorSpec) -> TensorSpec {
    let panels = |role| Some(is.encoding_of(role)).filter(|e| e.is_panel());
    entry.spec(|role| panels(role).unwrap_or(Encoding::F32Panel))
}

/// `tensor attn_qkv of layer 3`
fn name(spec: &TensorSpec) -> String {
    format!("tensor {}", spec.label())
}

fn missing(role: Role, layer: Option<u32>) -> String {
    let layer = layer.map_or(String::new(), |l| format!(" of layer {l}"));
    format!("tensor {}{layer} is missing", role.name())
}

/// Compares a tensor with its expected spec; the error names the first difference.
fn check(is: &TensorSpec, expected: &TensorSpec) -> Result<()> {
    if is == expected {
        return Ok(());
    }
    let (is_fields, expected_fields) = (fields(is), fields(expected));
    let mut differing = is_fields.iter().zip(&expected_fields).filter(|(a, b)| a.1 != b.1);
    let what = differing.next().map_or(String::new(), |((field, is), (_, expected))| {
        format!(" has {field} {is}, expected {expected}")
    });
    Err(format!("{}{what}", name(is)))
}

/// A spec's fields for error messages, the most informative first.
fn fields(spec: &TensorSpec) -> [(&'static str, String); 7] {
    let s = spec;
    let part = |p: &Part| {
        let (role, encoding) = (p.role.name(), p.encoding.name());
        format!("{} × {} rows of {role} ({} in total, {encoding})", p.count, p.rows, p.n)
    };
    let parts: Vec<String> = s.parts.iter().map(part).collect();
    [
        ("stored shape", format!("{:?}", s.stored)),
        ("encoding", s.encoding.name().into()),
        ("shape", format!("{:?}", s.logical)),
        ("rotation block", s.rotation.to_string()),
        ("inputs per activation scale", s.act_group.to_string()),
        ("blocks of inputs", format!("{:?}", s.k_unit)),
        ("parts", format!("{} × [{}]", s.repeat, parts.join(", "))),
    ]
}

impl Weights {
    /// Finds and checks every tensor. The error names the first mismatch.
    pub(crate) fn bind(file: &NanoFile) -> Result<Self> {
        let (config, b) = (file.config(), Binder::new(file)?);
        let token_embd = b.matrix(Role::TokenEmbd, None)?;
        let output =
            if config.tied_embeddings { token_embd } else { b.matrix(Role::Output, None)? };
        let embeds_layers = config.layer_embedding > 0;
        Ok(Self {
            token_embd,
            layer_embeddings: embeds_layers.then(|| b.layer_embeddings()).transpose()?,
            layers: (0..config.n_layers).map(|l| b.layer(l)).collect::<Result<_>>()?,
            output_norm: b.required_norm(Role::OutputNorm, None)?,
            output,
            rope_turns: b.find(Role::RopeTurns, None)?.tensor,
        })
    }

    /// Row of frequencies for each kind of RoPE, for a context of `capacity` positions.
    pub(crate) fn rope_rows(&self, config: &Config, capacity: usize) -> Vec<usize> {
        let mut first = 0;
        let row = |rope: &Rope| {
            let row = first + rope.row(capacity);
            first += rope.rows();
            row
        };
        config.ropes.iter().map(row).collect()
    }

    /// A row of RoPE frequencies: turns per position as fractions of 2⁶⁴.
    pub(crate) fn rope_turns<'f>(&self, file: &'f NanoFile, row: usize) -> &'f [u64] {
        let turns = &file.tensors()[self.rope_turns];
        let half = turns.spec.stored[2] as usize;
        &file.u64s(turns)[row * half..][..half]
    }
}

impl Attention {
    /// The projection of queries, if it is of the residual stream itself, in latent attention.
    pub(crate) fn queries_of_stream(&self) -> Option<&Matrix> {
        self.latent.as_ref().map(|latent| &latent.queries).filter(|_| self.q_norm.is_none())
    }
}

impl Layer {
    /// The factor of the residual stream behind the feed-forward part, if that ends the layer.
    pub(crate) fn scale_of_ffn(&self) -> Option<&Vector> {
        self.scale.as_ref().filter(|_| self.embedding.is_none())
    }

    /// The matrices by which the inputs of attention and recurrence are projected, and their outputs.
    pub(crate) fn projections(&self) -> impl Iterator<Item = [&Matrix; 2]> {
        let attention = self.attention.iter().map(|a| [&a.qkv, &a.output]);
        attention.chain(self.recurrent.iter().map(|r| [&r.input, &r.output]))
    }
}

impl Matrix {
    /// Panels `range` as runs of one encoding each, without copying.
    pub(crate) fn runs<'f>(
        &self,
        file: &'f NanoFile,
        range: Range<usize>,
    ) -> impl Iterator<Item = (Range<usize>, Panels<'f>)> {
        let tensor = &file.tensors()[self.tensor];
        self.layout.runs(range).map(move |run| {
            let panels = file.panels(tensor, &run);
            (run.panels, panels)
        })
    }

    /// Whether any panel uses int8 activations.
    pub(crate) fn needs_int8(&self) -> bool {
        self.layout.takes(ActType::Int8)
    }

    /// Whether any panel is trellis-coded.
    pub(crate) fn is_coded(&self) -> bool {
        self.layout.is_coded()
    }

    /// Whether any panel uses f32 activations.
    pub(crate) fn needs_f32(&self) -> bool {
        self.layout.takes(ActType::F32)
    }

    /// Biases of the rows of panels `range`; empty if the matrix has none.
    pub(crate) fn bias<'f>(&self, file: &'f NanoFile, range: Range<usize>) -> &'f [f32] {
        match self.bias {
            Some(bias) => &file.f32s(&file.tensors()[bias])[range.start * LANES..range.end * LANES],
            None => &[],
        }
    }
}

impl Norm {
    pub(crate) fn weight<'f>(&self, file: &'f NanoFile) -> &'f [f32] {
        self.weight.values(file)
    }

    /// Biases, one per weight; empty if there are none.
    pub(crate) fn bias<'f>(&self, file: &'f NanoFile) -> &'f [f32] {
        self.bias.map_or(&[], |bias| bias.values(file))
    }
}

impl Vector {
    pub(crate) fn values<'f>(&self, file: &'f NanoFile) -> &'f [f32] {
        file.f32s(&file.tensors()[self.0])
    }
}
