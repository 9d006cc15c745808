//! What llama.cpp's converter does with stacks of experts that are transposed.

/// A tensor: name, dimensions (outermost first), values.
type Tensor = (String, Vec<usize>, Vec<f32>);

/// The tensors that the converter for `architecture` makes of one.
pub(crate) fn converted(architecture: &str, (name, dims, values): Tensor) -> Vec<Tensor> {
    let experts = name.contains("mlp.experts.") || name.contains("feed_forward.experts.");
    match architecture {
        "gpt-oss" if experts => alternating(named(transposed((name, dims, values)))),
        "llama4" if experts => halved(named(transposed((name, dims, values)))),
        _ => vec![(name, dims, values)],
    }
}

/// Names as of other stacks of experts.
fn named((name, dims, values): Tensor) -> Tensor {
    let (stem, kind) = match name.strip_suffix("_bias") {
        Some(stem) => (stem, "bias"),
        None => (&*name, "weight"),
    };
    (format!("{}_exps.{kind}", stem.replace("experts.", "")), dims, values)
}

/// `[experts, inputs, rows]` as `[experts, rows, inputs]`.
fn transposed((name, mut dims, values): Tensor) -> Tensor {
    let &[_, k, n] = &dims[..] else { return (name, dims, values) };
    let matrix = |m: &[f32]| {
        let at = |i: usize| m[i % k * n + i / k];
        (0..n * k).map(at).collect::<Vec<_>>()
    };
    let values = values.chunks(n * k).flat_map(matrix).collect();
    dims[1..].copy_from_slice(&[n, k]);
    (name, dims, values)
}

/// Gate and up, whose rows (or biases) alternate.
fn alternating((name, mut dims, values): Tensor) -> Vec<Tensor> {
    if !name.contains("gate_up_proj") {
        return vec![(name, dims, values)];
    }
    let k = if dims.len() == 3 { dims[2] } else { 1 };
    dims[1] /= 2;
    let part = |part: &str, first: usize| {
        let rows = values.chunks(k).skip(first).step_by(2);
        (name.replace("gate_up_proj", part), dims.clone(), rows.flatten().copied().collect())
    };
    vec![part("gate_proj", 0), part("up_proj", 1)]
}

/// Gate and up, of which each expert has first the one and then the other.
fn halved((name, mut dims, values): Tensor) -> Vec<Tensor> {
    if !name.contains("gate_up_proj") {
        return vec![(name, dims, values)];
    }
    dims[1] /= 2;
    let part = |part: &str, first: usize| {
        let own = values.chunks(dims[1] * dims[2]).skip(first).step_by(2);
        (name.replace("gate_up_proj", part), dims.clone(), own.flatten().copied().collect())
    };
    vec![part("gate_proj", 0), part("up_proj", 1)]
}
