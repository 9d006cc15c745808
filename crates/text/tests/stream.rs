//! Decoding, stop strings and terminal output.

mod common;

use common::{LLAMA2, Model, SMOL};
use nanoinfer_text::{Specials, StopMatcher, StopStep, TextStream, terminal_safe};
use proptest::prelude::*;

fn stream(model: &Model, mut stream: TextStream, ids: &[u32]) -> String {
    let vocab = model.table.view(&model.section);
    let mut text = String::new();
    ids.iter().for_each(|id| text.push_str(stream.push(&vocab, *id)));
    text + stream.finish()
}

fn id(model: &Model, bytes: &[u8]) -> u32 {
    let vocab = model.table.view(&model.section);
    let is_text = |id: &u32| !vocab.is_special(*id) && !vocab.is_byte(*id);
    (0..vocab.len() as u32).filter(is_text).find(|id| vocab.bytes(*id) == bytes).unwrap()
}

fn oracle(model: &Model) -> tokenizers::Tokenizer {
    tokenizers::Tokenizer::from_bytes(&model.json).unwrap()
}

#[test]
fn characters_are_held_back_until_complete() {
    let vocab = SMOL.table.view(&SMOL.section);
    let mut stream = TextStream::new(&SMOL.table, false);
    let ids = SMOL.tokenizer.encode("a😀b", Specials::Plain);
    assert!(ids.len() > 3, "the emoji spans several tokens: {ids:?}");
    let mut texts: Vec<String> = ids.iter().map(|i| stream.push(&vocab, *i).to_owned()).collect();
    assert_eq!(stream.finish(), "");
    texts.retain(|s| !s.is_empty());
    assert_eq!(texts, ["a", "😀", "b"]);
}

#[test]
fn invalid_bytes_match_the_reference() {
    let byte = |b: u8| id(&SMOL, &[b]);
    let ids = [byte(0xE4), byte(0xBD), byte(b'x'), byte(0xC3), byte(0xF0), byte(0x9F)];
    let shown = stream(&SMOL, TextStream::new(&SMOL.table, false), &ids);
    assert_eq!(shown, oracle(&SMOL).decode(&ids, false).unwrap());
    assert_eq!(shown, "\u{fffd}x\u{fffd}\u{fffd}");

    // SentencePiece: ids 3..=258 are the bytes; one U+FFFD per invalid byte.
    let byte = |b: u8| u32::from(b) + 3;
    let x = id(&LLAMA2, b"x");
    let ids = [x, byte(0xE4), byte(0xBD), x, byte(0xC3), byte(0xA9), x, byte(0xF0), byte(0x9F)];
    let shown = stream(&LLAMA2, TextStream::new(&LLAMA2.table, false), &ids);
    assert_eq!(shown, oracle(&LLAMA2).decode(&ids, false).unwrap());
    assert_eq!(shown, "x\u{fffd}\u{fffd}xéx\u{fffd}\u{fffd}");
}

#[test]
fn leading_spaces_and_special_tokens() {
    let ids = LLAMA2.tokenizer.encode("Paris", Specials::Plain);
    let new = || TextStream::new(&LLAMA2.table, true);
    assert_eq!(stream(&LLAMA2, new(), &ids), "Paris");
    assert_eq!(stream(&LLAMA2, new().continuing(), &ids), " Paris");
    let with_bos: Vec<u32> = [1].into_iter().chain(ids).chain([2]).collect();
    assert_eq!(stream(&LLAMA2, new(), &with_bos), "Paris");
    let keep = TextStream::new(&LLAMA2.table, false);
    assert_eq!(stream(&LLAMA2, keep, &with_bos), "<s> Paris</s>");
    for skip in [true, false] {
        let shown = stream(&LLAMA2, TextStream::new(&LLAMA2.table, skip), &with_bos);
        assert_eq!(shown, oracle(&LLAMA2).decode(&with_bos, skip).unwrap());
    }
}

#[test]
fn raw_bytes_are_exact() {
    let vocab = SMOL.table.view(&SMOL.section);
    let mut stream = TextStream::new(&SMOL.table, true);
    let mut bytes = Vec::new();
    for b in [0xE4, 0xF0, b'a'] {
        stream.push(&vocab, id(&SMOL, &[b]));
        bytes.extend_from_slice(stream.raw());
    }
    assert_eq!(bytes, [0xE4, 0xF0, b'a']);
}

#[test]
fn ids_outside_the_vocabulary_have_no_text() {
    let vocab = SMOL.table.view(&SMOL.section);
    for id in [49152, u32::MAX] {
        assert!(vocab.bytes(id).is_empty() && vocab.is_absent(id) && !vocab.is_special(id));
    }
}

proptest! {
    /// Compares the text of random ids with that of the reference decoder, which sees all ids at once.
    /// SentencePiece byte tokens are excluded: in invalid runs, the reference drops characters that a
    /// stream has already emitted.
    #[test]
    fn random_ids_match_the_reference(
        ids in prop::collection::vec(0..49152u32, 0..40),
        skip in any::<bool>(),
    ) {
        static ORACLES: std::sync::LazyLock<[tokenizers::Tokenizer; 2]> =
            std::sync::LazyLock::new(|| [oracle(&SMOL), oracle(&LLAMA2)]);
        let shown = stream(&SMOL, TextStream::new(&SMOL.table, skip), &ids);
        prop_assert_eq!(shown, ORACLES[0].decode(&ids, skip).unwrap());
        let ids: Vec<u32> = ids.into_iter().filter(|id| *id < 32000 && !(3..259).contains(id)).collect();
        let shown = stream(&LLAMA2, TextStream::new(&LLAMA2.table, skip), &ids);
        prop_assert_eq!(shown, ORACLES[1].decode(&ids, skip).unwrap());
    }

    /// However the text is split, the stop string and the text before it equal those of a search in the
    /// whole text.
    #[test]
    fn stops_do_not_depend_on_pieces(
        text in "[abcé]{0,40}",
        stops in prop::collection::vec("[abcé]{0,4}", 0..4),
        cuts in prop::collection::vec(0..40usize, 0..8),
    ) {
        let ends = (0..=text.len()).filter(|end| text.is_char_boundary(*end));
        let expected = ends.into_iter().find_map(|end| {
            let head = &text[..end];
            let ending = stops.iter().filter(|s| !s.is_empty() && head.ends_with(s.as_str()));
            ending.map(|s| end - s.len()).min()
        });
        let mut cuts: Vec<usize> =
            cuts.into_iter().filter(|c| *c < text.len() && text.is_char_boundary(*c)).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let mut matcher = StopMatcher::new(&stops, 64);
        let (mut shown, mut stopped) = (String::new(), false);
        for pair in cuts.windows(2) {
            match matcher.push(&text[pair[0]..pair[1]]) {
                StopStep::Text(text) => shown.push_str(text),
                StopStep::Stop { before, index } => {
                    shown.push_str(before);
                    prop_assert!(text[shown.len()..].starts_with(&stops[index]));
                    stopped = true;
                    break;
                }
            }
        }
        if !stopped {
            shown.push_str(matcher.finish());
        }
        prop_assert_eq!(stopped, expected.is_some());
        prop_assert_eq!(shown.as_str(), &text[..expected.unwrap_or(text.len())]);
    }

    #[test]
    fn terminal_text_has_no_controls(text in any::<String>()) {
        let safe = terminal_safe(&text);
        prop_assert!(safe.chars().all(|c| !c.is_control() || c == '\n' || c == '\t'));
    }
}

#[test]
fn text_is_held_back_no_longer_than_needed() {
    let mut matcher = StopMatcher::new(&["\nUser:", "###"], 16);
    assert_eq!(matcher.push("Hi\n"), StopStep::Text("Hi"));
    assert_eq!(matcher.push("User"), StopStep::Text(""));
    assert_eq!(matcher.push("s #"), StopStep::Text("\nUsers "));
    assert_eq!(matcher.push("#1 ###!"), StopStep::Stop { before: "##1 ", index: 1 });
    matcher.reset();
    assert_eq!(matcher.push("a#"), StopStep::Text("a"));
    assert_eq!(matcher.finish(), "#");
    assert_eq!(matcher.finish(), "");
}

#[test]
fn harmful_characters_become_visible() {
    assert!(matches!(terminal_safe("plain ✓\n\tß"), std::borrow::Cow::Borrowed(_)));
    assert_eq!(terminal_safe("\x1b[2J\x07\r\x7f"), "␛[2J␇␍␡");
    assert_eq!(terminal_safe("a\u{9b}31m\u{202e}b"), "a\\u{9b}31m\\u{202e}b");
}
