//! Compares shapes that are not multiples of any block size (panels of 16, groups of 64, rotation
//! blocks) with plain loops in f64.

mod common;
#[path = "common/reference.rs"]
mod reference;

use common::{argmax, engine, greedy, logits, max_diff, mean_kl, model};
use nanoinfer_format::Quant;
use reference::{Reference, Shape};

const ALL: &[&str] = &["q", "k", "v", "o", "gate", "up", "down"];
const BASE: Shape = Shape {
    name: "width 100, d_ff 150, head 24, one KV head",
    d: 100,
    d_ff: 150,
    heads: 5,
    kv_heads: 1,
    head_dim: 24,
    vocab: 331,
    layers: 2,
    tied: false,
    biases: &[],
};
const SHAPES: [Shape; 6] = [
    BASE,
    Shape { name: "a V bias", biases: &["v"], ..BASE },
    Shape { name: "all biases", biases: ALL, ..BASE },
    Shape { name: "head 80, one KV head, V bias", head_dim: 80, heads: 3, biases: &["v"], ..BASE },
    Shape { name: "head 80, two KV heads", head_dim: 80, heads: 4, kv_heads: 2, ..BASE },
    Shape { name: "tied, head 24, no groups", heads: 3, kv_heads: 3, tied: true, ..BASE },
];

/// 80 tokens: two cache blocks.
fn ids() -> Vec<u32> {
    (0..80u32).map(|i| (i * i * 7 + i * 13 + 5) % 331).collect()
}

fn each(quant: Quant, check: impl Fn(&Reference, &mut nanoinfer_engine::Engine)) {
    for (seed, shape) in (1..).zip(SHAPES) {
        let reference = Reference::new(shape, seed);
        let folder = tempfile::tempdir().unwrap();
        reference.write(folder.path());
        check(&reference, &mut engine(model(folder.path(), quant), 2));
    }
}

#[test]
fn f32_agrees_with_plain_loops() {
    each(Quant::F32, |reference, engine| {
        let name = reference.shape.name;
        let want = reference.logits(&ids());
        let diff = max_diff(&logits(engine, &ids(), 16), &want);
        println!("{name}, f32: max |Δlogit| {diff:.1e}");
        assert!(diff <= 5e-4, "{name}: {diff}");

        let (prompt, mut all) = (&ids()[..12], ids()[..12].to_vec());
        for _ in 0..24 {
            let rows = reference.logits(&all);
            all.push(argmax(&rows[all.len() - 1]));
        }
        assert_eq!(greedy(engine, prompt, 24), all[12..], "{name}");
    });
}

#[test]
fn q8_stays_close_to_plain_loops() {
    each(Quant::Q8, |reference, engine| {
        let name = reference.shape.name;
        let want = reference.logits(&ids());
        let ours = logits(engine, &ids(), 16);
        let (kl, diff) = (mean_kl(&want, &ours), max_diff(&ours, &want));
        println!("{name}, q8: mean KL {kl:.5}, max |Δlogit| {diff:.3}");
        assert!(kl <= 0.002, "{name}: {kl}");
        assert!(diff <= 0.3, "{name}: {diff}");
    });
}
