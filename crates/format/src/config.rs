//! What an architecture is, as data: the forward pass reads this and never asks for a model's name.

use serde::{Deserialize, Serialize};

use crate::{GROUP, LANES, Role, pad};

/// How the weights of linear layers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quant {
    /// 32-bit floats, nothing rotated: the reference that published implementations are compared to.
    F32,
    /// 8-bit integers in the Hadamard domain, one scale per output channel.
    Q8,
}

impl Quant {
    /// `f32` or `q8`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Q8 => "q8",
        }
    }
}

/// What a norm computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Norm {
    /// x / √(mean x² + ε) · w (Zhang and Sennrich, 2019).
    Rms,
    /// (x − mean x) / √(variance x + ε) · w + b (Ba et al., 2016).
    Layer,
}

/// Where the norms of a layer stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NormPlace {
    /// On the inputs of attention and feed-forward: x + f(norm(x)).
    Pre,
    /// On their outputs: x + norm(f(x)).
    Post,
    /// On both: x + norm(f(norm(x))).
    Both,
}

/// RMSNorm of queries and keys, before they are rotated by their positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QkNorm {
    /// There is none.
    None,
    /// Each head by itself.
    Head,
    /// All heads of a token together.
    Full,
}

/// The function between the matrices of the feed-forward part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// x / (1 + e⁻ˣ)
    Silu,
    /// x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³))), which GELU is computed by.
    Gelu,
}

/// A kind of rotary position embedding: rows of the tensor `rope_turns`, one for each range of
/// the room a session has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rope {
    /// Factor on cosine and sine.
    pub magnitude: f64,
    /// Sessions with room for at most so many positions use the row with this index, ascending;
    /// those with more use the row after the last of them.
    pub limits: Vec<u32>,
}

impl Rope {
    /// Rows of `rope_turns`.
    pub fn rows(&self) -> usize {
        self.limits.len() + 1
    }

    /// Which of them a session with room for `capacity` positions uses.
    pub fn row(&self, capacity: usize) -> usize {
        self.limits.partition_point(|&limit| (limit as usize) < capacity)
    }
}

/// Which of a token's experts its router's softmax covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouterSoftmax {
    /// All; the weights of the chosen ones sum to less than 1.
    All,
    /// The chosen ones. The same as over all and then divided by the sum of the chosen.
    Chosen,
}

/// A mixture of experts (Shazeer et al., 2017) in place of one feed-forward part: a router scores
/// all experts for each token, and the outputs of those with the largest scores are added, each
/// times the softmax of its score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experts {
    /// Experts of a layer.
    pub n_experts: u32,
    /// Those a token goes to.
    pub experts_per_token: u32,
    /// Width of the hidden layer of one expert.
    pub d_ff: u32,
    /// What the weights are a softmax over.
    pub router_softmax: RouterSoftmax,
    /// Per layer: whether it has experts. The others have one feed-forward part, as in a model
    /// without experts.
    pub layers: Vec<bool>,
}

/// Architecture of a decoder-only transformer. All sizes are logical (unpadded) counts.
///
/// Stored as canonical JSON: fields in this order, no white space. Unknown fields are refused,
/// because a model that needs a feature this engine does not know would give wrong answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Family the packer recognised, for people: `llama`, `qwen3`. Printable ASCII without
    /// blanks, at most 64 characters.
    pub architecture: String,
    /// Encoding of the linear layers.
    pub quant: Quant,
    /// Transformer layers.
    pub n_layers: u32,
    /// Width of the residual stream.
    pub d_model: u32,
    /// Width of the feed-forward hidden layer, of layers without experts.
    pub d_ff: u32,
    /// Query heads.
    pub n_heads: u32,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: u32,
    /// Width of one head; even.
    pub head_dim: u32,
    /// Token ids the output layer scores.
    pub vocab_size: u32,
    /// Positions the model was trained for.
    pub context_length: u32,
    /// What all norms compute, those of queries and keys excepted.
    pub norm: Norm,
    /// Where those of a layer stand.
    pub norm_place: NormPlace,
    /// ε of all norms.
    pub norm_eps: f64,
    /// Norms of queries and keys.
    pub qk_norm: QkNorm,
    /// Factor on q·k before the softmax, usually 1/√head_dim.
    pub attention_scale: f64,
    /// Scores s become c·tanh(s/c), c being this; 0 = as they are.
    pub attention_softcap: f64,
    /// Activation of the feed-forward part.
    pub activation: Activation,
    /// down(act(gate x) · up x) if true, down(act(up x)) if not.
    pub gated: bool,
    /// Factor on token embeddings as they enter the first layer.
    pub embedding_scale: f64,
    /// Factor on logits.
    pub logit_scale: f64,
    /// Logits z, scaled, become c·tanh(z/c), c being this; 0 = as they are.
    pub logit_softcap: f64,
    /// RoPE base. Informative: the frequencies themselves, scaling included, are a tensor.
    pub rope_theta: f64,
    /// Values of a head that RoPE rotates, the first ones; even.
    pub rotary_dim: u32,
    /// The kinds of RoPE the model has; at least one.
    pub ropes: Vec<Rope>,
    /// Per layer: its kind of RoPE, from 1; 0 = none.
    pub layer_ropes: Vec<u32>,
    /// The output layer is the token embedding.
    pub tied_embeddings: bool,
    /// Block of the Hadamard rotation folded into W_v and expected by W_o's input; 1 = none.
    pub value_rotation: u32,
    /// Per layer: how many positions back attention sees, itself included; 0 = all.
    pub windows: Vec<u32>,
    /// Experts, if some layers have them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experts: Option<Experts>,
}

/// A config or generation default that no model can have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("config: {field} is {value}, expected {expected}")]
pub struct ConfigError {
    /// Field at fault.
    pub field: &'static str,
    /// Its value.
    pub value: String,
    /// What would be right.
    pub expected: &'static str,
}

/// Largest width, vocabulary or head count accepted: keeps every product of two sizes within u64.
const MAX_DIM: u32 = 1 << 24;
const MAX_LAYERS: u32 = 1 << 14;
const MAX_ROPES: usize = 16;
const MAX_LIMITS: usize = 64;
const MAX_EXPERTS: u32 = 1 << 12;
const MAX_EXPERTS_PER_TOKEN: u32 = 64;
/// Hidden values of all experts of a layer: four times what the largest published models have.
const MAX_EXPERTS_WIDTH: u64 = 1 << 22;

impl Config {
    /// What a plain Llama has, to say the sizes of and whatever a model has otherwise:
    /// `Config { d_model, d_ff, …, ..Config::llama(n_layers, head_dim) }`. Sizes not given here are 0.
    pub fn llama(n_layers: u32, head_dim: u32) -> Self {
        let entries = n_layers.min(MAX_LAYERS) as usize; // more are refused by `validate`
        Self {
            architecture: "llama".into(),
            quant: Quant::F32,
            n_layers,
            d_model: 0,
            d_ff: 0,
            n_heads: 0,
            n_kv_heads: 0,
            head_dim,
            vocab_size: 0,
            context_length: 0,
            norm: Norm::Rms,
            norm_place: NormPlace::Pre,
            norm_eps: 1e-5,
            qk_norm: QkNorm::None,
            attention_scale: 1.0 / f64::from(head_dim).sqrt(),
            attention_softcap: 0.0,
            activation: Activation::Silu,
            gated: true,
            embedding_scale: 1.0,
            logit_scale: 1.0,
            logit_softcap: 0.0,
            rope_theta: 10000.0,
            rotary_dim: head_dim,
            ropes: vec![Rope { magnitude: 1.0, limits: Vec::new() }],
            layer_ropes: vec![1; entries],
            tied_embeddings: false,
            value_rotation: 1,
            windows: vec![0; entries],
            experts: None,
        }
    }

    /// Checks that the sizes fit each other and that no product of them can overflow.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let err = |field, value: &dyn ToString, expected| {
            Err(ConfigError { field, value: value.to_string(), expected })
        };
        let name = &self.architecture;
        if name.is_empty() || name.len() > 64 || !name.bytes().all(|b| b.is_ascii_graphic()) {
            let shown: String = name.escape_default().take(80).collect();
            return err("architecture", &shown, "1 to 64 printable ASCII characters");
        }
        let sizes = [
            ("d_model", self.d_model, MAX_DIM),
            ("d_ff", self.d_ff, MAX_DIM),
            ("n_heads", self.n_heads, 1 << 12),
            ("n_kv_heads", self.n_kv_heads, 1 << 12),
            ("head_dim", self.head_dim, 1 << 12),
            ("vocab_size", self.vocab_size, MAX_DIM),
            ("context_length", self.context_length, 1 << 30),
            ("n_layers", self.n_layers, MAX_LAYERS),
        ];
        for (field, value, max) in sizes {
            if value == 0 || value > max {
                return err(
                    field,
                    &value,
                    "a size within the format's limits (see docs/FORMAT.md)",
                );
            }
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return err("n_kv_heads", &self.n_kv_heads, "a divisor of n_heads");
        }
        if !self.head_dim.is_multiple_of(2) {
            return err("head_dim", &self.head_dim, "an even number");
        }
        self.check_numbers()?;
        self.check_ropes()?;
        let r = self.value_rotation;
        if !(r.is_power_of_two() && r <= GROUP as u32 && self.head_dim.is_multiple_of(r)) {
            return err("value_rotation", &r, "a power of two up to 64 that divides head_dim");
        }
        if self.quant == Quant::F32 && r != 1 {
            return err("value_rotation", &r, "1 in an f32 file");
        }
        if self.windows.len() != self.n_layers as usize {
            return err("windows", &self.windows.len(), "one entry per layer");
        }
        self.check_experts()
    }

    fn check_experts(&self) -> Result<(), ConfigError> {
        let err = |field, value: &dyn ToString, expected| {
            Err(ConfigError { field, value: value.to_string(), expected })
        };
        let Some(e) = &self.experts else { return Ok(()) };
        if self.norm_place != NormPlace::Pre || !self.gated {
            return err("experts", &"there", "none without a gate or with other norms than pre");
        }
        if e.n_experts == 0 || e.n_experts > MAX_EXPERTS {
            return err("experts.n_experts", &e.n_experts, "1 to 4096");
        }
        let k = e.experts_per_token;
        if k == 0 || k > e.n_experts.min(MAX_EXPERTS_PER_TOKEN) {
            return err("experts.experts_per_token", &k, "1 to 64 of the experts");
        }
        if e.d_ff == 0 || u64::from(e.d_ff) * u64::from(e.n_experts) > MAX_EXPERTS_WIDTH {
            return err("experts.d_ff", &e.d_ff, "at least 1, and at most 2^22 over all experts");
        }
        if e.layers.len() != self.n_layers as usize || !e.layers.contains(&true) {
            return err("experts.layers", &e.layers.len(), "one entry per layer, one true");
        }
        Ok(())
    }

    fn check_numbers(&self) -> Result<(), ConfigError> {
        let fits = |value: f64| value.is_finite() && value > 0.0 && (value as f32).is_normal();
        for (field, value, may_be_zero) in [
            ("norm_eps", self.norm_eps, false),
            ("attention_scale", self.attention_scale, false),
            ("attention_softcap", self.attention_softcap, true),
            ("embedding_scale", self.embedding_scale, false),
            ("logit_scale", self.logit_scale, false),
            ("logit_softcap", self.logit_softcap, true),
            ("rope_theta", self.rope_theta, false),
        ] {
            if !(fits(value) || may_be_zero && value == 0.0) {
                let expected =
                    if may_be_zero { "0 or a positive number" } else { "a positive finite number" };
                return Err(ConfigError { field, value: value.to_string(), expected });
            }
        }
        Ok(())
    }

    fn check_ropes(&self) -> Result<(), ConfigError> {
        let err = |field, value: &dyn ToString, expected| {
            Err(ConfigError { field, value: value.to_string(), expected })
        };
        let r = self.rotary_dim;
        if r == 0 || !r.is_multiple_of(2) || r > self.head_dim {
            return err("rotary_dim", &r, "an even number from 2 to head_dim");
        }
        if self.ropes.is_empty() || self.ropes.len() > MAX_ROPES {
            return err("ropes", &self.ropes.len(), "1 to 16 kinds of RoPE");
        }
        for Rope { magnitude, limits } in &self.ropes {
            if !(*magnitude > 0.0 && magnitude.is_finite() && (*magnitude as f32).is_normal()) {
                return err("ropes.magnitude", magnitude, "a positive finite number");
            }
            if limits.len() > MAX_LIMITS || !limits.is_sorted_by(|a, b| a < b) {
                return err("ropes.limits", &limits.len(), "at most 64 ascending numbers");
            }
        }
        if self.layer_ropes.len() != self.n_layers as usize {
            return err("layer_ropes", &self.layer_ropes.len(), "one entry per layer");
        }
        match self.layer_ropes.iter().find(|&&kind| kind as usize > self.ropes.len()) {
            Some(kind) => err("layer_ropes", kind, "at most the number of ropes"),
            None => Ok(()),
        }
    }

    /// Whether a layer normalises the inputs of attention and feed-forward.
    pub fn pre_norms(&self) -> bool {
        self.norm_place != NormPlace::Post
    }

    /// Whether a layer normalises their outputs.
    pub fn post_norms(&self) -> bool {
        self.norm_place != NormPlace::Pre
    }

    /// Rows of `rope_turns`: those of each kind of RoPE, one kind after the other.
    pub fn rope_rows(&self) -> usize {
        self.ropes.iter().map(Rope::rows).sum()
    }

    /// Heads whose queries (or keys) one norm covers; 0 = there is no such norm.
    pub fn qk_norm_heads(&self, heads: u32) -> usize {
        match self.qk_norm {
            QkNorm::None => 0,
            QkNorm::Head => 1,
            QkNorm::Full => heads as usize,
        }
    }

    /// Matrices that the input of the feed-forward part meets: gate and up, or up alone.
    pub fn ffn_inputs(&self) -> usize {
        if self.gated { 2 } else { 1 }
    }

    /// The experts of a layer, if it has them.
    pub fn experts_of(&self, layer: usize) -> Option<&Experts> {
        self.experts.as_ref().filter(|e| e.layers.get(layer) == Some(&true))
    }

    /// Of the bytes of a tensor, those that a pass of one token reads: of experts, the chosen ones.
    pub fn read_bytes(&self, role: Role, bytes: u64) -> u64 {
        match (&self.experts, role) {
            (Some(e), Role::FfnGateUpExperts | Role::FfnDownExperts) => {
                bytes / u64::from(e.n_experts) * u64::from(e.experts_per_token)
            }
            _ => bytes,
        }
    }

    /// Query heads that share one key/value head.
    pub fn group(&self) -> usize {
        (self.n_heads / self.n_kv_heads) as usize
    }

    /// `d_model` padded to whole activation groups: the stride of the residual stream.
    pub fn d_model_padded(&self) -> usize {
        pad(self.d_model as usize, GROUP)
    }

    /// `d_ff` padded to whole activation groups.
    pub fn d_ff_padded(&self) -> usize {
        pad(self.d_ff as usize, GROUP)
    }

    /// `head_dim` padded to whole panels: every head starts a panel.
    pub fn head_padded(&self) -> usize {
        pad(self.head_dim as usize, LANES)
    }

    /// Rows of the fused QKV tensor: per KV head its query group, K and V, each head padded.
    pub fn qkv_rows(&self) -> usize {
        self.n_kv_heads as usize * (self.group() + 2) * self.head_padded()
    }

    /// Inputs of the attention output projection: padded heads, padded to whole groups.
    pub fn attn_out_inputs(&self) -> usize {
        pad(self.n_heads as usize * self.head_padded(), GROUP)
    }

    /// Vocabulary rows, padded to whole panels.
    pub fn vocab_padded(&self) -> usize {
        pad(self.vocab_size as usize, LANES)
    }

    /// The largest Hadamard block the values of one head can be rotated by.
    pub fn largest_value_rotation(head_dim: u32) -> u32 {
        (1 << head_dim.trailing_zeros()).min(GROUP as u32)
    }
}

impl Experts {
    /// `d_ff` padded to whole activation groups.
    pub fn d_ff_padded(&self) -> usize {
        pad(self.d_ff as usize, GROUP)
    }

    /// Experts, padded to whole panels: outputs of the router.
    pub fn router_rows(&self) -> usize {
        pad(self.n_experts as usize, LANES)
    }
}

/// Defaults for generating text, from the source's `generation_config.json` and tokenizer config.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Generation {
    /// Token that begins a sequence.
    pub bos: Option<u32>,
    /// Raw prompts get `bos` in front.
    pub add_bos: bool,
    /// Tokens that end an answer.
    pub eos: Vec<u32>,
    /// The model's own sampling temperature; absent means greedy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Keep the k most likely tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// Keep the smallest set of tokens with this much probability.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// Keep tokens at least this likely relative to the best one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f64>,
    /// Divide the logit of seen tokens by this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f64>,
}

impl Generation {
    /// Checks that the tokens exist and that each setting is in its range.
    pub fn validate(&self, vocab_size: u32) -> Result<(), ConfigError> {
        let err = |field, value: &dyn ToString, expected| {
            Err(ConfigError { field, value: value.to_string(), expected })
        };
        let tokens = self.bos.iter().map(|id| ("bos", id));
        for (field, id) in tokens.chain(self.eos.iter().map(|id| ("eos", id))) {
            if *id >= vocab_size {
                return err(field, id, "a token below vocab_size");
            }
        }
        let settings = [
            ("temperature", self.temperature, 0.0..=1e6, "0 to 1000000"),
            ("top_p", self.top_p, 0.0..=1.0, "0 to 1"),
            ("min_p", self.min_p, 0.0..=1.0, "0 to 1"),
            ("repetition_penalty", self.repetition_penalty, 1e-6..=1e6, "0.000001 to 1000000"),
        ];
        for (field, value, range, expected) in settings {
            if let Some(value) = value.filter(|v| !range.contains(v)) {
                return err(field, &value, expected);
            }
        }
        Ok(())
    }
}
