//! Binding: every tensor the forward pass needs is found, and its shape checked, once.

use std::ops::Range;

use nanoinfer_format::{Config, Encoding, GROUP, LANES, NanoFile, Quant, Role, Tensor, pad};

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

/// One transformer layer.
pub(crate) struct Layer {
    pub attn_norm: Vector,
    /// `[kv heads · (group + 2) · head, d_model]`
    pub attn_qkv: Matrix,
    /// `[d_model, heads · head]`
    pub attn_output: Matrix,
    pub ffn_norm: Vector,
    /// `[2 · d_ff, d_model]`, alternating panels
    pub ffn_gate_up: Matrix,
    /// `[d_model, d_ff]`
    pub ffn_down: Matrix,
}

/// All weights, as references into the mapped file.
pub(crate) struct Weights {
    /// `[vocab, d_model]`
    pub token_embd: Matrix,
    pub layers: Vec<Layer>,
    pub output_norm: Vector,
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

    fn matrix(
        &self,
        role: Role,
        layer: Option<u32>,
        n: usize,
        k: usize,
        rotation: usize,
    ) -> Bound<Matrix> {
        let (tensor, t) = self.find(role, layer)?;
        let q8 = self.config.quant == Quant::Q8;
        let encoding = if q8 { Encoding::Q8Panel } else { Encoding::F32Panel };
        let rotation = if q8 { rotation } else { 1 };
        let spec = &t.spec;
        if spec.encoding != encoding || spec.stored != [1, n as u32, k as u32] {
            return Err(mismatch(t, &format!("[{n}, {k}] {}", encoding.name())));
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
        Ok(Matrix { tensor, panels: n / LANES, k, encoding, bias })
    }

    fn layer(&self, layer: u32) -> Bound<Layer> {
        let c = self.config;
        let (l, d, out) = (Some(layer), c.d_model_padded(), pad(c.d_model as usize, LANES));
        let (heads, ff) = (c.attn_out_inputs(), c.d_ff_padded());
        Ok(Layer {
            attn_norm: self.vector(Role::AttnNorm, l, d)?,
            attn_qkv: self.matrix(Role::AttnQkv, l, c.qkv_rows(), d, GROUP)?,
            attn_output: self.matrix(Role::AttnOutput, l, out, heads, c.value_rotation as usize)?,
            ffn_norm: self.vector(Role::FfnNorm, l, d)?,
            ffn_gate_up: self.matrix(Role::FfnGateUp, l, 2 * ff, d, GROUP)?,
            ffn_down: self.matrix(Role::FfnDown, l, out, ff, GROUP)?,
        })
    }
}

fn bias_of(role: Role) -> Option<Role> {
    match role {
        Role::AttnQkv => Some(Role::AttnQkvBias),
        Role::AttnOutput => Some(Role::AttnOutputBias),
        Role::FfnGateUp => Some(Role::FfnGateUpBias),
        Role::FfnDown => Some(Role::FfnDownBias),
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
        if turns.spec.encoding != Encoding::U64 || turns.spec.stored != [1, 1, config.head_dim / 2]
        {
            return Err(mismatch(turns, &format!("{} u64 values", config.head_dim / 2)));
        }
        let output = match config.tied_embeddings {
            true => token_embd,
            false => b.matrix(Role::Output, None, vocab, d, GROUP)?,
        };
        Ok(Self {
            token_embd,
            layers: (0..config.n_layers).map(|l| b.layer(l)).collect::<Bound<_>>()?,
            output_norm: b.vector(Role::OutputNorm, None, d)?,
            output,
            rope_turns,
        })
    }

    /// Bytes of weights that a pass for one token reads: all, but of an embedding that is not also
    /// the output layer only a row, which does not count.
    pub(crate) fn pass_bytes(&self, file: &NanoFile) -> u64 {
        let gathered = self.token_embd.tensor != self.output.tensor;
        let all: u64 = file.tensors().iter().map(|t| t.len).sum();
        let embedding = file.tensors()[self.token_embd.tensor].len;
        all - if gathered { embedding } else { 0 }
    }

    /// RoPE frequencies, turns per position as fractions of 2⁶⁴.
    pub(crate) fn rope_turns<'f>(&self, file: &'f NanoFile) -> &'f [u64] {
        file.u64s(&file.tensors()[self.rope_turns])
    }
}

impl Matrix {
    /// Panels `range`, without copying.
    pub(crate) fn run<'f>(&self, file: &'f NanoFile, range: Range<usize>) -> Panels<'f> {
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

    /// Biases of the rows of panels `range`; empty if the matrix has none.
    pub(crate) fn bias<'f>(&self, file: &'f NanoFile, range: Range<usize>) -> &'f [f32] {
        match self.bias {
            Some(bias) => &file.f32s(&file.tensors()[bias])[range.start * LANES..range.end * LANES],
            None => &[],
        }
    }
}

impl Vector {
    pub(crate) fn values<'f>(&self, file: &'f NanoFile) -> &'f [f32] {
        file.f32s(&file.tensors()[self.0])
    }
}
