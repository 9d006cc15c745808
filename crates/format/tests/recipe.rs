//! Recipes: parsing, the allocation of bits, and exceptions.

use nanoinfer_format::{
    Bits, Config, Encoding, Experts, Precision, Quant, Recipe, RecipeError, Role, matrices,
};

/// The shape of SmolLM2-135M: tied embeddings, three KV heads.
fn small() -> Config {
    Config {
        d_model: 576,
        d_ff: 1536,
        n_heads: 9,
        n_kv_heads: 3,
        vocab_size: 49152,
        context_length: 2048,
        tied_embeddings: true,
        ..Config::llama(30, 64)
    }
}

/// Untied embeddings, sizes that need padding.
fn padded() -> Config {
    Config {
        d_model: 100,
        d_ff: 150,
        n_heads: 5,
        n_kv_heads: 1,
        vocab_size: 1001,
        context_length: 2048,
        ..Config::llama(3, 20)
    }
}

/// Two layers with experts, one without.
fn experts() -> Config {
    let layers = vec![true, false, true];
    let experts = Experts { layers, ..Experts::new(8, 2, 64, 3) };
    let sizes =
        Config { d_model: 128, d_ff: 192, n_heads: 4, n_kv_heads: 2, ..Config::llama(3, 32) };
    Config { vocab_size: 512, context_length: 512, experts: Some(experts), ..sizes }
}

fn bits(bits: f64) -> Bits {
    Bits::new(bits).unwrap()
}

#[test]
fn precisions_are_read_and_shown() {
    for (text, shown) in [
        ("auto", "auto"),
        ("q8", "q8"),
        ("f32", "f32"),
        ("4.25", "4.25"),
        ("4", "4.00"),
        ("4.35", "4.35"),
        ("4.259", "4.25"),
    ] {
        let precision: Precision = text.parse().unwrap();
        assert_eq!(precision.to_string(), shown);
        assert_eq!(shown.parse(), Ok(precision));
    }
    for bad in ["", "q6", "Q4", "0.5", "100", "-4", "4e0", "nan", "inf", "4,5", ".", "4.5.1"] {
        let error = bad.parse::<Precision>().unwrap_err().to_string();
        assert!(error.contains("such as 4.25"), "{bad}: {error}");
    }
}

#[test]
fn auto_is_q5_from_a_billion_parameters() {
    let small = small();
    assert_eq!(small.parameters(), 134_515_008);
    assert_eq!(Precision::Auto.for_model(&small), Quant::Q8.into());
    let large = Config { d_model: 2048, d_ff: 8192, n_heads: 32, n_kv_heads: 8, ..small };
    assert!(large.parameters() > 1_000_000_000);
    assert_eq!(Precision::Auto.for_model(&large), Quant::Q5.into());
    assert_eq!(Precision::Auto.recipe(&large).unwrap(), Recipe::of(Quant::Q5, &large));
    assert_eq!(Precision::from(Quant::F32).for_model(&large), Quant::F32.into());
}

#[test]
fn named_recipes_have_the_size_of_their_bits() {
    // 8 bits, and 32 of the scale for 576 or 1536 weights.
    let q8 = Recipe::of(Quant::Q8, &small()).bits(&small());
    assert!((8.03..8.06).contains(&q8.read) && q8.layers < q8.read, "{q8:?}");
    for (quant, layers, read) in [(Quant::Q5, 5.15, 5.8), (Quant::Q4, 4.35, 4.5)] {
        let got = Recipe::of(quant, &small()).bits(&small());
        assert!(got.layers < layers && got.read < read, "{quant:?} {got:?}");
    }
    // Of two experts of eight, a quarter of the bytes.
    let c = experts();
    let all: u64 = matrices(&c).map(|m| m.bytes(Encoding::Q8Panel)).sum();
    assert_eq!(Recipe::of(Quant::Q8, &c).bytes(&c), all);
    let read: Vec<_> = matrices(&c).map(|m| c.read_bytes(m.tensor, m.weights, 1)).collect();
    assert!(read.iter().sum::<u64>() < matrices(&c).map(|m| m.weights).sum());
    // A second token chooses one of the same with some probability; many tokens choose them all.
    let read = |tokens| c.read_bytes(Role::FfnDownExperts, 64_000, tokens);
    assert_eq!([read(0), read(1), read(2), read(3)], [0, 16_000, 28_000, 37_000]);
    assert_eq!(read(1000), 64_000);
    assert_eq!(c.read_bytes(Role::AttnQkv, 64_000, 2), 64_000);
}

#[test]
fn allocations_use_the_room_they_have_and_no_more() {
    for c in [small(), padded(), experts()] {
        let range = |bits| match Recipe::with_bits(bits, &c) {
            Err(RecipeError::Range { asked, least, most }) => {
                assert_eq!(asked, bits);
                (least, most)
            }
            other => panic!("{other:?}"),
        };
        let (least, most) = range(bits(1.0));
        assert_eq!(range(bits(99.0)), (least, most));
        let (mut last, mut step) = (0.0, least.get());
        let mut largest_gap: f64 = 0.0;
        while step <= most.get() + 1e-9 {
            let got = Recipe::with_bits(bits(step), &c).unwrap().bits(&c).read;
            assert!(got <= step + 1e-9, "{got} for {step}");
            assert!(got >= last, "{got} after {last} for {step}");
            last = got;
            largest_gap = largest_gap.max(step - got);
            step += 0.01;
        }
        let all = Recipe::with_bits(most, &c).unwrap();
        assert_eq!(all, Recipe::new(&c, |_| Encoding::Q8Panel));
        assert_eq!(all.quant(), Quant::Q8);
        let fewest = Recipe::with_bits(least, &c).unwrap();
        assert!(fewest.is_coded() && fewest.quant() == Quant::Q2);
        // At most one matrix does not fit; that of the head of the padded model is large.
        assert!(largest_gap < if c.d_model == 576 { 0.02 } else { 2.0 }, "{largest_gap}");
    }
}

#[test]
fn sensitive_matrices_get_more_bits() {
    let c = small();
    let recipe = Recipe::with_bits(bits(4.25), &c).unwrap();
    assert_eq!(recipe.quant(), Quant::Q4);
    let width = |layer, role| recipe.encoding(Some(layer), role).trellis_bits().unwrap_or(8);
    for layer in 0..c.n_layers {
        let widths = [Role::AttnV, Role::AttnK, Role::FfnDown, Role::FfnUp, Role::AttnQ];
        let widths = widths.map(|role| width(layer, role));
        assert!(widths.is_sorted_by(|a, b| a >= b), "{layer}: {widths:?}");
        assert_eq!(width(layer, Role::FfnGate), width(layer, Role::FfnUp));
        assert!(widths[0] > widths[4], "{layer}: {widths:?}");
        assert!(width(0, Role::FfnUp) >= width(layer, Role::FfnUp));
    }
    // Embeddings that are not read as a whole follow the output matrix.
    let c = padded();
    let recipe = Recipe::with_bits(bits(5.0), &c).unwrap();
    assert_eq!(recipe.encoding(None, Role::TokenEmbd), recipe.encoding(None, Role::Output));
}

#[test]
fn embeddings_of_which_a_pass_reads_rows_do_not_count() {
    let c = Config { layer_embedding: 64, ..small() };
    let table = matrices(&c).find(|m| m.role == Role::LayerEmbd).unwrap();
    let with = |encoding| {
        Recipe::new(&c, |m| if m.role == table.role { encoding } else { Encoding::Q4Panel })
    };
    let [large, tiny] = [with(Encoding::Q8Panel), with(Encoding::Q2Panel)];
    assert_eq!(large.bits(&c), tiny.bits(&c));
    assert!(large.bytes(&c) > tiny.bytes(&c));
    for b in [3.0, 4.25, 5.5] {
        let recipe = Recipe::with_bits(bits(b), &c).unwrap();
        assert_eq!(recipe.encoding(table.layer, table.role), recipe.quant().own_encoding());
        assert!(recipe.bits(&c).read <= b);
    }
    let untied = Config { tied_embeddings: false, ..small() };
    let read = |c: &Config, role| c.read_bytes(role, 1000, 5);
    assert_eq!([read(&c, Role::LayerEmbd), read(&untied, Role::TokenEmbd)], [0, 0]);
    assert_eq!([read(&small(), Role::TokenEmbd), read(&untied, Role::Output)], [1000, 1000]);
}

#[test]
fn unlisted_matrices_have_8_bits() {
    let recipe = Recipe::of(Quant::Q4, &small());
    assert_eq!(recipe.encoding(Some(99), Role::FfnUp), Encoding::Q8Panel);
    assert_eq!(recipe.encoding(Some(0), Role::FfnUpExperts), Encoding::Q8Panel);
}

#[test]
fn exceptions_change_what_they_name() {
    let c = small();
    let mut recipe = Recipe::of(Quant::Q4, &c);
    let text = "# comment\n\nlayers.0.* q5\n*.attn_v q8 # the last line wins\r\nlayers.0.attn_v f32\noutput q3";
    recipe.apply(text, &c).unwrap();
    for (layer, role, expected) in [
        (Some(0), Role::FfnUp, Encoding::Q5Panel),
        (Some(1), Role::FfnUp, Encoding::Q4Panel),
        (Some(0), Role::AttnV, Encoding::F32Panel),
        (Some(29), Role::AttnV, Encoding::Q8Panel),
        (None, Role::TokenEmbd, Encoding::Q3Panel),
    ] {
        assert_eq!(recipe.encoding(layer, role), expected, "{layer:?} {role:?}");
    }
    assert_eq!(recipe.quant(), Quant::Q4);
    let mut same = Recipe::of(Quant::Q5, &c);
    same.apply("*.attn_v q8", &c).unwrap();
    assert_eq!(same, Recipe::of(Quant::Q5, &c));
    let mut floats = Recipe::of(Quant::Q2, &c);
    floats.apply("* f32", &c).unwrap();
    assert_eq!((floats.quant(), floats.is_coded()), (Quant::F32, false));
    floats.apply("layers.3.attn_q q3", &c).unwrap();
    assert_eq!((floats.quant(), floats.is_coded()), (Quant::Q3, true));
}

#[test]
fn a_summary_has_the_bits_of_what_is_not_named() {
    let c = small();
    for quant in Quant::ALL {
        assert_eq!(Recipe::of(quant, &c).summary(&c), quant.name());
    }
    for n in [2.5, 4.48, 6.0] {
        let recipe = Recipe::with_bits(bits(n), &c).unwrap();
        let read = recipe.bits(&c).read;
        assert!(read <= n && read > n - 0.5, "{read}");
        assert_eq!(recipe.summary(&c), format!("{} · {read:.2} bits", recipe.quant().name()));
    }
    let mut recipe = Recipe::of(Quant::Q4, &c);
    recipe.apply("layers.0.ffn_up q5", &c).unwrap();
    assert_eq!(recipe.summary(&c), format!("q4 · {:.2} bits", recipe.bits(&c).read));
}

#[test]
fn unsuitable_exceptions_name_their_line() {
    for (text, line, part) in [
        (
            "*.attn_v q8\n*.attn_w q8",
            2,
            "no matrix is named \"*.attn_w\"; this model has token_embd",
        ),
        ("\n\n*.attn_v q9", 3, "unknown encoding \"q9\"; use q8"),
        ("*.attn_v", 1, "expected a pattern and an encoding"),
        ("*.attn_v q8 q5", 1, "expected a pattern and an encoding"),
        ("layers.30.attn_v q8", 1, "layers.0 to layers.29 attn_q, attn_k, attn_v"),
        ("*.attn_qkv q8", 1, "no matrix is named"),
    ] {
        let before = Recipe::of(Quant::Q4, &small());
        let mut recipe = before.clone();
        let error = recipe.apply(text, &small()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("line {line}: ")) && error.contains(part), "{error}");
        assert_eq!(recipe, before);
    }
}
