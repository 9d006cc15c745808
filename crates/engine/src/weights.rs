//! Binding: every tensor the forward pass needs is found, and its shape checked, once.

use std::ops::Range;

use nanoinfer_format::{Config, Encoding, GROUP, LANES, NanoFile, Quant, Role, Rope, Tensor, pad};

/// A panelled matrix of the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix {
    tensor: usize,
    /// Panels of 16 rows.
    pub panels: usize,
    /// Stored inputs.
    pub k: usize,
    encoding: Encoding,
    bias: Option<usize>,
}

/// A plain vector of the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vector(usize);

/// Weights of a norm.
#[derive(Clone, Copy)]
pub(crate) struct Norm {
    pub weight: Vector,
    pub bias: Option<Vector>,
}

/// One transformer layer. Which norms it has, the config says.
pub(crate) struct Layer {
    pub attn_norm: Option<Norm>,
    /// `[kv heads · (group + 2) · head, d_model]`
    pub attn_qkv: Matrix,
    /// `[head]`, or `[heads · head]` where one norm covers all heads
    pub attn_q_norm: Option<Norm>,
    /// `[head]` or `[kv heads · head]`
    pub attn_k_norm: Option<Norm>,
    /// `[d_model, heads · head]`
    pub attn_output: Matrix,
    pub attn_post_norm: Option<Norm>,
    pub ffn_norm: Option<Norm>,
    pub ffn: Ffn,
    pub ffn_post_norm: Option<Norm>,
}

/// The feed-forward part of a layer.
pub(crate) enum Ffn {
    Dense {
        /// `[2 · d_ff, d_model]`, alternating panels; `[d_ff, d_model]` without a gate
        gate_up: Matrix,
        /// `[d_model, d_ff]`
        down: Matrix,
    },
    Experts(ExpertMatrices),
}

/// A mixture of experts. The matrices of all experts lie one after the other.
pub(crate) struct ExpertMatrices {
    /// `[experts, d_model]`, f32 in every model
    pub router: Matrix,
    /// `experts × [2 · d_ff, d_model]`, alternating panels
    pub gate_up: Matrix,
    /// `experts × [d_model, d_ff]`
    pub down: Matrix,
}

/// All weights, as references into the mapped file.
pub(crate) struct Weights {
    /// `[vocab, d_model]`
    pub token_embd: Matrix,
    pub layers: Vec<Layer>,
    pub output_norm: Norm,
    /// `[vocab, d_model]`; the embedding itself when tied
    pub output: Matrix,
    rope_turns: usize,
}

/// A run of panels, as the kernels take them.
pub(crate) enum Panels<'a> {
    Q8(&'a [u8]),
    F32(&'a [f32]),
}

struct Binder<'a> {
    file: &'a NanoFile,
    config: &'a Config,
}

type Bound<T> = Result<T, String>;

impl Binder<'_> {
    fn find(&self, role: Role, layer: Option<u32>) -> Bound<(usize, &Tensor)> {
        let place = layer.map_or(String::new(), |l| format!(" of layer {l}"));
        let missing = || format!("tensor {}{place} is missing", role.name());
        let index = self.file.tensor_index(role, layer).ok_or_else(missing)?;
        Ok((index, &self.file.tensors()[index]))
    }

    fn vector(&self, role: Role, layer: Option<u32>, len: usize) -> Bound<Vector> {
        let (index, t) = self.find(role, layer)?;
        if t.spec.encoding != Encoding::F32 || t.spec.stored != [1, 1, len as u32] {
            return Err(mismatch(t, &format!("{len} f32 values")));
        }
        Ok(Vector(index))
    }

    fn norm(&self, role: Role, layer: Option<u32>, len: usize) -> Bound<Norm> {
        let weight = self.vector(role, layer, len)?;
        let has_bias = |bias: &Role| self.file.tensor(*bias, layer).is_some();
        let bias = bias_of(role).filter(has_bias);
        Ok(Norm { weight, bias: bias.map(|b| self.vector(b, layer, len)).transpose()? })
    }

    fn matrix(
        &self,
        role: Role,
        layer: Option<u32>,
        n: usize,
        k: usize,
        rotation: usize,
    ) -> Bound<Matrix> {
        self.stack(role, layer, [1, n, k], rotation)
    }

    /// The matrices `[n, k]` of several experts; of all but the router's encoding.
    fn stack(
        &self,
        role: Role,
        layer: Option<u32>,
        [experts, n, k]: [usize; 3],
        rotation: usize,
    ) -> Bound<Matrix> {
        let (tensor, t) = self.find(role, layer)?;
        let q8 = self.config.quant == Quant::Q8 && role != Role::FfnRouter;
        let encoding = if q8 { Encoding::Q8Panel } else { Encoding::F32Panel };
        let rotation = if q8 { rotation } else { 1 };
        let spec = &t.spec;
        if spec.encoding != encoding || spec.stored != [experts, n, k].map(|x| x as u32) {
            let shape = match experts {
                1 => format!("[{n}, {k}]"),
                _ => format!("[{experts}, {n}, {k}]"),
            };
            return Err(mismatch(t, &format!("{shape} {}", encoding.name())));
        }
        if spec.rotation as usize != rotation {
            return Err(mismatch(t, &format!("rotation block {rotation}")));
        }
        let bias = match bias_of(role) {
            Some(bias) if self.file.tensor(bias, layer).is_some() => {
                Some(self.vector(bias, layer, n)?.0)
            }
            _ => None,
        };
        Ok(Matrix { tensor, panels: experts * n / LANES, k, encoding, bias })
    }

    fn layer(&self, layer: u32) -> Bound<Layer> {
        let c = self.config;
        let (l, d, out) = (Some(layer), c.d_model_padded(), pad(c.d_model as usize, LANES));
        let heads = c.attn_out_inputs();
        let norm = |has: bool, role, len| has.then(|| self.norm(role, l, len)).transpose();
        let heads_norm = |role, n_heads| {
            let covered = c.qk_norm_heads(n_heads);
            norm(covered > 0, role, covered * c.head_padded())
        };
        Ok(Layer {
            attn_norm: norm(c.pre_norms(), Role::AttnNorm, d)?,
            attn_qkv: self.matrix(Role::AttnQkv, l, c.qkv_rows(), d, GROUP)?,
            attn_q_norm: heads_norm(Role::AttnQNorm, c.n_heads)?,
            attn_k_norm: heads_norm(Role::AttnKNorm, c.n_kv_heads)?,
            attn_output: self.matrix(Role::AttnOutput, l, out, heads, c.value_rotation as usize)?,
            attn_post_norm: norm(c.post_norms(), Role::AttnPostNorm, d)?,
            ffn_norm: norm(c.pre_norms(), Role::FfnNorm, d)?,
            ffn: self.ffn(layer)?,
            ffn_post_norm: norm(c.post_norms(), Role::FfnPostNorm, d)?,
        })
    }

    fn ffn(&self, layer: u32) -> Bound<Ffn> {
        let c = self.config;
        let (l, d, out) = (Some(layer), c.d_model_padded(), pad(c.d_model as usize, LANES));
        let Some(e) = c.experts_of(layer as usize) else {
            let ff = c.d_ff_padded();
            return Ok(Ffn::Dense {
                gate_up: self.matrix(Role::FfnGateUp, l, c.ffn_inputs() * ff, d, GROUP)?,
                down: self.matrix(Role::FfnDown, l, out, ff, GROUP)?,
            });
        };
        let (n, ff) = (e.n_experts as usize, e.d_ff_padded());
        Ok(Ffn::Experts(ExpertMatrices {
            router: self.matrix(Role::FfnRouter, l, e.router_rows(), d, GROUP)?,
            gate_up: self.stack(Role::FfnGateUpExperts, l, [n, 2 * ff, d], GROUP)?,
            down: self.stack(Role::FfnDownExperts, l, [n, out, ff], GROUP)?,
        }))
    }
}

fn bias_of(role: Role) -> Option<Role> {
    match role {
        Role::AttnQkv => Some(Role::AttnQkvBias),
        Role::AttnOutput => Some(Role::AttnOutputBias),
        Role::FfnGateUp => Some(Role::FfnGateUpBias),
        Role::FfnDown => Some(Role::FfnDownBias),
        Role::AttnNorm => Some(Role::AttnNormBias),
        Role::FfnNorm => Some(Role::FfnNormBias),
        Role::OutputNorm => Some(Role::OutputNormBias),
        _ => None,
    }
}

fn mismatch(t: &Tensor, expected: &str) -> String {
    let layer = t.spec.layer.map_or(String::new(), |l| format!(" of layer {l}"));
    let (role, encoding) = (t.spec.role.name(), t.spec.encoding.name());
    format!("tensor {role}{layer} is {:?} {encoding}, expected {expected}", t.spec.stored)
}

impl Weights {
    /// Finds and checks every tensor. The error says which one does not fit.
    pub(crate) fn bind(file: &NanoFile) -> Bound<Self> {
        let config = file.config();
        let b = Binder { file, config };
        let (d, vocab) = (config.d_model_padded(), config.vocab_padded());
        let token_embd = b.matrix(Role::TokenEmbd, None, vocab, d, GROUP)?;
        let (rope_turns, turns) = b.find(Role::RopeTurns, None)?;
        let (rows, half) = (config.rope_rows(), config.rotary_dim / 2);
        if turns.spec.encoding != Encoding::U64 || turns.spec.stored != [1, rows as u32, half] {
            return Err(mismatch(turns, &format!("{rows} × {half} u64 values")));
        }
        let output = match config.tied_embeddings {
            true => token_embd,
            false => b.matrix(Role::Output, None, vocab, d, GROUP)?,
        };
        Ok(Self {
            token_embd,
            layers: (0..config.n_layers).map(|l| b.layer(l)).collect::<Bound<_>>()?,
            output_norm: b.norm(Role::OutputNorm, None, d)?,
            output,
            rope_turns,
        })
    }

    /// Bytes of weights that a pass for one token reads: all, but of experts those the token goes
    /// to, and of an embedding that is not also the output layer only a row, which does not count.
    pub(crate) fn pass_bytes(&self, file: &NanoFile) -> u64 {
        let gathered = self.token_embd.tensor != self.output.tensor;
        let read = |t: &Tensor| file.config().read_bytes(t.spec.role, t.len);
        let all: u64 = file.tensors().iter().map(read).sum();
        let embedding = file.tensors()[self.token_embd.tensor].len;
        all - if gathered { embedding } else { 0 }
    }

    /// Where the RoPE frequencies of each kind are that a session with room for `capacity`
    /// positions uses.
    pub(crate) fn rope_rows(&self, config: &Config, capacity: usize) -> Vec<usize> {
        let mut first = 0;
        let row = |rope: &Rope| {
            let row = first + rope.row(capacity);
            first += rope.rows();
            row
        };
        config.ropes.iter().map(row).collect()
    }

    /// A row of RoPE frequencies, turns per position as fractions of 2⁶⁴.
    pub(crate) fn rope_turns<'f>(&self, file: &'f NanoFile, row: usize) -> &'f [u64] {
        let turns = &file.tensors()[self.rope_turns];
        let half = turns.spec.stored[2] as usize;
        &file.u64s(turns)[row * half..][..half]
    }
}

impl Matrix {
    /// Panels `range`, without copying.
    fn run<'f>(&self, file: &'f NanoFile, range: Range<usize>) -> Panels<'f> {
        let t = &file.tensors()[self.tensor];
        match self.encoding {
            Encoding::Q8Panel => {
                let panel = LANES * (self.k + 4);
                Panels::Q8(&file.bytes(t)[range.start * panel..range.end * panel])
            }
            _ => {
                let panel = LANES * self.k;
                Panels::F32(&file.f32s(t)[range.start * panel..range.end * panel])
            }
        }
    }

    /// Panels `range`, as runs of one encoding.
    pub(crate) fn runs<'f>(
        &self,
        file: &'f NanoFile,
        range: Range<usize>,
    ) -> impl Iterator<Item = (Range<usize>, Panels<'f>)> {
        std::iter::once((range.clone(), self.run(file, range)))
    }

    /// Whether panels are multiplied by int8 activations.
    pub(crate) fn needs_int8(&self) -> bool {
        self.encoding == Encoding::Q8Panel
    }

    /// Whether panels are multiplied by f32 activations.
    pub(crate) fn needs_f32(&self) -> bool {
        self.encoding == Encoding::F32Panel
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

    /// As many biases as weights, or none.
    pub(crate) fn bias<'f>(&self, file: &'f NanoFile) -> &'f [f32] {
        self.bias.map_or(&[], |bias| bias.values(file))
    }
}

impl Vector {
    pub(crate) fn values<'f>(&self, file: &'f NanoFile) -> &'f [f32] {
        file.f32s(&file.tensors()[self.0])
    }
}
