//! Masks, compared with brute force over small vocabularies.

mod common;

use std::sync::Arc;

use common::{END, VOCAB, allowed, byte_level, sentence_piece};
use nanoinfer_engine::{Constraint, Model};
use nanoinfer_grammar::{Grammars, Place, Reasoning, Source};
use nanoinfer_text::FirstBlank;
use nanoinfer_text::{CallShape, Piece};
use proptest::prelude::*;
use regex_automata::dfa::{Automaton, dense};
use regex_automata::util::{primitives::StateID, start, syntax};

/// Regular languages, as a source and as the regular expression that it stands for.
fn regular() -> Vec<(Source, &'static str)> {
    let choice = |texts: &[&str]| Source::Choice(texts.iter().map(|t| (*t).to_owned()).collect());
    let regex = |text: &'static str| (Source::Regex(text.to_owned()), text);
    vec![
        regex("[ab]+c?"),
        regex(r"^(yes|no\n|[0-9]{2,5}é*)$"),
        regex(r"(a|ab)(c|bcd)(d*)"),
        regex(r"[^a]{1,3}€|\{.*\}"),
        regex(r"(?s:.{0,4})"),
        regex(r"x?y?z?"),
        (choice(&["abc", "ab", "yes", "a b"]), "abc|ab|yes|a b"),
        (choice(&["{\"name\": [1.5]}", "\n\n", "\"\\"]), "\\{\"name\": \\[1\\.5\\]\\}|\n\n|\"\\\\"),
        (
            Source::Gbnf(
                "root ::= item{1,3} | \"[\" [^\\]\\n]* \"]\"\nitem ::= [a-c]+ \"-\"? \"\\n\""
                    .to_owned(),
            ),
            "([a-c]+-?\n){1,3}|\\[[^\\]\n]*\\]",
        ),
        (Source::Lark("start: \"a\" B \"c\"?\nB: /[0-9]/ | \"é\"".to_owned()), "a([0-9]|é)c?"),
    ]
}

/// Sources that are compared with the parser's own opinion on each token.
fn others() -> Vec<Source> {
    let schemas = [
        r#"{"type": "object", "properties": {"name": {"type": "string", "maxLength": 4}, "age": {"type": "integer", "minimum": -12}}, "required": ["name"], "additionalProperties": false}"#,
        r#"{"type": "array", "items": {"enum": ["ab", "a b", 12, null, true, [1]]}, "minItems": 1}"#,
        r##"{"anyOf": [{"type": "number"}, {"type": "string", "pattern": "^a+é?$"}, {"$ref": "#/$defs/tree"}], "$defs": {"tree": {"type": "object", "properties": {"na": {"$ref": "#/$defs/tree"}}, "additionalProperties": false}}}"##,
        "{}",
    ];
    let mut sources: Vec<Source> = schemas.iter().map(|s| Source::schema(s).unwrap()).collect();
    sources.push(Source::JsonObject);
    sources.push(Source::grammar("root ::= \"(\" root? \")\" | [ab]+ \", \" root | \"c\""));
    sources
}

/// The state of a regular expression after some text.
struct Oracle {
    dfa: dense::DFA<Vec<u32>>,
    state: StateID,
}

impl Oracle {
    fn new(regex: &str) -> Self {
        let config = dense::Config::new()
            .minimize(true)
            .start_kind(regex_automata::dfa::StartKind::Anchored);
        let pattern = format!("^(?:{})$", regex.trim_start_matches('^').trim_end_matches('$'));
        let dfa = dense::Builder::new()
            .configure(config)
            .syntax(syntax::Config::new().utf8(true))
            .build(&pattern)
            .unwrap();
        let start = start::Config::new().anchored(regex_automata::Anchored::Yes);
        let state = dfa.start_state(&start).unwrap();
        Self { dfa, state }
    }

    fn after(&self, bytes: &[u8]) -> StateID {
        bytes.iter().fold(self.state, |state, b| self.dfa.next_state(state, *b))
    }

    /// Whether more text can follow these bytes, or none has to.
    fn goes_on(&self, bytes: &[u8]) -> bool {
        !self.dfa.is_dead_state(self.after(bytes))
    }

    fn is_complete(&self) -> bool {
        self.dfa.is_match_state(self.dfa.next_eoi_state(self.state))
    }
}

/// What a token adds to an answer.
fn bytes(model: &Model, id: u32, at_start: bool) -> Vec<u8> {
    let vocab = model.vocab().unwrap();
    let bytes = vocab.bytes(id);
    match vocab.first_blank() {
        FirstBlank::StripOne if at_start => bytes.strip_prefix(b" ").unwrap_or(bytes).to_vec(),
        _ => bytes.to_vec(),
    }
}

fn cases(n: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(n) }
}

/// Walks through a regular language; `picks` choose among the allowed tokens.
fn walk_regular(model: &Arc<Model>, grammars: &Grammars, at: usize, follows: bool, picks: &[u16]) {
    let (source, regex) = &regular()[at];
    let mut oracle = Oracle::new(regex);
    let mut constraint = grammars.compile(source).unwrap().constraint(follows);
    let mut text = Vec::new();
    for (i, pick) in picks.iter().enumerate() {
        let got = allowed(constraint.as_mut(), VOCAB);
        let want: Vec<u32> = (0..VOCAB)
            .filter(|id| {
                let bytes = bytes(model, *id, follows && i == 0);
                if *id == END {
                    oracle.is_complete()
                } else {
                    !bytes.is_empty() && oracle.goes_on(&bytes)
                }
            })
            .collect();
        assert_eq!(got, want, "{source:?} after {:?}", String::from_utf8_lossy(&text));
        let id = got[usize::from(*pick) % got.len()];
        constraint.push(id);
        if id == END {
            assert!(allowed(constraint.as_mut(), VOCAB).is_empty(), "nothing follows the end");
            break;
        }
        let bytes = bytes(model, id, follows && i == 0);
        oracle.state = oracle.after(&bytes);
        text.extend(bytes);
    }
}

/// Walks through any grammar: each token is allowed if the parser accepts it, and drafts leave no trace.
fn walk(grammars: &Grammars, source: &Source, picks: &[u16]) {
    let grammar = grammars.compile(source).unwrap();
    let mut constraint = grammar.constraint(false);
    let mut drafting = grammar.constraint(false);
    let vocabulary = byte_level();
    let mut text = Vec::new();
    for (i, pick) in picks.iter().enumerate() {
        let got = allowed(constraint.as_mut(), VOCAB);
        let mut forced = Vec::new();
        drafting.forced(&mut forced, 15);
        assert_eq!(drafting.follow(&forced), forced.len(), "{forced:?} is forced, but not allowed");
        drafting.follow(&[u32::from(*pick) % VOCAB, 5, 300]);
        assert_eq!(allowed(drafting.as_mut(), VOCAB), got, "after a draft");
        assert_eq!(allowed(drafting.boxed().as_mut(), VOCAB), got, "in a copy");
        let accepted = grammar.accepts(&text);
        assert_eq!(got.contains(&END), accepted, "{:?}", String::from_utf8_lossy(&text));
        if i > 0 {
            let want: Vec<u32> = (0..VOCAB).filter(|id| constraint.follow(&[*id]) == 1).collect();
            assert_eq!(got, want, "{source:?} after {:?}", String::from_utf8_lossy(&text));
        }
        let id = got[usize::from(*pick) % got.len()];
        constraint.push(id);
        drafting.push(id);
        if id == END {
            break;
        }
        text.extend(bytes(&vocabulary, id, false));
    }
}

#[test]
fn masks_are_exact_in_regular_languages() {
    for model in [byte_level(), sentence_piece()] {
        let grammars = Grammars::new(Arc::clone(&model));
        proptest!(cases(200), |(at in 0..regular().len(), follows: bool, picks in prop::collection::vec(any::<u16>(), 1..24))| {
            walk_regular(&model, &grammars, at, follows, &picks);
        });
    }
}

#[test]
fn masks_are_those_tokens_that_the_parser_accepts() {
    let grammars = Grammars::new(byte_level());
    let mut sources = others();
    sources.extend(regular().into_iter().map(|(source, _)| source));
    proptest!(cases(300), |(at in 0..sources.len(), picks in prop::collection::vec(any::<u16>(), 1..40))| {
        walk(&grammars, &sources[at], &picks);
    });
}

/// The tokens of a walk that always takes the `pick`-th of the allowed tokens, until an answer ends.
fn taken(constraint: &mut dyn Constraint, pick: usize) -> Vec<u32> {
    let mut taken = Vec::new();
    while let ids = allowed(constraint, VOCAB)
        && !ids.is_empty()
        && taken.len() < 200
    {
        constraint.forced(&mut Vec::new(), 15);
        taken.push(ids[pick % ids.len()]);
        constraint.push(ids[pick % ids.len()]);
    }
    taken
}

#[test]
fn calls_are_json_between_markers() {
    const BEGIN: u32 = VOCAB - 2;
    let grammars = Grammars::new(byte_level());
    let text = |text: &str| Piece { text: text.to_owned(), token: None };
    let call = |name: &str, end: &str| {
        CallShape {
        name: name.to_owned(),
        begin: vec![Piece { text: "<call>".to_owned(), token: Some(BEGIN) }, text("\n")],
        next: vec![text("; ")],
        schema: serde_json::json!({"type": "object", "properties": {"name": {"const": name}, "n": {"enum": [1, 22]}}, "required": ["name", "n"], "additionalProperties": false}).to_string(),
        end: vec![text(end)],
    }
    };
    let grammar =
        grammars.compile(&Source::Calls(vec![call("yes", "]"), call("abc", "\n\n")])).unwrap();
    let model = byte_level();
    let mut texts = Vec::new();
    for pick in 0..40 {
        let mut constraint = grammar.constraint(true);
        assert_eq!(allowed(constraint.as_mut(), VOCAB), [BEGIN]);
        let ids = taken(constraint.as_mut(), pick);
        assert_eq!(constraint.failure(), None);
        let text: Vec<u8> = ids[1..].iter().flat_map(|id| bytes(&model, *id, false)).collect();
        texts.push(String::from_utf8(text).unwrap().replace("<|end|>", ""));
    }
    let calls = "\\{\"name\": \"(yes|abc)\", \"n\": (1|22)\\}";
    let all =
        regex_automata::meta::Regex::new(&format!("^\n({calls}; )*({calls})(\\]|\n\n)$")).unwrap();
    for text in texts.iter().filter(|text| text.len() < 190) {
        assert!(all.is_match(text), "{text:?}");
    }
    assert!(
        texts.iter().any(|text| text.contains("; "))
            && texts.iter().any(|text| text.ends_with("22}]"))
    );
}

#[test]
fn a_grammar_can_begin_after_a_marker() {
    let grammars = Grammars::new(byte_level());
    let grammar = grammars.compile(&Source::Regex("ab".to_owned())).unwrap();
    let mut constraint = grammar.constraint_after(7);
    let all: Vec<u32> = (0..END).collect();
    assert_eq!(allowed(constraint.as_mut(), VOCAB), all);
    assert_eq!(constraint.follow(&[1, 2, END]), 2);
    assert_eq!(constraint.follow(&[1, 7, 97]), 2);
    for id in [300, 97, 7] {
        constraint.push(id);
    }
    let (mut ids, mut copy) = (allowed(constraint.as_mut(), VOCAB), constraint.boxed());
    assert_eq!(ids, allowed(copy.as_mut(), VOCAB));
    ids.retain(|id| *id < 256);
    assert_eq!(ids, [u32::from(b'a')]);
    constraint.push(ids[0]);
    assert_eq!(allowed(constraint.as_mut(), VOCAB), [u32::from(b'b')]);
    constraint.push(u32::from(b'b'));
    assert_eq!(allowed(constraint.as_mut(), VOCAB), [END]);
}

#[test]
fn reasoning_may_come_before_a_grammar() {
    let grammars = Grammars::new(byte_level());
    let grammar = grammars.compile(&Source::Regex("ab".to_owned())).unwrap();
    let (begin, end, a, all) = (5, 7, u32::from(b'a'), (0..=END).collect::<Vec<u32>>());
    let ascii = |constraint: &mut dyn Constraint| {
        let mut ids = allowed(constraint, VOCAB);
        ids.retain(|id| *id < 256);
        ids
    };
    let reasoning = Reasoning::Possible { begin, end };
    let constraint = |marker| grammar.constraint_at(Place { reasoning, marker });
    // Without it, the grammar applies at once; with it, from its end on.
    let mut without = constraint(None);
    assert_eq!((ascii(without.as_mut()), without.follow(&[5])), (vec![begin, a], 0));
    without.push(a);
    assert_eq!(allowed(without.as_mut(), VOCAB), [u32::from(b'b')]);
    let mut with = constraint(None);
    with.push(begin);
    assert_eq!(allowed(with.as_mut(), VOCAB), all[..END as usize]);
    assert_eq!(with.follow(&[5, 1, 7, 97]), 3);
    with.push(end);
    assert_eq!(ascii(with.as_mut()), [a]);
    // With a marker, what comes before it is free, even the end of the answer.
    for reasoned in [&[][..], &[begin, 50, end]] {
        let mut marked = constraint(Some(50));
        reasoned.iter().for_each(|id| marked.push(*id));
        assert_eq!(allowed(marked.as_mut(), VOCAB)[..all.len()], all);
        marked.push(a);
        assert_eq!(allowed(marked.as_mut(), VOCAB)[..all.len()], all);
        assert_eq!(marked.follow(&[1, END, 50, 1]), 3);
        marked.push(50);
        assert_eq!(ascii(marked.as_mut()), [a]);
    }
}

#[test]
fn control_tokens_and_their_names_are_apart() {
    let grammars = Grammars::new(byte_level());
    let mut constraint =
        grammars.compile(&Source::Regex("<.*".to_owned())).unwrap().constraint(false);
    let read = |constraint: &mut dyn Constraint, text: &str| {
        for byte in text.bytes() {
            assert!(allowed(constraint, VOCAB).contains(&byte.into()), "{text}");
            constraint.push(byte.into());
        }
    };
    assert!(!allowed(constraint.as_mut(), VOCAB).contains(&END));
    read(constraint.as_mut(), "<|end|>");
    assert!(
        allowed(constraint.as_mut(), VOCAB).contains(&END),
        "the typed name did not end the answer"
    );
    read(constraint.as_mut(), "<|end|> more");
    constraint.push(END);
    assert!(allowed(constraint.as_mut(), VOCAB).is_empty());
}
