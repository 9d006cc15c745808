#![no_main]
//! The first byte chooses the kind of source and the length of the answer.
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use nanoinfer_grammar::{Grammars, Options, Source, source_of};

#[path = "../../crates/grammar/tests/common/tiny.rs"]
mod tiny;

static GRAMMARS: LazyLock<Grammars> = LazyLock::new(|| {
    // Small limits: inputs that reach them are slow.
    let options = Options {
        cache_bytes: 0,
        symbols: 20_000,
        compile_fuel: 100_000,
        step_fuel: 50_000,
        lexer_states: 2_000,
    };
    Grammars::with_options(tiny::byte_level(), options)
});

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let source = match first % 5 {
        0 => Source::schema(text).ok(),
        1 => Some(Source::Regex(text.to_owned())),
        2 => Some(Source::grammar(text)),
        3 => Some(Source::Choice(text.lines().map(str::to_owned).collect())),
        _ => serde_json::from_str(text).ok().and_then(|request| source_of(&request).ok()?),
    };
    let Some(source) = source else { return };
    let Ok(grammar) = GRAMMARS.compile(&source) else { return };
    let mut constraint = grammar.constraint(first & 1 == 1);
    let (mut mask, mut forced) = (vec![0u32; tiny::VOCAB.div_ceil(32) as usize], Vec::new());
    for i in 0..usize::from(first / 16) {
        mask.fill(0);
        constraint.allow(&mut mask);
        let allowed: Vec<u32> =
            (0..tiny::VOCAB).filter(|id| mask[*id as usize / 32] >> (id % 32) & 1 == 1).collect();
        let Some(id) = allowed.get(i * 7919 % allowed.len().max(1)) else { break };
        assert!(constraint.failure().is_none());
        constraint.push(*id);
        forced.clear();
        constraint.forced(&mut forced, 15);
        constraint.follow(&forced);
    }
});
