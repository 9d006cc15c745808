//! What a GGUF vocabulary implies: tokens that end a response, and what surrounds control tokens.

mod common;

use nanoinfer_text::{GgufVocab, Specials, StatedEnds, Tokenizer, tokenizer_json_from_gguf};

/// A SentencePiece vocabulary without merges.
fn vocab<'a>(tokens: &'a [String], types: &'a [i32], scores: &'a [f32]) -> GgufVocab<'a, String> {
    GgufVocab { scores: Some(scores), types, ..GgufVocab::new("llama", tokens) }
}

/// The tokens that llama.cpp collects as `special_eog_ids`.
#[test]
fn tokens_that_end_a_response() {
    let stated = |ends: &[u32]| StatedEnds { ends: ends.to_vec(), ..StatedEnds::default() };
    let fim = |fim| StatedEnds { fim, ..StatedEnds::default() };
    type Tokens = &'static [(&'static str, i32)];
    let cases: [(&str, Tokens, StatedEnds, &[u32]); 14] = [
        ("nothing", &[("a", 1), ("<|im_start|>", 3)], stated(&[]), &[]),
        (
            "a chat model with its base's EOS",
            &[("<|endoftext|>", 3), ("<|im_start|>", 3), ("<|im_end|>", 3)],
            stated(&[0]),
            &[0, 2],
        ),
        (
            "the type is wrong",
            &[("a", 1), ("<|im_end|>", 1), ("<|eot_id|>", 4)],
            stated(&[0]),
            &[0, 1, 2],
        ),
        ("stated order first", &[("</s>", 3), ("a", 1), ("b", 1)], stated(&[2, 1]), &[2, 1, 0]),
        ("an HTML tag", &[("a", 1), ("</s>", 1)], stated(&[0]), &[0]),
        (
            "Gemma's HTML tag",
            &[("<eos>", 3), ("</s>", 4), ("<end_of_turn>", 3)],
            stated(&[0]),
            &[0, 2],
        ),
        ("Gemma 4", &[("<|tool_response>", 3), ("</s>", 3), ("<turn|>", 3)], stated(&[2]), &[2, 0]),
        ("gpt-oss", &[("<|return|>", 3), ("<|call|>", 3), ("<|end|>", 3)], stated(&[0]), &[0, 1]),
        ("Solar", &[("<|flush|>", 3), ("<|calls|>", 3), ("<|end|>", 3)], stated(&[]), &[0, 1]),
        ("Phi", &[("<|return|>", 3), ("<|end|>", 3)], stated(&[]), &[0, 1]),
        (
            "one of each kind of fill-in-the-middle token",
            &[
                ("[PAD]", 3),
                ("<|fim_pad|>", 3),
                ("<|file_sep|>", 3),
                ("<reponame>", 3),
                ("<PRE>", 3),
            ],
            stated(&[]),
            &[1, 2, 3],
        ),
        (
            "stated fill-in-the-middle",
            &[("<|fim_pad|>", 3), ("a", 1)],
            fim([Some(1), None, None]),
            &[1],
        ),
        (
            "similar texts",
            &[("<|im_end|> ", 3), ("im_end", 3), ("<|IM_END|>", 3)],
            stated(&[]),
            &[],
        ),
        ("the same text twice", &[("a", 1), ("</s>", 3), ("</s>", 3)], stated(&[]), &[1]),
    ];
    for (name, tokens, stated, expected) in cases {
        let (tokens, types): (Vec<String>, Vec<i32>) =
            tokens.iter().map(|(text, kind)| ((*text).to_owned(), *kind)).unzip();
        assert_eq!(vocab(&tokens, &types, &[]).end_tokens(&stated), expected, "{name}");
    }
}

/// Text in which these tokens are literal.
const LETTERS: [(&str, i32); 13] = [
    ("<unk>", 2),
    ("<s>", 3),
    ("<|user|>", 3),
    ("<|end|>", 1),
    ("▁", 1),
    ("a", 1),
    ("b", 1),
    ("<", 1),
    ("|", 1),
    ("e", 1),
    ("n", 1),
    ("d", 1),
    (">", 1),
];

fn letters(strips_space: bool) -> Tokenizer {
    let tokens: Vec<String> = LETTERS.iter().map(|(text, _)| (*text).to_owned()).collect();
    let types: Vec<i32> = LETTERS.iter().map(|(_, kind)| *kind).collect();
    let gguf = GgufVocab { strips_space, ..vocab(&tokens, &types, &[0.0; 13]) };
    Tokenizer::from_json(&tokenizer_json_from_gguf(&gguf).unwrap()).unwrap()
}

/// `<|end|>` has the type of ordinary text, as in files that llama.cpp warns about.
#[test]
fn known_control_tokens_are_control_tokens_whatever_their_type() {
    let tokenizer = letters(false);
    assert_eq!(tokenizer.encode("a<|end|>", Specials::Parse), [4, 5, 3]);
    assert_eq!(tokenizer.encode("a<|end|>", Specials::Plain), [4, 5, 7, 8, 9, 10, 11, 8, 12]);
}

/// Text behind a control token gets a blank, even if it begins with one; in Phi-3, most control tokens
/// strip it first.
#[test]
fn blanks_around_control_tokens() {
    let (plain, phi3) = (letters(false), letters(true));
    for (text, usual, stripped) in [
        ("a b", &[4, 5, 4, 6][..], &[4, 5, 4, 6][..]),
        (" a", &[4, 4, 5], &[4, 4, 5]),
        ("<s>a", &[1, 4, 5], &[1, 4, 5]),
        ("<s> a", &[1, 4, 4, 5], &[1, 4, 4, 5]),
        ("<|user|> a", &[2, 4, 4, 5], &[2, 4, 5]),
        ("a <|end|> b<s>", &[4, 5, 4, 3, 4, 4, 6, 1], &[4, 5, 4, 3, 4, 6, 1]),
        ("<s><|user|>", &[1, 2], &[1, 2]),
        ("", &[], &[]),
    ] {
        assert_eq!(plain.encode(text, Specials::Parse), usual, "{text:?}");
        assert_eq!(phi3.encode(text, Specials::Parse), stripped, "{text:?}, Phi-3");
    }
}

/// SentencePiece's tokens with merges: blanks are part of words, unknown characters are bytes, and nothing precedes
/// the text.
#[test]
fn gemma_4_has_merges_of_its_own() {
    let bytes = (0..=255u8).map(|b| format!("<0x{b:02X}>"));
    let texts = ["<unk>", "a", "b", "▁", "ab", "▁a", "▁ab", "\n", "\n\n", "<eos>"];
    let tokens: Vec<String> = texts.map(String::from).into_iter().chain(bytes).collect();
    let mut types = vec![6; tokens.len()];
    types[..10].copy_from_slice(&[2, 1, 1, 1, 1, 1, 1, 1, 1, 3]);
    let merges = ["a b", "▁ a", "▁ ab", "\n \n"].map(String::from);
    let merged = GgufVocab {
        model: "gemma4",
        scores: None,
        merges: Some(&merges[..]),
        unk: Some(0),
        ..vocab(&tokens, &types, &[])
    };
    let tokenizer = Tokenizer::from_json(&tokenizer_json_from_gguf(&merged).unwrap()).unwrap();
    let ids = |text| tokenizer.encode(text, Specials::Parse);
    assert_eq!(ids("ab ab a"), [4, 6, 5]);
    assert_eq!(ids("\n\n\né<eos>"), [8, 7, 10 + 0xc3, 10 + 0xa9, 9]);
    let unmerged = GgufVocab { merges: None, ..merged };
    assert!(tokenizer_json_from_gguf(&unmerged).unwrap_err().to_string().contains("merges"));
}
