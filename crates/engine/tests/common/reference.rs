//! Llama in f64 with plain loops, and random models of any shape, written as Hugging Face folders.
//! Shares nothing with the engine, not even a memory layout.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

/// A model's shape and biases.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) d: usize,
    pub(crate) d_ff: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) vocab: usize,
    pub(crate) layers: usize,
    pub(crate) tied: bool,
    /// Which of the matrices `q k v o gate up down` have a bias.
    pub(crate) biases: &'static [&'static str],
}

const EPS: f64 = 1e-5;
const THETA: f64 = 10_000.0;

/// A matrix (or a vector, with one column): rows, columns, values in row-major order.
type Tensor = (usize, usize, Vec<f32>);

/// A model with random weights.
pub(crate) struct Reference {
    pub(crate) shape: Shape,
    tensors: BTreeMap<String, Tensor>,
}

/// Uniform in −1…1, reproducible on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

impl Reference {
    pub(crate) fn new(shape: Shape, seed: u64) -> Self {
        let mut random = Random(seed);
        let mut tensors = BTreeMap::new();
        let mut add = |name: String, (rows, columns): (usize, usize), base: f32, spread: f32| {
            let values = (0..rows * columns).map(|_| base + spread * random.next()).collect();
            tensors.insert(name, (rows, columns, values));
        };
        let (d, ff) = (shape.d, shape.d_ff);
        let (q, kv) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        // Logits with a standard deviation of about 1, like those of the goldens.
        let logit = (3.0 / d as f32).sqrt();
        add("model.embed_tokens.weight".into(), (shape.vocab, d), 0.0, logit);
        add("model.norm.weight".into(), (d, 1), 1.0, 0.3);
        if !shape.tied {
            add("lm_head.weight".into(), (shape.vocab, d), 0.0, logit);
        }
        for layer in 0..shape.layers {
            let name = |part: &str, kind: &str| format!("model.layers.{layer}.{part}.{kind}");
            add(name("input_layernorm", "weight"), (d, 1), 1.0, 0.3);
            add(name("post_attention_layernorm", "weight"), (d, 1), 1.0, 0.3);
            for (part, rows, columns) in [
                ("self_attn.q_proj", q, d),
                ("self_attn.k_proj", kv, d),
                ("self_attn.v_proj", kv, d),
                ("self_attn.o_proj", d, q),
                ("mlp.gate_proj", ff, d),
                ("mlp.up_proj", ff, d),
                ("mlp.down_proj", d, ff),
            ] {
                // Keeps outputs at about the magnitude of the inputs.
                add(name(part, "weight"), (rows, columns), 0.0, (3.0 / columns as f32).sqrt());
                let short = part.split(['.', '_']).nth_back(1).expect("a name with two parts");
                // Attention has all biases or none: unrequested ones are zero.
                let has = shape.biases.contains(&short);
                if has || part.starts_with("self_attn") && !shape.biases.is_empty() {
                    add(name(part, "bias"), (rows, 1), 0.0, if has { 0.5 } else { 0.0 });
                }
            }
        }
        Self { shape, tensors }
    }

    /// Writes the model as a Hugging Face folder.
    pub(crate) fn write(&self, folder: &Path) {
        let s = &self.shape;
        let config = json!({
            "model_type": "llama", "hidden_size": s.d, "intermediate_size": s.d_ff,
            "num_attention_heads": s.heads, "num_key_value_heads": s.kv_heads,
            "head_dim": s.head_dim, "vocab_size": s.vocab, "num_hidden_layers": s.layers,
            "max_position_embeddings": 512, "tie_word_embeddings": s.tied, "rms_norm_eps": EPS,
            "rope_theta": THETA, "hidden_act": "silu",
            "attention_bias": s.biases.contains(&"v"), "mlp_bias": s.biases.contains(&"up"),
        });
        std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
        let (mut header, mut data) = (serde_json::Map::new(), Vec::<u8>::new());
        for (name, (rows, columns, values)) in &self.tensors {
            let begin = data.len();
            data.extend(values.iter().flat_map(|v| v.to_le_bytes()));
            let shape = if *columns == 1 { vec![rows] } else { vec![rows, columns] };
            let offsets = [begin, data.len()];
            let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": offsets});
            header.insert(name.clone(), entry);
        }
        let header = serde_json::Value::Object(header).to_string();
        let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
        std::fs::write(folder.join("model.safetensors"), file).unwrap();
    }

    /// `W x + b`.
    fn linear(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let (rows, columns, w) = &self.tensors[&format!("{name}.weight")];
        let bias = self.tensors.get(&format!("{name}.bias"));
        let mut y = vec![0.0; *rows];
        for (i, y) in y.iter_mut().enumerate() {
            *y = bias.map_or(0.0, |(_, _, b)| f64::from(b[i]));
            for j in 0..*columns {
                *y += f64::from(w[i * columns + j]) * x[j];
            }
        }
        y
    }

    fn norm(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let (_, _, w) = &self.tensors[&format!("{name}.weight")];
        let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        x.iter().zip(w).map(|(x, w)| x / (mean + EPS).sqrt() * f64::from(*w)).collect()
    }

    /// Rotates the pairs (i, i + half) of every head by their angle at `position`.
    fn rope(&self, x: &mut [f64], position: usize) {
        let half = self.shape.head_dim / 2;
        for head in x.chunks_mut(self.shape.head_dim) {
            for i in 0..half {
                let frequency = THETA.powf(-2.0 * i as f64 / self.shape.head_dim as f64);
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                let (a, b) = (head[i], head[i + half]);
                head[i] = a * cos - b * sin;
                head[i + half] = b * cos + a * sin;
            }
        }
    }

    /// Logits after every token.
    pub(crate) fn logits(&self, ids: &[u32]) -> Vec<Vec<f32>> {
        let (_, d, table) = &self.tensors["model.embed_tokens.weight"];
        let row = |id: &u32| &table[*id as usize * d..][..*d];
        let mut x: Vec<Vec<f64>> =
            ids.iter().map(|id| row(id).iter().map(|v| f64::from(*v)).collect()).collect();
        for layer in 0..self.shape.layers {
            self.layer(&format!("model.layers.{layer}"), &mut x);
        }
        let head = if self.shape.tied { "model.embed_tokens" } else { "lm_head" };
        let last = |x: &Vec<f64>| self.linear(head, &self.norm("model.norm", x));
        x.iter().map(|x| last(x).into_iter().map(|v| v as f32).collect()).collect()
    }

    fn layer(&self, name: &str, x: &mut [Vec<f64>]) {
        let part = |part: &str| format!("{name}.{part}");
        let mut q = Vec::new();
        let mut k = Vec::new();
        let mut v = Vec::new();
        for (position, x) in x.iter().enumerate() {
            let normed = self.norm(&part("input_layernorm"), x);
            q.push(self.linear(&part("self_attn.q_proj"), &normed));
            k.push(self.linear(&part("self_attn.k_proj"), &normed));
            v.push(self.linear(&part("self_attn.v_proj"), &normed));
            self.rope(&mut q[position], position);
            self.rope(&mut k[position], position);
        }
        for (position, x) in x.iter_mut().enumerate() {
            let attended = self.attention(&q[position], &k[..=position], &v[..=position]);
            add(x, &self.linear(&part("self_attn.o_proj"), &attended));
            let normed = self.norm(&part("post_attention_layernorm"), x);
            let gate = self.linear(&part("mlp.gate_proj"), &normed);
            let up = self.linear(&part("mlp.up_proj"), &normed);
            let hidden: Vec<f64> =
                gate.iter().zip(&up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
            add(x, &self.linear(&part("mlp.down_proj"), &hidden));
        }
    }

    fn attention(&self, q: &[f64], k: &[Vec<f64>], v: &[Vec<f64>]) -> Vec<f64> {
        let s = &self.shape;
        let n = s.head_dim;
        let mut out = vec![0.0; s.heads * n];
        for head in 0..s.heads {
            let at = head / (s.heads / s.kv_heads) * n;
            let q = &q[head * n..][..n];
            let score = |k: &Vec<f64>| {
                q.iter().zip(&k[at..]).map(|(q, k)| q * k).sum::<f64>() / (n as f64).sqrt()
            };
            let scores: Vec<f64> = k.iter().map(score).collect();
            let max = scores.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
            for (score, v) in scores.iter().zip(v) {
                let weight = (score - max).exp() / sum;
                for i in 0..n {
                    out[head * n + i] += weight * v[at + i];
                }
            }
        }
        out
    }
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}
