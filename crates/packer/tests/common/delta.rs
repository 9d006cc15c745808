//! What llama.cpp's converter does with the weights of models whose layers follow the gated delta rule.

use serde_json::Value;

/// A tensor: name, dimensions (outermost first), values.
type Tensor = (String, Vec<usize>, Vec<f32>);

/// The converter's replacements for these layers, before all others.
const NAMES: [(&str, &str); 19] = [
    ("linear_attn.in_proj_qkv.", "attn_qkv."),
    ("linear_attn.in_proj_z.", "attn_gate."),
    ("linear_attn.in_proj_ba.", "ssm_ba."),
    ("linear_attn.in_proj_b.", "ssm_beta."),
    ("linear_attn.in_proj_a.", "ssm_alpha."),
    ("linear_attn.conv1d", "ssm_conv1d"),
    ("linear_attn.A_log", "ssm_a"),
    ("linear_attn.dt_bias", "ssm_dt.bias"),
    ("linear_attn.norm", "ssm_norm"),
    ("linear_attn.out_proj", "ssm_out"),
    ("post_attention_layernorm", "post_attention_norm"),
    ("mlp.shared_expert_gate", "ffn_gate_inp_shexp"),
    ("mlp.shared_expert.gate_proj", "ffn_gate_shexp"),
    ("mlp.shared_expert.up_proj", "ffn_up_shexp"),
    ("mlp.shared_expert.down_proj", "ffn_down_shexp"),
    ("mlp.gate.", "ffn_gate_inp."),
    ("mlp.experts.gate_proj", "ffn_gate_exps.weight"),
    ("mlp.experts.up_proj", "ffn_up_exps.weight"),
    ("mlp.experts.down_proj", "ffn_down_exps.weight"),
];

/// The tensors that the converter for `architecture` makes of one in a model with settings `s`.
pub(crate) fn converted(architecture: &str, s: &Value, tensor: Tensor) -> Vec<Tensor> {
    if !["qwen35", "qwen35moe", "qwen3next"].contains(&architecture) {
        return vec![tensor];
    }
    let heads = Heads::of(s, architecture != "qwen3next");
    let all = heads.tensors(tensor).into_iter();
    all.map(|(name, dims, values)| {
        let name = NAMES.iter().fold(name, |name, (from, to)| name.replace(from, to));
        (name, dims, values)
    })
    .collect()
}

/// The heads of the delta rule.
struct Heads {
    keys: usize,
    key_dim: usize,
    per_key: usize,
    value_dim: usize,
    /// Whether the first head of each key comes first, then the second one of each.
    tiled: bool,
}

impl Heads {
    fn of(s: &Value, tiled: bool) -> Self {
        let size = |key: &str| s[key].as_u64().unwrap() as usize;
        let keys = size("linear_num_key_heads");
        Self {
            keys,
            key_dim: size("linear_key_head_dim"),
            per_key: size("linear_num_value_heads") / keys,
            value_dim: size("linear_value_head_dim"),
            tiled,
        }
    }

    fn tensors(&self, (name, mut dims, mut values): Tensor) -> Vec<Tensor> {
        let stem = name.strip_suffix(".weight").unwrap_or(&name);
        let end = stem.rsplit('.').next().unwrap();
        let qk = 2 * self.keys * self.key_dim;
        match end {
            "in_proj_qkv" => self.tile(&mut values, qk * dims[1], self.value_dim * dims[1]),
            "conv1d" => {
                dims.remove(1);
                self.tile(&mut values, qk * dims[1], self.value_dim * dims[1]);
            }
            "in_proj_z" => self.tile(&mut values, 0, self.value_dim * dims[1]),
            "in_proj_a" | "in_proj_b" => self.tile(&mut values, 0, dims[1]),
            "dt_bias" => self.tile(&mut values, 0, 1),
            "A_log" => {
                values.iter_mut().for_each(|x| *x = -f64::from(*x).exp() as f32);
                self.tile(&mut values, 0, 1);
            }
            "out_proj" => {
                values.chunks_mut(dims[1]).for_each(|row| self.tile(row, 0, self.value_dim));
            }
            "in_proj_qkvz" => return self.deinterleaved(&name, dims[1], &values),
            "shared_expert_gate" => drop(dims.remove(0)),
            "gate_up_proj" if stem.ends_with("mlp.experts.gate_up_proj") => {
                dims[1] /= 2;
                let half = dims[1] * dims[2];
                let part = |part: &str, at| {
                    let blocks = values.chunks(half).skip(at).step_by(2);
                    let name = name.replace("gate_up_proj", part);
                    (name, dims.clone(), blocks.flatten().copied().collect())
                };
                return vec![part("gate_proj", 0), part("up_proj", 1)];
            }
            _ => {}
        }
        vec![(name, dims, values)]
    }

    /// Sorts heads of `len` values, which begin at `from`, by their number within a key.
    fn tile(&self, values: &mut [f32], from: usize, len: usize) {
        if self.tiled {
            let grouped = values[from..].to_vec();
            let tiled = (0..self.per_key).flat_map(|v| (0..self.keys).map(move |key| (key, v)));
            for ((key, v), to) in tiled.zip(values[from..].chunks_mut(len)) {
                to.copy_from_slice(&grouped[(key * self.per_key + v) * len..][..len]);
            }
        }
    }

    /// Queries, keys and values of all heads, and their gates, of rows that are grouped by key.
    fn deinterleaved(&self, name: &str, k: usize, values: &[f32]) -> Vec<Tensor> {
        let v = self.per_key * self.value_dim;
        let unit = 2 * self.key_dim + 2 * v;
        let block = |from: usize, rows: usize| {
            values.chunks(unit * k).flat_map(move |unit| unit[from * k..][..rows * k].to_vec())
        };
        let [query, key] = [0, self.key_dim].map(|from| block(from, self.key_dim));
        let [value, gate] = [2 * self.key_dim, 2 * self.key_dim + v].map(|from| block(from, v));
        let tensor = |part: &str, values: Vec<f32>| {
            (name.replace("in_proj_qkvz", part), vec![values.len() / k, k], values)
        };
        vec![
            tensor("in_proj_qkv", query.chain(key).chain(value).collect()),
            tensor("in_proj_z", gate.collect()),
        ]
    }
}
